"""Whether cells keep the neighbours that they had."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from ..errors import InputError
from ..system.validate import number, whole_number
from . import checks
from .neighbourhoods import NO_DISTANCE, closeness, nearest, per_cell, squared_distances, standardised


class NeighborhoodPreservationLoss(nnx.Module):
    """How much the neighbourhoods of an embedding differ from those of a reference: 0 where none has changed.

    The candidates of a cell are its `n_neighbors` nearest in the reference and its `n_neighbors` nearest in the
    embedding: losing a neighbour costs, and so does a stranger. With P and Q their closeness in the
    reference and in the embedding, 1 / (1 + softplus((d^2 - a) / w)), each summing to one, the loss is the mean over
    cells of sum_j P_j ln(P_j / Q_j), in nats, at least 0. a is the squared distance of the `n_neighbors`-th nearest,
    and w the temperature times a less the mean of the squared distances within.

    With batch labels, neighbours are those of the same batch: a correction is free to move batches against each
    other, but not to tear one apart. Scaling or translating either embedding changes nothing, so a collapse cannot win;
    a cell that has all its neighbours at its very place, as it had not before, costs 1 + ln(others / n_neighbors), more
    than neighbours drawn at random do. It costs memory of order N x n_neighbors and time of order N^2.

    Parameters
    ----------
    n_neighbors
        Size of a neighbourhood; at most the number of other cells. Higher values preserve wider structure, and take
        more memory; lower values only the nearest cells.
    temperature
        Softness of its edge; default 0.3. Higher values tolerate exchanges near the edge; lower values
        punish each neighbour that is lost.
    rngs
        Not used; every module takes it.

    Raises
    ------
    InputError
        If a parameter, or what the loss is called with, cannot be used.

    Examples
    --------
    >>> import jax
    >>> x = jax.random.normal(jax.random.key(0), (100, 3))
    >>> loss = NeighborhoodPreservationLoss()
    >>> bool(abs(loss(3 * x + 1, x)) < 1e-5)
    True
    >>> bool(loss(x[::-1], x) > 0.5)
    True
    """

    def __init__(self, n_neighbors: int = 15, temperature: float = 0.3, *, rngs: nnx.Rngs | None = None) -> None:
        self.n_neighbors = whole_number(n_neighbors, "n_neighbors", minimum=1)
        self.temperature = number(temperature, "temperature", minimum=0, exclusive=True)

    @checks.also_called(features="embeddings", batch_ids="batch_labels")
    def __call__(self, embeddings: Any, reference: Any, batch_labels: Any = None, mask: Any = None) -> jax.Array:
        """Return the loss.

        Parameters
        ----------
        embeddings
            N cells x features: what is learned.
        reference
            The same cells before, N x any number of features; it has no gradient.
        batch_labels
            Batch of each cell, integers from 0, (N,); None: all cells are one.
        mask
            Which cells count, (N,); None: all.

        Returns
        -------
        jax.Array
            A scalar of at least 0; in traced code NaN where values cannot be used.
        """
        how: dict[str, Any] = {"n_neighbors": self.n_neighbors, "temperature": self.temperature}
        return preservation(embeddings, reference, batch_labels, mask, **how)


def preservation(
    embeddings: Any,
    reference: Any,
    batch_labels: Any = None,
    mask: Any = None,
    *,
    n_neighbors: int = 15,
    temperature: float = 0.3,
) -> jax.Array:
    """Return how much neighbourhoods differ from those of a reference, in nats: see `NeighborhoodPreservationLoss`.

    Arguments, errors, and what raising and lowering a parameter does are that class's.

    Examples
    --------
    >>> x = jnp.arange(60.0).reshape(20, 3) ** 0.5
    >>> bool(abs(preservation(3 * x + 1, x)) < 1e-5)
    True
    """
    mask = checks.cell_mask(mask, checks.rows_of(embeddings))
    x = checks.several_cells("embeddings", embeddings, mask)
    if checks.rows_of(reference) != len(x):
        raise InputError(f"reference has {checks.rows_of(reference)} rows, embeddings {len(x)}: all must agree")
    before = checks.cells("reference", reference, mask)
    codes = jnp.zeros(len(x), int) if batch_labels is None else batch_labels
    codes = checks.labels("batch_labels", codes, len(x), jnp.iinfo(jnp.int32).max, mask)
    value = _loss(x, before, codes, mask, min(n_neighbors, len(x) - 1), temperature)
    right = checks.in_range(codes, jnp.iinfo(jnp.int32).max, mask)
    return checks.poisoned(value, checks.usable(x), checks.usable(before), right)


@partial(jax.jit, static_argnames=("k",))
def _loss(
    x: jax.Array, before: jax.Array, codes: jax.Array, mask: jax.Array | None, k: int, temperature: float
) -> jax.Array:
    x, before = standardised(x, mask), lax.stop_gradient(standardised(before, mask))
    ordered = jnp.sort(codes)
    own = jnp.searchsorted(ordered, codes, side="right") - jnp.searchsorted(ordered, codes, side="left")
    others = jnp.where(codes >= 0, own - 1, 0)

    def same(rows: jax.Array, group: Any) -> jax.Array:
        return codes == codes[rows][:, None]

    candidates = jnp.concatenate([nearest(before, k, 1, same), nearest(x, k, 1, same)], axis=1)
    there = _without_doubles(candidates, jnp.arange(k) < others[:, None])

    def divergence(rows: jax.Array, candidates: jax.Array, there: jax.Array, others: jax.Array) -> jax.Array:
        candidates, there = candidates.reshape(len(rows), -1), there.reshape(len(rows), -1)
        then, now = (squared_distances(y, rows, candidates) for y in (before, x))
        log_p, log_q = (_log_shares(d2, there, k, temperature) for d2 in (then, now))
        lost = jnp.where(there, jnp.exp(log_p) * (log_p - log_q), 0).sum(axis=1)
        size = jnp.clip(others, 1, k)
        same_place = [(there & (d2 <= NO_DISTANCE)).sum(axis=1) >= size for d2 in (then, now)]
        collapsed = same_place[1] & ~same_place[0] & (others > 0)
        return jnp.where(collapsed, 1 + jnp.log(jnp.maximum(others, 1) / size), lost)

    return checks.mean_over(per_cell(divergence, x, 4 * k, candidates, there, others), mask)


def _without_doubles(candidates: jax.Array, enough: jax.Array) -> jax.Array:
    """Return which of (N, 2, k) candidates there are, each once: those before, and those now that were not before."""
    before = jnp.where(enough, candidates[:, 0], -1)

    def of_place(place: jax.Array) -> jax.Array:
        return (before == candidates[:, 1, place][:, None]).any(axis=1)

    again = jnp.moveaxis(lax.map(of_place, jnp.arange(before.shape[1])), 0, 1)
    return jnp.stack([enough, enough & ~again], axis=1)


def _log_shares(d2: jax.Array, there: jax.Array, k: int, temperature: float) -> jax.Array:
    near = closeness(d2, there, k, temperature)
    total = near.sum(axis=1, keepdims=True)
    return jnp.log(jnp.where(there, near, 1)) - jnp.log(jnp.where(total > 0, total, 1))
