"""Exact nearest neighbours of cells: among all, and among those of the same batch."""

from __future__ import annotations

import numpy as np

from ..system.extras import need


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
