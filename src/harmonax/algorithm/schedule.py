"""Which cells are reassigned together, and in which order.

The partition into blocks is fixed for a run: block(i) is a hash of the seed and the cell's index alone, so it is the
same wherever the cells live. Only the order of the blocks is redrawn, once a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Block:
    """Cells that are reassigned together: number `index` of the partition, or explicit rows."""

    index: int
    rows: np.ndarray | None = None


class FixedPartition:
    """The schedule of every run: one partition by hash, a new order of its blocks each pass."""

    def __init__(self, n_blocks: int, seed: np.random.SeedSequence) -> None:
        hash_seed, order_seed = seed.spawn(2)
        self.n_blocks = n_blocks
        self._hash_key = np.uint64(hash_seed.generate_state(1, np.uint64)[0])
        self._orders = np.random.default_rng(order_seed)

    def block_of(self, start: int, stop: int) -> np.ndarray:
        """Return the blocks of cells start..stop-1, the smallest unsigned dtype that holds them."""
        out = np.empty(stop - start, np.min_scalar_type(self.n_blocks - 1))
        for lo in range(start, stop, 1 << 18):
            hi = min(stop, lo + (1 << 18))
            bits = _splitmix64(np.arange(lo, hi, dtype=np.uint64) + self._hash_key)
            out[lo - start : hi - start] = ((bits >> np.uint64(32)) * np.uint64(self.n_blocks)) >> np.uint64(32)
        return out

    def all_blocks(self) -> list[Block]:
        return [Block(g) for g in range(self.n_blocks)]

    def next_pass(self) -> list[Block]:
        return [Block(int(g)) for g in self._orders.permutation(self.n_blocks)]


class RecordedSchedule:
    """Explicit blocks for every pass, as recorded from a run of another program (for the dense reference only)."""

    def __init__(self, passes: Sequence[Sequence[np.ndarray]]) -> None:
        self._passes = iter(passes)
        self._all = np.sort(np.concatenate(list(passes[0])))
        self.n_blocks = max(len(blocks) for blocks in passes)

    def all_blocks(self) -> list[Block]:
        return [Block(0, self._all)]

    def next_pass(self) -> list[Block]:
        return [Block(g, np.asarray(rows)) for g, rows in enumerate(next(self._passes))]


def _splitmix64(x: np.ndarray) -> np.ndarray:
    """Mix 64-bit integers (Steele, Lea and Flood 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
