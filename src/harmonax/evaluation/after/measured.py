"""What a diagnosis rests on, and what follows from it.

The limits were set on real sets, corrected at theta 0 to 20, and on the first four sets of ``benchmarks/verdicts.py``,
which shows what follows from all of them. ``benchmarks/random_split.py`` measures what `NULL_FINE` is compared with, on
kang, onek1k and pbmc_sorted; ``benchmarks/neural.py`` gives the verdicts on other methods, on kang and pancreas. What
is quoted beside `KEPT_FINE` and `_BLURRED_TYPES` was measured once; no script repeats it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ..before.embedding_checks import TRIVIAL
from .advice import from_sweep
from .markers import LOST
from .null import Null
from .structure import AXES_KEPT, AXES_LOST
from .types import as_table, blended, merged

# Of the neighbours within batches, mean over cells. Harmony's defaults keep 0.85 to 0.97 of them, theta = 20 keeps
# 0.63 to 0.79 (0.86 on one set).
KEPT_FINE, MIN_KEPT = 0.84, 0.80
# Where there is nothing to correct. Defaults keep 0.956 to 0.99, theta = 20 0.85 to 0.99.
NULL_FINE = 0.92
# Same-batch neighbours in excess from which batches are still apart; and too little was corrected where more than half
# of the excess is left.
APART, _TOO_MUCH_LEFT = 0.25, 0.5
# Where so much is left, no structure that was lost makes it an over-correction.
WIDE_APART = 0.5
# Batches that were mixed were moved apart where the excess rose by so much.
_PARTED = 0.1
# Same-batch neighbours in excess hardly fell where more than this share of them is left.
_UNCHANGED = 0.85
# Types (states, where no types are known) less pure within their batches by so much have lost structure. Of the
# embeddings in the verdict cases ComBat's lost 0.002 (0.016), another PCA's 0.013 (0.12, but it corrected
# nothing), theta = 20 up to 0.07 (0.06).
_BLURRED_TYPES, _BLURRED_STATES = 0.1, 0.06
# Where types are as pure as before, their inner order tells whether other neighbours are a loss. Other weights of the
# components keep 0.83 to 0.90 of it (ComBat 0.78 and 0.87), noise of half the data's spread 0.40 to 0.55; MMD and WGAN
# on kang keep 0.17 and 0.20, as noise of the data's spread does (0.18 to 0.25).
_ORDERED = 0.6
# Share of the labelled cells whose types were merged from which a correction is not to be used.
MANY_MERGED = 0.25
# A group is reported when it kept so much less than all cells.
GROUP_LOSS, GROUP_CELLS = 0.1, 30
# Movement from which a group is named, from which a type is, and by which it has to exceed what batches explain of it
# to be in doubt. Of 130 right and Harmony's corrections 9 had such a type (6 of one set, whose batches are of unlike
# scale), of 72 that laid a type on another as one 68.
MOVED_FAR, TYPE_MOVED, MOVED_BEYOND, TYPE_CELLS = 0.5, 0.45, 0.25, 10
# Where some type of 50 cells lost so much purity within its batches, a type that moved so much beyond is in doubt, too.
# Of the same corrections that was so of 2 right ones, and of 26 of the 72.
MOVED_SOME, _LESS_PURE, _ENOUGH = 0.15, 0.05, 50
NEARLY_CONVERGED = 1e-3


def turned(alike: np.ndarray, levels: list[str]) -> list[str]:
    """Return the batches whose coordinates are not those of before, where another batch's are."""
    if not np.isfinite(alike).any() or np.nanmax(alike) < AXES_KEPT:
        return []
    return [levels[code] for code in np.flatnonzero(alike < AXES_LOST)]


@dataclass(frozen=True, eq=False)
class Measured:
    """Everything that a verdict rests on."""

    numbers: dict[str, float]
    mixing: pd.DataFrame
    null: Null | None
    batches: pd.DataFrame
    groups: pd.DataFrame
    states: pd.DataFrame
    markers: pd.DataFrame
    n_levels: int
    n_labelled: int
    n_linked: int
    types: pd.DataFrame = field(default_factory=lambda: as_table([]))
    composition: bool = False
    # Whether the batches of the result differ in their shares of its states only.
    proportions_left: bool = False
    doubtful: pd.DataFrame | None = None
    torn_states: list[str] = field(default_factory=list)  # see `merges.torn_states`
    # How far each group moved, where groups are cell types and moves mean anything, (groups,); else nan.
    type_moves: np.ndarray | None = None
    turned: list[str] = field(default_factory=list)  # batches whose cells lie along other axes than before
    known_method: bool = True
    blurred: float = float("nan")
    order_within: float = float("nan")
    status: str = ""
    last_change: float = float("nan")
    hvg_per_batch: bool | None = None
    # The runs that the correction was chosen from, where there are any.
    sweep: pd.DataFrame | None = None

    @property
    def confounded(self) -> bool:
        """Whether there are labels, and no type that two batches share."""
        return 1 < self.n_labelled == self.n_linked

    @property
    def needed(self) -> bool:
        """Whether the batches of any variable lay further apart than chance explains, and enough to matter."""
        return bool(self.mixing["needed"].any())

    @property
    def left(self) -> pd.DataFrame:
        """The variables of which more than half of the excess is left, or as many batches lie apart as before."""
        m = self.mixing
        still = (m["after"] > _TOO_MUCH_LEFT * m["before"]) & (m["after"] > np.fmax(m["chance"], TRIVIAL))
        alone = (m["levels_apart_after"] >= m["levels_apart_before"]) & (m["before"] <= np.fmax(m["chance"], TRIVIAL))
        return m[m["needed"] & (still | alone)]

    @property
    def far(self) -> str:
        """The single batches that lie apart, of variables whose batches were to be mixed."""
        return self._far(needed=True)

    @property
    def moved_away(self) -> str:
        """The single batches that lie apart, of variables whose batches were mixed before."""
        return self._far(needed=False)

    def _far(self, *, needed: bool) -> str:
        rows = self.mixing[self.mixing["needed"] == needed]
        return ", ".join(name for name in rows.get("far", pd.Series(dtype=object)) if name)

    @property
    def unchanged(self) -> bool:
        """Whether batches lie as far apart as before, for whatever became of the cells."""
        m = self.mixing[self.mixing["needed"]]
        return bool(len(m)) and bool((m["after"] > _UNCHANGED * m["before"]).all())

    @property
    def damaged(self) -> bool:
        """Whether a correction that was not needed did harm: types merged, batches torn, turned or moved apart."""
        found = (
            self.merged,
            self.blended,
            self.torn_states,
            self.turned,
            [] if self.doubtful is None else self.doubtful,
        )
        return bool(any(map(len, found)) or self.torn or self.numbers["neighbours_kept"] < MIN_KEPT or self.parted)

    @property
    def parted(self) -> bool:
        """Whether batches that were mixed before lie apart now."""
        m = self.mixing[~self.mixing["needed"]]
        risen = m["after"] > np.fmax(m["before"], np.fmax(m["chance"], 0)) + _PARTED
        return bool(risen.any() or self.moved_away)

    @property
    def torn(self) -> bool:
        """Whether too much of the structure within batches was lost.

        Of Harmony's embeddings the neighbours kept say so. Another method's has other neighbours for other reasons as
        well: there, it is types that are less pure within their batches.
        """
        if not self.known_method and np.isfinite(self.blurred):
            return self.blurred > (_BLURRED_TYPES if len(self.types) else _BLURRED_STATES)
        kept = self.numbers["neighbours_kept"]
        return kept < MIN_KEPT or (self.distorts and kept < KEPT_FINE)

    @property
    def represented(self) -> bool:
        """Whether other neighbours are those of another representation: the order within types is still there."""
        return not self.known_method and not self.torn and self.order_within >= _ORDERED

    @property
    def distorts(self) -> bool:
        """Whether the correction changes what there was nothing to correct in."""
        return self.null is not None and self.null.neighbours_kept < NULL_FINE

    @property
    def less(self) -> str:
        """How to correct less, for the middle of a sentence."""
        return "lower theta (1)" if self.known_method else "correct less"

    @property
    def merged(self) -> pd.DataFrame:
        """Types that lie among others in a batch, beyond what composition and chance explain."""
        return merged(self.types)

    @property
    def blended(self) -> pd.DataFrame:
        """Types that were pure, and are partly among others now."""
        return blended(self.types)

    @property
    def less_pure(self) -> bool:
        """Whether a type is less pure within its batches than before, mean over its cells there."""
        rows = self.types[["type", "n_cells"]].assign(lost=self.types["pure_before"] - self.types["pure_within"])
        rows["lost"] *= rows["n_cells"]
        sums = rows.groupby("type").sum()
        return bool((sums["lost"] > _LESS_PURE * sums["n_cells"])[sums["n_cells"] >= _ENOUGH].any())

    @property
    def too_much(self) -> bool:
        """Whether any finding advises to correct less; then none may advise to correct more."""
        lost = self.numbers["neighbours_kept"] < KEPT_FINE or (self.batches["neighbours_kept"] < MIN_KEPT).any()
        markers = (self.markers["after"] < self.markers["before"] - LOST).any()
        states = (self.states["verdict"] == "merged").any()
        types = len(self.merged) or len(self.blended)
        return bool(self.torn or types or self.distorts or lost or markers or states)

    @property
    def more(self) -> str:
        """What to do about batches that lie apart; not the opposite of what another finding advises."""
        if not self.known_method:
            return "Correct more strongly, and use the corrected embedding (use_rep) for neighbours."
        if self.too_much:
            return "Take more principal components, or choose variable genes within batches: theta cannot mend both."
        if self.sweep is not None:
            return from_sweep(self.sweep, more=True)
        return (
            "Raise theta to 3 or 4, take more principal components, and use the corrected embedding (use_rep) for "
            "neighbours."
        )
