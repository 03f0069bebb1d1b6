"""How far batches lie apart in a latent space: maximum mean discrepancy through random Fourier features, linear in N.

The kernel is a mean of Gaussian ones of several widths, k(x, y) = mean_h exp(-|x - y|^2 / (2 h^2)). With frequencies
w ~ N(0, I) and phi(x) = [cos(w.x / h), sin(w.x / h)] / sqrt(D), phi(x).phi(y) estimates it (Rahimi and Recht 2007) and
|phi(x)|^2 = 1 exactly, so that the U-statistic of Gretton et al. 2012 (JMLR 13:723, equation 3) needs only each batch's
sum of phi: no pair of cells is ever formed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

# Widths of the kernels in units of `kernel_bandwidth` x the median distance.
WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
# Frequencies of the random features: a multiple of the number of widths.
_FREQUENCIES = 250
# Cells whose distances give the median: with more, sorting the distances would be most of the time of a training step.
_LANDMARKS = 100
# Cells that a density is estimated from: a fixed number, so that the time is linear in N.
_CENTRES = 512
# The maximum of a composition weight, and one over its minimum: beyond them, single cells would stand for a batch.
_MAX_WEIGHT = 4.0
_TINY = 1e-12


def standardised(latent: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """Return the latent, (N, d), centred and divided by its overall root mean square, a single number.

    A discrepancy of this does not change with the scale of the latent: shrinking it to nothing does not mix. `weight`
    (N,) is 1 for cells that count and 0 for padding; None: all count.

    Examples
    --------
    >>> standardised(jnp.array([[1.0], [3.0]])).ravel().tolist()
    [-1.0, 1.0]
    """
    w = jnp.ones(len(latent), latent.dtype) if weight is None else weight.astype(latent.dtype)
    share = w / jnp.maximum(w.sum(), 1.0)
    centred = (latent - share @ latent) * w[:, None]
    mean_square = share @ (centred**2).mean(axis=1)
    # Scaled before the root: its gradient at 0 is infinite.
    return centred * jax.lax.rsqrt(mean_square + _TINY)


def median_distance(points: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """Return the median distance of pairs among 100 of the points (N, d), always the same rows; 1 without a pair.

    `weight` (N,) is 0 for padding; None: all count.

    Examples
    --------
    >>> float(median_distance(jnp.array([[0.0], [3.0], [4.0]])))
    3.0
    """
    rows = _sample(len(points), _LANDMARKS)
    if len(rows) < 2:
        return jnp.ones((), points.dtype)
    sampled, there = points[rows], jnp.ones(len(rows)) if weight is None else weight[rows]
    i, j = np.triu_indices(len(rows), 1)
    counts = (there[i] > 0) & (there[j] > 0)
    distance = jnp.sqrt(_squared_distances(sampled, sampled)[i, j])
    median = jnp.nanmedian(jnp.where(counts, distance, jnp.nan))
    return jnp.where(median > 0, median, 1.0)


def fourier_features(points: jax.Array, frequencies: jax.Array, bandwidth: jax.Array | float) -> jax.Array:
    """Return phi, (N, 2 D), every row of length 1, of points (N, d).

    Frequencies are standard normal, (d, D); their columns are dealt out among the `WIDTHS`, of which `bandwidth` is the
    middle one.

    Examples
    --------
    >>> phi = fourier_features(jnp.array([[0.0], [0.1], [9.0]]), jnp.linspace(-2, 2, 50)[None], 1.0)
    >>> bool(phi[0] @ phi[1] > 0.9), bool(phi[0] @ phi[2] < 0.3)
    (True, True)
    """
    n = frequencies.shape[1]
    widths = jnp.asarray(WIDTHS, points.dtype)[jnp.arange(n) % len(WIDTHS)]
    angles = points @ (frequencies.astype(points.dtype) / (widths * bandwidth))
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1) / jnp.sqrt(jnp.asarray(n, points.dtype))


def batch_discrepancy(phi: jax.Array, labels: jax.Array, n_batches: int, weight: jax.Array | None = None) -> jax.Array:
    """Return the mean over all pairs of batches of their squared MMD, unbiased for any sizes (it may be negative).

    `phi` are features of length 1, (N, D), `labels` each cell's batch, 0..n_batches-1, and `weight` each cell's weight,
    such as 0 for padding; None: 1. Pairs with a batch of fewer than two cells are left out; 0 without pairs.

    Examples
    --------
    >>> phi, labels = jnp.array([[1.0, 0], [1, 0], [0, 1], [0, 1]]), jnp.array([0, 0, 1, 1])
    >>> float(batch_discrepancy(phi, labels, 2)), float(batch_discrepancy(phi, jnp.array([0, 1, 0, 1]), 2))
    (2.0, -1.0)
    """
    w = jnp.ones(len(phi), phi.dtype) if weight is None else weight.astype(phi.dtype)
    per_batch = lambda x: jax.ops.segment_sum(x, labels, n_batches)  # noqa: E731
    total, squares, count = per_batch(w), per_batch(w**2), per_batch((w > 0).astype(phi.dtype))
    sums = per_batch(w[:, None] * phi)
    # sum_{i != j} w_i w_j k_ij = |sum w phi|^2 - sum w^2, since k_ii = 1.
    pairs = jnp.where(count > 1, total**2 - squares, 1.0)
    within = ((sums**2).sum(axis=1) - squares) / jnp.maximum(pairs, _TINY)
    means = sums / jnp.where(total > 0, total, 1.0)[:, None]
    between = within[:, None] + within[None, :] - 2 * means @ means.T
    there = count > 1
    counted = there[:, None] & there[None, :] & ~jnp.eye(n_batches, dtype=bool)
    return jnp.where(counted, between, 0.0).sum() / jnp.maximum(counted.sum(), 1)


def mmd(
    points: jax.Array,
    labels: jax.Array,
    n_batches: int,
    weight: jax.Array | None = None,
    *,
    bandwidth: float = 1.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Return `batch_discrepancy` by kernels as wide as `bandwidth` median distances; points are of unit scale.

    `key` draws the frequencies; None: always the same ones.

    Examples
    --------
    >>> labels = jnp.arange(40) % 2
    >>> points = jax.random.normal(jax.random.key(1), (40, 2))
    >>> bool(mmd(points + labels[:, None], labels, 2) > mmd(points, labels, 2))
    True
    """
    width = bandwidth * jax.lax.stop_gradient(median_distance(points, weight))
    key = jax.random.key(0) if key is None else key
    frequencies = jax.random.normal(key, (points.shape[1], _FREQUENCIES), points.dtype)
    return batch_discrepancy(fourier_features(points, frequencies, width), labels, n_batches, weight)


def composition_weights(points: jax.Array, labels: jax.Array, n_batches: int, weight: jax.Array) -> jax.Array:
    """Return weights under which every batch has the same composition of cell states, as far as batches overlap.

    Batches that hold the same types in other proportions are not a mistake to be corrected. Each cell weighs
    p(x) / p_b(x), the density of its place in the average batch over that in the cell's batch, by a Gaussian kernel as
    wide as half the median distance, bounded by 4 and 1/4: where batches are apart, all weights of a batch are equal.

    Of points (N, d), labels (N,), and `weight` (N,), 1 for cells that count and 0 for padding. The weights (N,) sum in
    each batch to its number of cells; no gradient flows through them.

    Examples
    --------
    Batch 0 has two cells of one state and four of another, batch 1 three of each.

    >>> points = jnp.array([0.0, 0, 9, 9, 9, 9, 0, 0, 0, 9, 9, 9])[:, None]
    >>> labels = jnp.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    >>> weights = composition_weights(points, labels, 2, jnp.ones(12))
    >>> bool(weights[0] > weights[2])
    True
    """
    points = jax.lax.stop_gradient(points)
    width = 0.5 * median_distance(points, weight)
    rows = _sample(len(points), _CENTRES)
    member = jax.nn.one_hot(labels, n_batches, dtype=points.dtype) * weight[:, None]
    kernel = jnp.exp(-_squared_distances(points, points[rows]) / (2 * width**2))
    # A cell's distance to itself says nothing about how common its place is.
    kernel = jnp.where(jnp.arange(len(points))[:, None] == rows, 0.0, kernel)
    others = member[rows].sum(axis=0) - member * jnp.isin(jnp.arange(len(points)), rows)[:, None]
    density = kernel @ member[rows] / jnp.maximum(others, 1.0)
    same = jnp.take_along_axis(density, labels[:, None], axis=1)[:, 0]
    size = member.sum(axis=0)
    ratio = density.sum(axis=1) / ((size > 0).sum() * same + _TINY)
    ratio = jnp.clip(ratio, 1 / _MAX_WEIGHT, _MAX_WEIGHT) * weight
    mean = (ratio @ member) / jnp.maximum(size, 1.0)
    return ratio / jnp.where(mean > 0, mean, 1.0)[labels]


def _sample(n: int, size: int) -> np.ndarray:
    """Return the rows of a sample, without repeats. At random: every second row could be all of one batch."""
    return np.sort(np.random.default_rng(0).permutation(n)[:size])


def _squared_distances(a: jax.Array, b: jax.Array) -> jax.Array:
    products = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T
    return jnp.maximum(products, 0.0)
