"""First centroids: soft spherical k-means, on a sample where there are many cells.

Each step is the cells' own sweep without a penalty, so it descends the very objective that the run goes on with, less
its diversity term. It starts from random cells, the best of a few starts. On the real data sets that
`benchmarks/quality.py` runs on, this ended in lower objectives than k-means++ (which spends centroids on outliers) and
than narrow clusters.
"""

from __future__ import annotations

import numpy as np

from ..schedule import Block
from .contracts import Cells

# Cells per cluster in the sample, and the least sample.
_PER_CLUSTER = 200
_LEAST = 10_000
_STARTS, _FIRST_STEPS, _STEPS = 3, 5, 25
_TOL = 1e-4
# Wider clusters would all start at the mean of the data.
_WIDEST = 0.1


def unit(x: np.ndarray) -> np.ndarray:
    """Scale rows to unit length; a zero row stays zero."""
    norm = np.sqrt((x * x).sum(axis=-1, keepdims=True))
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)


def seed_centroids(cells: Cells, sigma: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return unit-length centroids (K, d) for clusters of the widths `sigma` (K,)."""
    n_clusters = len(sigma)
    sigma = np.minimum(sigma, _WIDEST)
    n_sample = max(_LEAST, _PER_CLUSTER * n_clusters)
    rows = np.arange(cells.n_cells)
    if cells.n_cells > n_sample:
        rows = np.sort(rng.choice(cells.n_cells, n_sample, replace=False))
    sample = cells.take(rows)
    points = sample.points()
    starts = [points[rng.choice(len(points), n_clusters, replace=False)] for _ in range(_STARTS)]
    tried = [_descend(sample, start.astype(np.float64), sigma, _FIRST_STEPS) for start in starts]
    best, _ = min(tried, key=lambda centroids_and_objective: centroids_and_objective[1])
    return _descend(sample, best, sigma, _STEPS)[0]


def _descend(sample: Cells, Y: np.ndarray, sigma: np.ndarray, steps: int) -> tuple[np.ndarray, float]:
    """Alternate assignment and centroids; return the centroids and their objective, sum R D + sum sigma R ln R."""
    previous = np.inf
    for _ in range(steps):
        step = sample.sweep(Block(0), Y, sigma, None, moment=True)
        # Without a penalty ln Z_i alone is left of the two terms.
        now = -step.log_partition
        if previous - now < _TOL * abs(now):
            break
        previous = now
        Y = np.where((step.mass.sum(axis=0) > 0)[:, None], unit(step.moment), Y)
    return Y, now
