"""First centroids: k-means on unit vectors, on a sample where there are many cells.

k-means++ (Arthur and Vassilvitskii 2007), then spherical Lloyd steps through the cells' own sweep: with a narrow sigma
and no penalty, R^T Zn is the sum of each cluster's cells.
"""

from __future__ import annotations

import numpy as np

from ..schedule import Block
from .contracts import Cells

# Cells per cluster in the sample, and the least sample.
_PER_CLUSTER = 200
_LEAST = 10_000
# Soft enough that no cluster dies, narrow enough to be k-means.
_SIGMA = 0.02
_STEPS = 25
_TOL = 1e-4


def unit(x: np.ndarray) -> np.ndarray:
    """Scale rows to unit length; a zero row stays zero."""
    norm = np.sqrt((x * x).sum(axis=-1, keepdims=True))
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)


def seed_centroids(cells: Cells, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Return unit-length centroids (K, d)."""
    n_sample = max(_LEAST, _PER_CLUSTER * n_clusters)
    if cells.n_cells > n_sample:
        rows = np.sort(rng.choice(cells.n_cells, n_sample, replace=False))
    else:
        rows = np.arange(cells.n_cells)
    sample = cells.take(rows)
    Y = _kmeans_plus_plus(sample.points().astype(np.float64), n_clusters, rng)
    sigma = np.full(n_clusters, _SIGMA)
    previous = np.inf
    for _ in range(_STEPS):
        step = sample.sweep(Block(0), Y, sigma, None, moment=True)
        # Without a penalty, -log_partition is the soft k-means objective.
        now = -step.log_partition
        if previous - now < _TOL * abs(now):
            break
        previous = now
        moved = unit(step.moment)
        Y = np.where((step.mass.sum(axis=0) > 0)[:, None], moved, Y)
    return Y


def _kmeans_plus_plus(points: np.ndarray, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Draw centroids among the points, each with probability proportional to the squared distance to the nearest yet."""
    n = len(points)
    chosen = np.empty(n_clusters, np.int64)
    nearest = np.full(n, np.inf)
    for k in range(n_clusters):
        total = nearest.sum() if k else 0.0
        if total > 0:
            chosen[k] = min(int(np.searchsorted(np.cumsum(nearest), rng.random() * total, side="right")), n - 1)
        else:
            chosen[k] = rng.integers(n)
        difference = points - points[chosen[k]]
        np.minimum(nearest, np.einsum("nd,nd->n", difference, difference), out=nearest)
    return points[chosen]
