"""Cells in tiles of equal shape, for devices that compute whole arrays: where every cell goes, in plain NumPy.

A tile holds up to `length` cells of one block and one joint level, the rest of it is padding. The tiles of a block lie
in the order of their joint levels, are dealt out to the devices in equal numbers, and there to chunks, the piece that a
device works on at a time. All blocks have one shape, so that one compiled program serves them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...algorithm.schedule import FixedPartition
from ...design import BatchDesign
from ..native import count_runs, order

# What a cell costs beside its product with the centroids, and what a tile costs, both in products with one value.
_SOFTMAX = 40
_LONGEST = 256
# How many rows are added at a time where tiles become sums of joint levels.
_WIDTH = 8


class Tiles(NamedTuple):
    """What is known of the tiles of one block: D devices, Q chunks, T tiles in each."""

    count: Any  # (D, Q, T) int32: cells in the tile, the rest is padding
    levels: Any  # (D, Q, T, F) int32: the levels of its cells, numbered through 0..B-1
    steps: tuple[Any, ...]  # each (D, Q, n, w) int32: which rows to add, again and again, until joint levels are left
    runs: Any  # (D, Q, M) int32: the joint level of each row that is left; from J on there is none


@dataclass(frozen=True)
class Tiling:
    """How all blocks are cut."""

    n_devices: int
    n_chunks: int
    n_tiles: int
    length: int
    runs: np.ndarray  # (G, J): cells of each block and joint level
    order: np.ndarray  # (N,): the cells by block and joint level

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.n_devices, self.n_chunks, self.n_tiles, self.length

    def rows(self, block: int) -> np.ndarray:
        """Return which cells are in the block."""
        start = int(self.runs[:block].sum())
        return self.order[start : start + int(self.runs[block].sum())]

    def places(self, block: int) -> np.ndarray:
        """Return the place of each of `rows(block)` among those of the tiles."""
        runs = self.runs[block]
        tiles = -(-runs // self.length)
        shift = (np.cumsum(tiles) - tiles) * self.length - (np.cumsum(runs) - runs)
        return np.arange(runs.sum()) + np.repeat(shift, runs)


def cut(
    design: BatchDesign, schedule: FixedPartition, n_features: int, n_clusters: int, n_devices: int, max_values: int
) -> Tiling:
    """Cut the cells into tiles; no array of a chunk has more than `max_values` values."""
    runs = count_runs(design, schedule).reshape(schedule.n_blocks, design.n_joint)
    length = tile_length(runs, n_features)
    # A chunk has tables of (cells, K) and (tiles, K, d).
    max_tiles = max(1, max_values // (n_clusters * max(length, n_features)))
    each = -(-_n_tiles(runs, length) // n_devices)
    n_chunks = -(-each // max_tiles)
    dtype = np.int32 if design.n_cells < 1 << 31 else np.int64
    return Tiling(n_devices, n_chunks, -(-each // n_chunks), length, runs, order(design, schedule).astype(dtype))


def tile_length(runs: np.ndarray, n_features: int) -> int:
    """Choose the length with the least work: long tiles are padded, and every tile has its own tables."""
    lengths = [1 << i for i in range(_LONGEST.bit_length())]
    return min(lengths, key=lambda c: _n_tiles(runs, c) * (c * (n_features + _SOFTMAX) + 2 * n_features))


def describe(tiling: Tiling, design: BatchDesign) -> list[Tiles]:
    """Describe the tiles of every block."""
    D, Q, T, length = tiling.shape
    G, J = tiling.runs.shape
    joint = np.full((G, D * Q * T), J, np.int32)
    count = np.zeros((G, D * Q * T), np.int32)
    for g, runs in enumerate(tiling.runs):
        tiles = -(-runs // length)
        own = np.repeat(np.arange(J), tiles)
        rank = np.arange(len(own)) - (np.cumsum(tiles) - tiles)[own]
        joint[g, : len(own)] = own
        count[g, : len(own)] = np.minimum(length, runs[own] - rank * length)
    steps, left = sum_steps(joint.reshape(-1, T), J)
    # Each row that is left names a different place, also where it has nothing to add to.
    left = np.where(left < J, left, J + np.arange(left.shape[1], dtype=np.int32))
    levels = design.joint_levels[np.minimum(joint, J - 1)]

    def of(g: int, table: np.ndarray) -> np.ndarray:
        return table.reshape(G, D, Q, -1, *table.shape[2:])[g]

    count, levels = count.reshape(-1, T), levels.reshape(-1, T, design.n_variables)
    return [Tiles(of(g, count), of(g, levels), tuple(of(g, step) for step in steps), of(g, left)) for g in range(G)]


def sum_steps(segment: np.ndarray, none: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return how to add up the rows of each segment, a few at a time, and which segments the rows left are.

    Sorted segments (R, T) are given for R lists of T rows, `none` for rows that belong to none. A step (R, n, w) says
    which w rows each of the next n is the sum of; a number past the last row stands for zero. Unlike a scattered sum
    this has one order of additions, and its rounding errors do not grow with T.
    """
    steps: list[np.ndarray] = []
    while True:
        n_lists, n_rows = segment.shape
        place = np.broadcast_to(np.arange(n_rows, dtype=np.int32), segment.shape)
        first = np.ones(segment.shape, bool)
        first[:, 1:] = segment[:, 1:] != segment[:, :-1]
        used = segment != none
        rank = place - np.maximum.accumulate(np.where(first, place, 0), axis=1)
        if not rank[used].any():
            most = int(used.sum(axis=1).max(initial=1))
            return steps, segment[:, :most]
        head = used & (rank % _WIDTH == 0)
        group = np.cumsum(head, axis=1) - 1
        which = np.broadcast_to(np.arange(n_lists)[:, None], segment.shape)
        step = np.full((n_lists, int(group.max()) + 1, _WIDTH), n_rows, np.int32)
        step[which[used], group[used], rank[used] % _WIDTH] = place[used]
        steps.append(step)
        following = np.full(step.shape[:2], none, np.int32)
        following[which[head], group[head]] = segment[head]
        segment = following


def level_steps(design: BatchDesign) -> tuple[np.ndarray, tuple[np.ndarray, ...]] | None:
    """Return which rows of a table over joint levels to take, and how to add them up to one over levels.

    None: joint levels are levels.
    """
    if design.n_variables == 1:
        return None
    levels = design.joint_levels.ravel()
    by_level = np.argsort(levels, kind="stable")
    steps, _ = sum_steps(levels[by_level][None], design.n_levels)
    return (by_level // design.n_variables).astype(np.int32), tuple(step[0] for step in steps)


def _n_tiles(runs: np.ndarray, length: int) -> int:
    """Return how many tiles the block with the most of them needs."""
    return max(1, int((-(-runs // length)).sum(axis=1).max()))
