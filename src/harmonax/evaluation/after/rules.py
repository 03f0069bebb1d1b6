"""From measurements to findings, advice and a verdict: limits set on eight real data sets at theta 0 to 20."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..before.embedding_checks import TRIVIAL
from ..findings import Finding, Level, by_severity
from .markers import LOST
from .null import Null

# Of the neighbours within batches, mean over batches. Harmony's defaults keep 0.85 to 0.97 of them, theta = 20 keeps
# 0.63 to 0.79 (0.86 on one set).
_KEPT_FINE, _KEPT_LEAST = 0.84, 0.80
# Where there is nothing to correct. Defaults keep 0.956 to 0.99, theta = 20 0.85 to 0.99.
_NULL_FINE = 0.92
# Own-batch neighbours in excess from which batches are still apart; and too little was corrected where more than half
# of the excess is left.
_APART, _TOO_MUCH_LEFT = 0.25, 0.5
# A group is reported when it kept so much less than all cells.
_GROUP_LOSS, _GROUP_CELLS = 0.1, 30
_MOVED_FAR = 0.5
_NEARLY_CONVERGED = 1e-3


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
    status: str = ""
    last_change: float = float("nan")
    hvg_per_batch: bool | None = None

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
    def torn(self) -> bool:
        """Whether too many neighbours within batches were lost."""
        kept = self.numbers["neighbours_kept"]
        distorts = self.null is not None and self.null.neighbours_kept < _NULL_FINE
        return kept < _KEPT_LEAST or (distorts and kept < _KEPT_FINE)


def judge(measured: Measured) -> tuple[str, str, list[Finding]]:
    """Return the verdict, the verdict in a sentence, and the findings, most serious first."""
    findings = [*_possible(measured), *_mixing(measured), *_structure(measured), *_states(measured)]
    findings += [*_markers(measured), *_run(measured)]
    verdict = _verdict(measured, findings)
    summary = _SUMMARY["one_batch" if measured.n_levels < 2 else verdict].format(**_words(measured))
    return verdict, summary, by_severity(findings)


_SUMMARY = {
    "one_batch": "There is one batch only: nothing was corrected.",
    "impossible": "No correction can be trusted here: no cell type is in more than one batch, so batch and biology "
    "cannot be told apart.",
    "not_needed": "No correction was needed: batches were mixed as by chance before. It {kept}.",
    "over_corrected": "Over-corrected: the correction tore batches' own structure apart; it {kept}.",
    "under_corrected": "Too little corrected: batches still lie apart ({fell}).",
    "caution": "Corrected, but look at the findings first. It {kept}.",
    "fine": "The correction looks right: {fell}, and it {kept}.",
}


def _words(m: Measured) -> dict[str, str]:
    kept = m.numbers["neighbours_kept"]
    before, after = (max(0.0, m.numbers[name]) for name in ("excess_before", "excess_after"))
    return {
        "kept": f"kept {kept:.0%} of each cell's neighbours within its batch"
        if np.isfinite(kept)
        else "moved the cells",
        "fell": f"neighbours from the own batch in excess of chance went from {before:.0%} to {after:.0%}",
    }


def _verdict(m: Measured, findings: list[Finding]) -> str:
    if not m.needed:
        return "not_needed"
    if m.confounded:
        return "impossible"
    if m.torn:
        return "over_corrected"
    if len(m.left):
        return "under_corrected"
    # How a run ended says nothing of where: its warning stands for itself.
    serious = [f for f in findings if f.level in (Level.WARNING, Level.PROBLEM) and f.code != "not_converged"]
    return "caution" if serious else "fine"


def _possible(m: Measured) -> Iterator[Finding]:
    if m.confounded:
        yield Finding(
            "confounded",
            Level.PROBLEM,
            "No cell type is in more than one batch: differences between batches and between types are the same.",
            "Leave the batches uncorrected, or add batches that share cell types with them.",
        )
    elif m.n_linked > 1:
        yield Finding(
            "partly_confounded",
            Level.WARNING,
            f"The batches fall into {m.n_linked} groups that share no cell type.",
            "Correct within the groups only, or add batches that link them.",
        )


def _mixing(m: Measured) -> Iterator[Finding]:
    if m.n_levels < 2:
        yield Finding("one_batch", Level.NOTE, "There is one batch only: nothing was corrected.")
        return
    if not m.needed:
        yield Finding(
            "not_needed",
            Level.NOTE,
            "Batches were mixed as by chance before the correction (own-batch neighbours in excess: "
            f"{m.numbers['excess_before']:.3f}).",
            "Go on with the uncorrected embedding.",
        )
        return
    if m.confounded:
        return
    for row in m.mixing[m.mixing["needed"]].itertuples():
        of = f" of '{row.batch_key}'" if len(m.mixing) > 1 else ""
        said = f"Own-batch neighbours{of} in excess of chance: {row.before:.2f} before, {row.after:.2f} after "
        said += "(1: batches apart)."
        if row.levels_apart_after and row.after <= _APART:
            said += f" {row.levels_apart_after} batches lie apart ({row.levels_apart_before} before)."
        if row.after <= _APART and row.batch_key not in set(m.left["batch_key"]):
            yield Finding("batches_mixed", Level.GOOD, said)
            continue
        also = "" if m.n_labelled else " Or the batches hold different cells: give the cell types (label_key) to tell."
        yield Finding(
            "batches_apart",
            Level.WARNING,
            said,
            "Raise theta to 3 or 4, take more principal components, and use the corrected embedding "
            f"(use_rep) for neighbours.{also}",
        )


def _structure(m: Measured) -> Iterator[Finding]:
    kept = m.numbers["neighbours_kept"]
    lower = "Lower theta (1), allow fewer rounds, and compare known markers before and after."
    if np.isfinite(kept):
        said = f"{kept:.1%} of each cell's nearest neighbours within its own batch are still its neighbours."
        level = Level.PROBLEM if m.torn else Level.GOOD if kept >= _KEPT_FINE else Level.WARNING
        yield Finding("neighbours_kept", level, said, "" if level is Level.GOOD else lower)
    elif m.n_levels > 1:
        said = "Every batch is too small to tell whether the correction kept its structure."
        yield Finding("not_measured", Level.WARNING, said, "Compare known markers before and after.")
    if m.null is not None:
        said = (
            f"Splitting batch {m.null.batch} ({m.null.n_cells:,} cells) at random and correcting the halves lost "
            f"{1 - m.null.neighbours_kept:.1%} of the neighbours; a correction without fault loses none."
        )
        fine = m.null.neighbours_kept >= _NULL_FINE
        yield Finding("null", Level.GOOD if fine else Level.WARNING, said, "" if fine else lower)
    torn = m.batches[m.batches["neighbours_kept"] < _KEPT_LEAST]
    if len(torn) and not m.torn:
        yield Finding(
            "batches_torn",
            Level.WARNING,
            "Fewer neighbours were kept in "
            + _listed(f"{row.batch} ({row.neighbours_kept:.0%})" for row in torn.itertuples())
            + ".",
            lower,
        )
    lost = m.groups[(m.groups["neighbours_kept"] < kept - _GROUP_LOSS) & (m.groups["n_cells"] >= _GROUP_CELLS)]
    if len(lost) and not m.torn:
        yield Finding(
            "groups_torn",
            Level.WARNING,
            "Neighbours within batches were lost most in "
            + _listed(f"{row.group} ({row.neighbours_kept:.0%} kept)" for row in lost.itertuples())
            + ".",
            "Check the markers of these groups before and after.",
        )
    beyond = (m.groups["movement"] > _MOVED_FAR) & (m.groups["movement"] > m.groups["batch_offset"])
    far = m.groups[beyond & (m.groups["n_cells"] >= _GROUP_CELLS)]
    if len(far):
        yield Finding(
            "groups_moved",
            Level.NOTE,
            "Moved far apart from the rest of their batches: "
            + _listed(
                f"{row.group} ({row.movement:.2f} of a batch's spread, {row.batch_offset:.2f} explained by batches)"
                for row in far.itertuples()
            )
            + ".",
            "These may be states of one batch laid on another's: check their markers.",
        )


def _states(m: Measured) -> Iterator[Finding]:
    merged, apart, unknown = (m.states[m.states["verdict"] == v] for v in ("merged", "kept apart", "unknown"))
    if m.confounded or m.n_levels < 2:
        return
    if m.n_labelled < 2:
        yield Finding(
            "types_unknown",
            Level.NOTE,
            "No cell types of several batches were given: a type that one batch alone has, laid on another type, would "
            "not be seen.",
            "Give the cell types (label_key), or check known markers.",
        )
    if len(unknown):
        yield Finding(
            "one_batch_state_unknown",
            Level.NOTE,
            "In one batch only, and now among cells of other batches that have no label: "
            + _listed(f"{r.state} of {r.batch}" for r in unknown.itertuples())
            + ".",
            "Label these cells, or check the markers.",
        )
    if len(merged):
        yield Finding(
            "one_batch_state_merged",
            Level.WARNING,
            "In one batch only, and now among other types of other batches: "
            + _listed(f"{r.state} of {r.batch} ({r.merged_share:.0%} of its neighbours)" for r in merged.itertuples())
            + ".",
            "Read these cells' types from their own batch; lower theta (1) if they must stay apart.",
        )
    if len(apart):
        yield Finding(
            "one_batch_state_kept",
            Level.GOOD,
            "In one batch only, and kept apart: "
            + _listed(f"{r.state} of {r.batch}" for r in apart.itertuples())
            + ".",
        )


def _markers(m: Measured) -> Iterator[Finding]:
    if not len(m.markers):
        return
    lost = m.markers[m.markers["after"] < m.markers["before"] - LOST]
    if len(lost):
        yield Finding(
            "markers_lost",
            Level.WARNING,
            "Markers that separate their type less than before (area under the curve): "
            + _listed(f"{r.gene} of {r.cell_type} ({r.before:.2f} to {r.after:.2f})" for r in lost.itertuples())
            + ".",
            "These types were mixed with others: lower theta (1), or allow fewer rounds.",
        )
    else:
        n = m.markers["cell_type"].nunique()
        yield Finding("markers_kept", Level.GOOD, f"All {len(m.markers)} markers still separate their {n} types.")


def _run(m: Measured) -> Iterator[Finding]:
    if m.status != "max_iterations":
        return
    genes = " Choose variable genes within batches (batch_key=...) as well." if m.hvg_per_batch is False else ""
    level = Level.NOTE if abs(m.last_change) < _NEARLY_CONVERGED else Level.WARNING
    yield Finding(
        "not_converged",
        level,
        f"The run stopped at its most rounds; the objective still changed by {abs(m.last_change):.1e} in the last one.",
        f"Raise max_iter_harmony.{genes}",
    )


def _listed(parts: Iterator[str], most: int = 5) -> str:
    names = list(parts)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
