"""Silhouettes of cells: scib-metrics' values (0.5, BSD-3), from sums over groups in place of every pair's scatter.

The mean distance of a cell to a group is one product of matrices; with cosine distances it needs no pairs at all,
since these add up: sum over a group of (1 - u v) = size - u (sum of v).
"""

from __future__ import annotations

import numpy as np

from ...system.extras import need

_PAIRS = 1 << 23


def label_silhouettes(x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return each cell's silhouette, -1 to 1: the nearest other label against its own; Euclidean, exact.

    Parameters
    ----------
    x
        Embedding, (n, d).
    label
        Codes, (n,), of at least two labels.
    """
    codes, member = _groups(label)
    distances = need("sklearn.metrics", "workflow").euclidean_distances
    x = np.asarray(x, np.float64)
    step = max(1, _PAIRS // len(x))
    sums = np.concatenate([distances(x[i : i + step], x) @ member for i in range(0, len(x), step)])
    sizes, places = member.sum(axis=0), np.arange(len(x))
    own = sums[places, codes]
    sums[places, codes] = np.inf
    return _silhouette(own, sizes[codes] - 1, (sums / sizes).min(axis=1))


def batch_silhouettes(x: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Return each cell's silhouette, -1 to 1: all cells of other batches against its own; cosine, exact.

    Parameters
    ----------
    x
        Embedding, (n, d), of the cells of one label.
    batch
        Codes, (n,), of at least two batches.
    """
    codes, member = _groups(batch)
    x = np.asarray(x, np.float64)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    unit = x / np.where(norms > 0, norms, 1)
    sizes, places = member.sum(axis=0), np.arange(len(x))
    sums = sizes - unit @ (member.T @ unit).T
    own = sums[places, codes]
    # The cell itself lies at no distance.
    own -= 1 - (unit**2).sum(axis=1)
    return _silhouette(own, sizes[codes] - 1, (sums.sum(axis=1) - own) / (len(x) - sizes[codes]))


def _groups(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    codes = np.unique(codes, return_inverse=True)[1]
    return codes, np.eye(int(codes.max()) + 1)[codes]


def _silhouette(own: np.ndarray, others: np.ndarray, between: np.ndarray) -> np.ndarray:
    """Return the silhouettes; 0 for a cell that is alone in its group."""
    with np.errstate(invalid="ignore", divide="ignore"):
        within = own / others
        found = (between - within) / np.maximum(within, between)
    return np.where(others > 0, np.nan_to_num(found), 0)
