"""Nearest cells, block by block, and how near they are in units of their neighbourhood.

Which cells are neighbours is found outside of the gradient; their distances are differentiable. Nothing of size
cells x cells is ever stored: a block of rows is searched at a time, and the values of a block are computed anew in
the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Distances held at a time, in numbers: small enough to stay in a processor's cache, which halves the time.
_AT_ONCE = 1 << 20
# Numbers gathered at a time, neighbours x features.
_GATHERED = 1 << 22
# Added to the width of a neighbourhood, as a share of its radius: there is one even with a single neighbour.
_MIN_WIDTH = 0.01
# Cells further out than this many times the data's scale are taken to be as far: squares stay finite in float32.
_FARTHEST = 1e6
# Cells further out than this many times the median distance have no part in where the others' middle is.
_FAR_OUT = 10.0
# Squared distances below this, of standardised data, are none.
NO_DISTANCE = 1e-12


def standardised(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Return cells about their median, at unit median distance from it; rows that do not count are zero.

    For functions of `x` that scaling and translation leave alone. Centre and scale are constants to the gradient, which
    is then the exact one: f(x / c(x)) = f(x / c) for every constant c. Medians, since one cell far out would leave no
    digits to tell the others apart; values beyond a million times the scale are cut there.
    """
    fixed = lax.stop_gradient(x)
    rows = jnp.ones((len(x), 1), bool) if mask is None else mask[:, None]
    centre = _median(fixed, rows)
    left = jnp.abs(jnp.where(rows, fixed - centre, 0))
    largest = left.max(axis=1, keepdims=True)
    # Relative to each row's largest value: squares overflow where distances do not.
    distance = largest * jnp.sqrt(((left / jnp.where(largest > 0, largest, 1)) ** 2).sum(axis=1, keepdims=True))
    scale = _median(distance, rows)[0]
    # Most cells at one place: the mean of the others' distances.
    mean = (jnp.where(rows, distance / jnp.maximum(distance.max(), 1e-37), 0)).sum() / jnp.maximum(rows.sum(), 1)
    scale = jnp.where(scale > 0, scale, mean * distance.max())
    return jnp.clip(jnp.where(rows, x - centre, 0) / jnp.where(scale > 0, scale, 1), -_FARTHEST, _FARTHEST)


def _median(x: jax.Array, rows: jax.Array) -> jax.Array:
    """Return the (lower) median of each column over the rows that count."""
    middle = jnp.maximum(rows.sum() - 1, 0) // 2
    return jnp.take(jnp.sort(jnp.where(rows, x, jnp.inf), axis=0), middle, axis=0)


def scaled(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Return cells about their mean, at unit mean distance from it, of the cells that are not far out; differentiable.

    For functions of `x` that scaling does change: the gradient goes through centre and scale, which those of
    `standardised` leave out.
    """
    x = standardised(x, mask)
    square = (x**2).sum(axis=1)
    near = square <= _FAR_OUT**2 if mask is None else mask & (square <= _FAR_OUT**2)
    number = jnp.maximum(near.sum(), 1)
    x = x - jnp.where(near[:, None], x, 0).sum(axis=0) / number
    square = (x**2).sum(axis=1)
    counted = near & (square > NO_DISTANCE)
    scale = jnp.where(counted, jnp.sqrt(jnp.where(counted, square, 1)), 0).sum() / number
    x = x / jnp.where(scale > 0, scale, 1)
    return x if mask is None else jnp.where(mask[:, None], x, 0)


def nearest(x: jax.Array, k: int, n_groups: int, admits: Callable[[jax.Array, Any], jax.Array]) -> jax.Array:
    """Return the k nearest other cells of each cell from each of several groups, nearest first: (N, n_groups, k).

    ``admits(row numbers, group)`` says which cells are candidates, (rows, N) or (1, N). k is below the number of cells;
    where a group has fewer candidates, the row numbers beyond them mean nothing.
    """
    x = lax.stop_gradient(x)
    n = len(x)
    square = (x**2).sum(axis=1)

    def of_block(rows: jax.Array) -> jax.Array:
        product = jnp.matmul(x[rows], x.T, precision=lax.Precision.HIGHEST)
        # Without the row's square, which does not change the order.
        near = 2 * product - square
        near = near.at[jnp.arange(len(rows)), rows].set(-jnp.inf)

        def of_group(group: Any) -> jax.Array:
            return lax.top_k(jnp.where(admits(rows, group), near, -jnp.inf), k)[1]

        return jnp.moveaxis(lax.map(of_group, jnp.arange(n_groups)), 0, 1)

    return by_blocks(of_block, n, max(8, _AT_ONCE // n))


def by_blocks(function: Callable[[jax.Array], jax.Array], n: int, size: int) -> jax.Array:
    """Return ``function(row numbers)`` of all n rows, computed for `size` rows at a time."""
    size = min(size, n)
    n_blocks = -(-n // size)
    rows = jnp.minimum(jnp.arange(n_blocks * size), n - 1).reshape(n_blocks, size)
    out = lax.map(jax.checkpoint(function), rows)
    return out.reshape(n_blocks * size, *out.shape[2:])[:n]


def per_cell(function: Callable[..., jax.Array], x: jax.Array, n_neighbours: int, *tables: jax.Array) -> jax.Array:
    """Return ``function(squared distances' block, tables' block)`` of all cells; see `squared_distances`."""
    size = max(8, _GATHERED // max(1, n_neighbours * x.shape[1]))
    return by_blocks(lambda rows: function(rows, *(table[rows] for table in tables)), len(x), size)


def squared_distances(x: jax.Array, rows: jax.Array, neighbours: jax.Array) -> jax.Array:
    """Return the squared distances from cells to their neighbours, (rows, ...), differentiable."""
    places = neighbours.reshape(len(rows), -1)
    return ((x[rows][:, None] - x[places]) ** 2).sum(axis=-1).reshape(neighbours.shape)


def closeness(d2: jax.Array, there: jax.Array, k: int, temperature: float) -> jax.Array:
    """Return how much each candidate belongs to the neighbourhood of the k nearest, from 1 (well inside) to 0.

    With a the squared distance of the k-th nearest candidate, m the mean of the k nearest and
    w = temperature (a - m + 0.01 a):  1 / (1 + softplus((d^2 - a) / w)).

    The unit of distance is the neighbourhood's spread, so that scaling the data changes nothing. In many dimensions,
    where all distances are nearly equal, near and far stay apart. It falls off as 1 / d^2, not exponentially: a
    cell far outside still has a gradient. As the temperature goes to 0, it becomes "among the k nearest: 1, else 0".

    `d2` are squared distances of candidates, (..., candidates), of data of about unit scale, and `there` which of them
    exist; where they are fewer than k, all are neighbours.
    """
    big = jnp.asarray(jnp.finfo(d2.dtype).max ** 0.5, d2.dtype)
    near = jnp.sort(jnp.where(there, d2, big), axis=-1)[..., :k]
    reached = jnp.clip(there.sum(axis=-1, keepdims=True), 1, near.shape[-1])
    edge = jnp.take_along_axis(near, reached - 1, axis=-1)
    inside = jnp.arange(near.shape[-1]) < reached
    mean = jnp.where(inside, near, 0).sum(axis=-1, keepdims=True) / reached
    # Duplicated cells have a neighbourhood of no radius: whatever is not at the same place is then infinitely far.
    width = temperature * (edge - mean + _MIN_WIDTH * edge) + NO_DISTANCE
    return jnp.where(there, 1 / (1 + jax.nn.softplus((jnp.where(there, d2, 0) - edge) / width)), 0)


def membership(
    d2: jax.Array, there: jax.Array, sizes: jax.Array, sharpness: float, tail: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return how much each candidate belongs to the neighbourhood, and which neighbourhoods have no extent.

    With a the squared distance of the neighbourhood's last cell (the n-th nearest, n in `sizes`), m the mean of those
    within, and w = a - m + 0.01 a:

        (1 - tail) sigmoid((a - d^2) / (sharpness w)) + tail / (1 + ln(1 + softplus((d^2 - a) / w)))

    Sharp, so that it counts neighbours; the tail, which hardly ever ends, gives what is far away a gradient. See
    `closeness` for the arguments.
    """
    big = jnp.asarray(jnp.finfo(d2.dtype).max ** 0.5, d2.dtype)
    near = jnp.sort(jnp.where(there, d2, big), axis=-1)
    last = jnp.clip(jnp.minimum(sizes, there.sum(axis=-1)), 1, None)[:, None]
    edge = jnp.take_along_axis(near, last - 1, axis=-1)
    inside = jnp.arange(near.shape[-1]) < last
    mean = jnp.where(inside, near, 0).sum(axis=-1, keepdims=True) / last
    out = (jnp.where(there, d2, 0) - edge) / (edge - mean + _MIN_WIDTH * edge + NO_DISTANCE)
    weight = (1 - tail) * jax.nn.sigmoid(-out / sharpness) + tail / (1 + jnp.log1p(jax.nn.softplus(out)))
    return jnp.where(there, weight, 0), edge[:, 0] <= NO_DISTANCE
