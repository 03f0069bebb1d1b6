"""First centroids: a few steps of k-means on unit vectors, on a sample where there are many cells.

It starts from random cells and takes three narrow, unpenalised steps through the cells' own sweep, whose R^T Zn is each
cluster's sum. On purpose no better: on the real data sets of `benchmarks/quality.py` k-means run to convergence, from
k-means++ or from the best of several starts, begins with a lower objective but fits clusters that belong to one batch
each, from which the rounds take longer to mix and do not end lower.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .contracts import Cells
from .schedule import Block

# Cells per cluster in the sample, and the least sample.
_PER_CLUSTER = 100
MIN_SAMPLE = 10_000
_STEPS = 3
# Nearly hard assignment, for which no cluster dies.
_SIGMA = 0.02


def unit(x: Any, xp: Any = np) -> Any:
    """Scale rows to unit length; a zero row stays zero, and so does its gradient in traced code (``xp=jax.numpy``)."""
    square = (x * x).sum(axis=-1, keepdims=True)
    return xp.where(square > 0, x / xp.sqrt(xp.where(square > 0, square, 1)), 0)


def seed_centroids(cells: Cells, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Return unit-length centroids (K, d)."""
    n_sample = max(MIN_SAMPLE, _PER_CLUSTER * n_clusters)
    rows = np.arange(cells.n_cells)
    if cells.n_cells > n_sample:
        rows = np.sort(rng.choice(cells.n_cells, n_sample, replace=False))
    sample = cells.take(rows)
    Y = cells.points(rng.choice(rows, n_clusters, replace=False))
    for _ in range(_STEPS):
        step = sample.sweep(Block(0), Y, np.full(n_clusters, _SIGMA), None, moment=True)
        Y = np.where((step.mass.sum(axis=0) > 0)[:, None], unit(step.moment), Y)
    return Y
