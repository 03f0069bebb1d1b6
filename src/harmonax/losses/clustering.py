"""Tight clusters that lie apart."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from ..system.arguments import check_arguments
from ..system.validate import number
from . import checks


class ClusteringCompactnessLoss(nnx.Module):
    """Mean distance of cells from their clusters' centres, less the weighted separation of the centres.

    With a the assignments and c_k = sum_i a_ik x_i / sum_i a_ik, the loss is::

        sum_ik a_ik |x_i - c_k| / N  -  separation_weight * mean over k < l of min(|c_k - c_l|, min_separation)

    Centres further apart than `min_separation` gain nothing more: moving clusters away cannot drive the loss to minus
    infinity. Clusters that hold less than a millionth of the cells take no part in the separation.

    Parameters
    ----------
    separation_weight
        Weight of the separation, at least 0. Higher values push centres apart more strongly; at 0 only compactness
        counts.
    min_separation
        Distance between centres beyond which separation is not rewarded, in the data's units, or with `relative` in
        those below. Raise it to push centres further apart.
    relative
        Distances in units of the cells' root mean square distance from their mean. Scaling the data then changes
        nothing; otherwise shrinking it may lower the loss, which something else must then prevent.
    rngs
        Not used; every module takes it.

    Raises
    ------
    InputError
        If a parameter, or what the loss is called with, cannot be used.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> x, hard = jnp.array([[0.0], [2.0], [10.0], [12.0]]), jnp.repeat(jnp.eye(2), 2, axis=0)
    >>> float(ClusteringCompactnessLoss()(x, hard))
    0.0
    >>> float(ClusteringCompactnessLoss(min_separation=20)(x, hard))
    -9.0
    """

    def __init__(
        self,
        separation_weight: float = 1.0,
        min_separation: float = 1.0,
        *,
        relative: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        check_arguments(ClusteringCompactnessLoss.__init__, locals())
        self.separation_weight = number(separation_weight, "separation_weight", minimum=0)
        self.min_separation = number(min_separation, "min_separation", minimum=0)
        self.relative = bool(relative)

    @checks.also_called(features="embeddings")
    def __call__(self, embeddings: Any, assignments: Any, mask: Any = None) -> jax.Array:
        """Return the loss.

        Parameters
        ----------
        embeddings
            N cells x features.
        assignments
            Share of each cell that belongs to each cluster, (N, K); rows sum to one.
        mask
            Which cells count, (N,); None: all.

        Returns
        -------
        jax.Array
            A scalar, in the units of distance.
        """
        how = {"separation_weight": self.separation_weight, "min_separation": self.min_separation}
        return compactness(embeddings, assignments, mask, **how, relative=self.relative)


def compactness(
    embeddings: Any,
    assignments: Any,
    mask: Any = None,
    *,
    separation_weight: float = 1.0,
    min_separation: float = 1.0,
    relative: bool = False,
) -> jax.Array:
    """Return how tight clusters are, less how far apart, in units of distance: see `ClusteringCompactnessLoss`.

    Arguments, errors, and what raising and lowering a parameter does are that class's.

    Examples
    --------
    >>> x, hard = jnp.array([[0.0], [2.0], [10.0], [12.0]]), jnp.repeat(jnp.eye(2), 2, axis=0)
    >>> float(compactness(x, hard, min_separation=20))
    -9.0
    """
    mask = checks.cell_mask(mask, checks.rows_of(embeddings))
    x = checks.cells("embeddings", embeddings, mask)
    a = checks.shares("assignments", assignments, mask, n_cells=len(x)).astype(x.dtype)
    value = _loss(x, a, mask, separation_weight, min_separation, relative)
    return checks.poisoned(value, checks.usable(x), checks.usable(a))


@partial(jax.jit, static_argnames=("relative",))
def _loss(
    x: jax.Array, a: jax.Array, mask: jax.Array | None, weight: float, enough: float, relative: bool
) -> jax.Array:
    rows = jnp.ones((len(x), 1), bool) if mask is None else mask[:, None]
    # Nothing depends on where the origin is; near the cells' mean, float32 is at its most exact.
    x = jnp.where(rows, x - x.sum(axis=0) / rows.sum(), 0)
    if relative:
        scale = length(x.reshape(-1)) / jnp.sqrt(rows.sum())
        x = x / jnp.where(scale > 0, scale, 1)
    mass = a.sum(axis=0)
    held = mass > 1e-6 * mass.sum()
    centres = a.T @ x / jnp.where(held, mass, 1)[:, None]

    @jax.checkpoint
    def spread(centre: jax.Array, share: jax.Array) -> jax.Array:
        return (share * length(x - centre)).sum()

    # One cluster after the other: differences of all cells from all centres are never held at once.
    inner = lax.map(lambda pair: spread(*pair), (centres, a.T)).sum() / mass.sum()
    between = length(centres[:, None] - centres[None])
    pairs = jnp.triu(held[:, None] & held[None], 1)
    apart = jnp.where(pairs, jnp.minimum(between, enough), 0).sum() / jnp.maximum(pairs.sum(), 1)
    return inner - weight * apart


def length(vectors: jax.Array) -> jax.Array:
    """Return the lengths of vectors, with gradient 0 where the length is 0."""
    square = (vectors**2).sum(axis=-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
