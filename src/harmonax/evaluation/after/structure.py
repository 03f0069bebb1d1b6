"""What a correction did to single cells: the neighbours they kept, and how far they moved apart from their batch."""

from __future__ import annotations

import numpy as np

from ..neighbours import OF_BATCH, own_batch_neighbours, share_kept

# Correlation of coordinates, and factor of scale, within which two embeddings have the same axes; and the cells of a
# batch that has a correlation of its own.
_ALIKE, _SCALE, _ENOUGH = 0.5, 2.0, 30
# Correlation of a batch's coordinates, before and after, from which its axes are those of before, and below which they
# are others; below the negative of the latter, an axis is reversed.
AXES_KEPT, AXES_LOST = 0.8, 0.6


def neighbours_kept(before: np.ndarray, after: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Return which share of each cell's 15 nearest neighbours in its own batch is still among them after.

    A batch effect moves a batch, or its cells of one type, as one; what changes neighbours *within* a batch is
    distortion. nan in batches of fewer than three cells.

    Parameters
    ----------
    before, after
        Embeddings, (N, d) and (N, any).
    batch
        Code of each cell's batch, (N,).

    Examples
    --------
    >>> Z = np.random.default_rng(0).normal(size=(60, 4))
    >>> batch = np.repeat([0, 1], 30)
    >>> float(neighbours_kept(Z, Z + 10 * batch[:, None], batch).mean())
    1.0
    """
    return share_kept(*(own_batch_neighbours(Z, batch, OF_BATCH) for Z in (before, after)))


def movement(before: np.ndarray, after: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Return how far each cell moved apart from its batch.

    The length of its move less the median move of its batch, in units of the spread of a batch: the root mean square
    distance of cells from the mean of their batch before. 0 where a batch moved as one.

    Parameters
    ----------
    before, after
        Embeddings, both (N, d).
    batch
        Code of each cell's batch, (N,).

    Examples
    --------
    >>> Z, batch = np.random.default_rng(0).normal(size=(60, 4)), np.repeat([0, 1], 30)
    >>> float(movement(Z, Z + 10 * batch[:, None], batch).max()) < 1e-12
    True
    """
    move = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    spread = 0.0
    for code in np.unique(batch):
        own = batch == code
        move[own] -= np.median(move[own], axis=0)
        spread += float(((before[own] - before[own].mean(axis=0)) ** 2).sum())
    unit = np.sqrt(spread / len(before))
    return np.linalg.norm(move, axis=1) / unit if unit > 0 else np.zeros(len(before))


def alignment(
    before: np.ndarray, after: np.ndarray, batch: np.ndarray, n_levels: int
) -> tuple[bool, np.ndarray, np.ndarray]:
    """Return whether moves between two embeddings mean anything, each batch's correlation of coordinates, and weights.

    They do where both have the same axes and scale, apart from the means of batches. The correlation, (n_levels,), is
    1 for a batch that moved as one, and that of the worst axis where the batch has one reversed that another batch has
    not; nan for batches of fewer than 30 cells, and where the widths differ. The weights, (d,), are those of the
    components of `after` that bring it closest to `before` within batches.

    Examples
    --------
    >>> Z, batch = np.random.default_rng(0).normal(size=(60, 4)), np.repeat([0, 1], 30)
    >>> alignment(Z, Z / 2 + 10 * batch[:, None], batch, 2)[1:]
    (array([1., 1.]), array([2., 2., 2., 2.]))
    >>> alignment(Z, Z[:, ::-1], batch, 2)[0], alignment(Z, Z / 1000, batch, 2)[0]
    (False, False)
    """
    found = np.full(n_levels, np.nan)
    if before.shape != after.shape:
        return False, found, np.ones(after.shape[1])
    sums, axes = np.zeros((3, before.shape[1])), np.full((n_levels, before.shape[1]), np.nan)
    for code in np.unique(batch):
        own = batch == code
        Z, W = (np.asarray(of[own], np.float64) for of in (before, after))
        Z, W = Z - Z.mean(axis=0), W - W.mean(axis=0)
        part = np.array([(Z * W).sum(axis=0), (Z**2).sum(axis=0), (W**2).sum(axis=0)])
        sums += part
        both, one, other = part.sum(axis=1)
        if own.sum() >= _ENOUGH and one > 0 and other > 0:
            found[code] = both / np.sqrt(one * other)
            axes[code] = part[0] / np.sqrt(np.maximum(part[1] * part[2], np.finfo(float).tiny))
    # A mirrored batch has most of its variance along the axes that were left alone.
    reverse = (axes < -AXES_LOST) & (np.nan_to_num(axes).max(axis=0) > AXES_KEPT)
    found = np.where(reverse.any(axis=1), axes.min(axis=1), found)
    both, one, other = sums.sum(axis=1)
    weights = np.divide(sums[0], sums[2], out=np.ones(len(sums[0])), where=sums[2] > 0)
    same_scale = one < _SCALE**2 * other and other < _SCALE**2 * one
    return bool(both > _ALIKE * np.sqrt(one * other) and same_scale), found, weights


def moved_share(before: np.ndarray, after: np.ndarray) -> float:
    """Return the squared length of all moves as a share of the variance before.

    Examples
    --------
    >>> moved_share(np.array([[-1.0], [1.0]]), np.array([[-1.0], [1.0]]))
    0.0
    """
    total = float(((before - before.mean(axis=0)) ** 2).sum())
    return float(((after - before) ** 2).sum()) / total if total > 0 else 0.0
