"""Exact nearest neighbours of every cell, as blocked products of matrices: the same bits for any number of threads.

For cells q and r, |q - r|^2 - |q|^2 = |r|^2 - 2 q.r = [q, 1] . [-2 r, |r|^2]: one float32 product for a block of q and
a slab of r. A random sample of the cells bounds the k-th distance of each q; what lies below it is measured again in
float64. scikit-learn's own exact search, in float64 throughout, takes more than twice as long.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse

from ..system.extras import need

_QUERIES, _SLAB, _SAMPLE, _GROUPS = 256, 8192, 8192, 8
# The float32 product orders near-equal distances at random: so many more are measured again.
_SPARE = 5


class ExactNeighbours:
    """The k nearest cells of each, itself among them, as scikit-learn's transformers give them: scanpy takes it as one.

    Parameters
    ----------
    n_neighbors
        Cells per row, below the number of cells less 5.
    n_threads
        Threads; the result does not depend on it.

    Examples
    --------
    >>> cells = np.array([[0.0], [1.0], [3.0], [7.0], [9.0], [10.0], [20.0], [30.0]])
    >>> ExactNeighbours(2, n_threads=1).fit_transform(cells).toarray()[:2].tolist()
    [[0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    """

    def __init__(self, n_neighbors: int, n_threads: int) -> None:
        self.n_neighbors, self.n_threads = n_neighbors, n_threads

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return what it was told."""
        return {"n_neighbors": self.n_neighbors, "n_threads": self.n_threads}

    def fit_transform(self, cells: np.ndarray) -> sparse.csr_matrix:
        """Return the Euclidean distances (cells x cells), k in each row, nearest first: its own 0, then others."""
        n, k = len(cells), self.n_neighbors
        # Near the origin, float32 loses least.
        centred = np.ascontiguousarray(cells - cells.mean(axis=0, dtype=np.float64), np.float32)
        left = np.column_stack([centred, np.ones(n, np.float32)])
        right = np.column_stack([-2 * centred, np.einsum("ij,ij->i", centred, centred)])
        sample = np.random.default_rng(0).permutation(n)[:_SAMPLE]
        search = partial(_search, cells=np.asarray(cells), left=left, right=right, sample=right[sample], k=k)
        with need("threadpoolctl", "workflow").threadpool_limits(1, "blas"), ThreadPoolExecutor(self.n_threads) as pool:
            parts = list(pool.map(search, range(0, n, _QUERIES)))
        distances, rows = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        return sparse.csr_matrix((distances.ravel(), rows.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))


def _search(
    start: int, cells: np.ndarray, left: np.ndarray, right: np.ndarray, sample: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances and rows of the k cells nearest to each of a block, itself the first."""
    queries = left[start : start + _QUERIES]
    n, wanted = len(queries), k + _SPARE
    # The lowest of each group: of so many groups, the k-th lowest is no lower than the k-th of the sample.
    groups = min(len(sample), _GROUPS * wanted)
    lowest = (queries @ sample[: len(sample) // groups * groups].T).reshape(n, -1, groups).min(axis=1)
    bound = np.partition(lowest, wanted - 1, axis=1)[:, wanted - 1 : wanted]
    # Products of other shapes differ in their last bits: none of these may be lost below.
    bound += np.float32(1e-5) * (np.abs(bound) + right[start : start + n, -1:])
    own, parts = np.arange(start, start + n), []
    for first in range(0, len(right), _SLAB):
        near = queries @ right[first : first + _SLAB].T
        here = (own >= first) & (own < first + near.shape[1])
        # Itself below all others, however many are at its place.
        near[here, own[here] - first] = -1.01 * right[own[here], -1] - np.float32(1e-30)
        at = np.flatnonzero(near <= bound)
        row, column = np.divmod(at, near.shape[1])
        parts.append((row, column + first, near.ravel()[at]))
    row, column, value = (np.concatenate([part[i] for part in parts]) for i in range(3))
    # One key for both, since the bits of floats that are not negative are in the order of their values.
    above = np.subtract(value, value.min(), dtype=np.float32).view(np.uint32)
    order = np.argsort((row.astype(np.uint64) << np.uint64(32)) | above)
    begin = np.searchsorted(row[order], np.arange(n))
    nearest = column[order[begin[:, None] + np.arange(wanted)]]
    away = cells[nearest].astype(np.float64) - cells[own][:, None]
    distance = np.sqrt(np.einsum("ijk,ijk->ij", away, away))
    # A cell comes before others at its place.
    order = np.lexsort((nearest, nearest != own[:, None], distance))[:, :k]
    distance, nearest = (np.take_along_axis(found, order, 1) for found in (distance, nearest))
    return distance.astype(np.float32), nearest.astype(np.int32)
