"""One score without labels, by which runs of a correction with other parameters are compared.

    mixing     1 less the excess of same-batch neighbours among 15: 0 where batches lie apart, 1 where every cell is
               mixed as by chance. Cells that are mixed more than by chance make up for no others
    structure  correlation of a cell's distances to cells of its batch, before and after the correction
    score      the mean of the two
    kept       share of a cell's 50 nearest neighbours within its batch before the correction that still are among them:
               shown, and no part of the score

Without the structure, the run that lays all cells on one another would win. Neighbours kept do not serve for it:
within a type they change with every sigma at no cost to the types. ``benchmarks/sweep.py`` compares the score with
scib-metrics' total, on sets that it was made with and on others; docs/verdict.md has its numbers. Where a batch is a
cell type, the highest score can be that of a run that merges types, which no label-free score here tells from mixing.
So the defaults stay where no other run is better by more than chance: see `choose`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...system.extras import need
from ..neighbours import nearest_cells, own_batch_neighbours, share_kept

COLUMNS = ("mixing", "kept", "structure", "score")
MIXED_AMONG, KEPT_AMONG = 15, 50
# Cells of a batch to which distances are measured, and how many it needs.
_MARKS, _FEWEST = 200, 10


@dataclass(frozen=True, eq=False)
class Judge:
    """What every run is held against; the neighbours before the correction are found once.

    Attributes
    ----------
    rows
        The cells that are looked at, (n,).
    batch
        Code of their batch, (n,).
    start
        Where they lay before the correction, (n, d).
    before
        Their neighbours within the batch there, as places in `rows`, (n, 50).
    seed
        Shuffles batches the same way for every run.
    within
        Code of what must stay, such as the condition, (n,): batches are mixed where they are mixed among cells of one.
    """

    rows: np.ndarray
    batch: np.ndarray
    start: np.ndarray
    before: np.ndarray
    seed: int
    within: np.ndarray

    @classmethod
    def of(
        cls, before: np.ndarray, batch: np.ndarray, max_cells: int, seed: int, within: np.ndarray | None = None
    ) -> Judge:
        """Return the judge of corrections of `before`, (N, d); of more than `max_cells` a random sample is judged.

        `within` are codes of what must stay, (N,): see there.
        """
        rows = np.arange(len(before))
        if len(rows) > max_cells:
            rows = np.sort(np.random.default_rng(seed).choice(len(rows), max_cells, replace=False))
        codes = np.unique(batch[rows], return_inverse=True)[1]
        groups = np.zeros(len(rows), int) if within is None else within[rows]
        return cls(rows, codes, before[rows], own_batch_neighbours(before[rows], codes, KEPT_AMONG), seed, groups)

    def scores(self, after: np.ndarray) -> dict[str, float]:
        """Return mixing, kept, structure and score of a correction of all N cells, from 0 to 1; higher is better.

        Examples
        --------
        >>> Z, batch = np.random.default_rng(0).normal(size=(200, 4)), np.repeat([0, 1], 100)
        >>> apart = Z + 100 * batch[:, None]
        >>> judge = Judge.of(apart, batch, 2000, 0)
        >>> judge.scores(apart)["mixing"], judge.scores(Z)["kept"]
        (0.0, 1.0)
        """
        mixing, structure = (min(max(float(values.mean()), 0.0), 1.0) for values in self.by_cell(after))
        stayed = share_kept(self.before, own_batch_neighbours(after[self.rows], self.batch, KEPT_AMONG))
        kept = float(np.nanmean(stayed)) if np.isfinite(stayed).any() else 1.0
        return dict(zip(COLUMNS, (mixing, kept, structure, _mean(mixing, structure)), strict=True))

    def by_cell(self, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mixing and structure of each cell that is looked at, of which the scores are the means, (n,) each."""
        Z, groups = after[self.rows], np.unique(self.within)
        mixing = np.full(len(Z), np.nan)
        for group in groups:
            own = np.flatnonzero(self.within == group)
            if len(groups) == 1 or (len(own) >= _FEWEST and np.ptp(self.batch[own])):
                mixing[own] = _mixed(Z[own], self.batch[own])
        return _others_as_mean(mixing), _same_distances(self.start, Z, self.batch)


def _mixed(Z: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Return 1 less the excess of same-batch neighbours of each cell, as a share of what batches apart have, (n,)."""
    counts = np.bincount(batch)
    near = nearest_cells(Z, max(1, min(MIXED_AMONG, len(Z) // 3)))
    expected = (counts[batch] - 1) / (len(Z) - 1)
    above = np.maximum((batch[near] == batch[:, None]).mean(axis=1) - expected, 0)
    by_chance = _excess_by_chance(near.shape[1], expected)
    mixing: np.ndarray = 1 - (above - by_chance) / (1 - expected - by_chance).mean()
    return mixing


def _others_as_mean(found: np.ndarray) -> np.ndarray:
    """Return these values with the mean, or 1, for cells of groups that are too small to tell."""
    known = np.isfinite(found)
    return np.where(known, found, np.nanmean(found) if known.any() else 1.0)


def _excess_by_chance(k: int, share: np.ndarray) -> np.ndarray:
    """Return by how much a share among k neighbours exceeds its expectation by chance, none where it is below it.

    Examples
    --------
    >>> _excess_by_chance(1, np.array([0.5, 0.25]))
    array([0.25  , 0.1875])
    """
    from scipy.stats import binom

    # Half of the binomial's mean deviation, which has a closed form.
    above = np.floor(k * share) + 1
    excess: np.ndarray = above * binom.pmf(above, k, share) * (1 - share) / k
    return excess


def _same_distances(before: np.ndarray, after: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Return, per cell, the correlation of its distances to (200) cells of its batch in two embeddings, (n,).

    Cells of a batch that is too small to tell count as the others do; if all are, they have 1.

    Examples
    --------
    >>> Z = np.random.default_rng(0).normal(size=(40, 3))
    >>> bool(np.allclose(_same_distances(Z, 2 * Z + 5, np.zeros(40, int)), 1))
    True
    """
    distances = need("sklearn.metrics", "workflow").euclidean_distances
    found = np.full(len(before), np.nan)
    for code in np.unique(batch):
        own = np.flatnonzero(batch == code)
        if len(own) >= _FEWEST:
            marks = own[np.linspace(0, len(own) - 1, min(len(own), _MARKS)).astype(np.int64)]
            a, b = (distances(np.asarray(Z[own], np.float64), Z[marks]) for Z in (before, after))
            # That of a cell to itself is 0 in both.
            a, b = (np.where(own[:, None] == marks, 0, d - d.mean(axis=1, keepdims=True)) for d in (a, b))
            spread = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
            found[own] = np.divide((a * b).sum(axis=1), spread, out=np.zeros(len(own)), where=spread > 0)
    return _others_as_mean(found)


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
    scores = {name: _mean(*runs[name]) for name in names}
    best, first = max(names, key=lambda name: scores[name].mean()), next(iter(runs))
    if first not in scores:
        return best
    gain = scores[best] - scores[first]
    return best if gain.mean() > 2 * gain.std() * np.sqrt(MIXED_AMONG / len(gain)) else first


def _mean(mixing: Any, structure: Any) -> Any:
    return (mixing + structure) / 2
