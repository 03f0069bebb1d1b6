"""How far batches lie apart in an embedding: same-batch neighbours, and variance that batches explain."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .neighbours import nearest_cells

# Of cells that are to stand for all: of each level its share of them, but so many at least.
_FEWEST_ASKED = 100
_SHUFFLES = 40
# Standard deviations that chance is said to reach, of all cells and of one of several levels: the excess is skewed, so
# that three were exceeded by up to 1.5 % of random batches of 120 cells.
_REACH, _REACH_OF_LEVEL = 4, 5


class Excess(NamedTuple):
    """Same-batch neighbours beyond what mixing at random gives: 0 at random, 1 where all are from it.

    Attributes
    ----------
    overall
        Of all cells together.
    per_level
        Of the cells of each level, (levels,); nan where none was counted.
    chance, chance_per_level
        How far from 0 labels shuffled at random bring these: four and five standard deviations (levels are many).
    """

    overall: float
    per_level: np.ndarray
    chance: float
    chance_per_level: np.ndarray


def own_batch_excess(
    embedding: np.ndarray,
    codes: np.ndarray,
    rng: np.random.Generator,
    *,
    groups: np.ndarray | None = None,
    k: int = 30,
    asked: np.ndarray | None = None,
    near: np.ndarray | None = None,
) -> Excess:
    """Return how many more neighbours come from a cell's own batch than if batches were mixed at random.

    With o the share of the same batch among a cell's k nearest others and e = (n_b - 1) / (N - 1), the excess is
    sum(o - e) / sum(1 - e) over the cells: one value for batches of any sizes.

    Parameters
    ----------
    embedding
        Cells x dimensions.
    codes
        Batch of each cell, 0..levels-1.
    rng
        Shuffles the labels, to say what chance gives.
    groups
        Code of each cell's type, -1 for none: neighbours are then sought among, and compared with, the cells of the
        same type, so that batches that differ only in how much of each type they have are no further apart than chance.
    k
        Neighbours, but at most a third of the cells: with all cells for neighbours, nothing is ever apart.
    asked
        Rows whose neighbours (among all cells) are sought, drawn at random within each level (`stand_for`); each level
        still counts by its cells. None: all. Fewer are quicker, and raise what chance gives.
    near
        At least k nearest other cells of every cell, if they are known, (N, k or more); of use without groups.

    Returns
    -------
    Excess
        nan throughout where no group has cells of two batches.

    Examples
    --------
    >>> gen = np.random.default_rng(0)
    >>> apart = np.repeat([0, 1], 50)
    >>> own_batch_excess(gen.normal(size=(100, 3)) + 100 * apart[:, None], apart, gen).overall
    1.0
    """
    parts = _neighbourhoods(embedding, codes, groups, k, asked, near)
    n_levels = int(codes.max()) + 1
    observed = _excess(parts, [codes[part.rows] for part in parts], n_levels)
    shuffled = np.array(
        [_excess(parts, [_shuffled(codes[p.rows], p.asked, rng) for p in parts], n_levels) for _ in range(_SHUFFLES)]
    )
    spread = np.sqrt((shuffled**2).mean(axis=0))
    return Excess(float(observed[-1]), observed[:-1], _REACH * float(spread[-1]), _REACH_OF_LEVEL * spread[:-1])


def stand_for(codes: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray | None:
    """Draw about so many rows that stand for all cells, some of every level; None where there are no more than these.

    Examples
    --------
    >>> rows = stand_for(np.repeat([0, 1], [4000, 120]), 1000, np.random.default_rng(0))
    >>> np.bincount(np.repeat([0, 1], [4000, 120])[rows])
    array([971, 100])
    """
    if len(codes) <= most:
        return None
    chosen = []
    for level in np.unique(codes):
        own = np.flatnonzero(codes == level)
        wanted = max(_FEWEST_ASKED, -(-len(own) * most // len(codes)))
        chosen.append(own if wanted >= len(own) else rng.choice(own, wanted, replace=False))
    return np.sort(np.concatenate(chosen))


class _Part(NamedTuple):
    """A group's rows, which of them (as places) are asked, and their neighbours, as places too."""

    rows: np.ndarray
    asked: np.ndarray
    neighbours: np.ndarray


def _neighbourhoods(
    embedding: np.ndarray,
    codes: np.ndarray,
    groups: np.ndarray | None,
    k: int,
    asked: np.ndarray | None,
    known: np.ndarray | None,
) -> list[_Part]:
    """Return the groups that have cells of two batches."""
    known = known if groups is None else None
    groups = np.zeros(len(codes), np.int64) if groups is None else groups
    parts = []
    for group in np.unique(groups[groups >= 0]):
        rows = np.flatnonzero(groups == group)
        places = np.arange(len(rows)) if asked is None else np.flatnonzero(np.isin(rows, asked))
        if len(np.unique(codes[rows])) > 1 and len(places):
            most = max(1, min(k, len(rows) // 3))
            near = nearest_cells(embedding[rows], most, places) if known is None else known[places, :most]
            parts.append(_Part(rows, places, near))
    return parts


def _shuffled(own: np.ndarray, asked: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return labels shuffled among those that are asked, and among the others: so each level is asked as often."""
    made = own.copy()
    others = np.setdiff1d(np.arange(len(own)), asked, assume_unique=True)
    for places in (asked, others):
        made[places] = rng.permutation(own[places])
    return made


def _excess(parts: list[_Part], labels: list[np.ndarray], n_levels: int) -> np.ndarray:
    """Return the excess of each level, and of all cells at the end."""
    above, most = np.zeros(n_levels), np.zeros(n_levels)
    for part, own in zip(parts, labels, strict=True):
        counts, seen = np.bincount(own, minlength=n_levels), own[part.asked]
        expected = (counts[seen] - 1) / (len(own) - 1)
        share = (own[part.neighbours] == seen[:, None]).mean(axis=1)
        # Each level counts by its cells, however many of them were asked.
        weight = counts / np.maximum(np.bincount(seen, minlength=n_levels), 1)
        above += weight * np.bincount(seen, share - expected, n_levels)
        most += weight * np.bincount(seen, 1 - expected, n_levels)
    above, most = np.append(above, above.sum()), np.append(most, most.sum())
    return np.divide(above, most, out=np.full(n_levels + 1, np.nan), where=most > 0)


def explained_by_batch(embedding: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each component's share of the variance, and the share of its variance that the batches explain.

    Parameters
    ----------
    embedding
        Cells x components.
    codes
        Batch of each cell, 0..levels-1.

    Returns
    -------
    tuple of numpy.ndarray
        The components' shares of the embedding's variance, which sum to one; and the adjusted R^2 of the batch means,
        1 - (1 - R^2) (N - 1) / (N - levels): not below 0, nan where there are as many levels as cells. A component
        that does not vary has 0 for both.

    Examples
    --------
    >>> explained_by_batch(np.array([[0.0, 1], [0, 3], [6, 1], [6, 3]]), np.array([0, 0, 1, 1]))
    (array([0.9, 0.1]), array([1., 0.]))
    """
    Z = np.asarray(embedding, np.float64)
    Z = Z - Z.mean(axis=0)
    counts = np.bincount(codes)
    levels = np.flatnonzero(counts)
    means = np.stack([Z[codes == level].mean(axis=0) for level in levels])
    between, total = counts[levels] @ means**2, (Z**2).sum(axis=0)
    r2 = np.divide(between, total, out=np.zeros_like(total), where=total > 0)
    free = len(Z) - len(levels)
    explained = np.clip(1 - (1 - r2) * (len(Z) - 1) / free, 0, 1) if free else np.full(len(r2), np.nan)
    return total / (total.sum() or 1), np.where(total > 0, explained, 0)
