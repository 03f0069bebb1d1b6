"""Exact nearest neighbours of cells: among all, and among those of the same batch; and the cells that are asked."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from ..system.extras import need

# Neighbours within a batch, by which what a correction kept is measured; and most neighbours among all.
OF_BATCH, OF_ALL = 15, 30
# Of more cells, a sample of so many is asked which neighbours it kept.
MAX_CELLS = 12_000


def sample(n: int, most: int, seed: int) -> np.ndarray:
    """Return the rows that stand for n cells, sorted: all, or of more than `most` a random sample of so many.

    Of one seed, a smaller sample is part of every larger one: so what is measured in several places is measured on the
    same cells.

    Examples
    --------
    >>> bool(np.isin(sample(100, 10, 0), sample(100, 20, 0)).all())
    True
    """
    return np.arange(n) if n <= most else np.sort(np.random.default_rng(seed).permutation(n)[:most])


def nearest(embedding: np.ndarray, k: int, queries: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances and rows of the k nearest other cells of each cell, nearest first.

    Parameters
    ----------
    embedding
        Cells x dimensions.
    k
        Neighbours, below the number of cells.
    queries
        Rows whose neighbours are wanted; None: all.

    Returns
    -------
    tuple of numpy.ndarray
        Euclidean distances and row numbers, both (queries, k).
    """
    search = need("sklearn.neighbors", "workflow").NearestNeighbors(n_neighbors=k + 1, algorithm="brute")
    rows = np.arange(len(embedding)) if queries is None else np.asarray(queries)
    distances, found = search.fit(embedding).kneighbors(embedding[rows])
    # A cell is its own nearest, but for another at the same place: drop it wherever it is, else the last.
    own = found == rows[:, None]
    own[~own.any(axis=1), -1] = True
    return distances[~own].reshape(len(rows), k), found[~own].reshape(len(rows), k)


def nearest_cells(embedding: np.ndarray, k: int, queries: np.ndarray | None = None) -> np.ndarray:
    """Return the rows of the k nearest other cells of each cell, (queries, k), as `nearest` does."""
    return nearest(embedding, k, queries)[1]


def own_batch_neighbours(embedding: np.ndarray, batch: np.ndarray, k: int) -> np.ndarray:
    """Return the nearest other cells of the same batch, at most a third of the batch.

    Parameters
    ----------
    embedding
        Cells x dimensions.
    batch
        Code of each cell's batch.
    k
        Most neighbours.

    Returns
    -------
    numpy.ndarray
        Row numbers, (cells, k); -1 where a batch is too small to have so many.
    """
    found = np.full((len(embedding), k), -1)
    for code in np.unique(batch):
        own = np.flatnonzero(batch == code)
        most = min(k, len(own) // 3)
        if most:
            found[own[:, None], np.arange(most)] = own[nearest_cells(embedding[own], most)]
    return found


def share_kept(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return which share of each cell's neighbours `before` are among those `after`; nan where there were none.

    Examples
    --------
    >>> share_kept(np.array([[1, 2], [0, -1], [-1, -1]]), np.array([[2, 3], [0, 2], [0, 1]]))
    array([0.5, 1. , nan])
    """
    kept = (before[:, :, None] == after[:, None, :]).any(axis=2) & (before >= 0)
    count = (before >= 0).sum(axis=1)
    return np.where(count > 0, kept.sum(axis=1) / np.maximum(count, 1), np.nan)


class Neighbourhoods:
    """Neighbours of all cells of an embedding, each kind found once, when it is first asked for."""

    def __init__(self, embedding: np.ndarray, batch: np.ndarray) -> None:
        # As the scores have it, so that the same cells have the same neighbours there.
        self.embedding, self.batch = np.asarray(embedding, np.float32), batch

    @cached_property
    def all(self) -> np.ndarray:
        """The 30 nearest other cells, nearest first, (N, 30 or as many as there are)."""
        return nearest_cells(self.embedding, min(OF_ALL, len(self.batch) - 1))

    @cached_property
    def own(self) -> np.ndarray:
        """The 15 nearest of the same batch: `own_batch_neighbours`."""
        return own_batch_neighbours(self.embedding, self.batch, OF_BATCH)

    def take(self, rows: np.ndarray) -> Neighbourhoods:
        """Return the neighbourhoods of some cells, among these."""
        return self if len(rows) == len(self.batch) else Neighbourhoods(self.embedding[rows], self.batch[rows])
