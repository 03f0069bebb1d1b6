"""How well batches mix around each cell."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ..system.validate import number, whole_number
from . import checks
from .neighbourhoods import closeness, nearest, per_cell, squared_distances, standardised


class BatchMixingLoss(nnx.Module):
    """Minus the mean batch entropy of the cells' neighbourhoods: minimise to mix.

    Of each cell, the `n_neighbors` nearest other cells within each batch are candidates, so that every batch offers
    candidates even where it is far away. How near a batch is, q_b, is the mean closeness of its nearest m_b candidates,
    with closeness falling from 1 to 0 around the distance of the cell's `n_neighbors`-th nearest cell of all, and with
    m_b in proportion to the batch's size: `n_neighbors` for the largest. The loss is

        mean over cells of  sum_b p_b ln p_b / ln(batches present),   p_b = q_b / sum of q

    from -1, where all batches are equally near everywhere, to 0, where there is one batch only around each cell.

    Scaling or translating the data changes nothing. A perfect mixture scores the same whatever the sizes of the batches
    (a batch with less than one expected neighbour is looked for further away, and scores a little lower). Fully
    separated batches have a gradient: closeness falls as one over the squared distance. With one batch present, loss
    and gradient are 0. It costs memory of order N x n_batches x n_neighbors and time of order N^2.

    It says nothing about what else happens to the data; see `NeighborhoodPreservationLoss`.

    Parameters
    ----------
    n_neighbors
        Size of a neighbourhood; at most the number of other cells. Higher values mix batches over wider regions, and
        take more memory; lower values mix them locally.
    n_batches
        Labels are 0..n_batches-1; not all need to occur.
    temperature
        Softness of the neighbourhood's edge, in units of the neighbours' spread. Higher values let distant batches
        attract more strongly; towards 0, neighbours are counted.
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
            A scalar in [-1, 0].
        """
        mask = checks.cell_mask(mask, checks.rows_of(embeddings))
        x = checks.cells("embeddings", embeddings, mask)
        codes = checks.labels("batch_labels", batch_labels, len(x), self.n_batches, mask)
        if len(x) < 2:
            return x.sum() * 0
        return _loss(x, codes, mask, min(self.n_neighbors, len(x) - 1), self.n_batches, self.temperature)


@partial(jax.jit, static_argnames=("k", "n_batches"))
def _loss(
    x: jax.Array, codes: jax.Array, mask: jax.Array | None, k: int, n_batches: int, temperature: float
) -> jax.Array:
    x = standardised(x, mask)
    neighbours = nearest(x, k, n_batches, lambda rows, batch: (codes == batch)[None])
    one_hot = codes[:, None] == jnp.arange(n_batches)
    counts = one_hot.sum(axis=0)
    n_present = (counts > 0).sum()

    def entropy(rows: jax.Array, neighbours: jax.Array, own: jax.Array) -> jax.Array:
        others = counts - own
        there = jnp.arange(k) < others[..., None]
        # Fractions of a neighbour are meant: the last one counts in part, and no rounding favours a batch.
        wanted = jnp.minimum(jnp.maximum(k * others / jnp.maximum(others.max(axis=1, keepdims=True), 1), 1), others)
        counted = jnp.clip(wanted[..., None] - jnp.arange(k), 0, 1)
        d2 = squared_distances(x, rows, neighbours)
        near = closeness(d2.reshape(len(rows), -1), there.reshape(len(rows), -1), k, temperature)
        q = (counted * near.reshape(there.shape)).sum(axis=-1) / jnp.maximum(wanted, 1)
        total = q.sum(axis=1, keepdims=True)
        p = q / jnp.where(total > 0, total, 1)
        return -(p * jnp.log(jnp.where(p > 0, p, 1))).sum(axis=1)

    entropies = per_cell(entropy, x, k * n_batches, neighbours, one_hot)
    most = jnp.log(jnp.maximum(n_present, 2)).astype(x.dtype)
    return jnp.where(n_present > 1, -checks.mean_over(entropies, mask) / most, 0)
