"""How well batches mix around each cell."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.scipy.special import gammaln, xlogy

from ..system.validate import number, whole_number
from . import checks
from .neighbourhoods import membership, nearest, per_cell, squared_distances, standardised

# Softness of a neighbourhood's edge at temperature 1, in units of the neighbours' spread: sharp enough to rank
# embeddings as counted neighbours do.
_EDGE = 0.05
# Share of what is outside of a neighbourhood that all other batches together can have in it: a slope from far away.
_TAIL = 0.003
_MAX_TAIL = 0.5
# With few neighbours of many batches even chance looks unmixed; the range is not scaled up more than tenfold.
_MIN_RANGE = 0.1


class BatchMixingLoss(nnx.Module):
    """Minus how mixed the batches are around each cell, as a share of chance: minimise to mix. Do not negate it.

    It follows the entropy of batches among the `n_neighbors` nearest other cells: 0 where batches lie apart, -1 where
    they are as mixed as chance mixes them (a little below where they are more even than that). With p_i the shares of
    the batches among the neighbours of cell i, and pi the shares of the batches among all other cells,

        loss = -(D - K) / (D - K_chance),   K = sum_a mean over the cells i of batch a of sum_b p_ib ln(p_ib / pi_b)

    where D = sum_a ln(1 / pi_a) is K of batches that lie apart, and K_chance its expectation for neighbours drawn at
    random. For two batches of one size, (D - K) / D is the mean entropy over ln 2. Each batch counts alike, so that
    small ones are not lost in large ones. In a batch of fewer than `n_neighbors` others, neighbourhoods are as small as
    that; a batch of one cell has no say.

    Neighbours are counted softly. Of each cell, the `n_neighbors` nearest others within each batch are candidates, with
    weight ``sigmoid((a - d^2) / w)``: a is the squared distance of the neighbourhood's last cell, and w a twentieth of
    the temperature times a less the mean of the squared distances within. To that comes a tail of at most 0.003
    temperature in all, which falls off as one over the logarithm of the distance: batches that lie apart have a small
    gradient that brings them together, at the price of a loss that is at temperature 1 not exactly 0, but above -0.02.

    Scaling or translating the data changes nothing, nor does a cell far out. Cells with more than `n_neighbors` others
    at their very place count as not mixed: a collapse to points gains nothing. With one batch of more than one
    cell present, loss and gradient are 0. It costs memory of order N x n_batches x n_neighbors and time of order N^2.

    It says nothing about what else happens to the data; see `NeighborhoodPreservationLoss`.

    Parameters
    ----------
    n_neighbors
        Size of a neighbourhood; at most the number of other cells. Higher values mix batches over wider regions, and
        take more memory; lower values mix them locally.
    n_batches
        Labels are 0..n_batches-1; not all need to occur.
    temperature
        Softness of the neighbourhood's edge; default 1, a twentieth of the neighbours' spread, which measures. Higher
        values, about 20, let distant batches attract more strongly, where cells themselves are moved from far away, and
        call batches mixed that are only near; towards 0, neighbours are counted.
    rngs
        Not used; every module takes it.

    Raises
    ------
    InputError
        If a parameter, or what the loss is called with, cannot be used.

    Notes
    -----
    Entropy of batches in neighbourhoods as a measure of mixing: Haghverdi et al. 2018, Nature Biotechnology 36:421.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> loss = BatchMixingLoss(n_neighbors=5, n_batches=2)
    >>> x, batch = jax.random.normal(jax.random.key(0), (100, 3)), jnp.arange(100) % 2
    >>> bool(loss(x, batch) < -0.9)
    True
    >>> bool(loss(x + 100 * batch[:, None], batch) > -0.1)
    True
    """

    def __init__(
        self, n_neighbors: int = 15, n_batches: int = 3, temperature: float = 1.0, *, rngs: nnx.Rngs | None = None
    ) -> None:
        self.n_neighbors = whole_number(n_neighbors, "n_neighbors", minimum=1)
        self.n_batches = whole_number(n_batches, "n_batches", minimum=1)
        self.temperature = number(temperature, "temperature", minimum=0, exclusive=True)

    @checks.also_called(features="embeddings", batch_ids="batch_labels")
    def __call__(self, embeddings: Any, batch_labels: Any, mask: Any = None) -> jax.Array:
        """Return the loss.

        Parameters
        ----------
        embeddings
            N cells x features, at least 2 cells.
        batch_labels
            Batch of each cell, integers, (N,).
        mask
            Which cells count, (N,); None: all.

        Returns
        -------
        jax.Array
            A scalar, from 0 (apart) to about -1 (mixed); in traced code NaN where values or labels cannot be used.
        """
        how: dict[str, Any] = {
            "n_neighbors": self.n_neighbors,
            "n_batches": self.n_batches,
            "temperature": self.temperature,
        }
        return mixing(embeddings, batch_labels, mask, **how)


def mixing(
    embeddings: Any,
    batch_labels: Any,
    mask: Any = None,
    *,
    n_neighbors: int = 15,
    n_batches: int = 3,
    temperature: float = 1.0,
) -> jax.Array:
    """Return minus how mixed the batches are, a scalar from 0 (apart) to about -1 (mixed): see `BatchMixingLoss`.

    Arguments, errors, and what raising and lowering a parameter does are that class's.

    Examples
    --------
    >>> apart = jnp.repeat(jnp.arange(2), 50)
    >>> x = jax.random.normal(jax.random.key(0), (100, 3)) + 100 * apart[:, None]
    >>> bool(mixing(x, apart, n_batches=2) > -0.1)
    True
    """
    mask = checks.cell_mask(mask, checks.rows_of(embeddings))
    x = checks.several_cells("embeddings", embeddings, mask)
    codes = checks.labels("batch_labels", batch_labels, len(x), n_batches, mask)
    value = _loss(x, codes, mask, min(n_neighbors, len(x) - 1), n_batches, temperature)
    return checks.poisoned(value, checks.usable(x), checks.in_range(codes, n_batches, mask))


@partial(jax.jit, static_argnames=("k", "n_batches"))
def _loss(
    x: jax.Array, codes: jax.Array, mask: jax.Array | None, k: int, n_batches: int, temperature: float
) -> jax.Array:
    x = standardised(x, mask)
    neighbours = nearest(x, k, n_batches, lambda rows, batch: (codes == batch)[None])
    one_hot = codes[:, None] == jnp.arange(n_batches)
    counts = one_hot.sum(axis=0)
    tail = jnp.minimum(_TAIL * temperature, _MAX_TAIL) / jnp.maximum((counts > 0).sum() - 1, 1)
    # Of each batch: its cells' number of others in every batch, their shares, and the size of its neighbourhoods.
    others = jnp.maximum(counts - jnp.eye(n_batches, dtype=counts.dtype), 0)
    log_pi = jnp.log(others / jnp.maximum(others.sum(axis=1, keepdims=True), 1)).astype(x.dtype)
    sizes = jnp.clip(jnp.diagonal(others), 1, k)

    def divergence(rows: jax.Array, neighbours: jax.Array, own: jax.Array) -> jax.Array:
        batch = jnp.argmax(own, axis=1)
        there = (jnp.arange(k) < others[batch][..., None]).reshape(len(rows), -1)
        d2 = squared_distances(x, rows, neighbours).reshape(len(rows), -1)
        weight, flat = membership(d2, there, sizes[batch], _EDGE * temperature, tail)
        q = weight.reshape(neighbours.shape).sum(axis=-1)
        total = q.sum(axis=1, keepdims=True)
        p = jnp.where(flat[:, None], own, q / jnp.where(total > 0, total, 1))
        return _divergence(p, log_pi[batch])

    found = per_cell(divergence, x, k * n_batches, neighbours, one_hot)
    # A batch of one cell has no neighbours of its own to be compared with.
    counted = (counts > 1) & (counts < counts.sum())
    # Beside such batches alone, one batch lies apart by less than chance tells from mixed.
    counted &= counted.sum() > 1
    mean = found @ one_hot.astype(x.dtype) / jnp.maximum(counts, 1)
    apart = jnp.where(counted, -jnp.diagonal(log_pi), 0).sum()
    chance = jnp.where(counted, _by_chance(log_pi, sizes, k), 0).sum()
    mixed = apart - jnp.where(counted, mean, 0).sum()
    scale = jnp.maximum(apart - chance, _MIN_RANGE * apart)
    return jnp.where(apart > 0, -mixed / jnp.where(apart > 0, scale, 1), 0)


def _divergence(p: jax.Array, log_pi: jax.Array) -> jax.Array:
    """Return sum_b p_b ln(p_b / pi_b) over the last axis; nothing is ever seen of a batch with pi_b = 0."""
    log_p = jnp.log(jnp.where(p > 0, p, 1))
    return jnp.where(p > 0, p * (log_p - jnp.where(jnp.isfinite(log_pi), log_pi, 0)), 0).sum(axis=-1)


def _by_chance(log_pi: jax.Array, sizes: jax.Array, k: int) -> jax.Array:
    """Return the expected divergence of shares of n neighbours drawn at random, n in `sizes`, at most k: (batches,)."""
    n, seen = sizes[:, None, None].astype(log_pi.dtype), jnp.arange(k + 1, dtype=log_pi.dtype)
    pi = jnp.exp(log_pi)[..., None]
    # Binomial: the counts of one batch among n draws.
    choose = gammaln(n + 1) - gammaln(seen + 1) - gammaln(jnp.maximum(n - seen, 0) + 1)
    odds = jnp.exp(choose + xlogy(seen, pi) + xlogy(jnp.maximum(n - seen, 0), 1 - pi)) * (seen <= n)
    entropy = -(odds * xlogy(seen / n, seen / n)).sum(axis=(1, 2))
    return -entropy - xlogy(pi[..., 0], pi[..., 0]).sum(axis=1)
