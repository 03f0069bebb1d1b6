"""One score without labels, by which runs of a correction with other parameters are compared.

    mixing     1 less the excess of same-batch neighbours among 15: 0 where batches lie apart, 1 where they are mixed as
               by chance
    kept       share of a cell's 50 nearest neighbours within its batch before the correction that still are among them
    score      0.75 mixing + 0.25 kept

Mixing says nearly all of what differs between runs of Harmony; without the neighbours kept, the run that lays all cells
on one another would win. ``benchmarks/sweep.py`` compares the score with scib-metrics' total: the median rank
correlation is 0.87 on the six sets that the weight was set on, and 0.61 on three others. There the highest score also
failed once: of two cell lines with a batch each (300 cells), a run that merges them has it, which no label-free score
here tells from mixing (total 0.72, where the defaults have 0.90). So the defaults stay where no other run is better by
more than chance, as there: see `choose`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..neighbours import nearest_cells, own_batch_neighbours, share_kept

COLUMNS = ("mixing", "kept", "score")
MIXED_AMONG, KEPT_AMONG = 15, 50
_WEIGHT_OF_MIXING = 0.75


@dataclass(frozen=True, eq=False)
class Judge:
    """What every run is held against; the neighbours before the correction are found once.

    Attributes
    ----------
    rows
        The cells that are looked at, (n,).
    batch
        Code of their batch, (n,).
    before
        Their neighbours within the batch before the correction, as places in `rows`, (n, 50).
    seed
        Shuffles batches the same way for every run.
    """

    rows: np.ndarray
    batch: np.ndarray
    before: np.ndarray
    seed: int

    @classmethod
    def of(cls, before: np.ndarray, batch: np.ndarray, max_cells: int, seed: int) -> Judge:
        """Return the judge of corrections of `before`, (N, d); of more than `max_cells` a random sample is judged."""
        rows = np.arange(len(before))
        if len(rows) > max_cells:
            rows = np.sort(np.random.default_rng(seed).choice(len(rows), max_cells, replace=False))
        codes = np.unique(batch[rows], return_inverse=True)[1]
        return cls(rows, codes, own_batch_neighbours(before[rows], codes, KEPT_AMONG), seed)

    def scores(self, after: np.ndarray) -> dict[str, float]:
        """Return mixing, kept and score of a correction of all N cells, each from 0 to 1; higher is better.

        Examples
        --------
        >>> Z, batch = np.random.default_rng(0).normal(size=(200, 4)), np.repeat([0, 1], 100)
        >>> apart = Z + 100 * batch[:, None]
        >>> judge = Judge.of(apart, batch, 2000, 0)
        >>> judge.scores(apart)["mixing"], judge.scores(Z)["kept"]
        (0.0, 1.0)
        """
        mixing, kept = (float(values.mean()) for values in self.by_cell(after))
        mixing = min(max(mixing, 0.0), 1.0)
        return dict(zip(COLUMNS, (mixing, kept, _weighed(mixing, kept)), strict=True))

    def by_cell(self, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mixing and kept of each cell that is looked at, of which the scores are the means, (n,) each."""
        Z, counts = after[self.rows], np.bincount(self.batch)
        near = nearest_cells(Z, max(1, min(MIXED_AMONG, len(Z) // 3)))
        expected = (counts[self.batch] - 1) / (len(Z) - 1)
        above = (self.batch[near] == self.batch[:, None]).mean(axis=1) - expected
        stayed = share_kept(self.before, own_batch_neighbours(Z, self.batch, KEPT_AMONG))
        # A batch that is too small to have neighbours counts as the others do; if all are, mixing is all there is.
        typical = float(np.nanmean(stayed)) if np.isfinite(stayed).any() else 1.0
        return 1 - above / (1 - expected).mean(), np.where(np.isfinite(stayed), stayed, typical)


def choose(runs: Mapping[str, tuple[np.ndarray, np.ndarray]], allowed: Collection[str]) -> str:
    """Return the run to keep: that with the highest score, or the first where no other is higher by more than chance.

    Chance is two standard errors of the difference over cells. Cells next to each other have the same neighbours, so
    that of 15 only one counts.

    Parameters
    ----------
    runs
        `Judge.by_cell` of every run by its name, the defaults first.
    allowed
        The runs to choose from; none: all.
    """
    names = [name for name in runs if name in allowed] or list(runs)
    scores = {name: _weighed(*runs[name]) for name in names}
    best, first = max(names, key=lambda name: scores[name].mean()), next(iter(runs))
    if first not in scores:
        return best
    gain = scores[best] - scores[first]
    return best if gain.mean() > 2 * gain.std() * np.sqrt(MIXED_AMONG / len(gain)) else first


def _weighed(mixing: Any, kept: Any) -> Any:
    return _WEIGHT_OF_MIXING * mixing + (1 - _WEIGHT_OF_MIXING) * kept
