"""First centroids and the schedule of a run: those of the engine, for the same seed.

Which rows are drawn depends on the number of cells and the seed alone, so it is known before tracing; the steps of
k-means are traced, and gradients go through them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...algorithm.schedule import FixedPartition
from ...algorithm.seeding import _PER_CLUSTER, _SIGMA, _STEPS, MIN_SAMPLE
from ...losses.checks import varying
from .assignment import unit

# Rows of the sample that are assigned at a time.
_SLAB = 2048


class Schedule(NamedTuple):
    """The randomness of a run."""

    block: np.ndarray  # (N,): each cell's block
    orders: np.ndarray  # (rounds, passes, n_blocks): order of the blocks
    sample: np.ndarray  # rows that the first centroids come from
    first: np.ndarray  # every row, those drawn as first centroids in front


@lru_cache(maxsize=4)
def draw(seed: int, n_cells: int, n_blocks: int, n_clusters: int, n_rounds: int, n_passes: int) -> Schedule:
    """Draw what `harmonax.harmonize` draws for this seed, in its order."""
    schedule_seed, centroid_seed = np.random.SeedSequence(seed).spawn(2)
    partition = FixedPartition(n_blocks, schedule_seed)
    block = partition.block_of(0, n_cells)
    orders = [block.index for _ in range(n_rounds * n_passes) for block in partition.next_pass()]
    rng = np.random.default_rng(centroid_seed)
    n_sample = max(MIN_SAMPLE, _PER_CLUSTER * n_clusters)
    sample = np.arange(n_cells)
    if n_cells > n_sample:
        sample = np.sort(rng.choice(n_cells, n_sample, replace=False))
    first = rng.choice(sample, n_clusters, replace=False)
    others = rng.permutation(np.setdiff1d(sample, first))
    return Schedule(
        block.astype(np.int32),
        np.array(orders, np.int32).reshape(n_rounds, n_passes, n_blocks),
        sample.astype(np.int32),
        np.concatenate([first, others]).astype(np.int32),
    )


def seed_centroids(Z: jax.Array, mask: jax.Array, sample: Any, first: Any, n_clusters: int) -> jax.Array:
    """Return unit-length centroids (K, d): `algorithm/seeding.py`, traced. Masked cells take no part.

    Where the rows drawn as first centroids are masked, the next of `first` stand in for them.
    """
    # A mask that is a constant would be sorted while compiling: slowly.
    masked = jax.lax.optimization_barrier(~mask[first])
    chosen = first[jnp.argsort(masked, stable=True)[:n_clusters]]
    Y = unit(Z[chosen])
    slab = min(_SLAB, len(sample))
    n_slabs = -(-len(sample) // slab)
    rows = jnp.concatenate([sample, jnp.zeros(n_slabs * slab - len(sample), sample.dtype)])
    weight = mask[rows] & (jnp.arange(len(rows)) < len(sample))
    points = unit(Z[rows]).reshape(n_slabs, slab, -1)
    weights = weight.astype(Z.dtype).reshape(n_slabs, slab, 1)

    def step(Y: jax.Array, _: None) -> tuple[jax.Array, None]:
        # Assignments are computed anew in the backward pass: sample x K is never kept.
        @jax.checkpoint
        def sums(total: tuple[jax.Array, jax.Array], xs: tuple[jax.Array, jax.Array]) -> tuple[tuple, None]:
            R = jax.nn.softmax((2 * xs[0] @ Y.T - 2) / _SIGMA, axis=-1) * xs[1]
            return (total[0] + R.T @ xs[0], total[1] + R.sum(axis=0)), None

        start = varying((jnp.zeros_like(Y), jnp.zeros(n_clusters, Y.dtype)), Y)
        (moment, mass), _ = jax.lax.scan(sums, start, (points, weights))
        return jnp.where((mass > 0)[:, None], unit(moment), Y), None

    return jax.lax.scan(step, Y, None, length=_STEPS)[0]
