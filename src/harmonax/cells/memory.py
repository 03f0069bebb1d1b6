"""The default: cells in memory, through the native kernels, R never stored (ALGORITHM.md, "The streaming form").

Beyond the input and the result it holds 2 N d values, Z and Zn, in the order (block, joint level), and about a dozen
bytes a cell. The plain statement of every method here is `cells/dense.py`; `tests/test_memory.py` compares the two on
one and the same schedule.
"""

from __future__ import annotations

import itertools
import os
from functools import cached_property
from typing import Any

import numpy as np

from ..algorithm.contracts import Assignment, Sweep
from ..algorithm.seeding import unit
from ..design import BatchDesign
from ..errors import InputError
from ..kernels import _native
from ..schedule import Block, FixedPartition
from ..threads import resolve_threads

# A grain, the piece of a block that one thread takes at a time: at least so many cells, and at most so many a block.
_LEAST_GRAIN = 256
_GRAINS_PER_BLOCK = 64
# Pieces that the moments of all cells are cut into, at most one per joint level more.
_UNITS = 64


class MemoryCells:
    """Cells in memory.

    Parameters
    ----------
    Z
        Embedding (N, d), float32 or float64, any strides; read at the first sweep, never changed.
    design, schedule
        Batches, and the fixed partition into blocks.
    precision
        Arithmetic, ``"float32"`` or ``"float64"``.
    n_threads
        None: the CPUs this process may use. The bits do not depend on it.
    instruction_set
        Name of one of `instruction_sets()`; None: ``$HARMONAX_INSTRUCTION_SET`` or the best there is.
    """

    def __init__(
        self,
        Z: np.ndarray,
        design: BatchDesign,
        schedule: FixedPartition,
        *,
        precision: str = "float32",
        n_threads: int | None = None,
        instruction_set: str | None = None,
    ) -> None:
        self.n_cells, self.n_features = Z.shape
        self.design, self.precision = design, precision
        self.n_threads = resolve_threads(n_threads)
        chosen = instruction_set or os.environ.get("HARMONAX_INSTRUCTION_SET") or _native.instruction_sets()[0]
        if chosen not in _native.instruction_sets():
            known = ", ".join(_native.instruction_sets())
            raise InputError(f"instruction set {chosen!r} is not available here; allowed are {known}")
        self.instruction_set = chosen
        self._Z, self._schedule = Z, schedule
        self._mass: dict[int, np.ndarray] = {}

    @cached_property
    def _cells(self) -> _native.Cells32 | _native.Cells64:
        """The laid-out copies, made at the first sweep: seeding needs a sample only, and its memory is free by then."""
        Z, kind = self._Z, _native.Cells32 if self.precision == "float32" else _native.Cells64
        # The native side reads any strides, but only whole, native-endian values.
        if Z.dtype not in (np.float32, np.float64) or not Z.dtype.isnative or not Z.flags.aligned:
            Z = Z.astype(self.precision)
        return kind(
            Z,
            **_plan(self.design, self._schedule),
            n_levels=self.design.n_levels,
            instruction_set=self.instruction_set,
            n_threads=self.n_threads,
        )

    def take(self, rows: np.ndarray) -> MemoryCells:
        one = BatchDesign.from_codes(np.zeros(len(rows), np.int64))
        return MemoryCells(
            self._Z[rows],
            one,
            FixedPartition(1, np.random.SeedSequence(0)),
            precision=self.precision,
            n_threads=self.n_threads,
            instruction_set=self.instruction_set,
        )

    def points(self, rows: np.ndarray) -> np.ndarray:
        return unit(self._Z[rows].astype(np.float64))

    def mass(self, block: Block) -> np.ndarray:
        return self._mass[block.index]

    def sweep(
        self,
        block: Block,
        Y: np.ndarray,
        sigma: np.ndarray,
        logp: np.ndarray | None,
        *,
        moment: bool,
        last: bool = False,
    ) -> Sweep:
        sweep = Sweep(*self._cells.sweep(block.index, Y, sigma, logp, moment, last))
        self._mass[block.index] = sweep.mass
        return sweep

    def moments(self, assigned: Assignment) -> tuple[np.ndarray, np.ndarray]:
        return self._cells.moments(assigned.Y, assigned.sigma, assigned.logp)

    def correct(self, assigned: Assignment, W: np.ndarray, moment: bool) -> np.ndarray:
        return self._cells.correct(assigned.Y, assigned.sigma, assigned.logp, W, moment)

    def emit(self, assigned: Assignment, W: np.ndarray, out: Any) -> None:
        # The tables of a thousand batches are worth letting go: this is where most memory is in use.
        self._mass.clear()
        self._cells.emit(assigned.Y, assigned.sigma, assigned.logp, W, out)

    def assignments(self, assigned: Assignment) -> np.ndarray:
        """Return R (N, K), in the cells' precision."""
        out = np.empty((self.n_cells, len(assigned.Y)), self.precision)
        self._cells.assign(assigned.Y, assigned.sigma, assigned.logp, out)
        return out


def _plan(design: BatchDesign, schedule: FixedPartition) -> dict[str, np.ndarray]:
    """Lay the cells out in the order (block, joint level) and cut them into grains and segments."""
    block = schedule.block_of(0, design.n_cells)
    n_blocks, n_joint = schedule.n_blocks, design.n_joint
    order = _order(block, n_blocks, design.joint, n_joint)
    runs = np.zeros(n_blocks * n_joint, np.int64)
    for lo in range(0, design.n_cells, 1 << 18):
        hi = lo + (1 << 18)
        runs += np.bincount(block[lo:hi].astype(np.int64) * n_joint + design.joint[lo:hi], minlength=len(runs))
    del block
    run_stop = np.cumsum(runs)
    run_start = run_stop - runs
    block_start = np.concatenate([run_start[::n_joint], [design.n_cells]])
    largest = int(np.diff(block_start).max(initial=1))
    grain = max(_LEAST_GRAIN, -(-largest // _GRAINS_PER_BLOCK))
    grain_start = np.concatenate([np.arange(a, b, grain) for a, b in itertools.pairwise(block_start)])
    segment_start = np.union1d(run_start[runs > 0], grain_start).astype(np.int64)
    run = np.searchsorted(run_stop, segment_start, side="right")
    joint, of_block = (run % n_joint).astype(np.int32), (run // n_joint).astype(np.int32)
    by_joint = np.argsort(joint, kind="stable").astype(np.int64)
    return {
        "order": order,
        "segment_start": np.append(segment_start, design.n_cells),
        "segment_joint": joint,
        "segment_block": of_block,
        "joint_levels": np.ascontiguousarray(design.joint_levels, np.int32),
        "block_segment": np.searchsorted(segment_start, block_start).astype(np.int64),
        "block_grain": np.searchsorted(grain_start, block_start).astype(np.int64),
        "grain_segment": np.append(np.searchsorted(segment_start, grain_start), len(segment_start)).astype(np.int64),
        "segments_by_joint": by_joint,
        "unit_segment": _units(joint[by_joint], np.diff(np.append(segment_start, design.n_cells))[by_joint]),
    }


def _order(block: np.ndarray, n_blocks: int, joint: np.ndarray, n_joint: int) -> np.ndarray:
    """Return the stable order by (block, joint level); NumPy sorts 16-bit keys by radix."""
    order = np.argsort(joint.astype(np.min_scalar_type(max(n_joint - 1, 1))), kind="stable")
    by_block = np.argsort(block[order], kind="stable")
    return np.ascontiguousarray(order[by_block], np.int64)


def _units(joint: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Cut segments, ordered by joint level, where the level changes and about every N / 64 cells."""
    target = max(_LEAST_GRAIN, -(-int(sizes.sum()) // _UNITS))
    piece = (np.cumsum(sizes) - sizes) // target
    cut = np.flatnonzero((np.diff(joint) != 0) | (np.diff(piece) != 0)) + 1
    return np.concatenate([[0], cut, [len(joint)]]).astype(np.int64)
