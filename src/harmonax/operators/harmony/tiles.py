"""Cells in tiles: equal shapes for traced code, whatever the labels are.

A tile holds up to `length` cells of one block and one joint level, padded with cells of weight 0. Every cell of a tile
then has the same penalties and the same ridge coefficients, so assignment, moments and correction are small dense
products without gather or scatter (docs/algorithm.md, "The streaming form", 4). How many tiles a block needs depends on
the labels, which may be traced; the number used is the maximum that any labels could need.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Cost of the exponential and what goes with it, in products of one value.
_SOFTMAX = 40
_LONGEST = 256


class TileShape(NamedTuple):
    """Blocks, tiles in a block, and cells in a tile: static."""

    n_blocks: int
    n_tiles: int
    length: int


class Tiles(NamedTuple):
    """Cells laid out in tiles."""

    Z: Any  # (G, C, c, d); padding is 0
    weight: Any  # (G, C, c): 1, or 0 for padding and masked cells
    levels: Any  # (G, C, V) int32: each tile's level of every variable, numbered through 0..B-1
    x: Any = None  # (G, C, c, covariates); None: there are none


def tile_shape(block: np.ndarray, n_blocks: int, levels: tuple[int, ...], n_features: int) -> TileShape:
    """Choose the tile length with the least work.

    With T cells in the largest block, cut into at most J runs, tiles of length c number at most (T + J (c - 1)) / c.
    """
    largest = int(np.bincount(block, minlength=n_blocks).max())
    runs = min(largest, math.prod(levels))
    best, least = (largest, 1), math.inf
    length = 1
    while length <= _LONGEST:
        n_tiles = (largest + runs * (length - 1)) // length
        work = n_tiles * (length * (n_features + _SOFTMAX) + n_features)
        if work < least:
            best, least = (n_tiles, length), work
        length *= 2
    return TileShape(n_blocks, *best)


def slots(shape: TileShape, block: Any, labels: Any) -> Any:
    """Return every cell's place among the G C c places of the tiles, (N,) int32; labels are (N, V)."""
    n_cells = len(block)
    # Labels closed over by a jitted function are constants, and XLA would sort them while compiling: slowly.
    block, labels = jax.lax.optimization_barrier((jnp.asarray(block, jnp.int32), labels))
    order = jnp.lexsort((*labels.T[::-1], block))
    keys = jnp.column_stack([block[:, None], labels])[order]
    place = jnp.arange(n_cells, dtype=jnp.int32)
    new_run = jnp.concatenate([jnp.ones(1, bool), (keys[1:] != keys[:-1]).any(axis=1)])
    rank = place - jax.lax.cummax(jnp.where(new_run, place, 0))
    tile = jnp.cumsum(rank % shape.length == 0, dtype=jnp.int32) - 1
    in_block = keys[:, 0]
    first = jnp.searchsorted(in_block, jnp.arange(shape.n_blocks))
    tile = in_block * shape.n_tiles + tile - tile[jnp.minimum(first, n_cells - 1)][in_block]
    return jnp.zeros(n_cells, jnp.int32).at[order].set(tile * shape.length + rank % shape.length)


def lay_out(
    shape: TileShape, slot: Any, Z: Any, labels: Any, weight: Any, offsets: tuple[int, ...], x: Any = None
) -> Tiles:
    """Put the cells into their places."""
    n_cells, d = Z.shape
    n_places = math.prod(shape)
    source = jnp.full(n_places, n_cells, jnp.int32).at[slot].set(jnp.arange(n_cells, dtype=jnp.int32))
    put = lambda x: x.at[source].get(mode="fill", fill_value=0)  # noqa: E731
    levels = put(labels + jnp.asarray(offsets[:-1], labels.dtype))
    return Tiles(
        Z=put(Z).reshape(*shape, d),
        weight=put(weight).reshape(shape),
        # The first place of a tile is filled unless the tile is empty, and then its level does not matter.
        levels=levels.reshape(*shape, -1)[:, :, 0],
        x=None if x is None else put(x).reshape(*shape, -1),
    )


def pick_up(tiled: Any, slot: Any) -> Any:
    """Return the cells' rows (N, ...) from their places (G, C, c, ...)."""
    return tiled.reshape(-1, tiled.shape[-1])[slot]
