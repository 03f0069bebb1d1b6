"""Cells behind the native kernels, R never stored (docs/algorithm.md, "The streaming form"): for memory and disk.

Cells lie in the order (block, joint level), so that each run of them has one row of penalties. The plain statement of
every method here is `cells/dense.py`; `tests/cells/test_memory.py` compares the two on one and the same schedule.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..algorithm.contracts import Assignment, Moments, Sweep
from ..algorithm.schedule import Block, FixedPartition
from ..design import BatchDesign
from ..errors import InputError
from ..kernels import _native
from ..system.cpus import resolve_threads
from ..system.memory import zeros

# A grain, the piece of a block that one thread takes at a time: at least so many cells, and at most so many a block.
MIN_GRAIN = 256
_GRAINS_PER_BLOCK = 64
# Largest vector, in bytes: rows of what is kept are padded to whole ones.
_VECTOR = 64
# Pieces that the moments of all cells are cut into, at most one per joint level more.
_UNITS = 64
_SLAB = 1 << 18


@dataclass(frozen=True)
class Arithmetic:
    """How the native kernels compute."""

    precision: str
    n_threads: int
    instruction_set: str

    @classmethod
    def of(cls, precision: str, n_threads: int | None = None, instruction_set: str | None = None) -> Arithmetic:
        """Fill in what is not given: the CPUs this process may use, and the best instruction set there is."""
        return cls(precision, resolve_threads(n_threads), available_set(instruction_set))


class NativeCells:
    """Cells behind the native kernels, of an embedding Z (N, d) that is never changed; `_open` decides where they lie.

    The bits do not depend on `n_threads` (None: the CPUs this process may use), nor on `cache_bytes`, the memory for
    exp(-D / sigma) of a round. `instruction_set` is the name of one of `instruction_sets()`; None:
    ``$HARMONAX_INSTRUCTION_SET`` or the best there is.
    """

    def __init__(
        self,
        Z: Any,
        design: BatchDesign,
        schedule: FixedPartition,
        *,
        precision: str = "float32",
        n_threads: int | None = None,
        instruction_set: str | None = None,
        cache_bytes: int = 0,
    ) -> None:
        self.n_cells, self.n_features = Z.shape[0], Z.shape[1] - len(design.covariates)
        self.design, self.schedule, self.precision = design, schedule, precision
        self.arithmetic = Arithmetic.of(precision, n_threads, instruction_set)
        self._Z, self._cache_bytes = Z, cache_bytes
        self._mass: dict[int, np.ndarray] = {}

    @cached_property
    def _cells(self) -> _native.Cells32 | _native.Cells64:
        """The laid-out copies, made when first needed."""
        cells = self._open(_kind(self.precision))
        cells.keep_weights(self._cache_bytes)
        return cells

    def _open(self, kind: Any) -> Any:
        raise NotImplementedError

    @property
    def description(self) -> dict[str, Any]:
        """Threads and instruction set, for the record of a run."""
        return {"n_threads": self.arithmetic.n_threads, "instruction_set": self.arithmetic.instruction_set}

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
        mass, log_partition, sums = self._cells.sweep(block.index, self._wide(Y), sigma, logp, moment, last)
        self._mass[block.index] = mass
        return Sweep(mass, log_partition, self._narrow(sums))

    def moments(self, assigned: Assignment) -> Moments:
        return Moments(*self._cells.moments(*self._tables(assigned)))

    def correct(self, assigned: Assignment, W: np.ndarray, moment: bool) -> np.ndarray:
        return self._narrow(self._cells.correct(*self._tables(assigned), self._wide(W), moment))

    def assignments(self, assigned: Assignment) -> np.ndarray:
        """Return R (N, K), in the cells' precision."""
        out = zeros((self.n_cells, len(assigned.Y)), self.precision)
        self._cells.assign(*self._tables(assigned), order(self.design, self.schedule), out)
        return out

    def _tables(self, assigned: Assignment) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._wide(assigned.Y), assigned.sigma, assigned.logp

    def _wide(self, table: np.ndarray) -> np.ndarray:
        """Return a table (..., d) with zeros in the covariates' columns, which the kernels have behind the others."""
        n = len(self.design.covariates)
        return np.concatenate([table, np.zeros((*table.shape[:-1], n))], axis=-1) if n else table

    def _narrow(self, table: np.ndarray) -> np.ndarray:
        return table[:, : self.n_features]

    def close(self) -> None:
        """Release threads, and what is kept of the last pass; the cells themselves are needed for `assignments`."""
        self._mass.clear()
        if "_cells" in vars(self):
            self._cells.release()


def cache_size(n_cells: int, sigma: np.ndarray, precision: str) -> int:
    """Return the bytes in which exp(-D / sigma) of all cells can be kept; 0 where sigma is too small for that."""
    if 4 / sigma.min() > _kind(precision).deepest:
        return 0
    return n_cells * (-(-len(sigma) * np.dtype(precision).itemsize // _VECTOR) * _VECTOR)


def _kind(precision: str) -> Any:
    return _native.Cells32 if precision == "float32" else _native.Cells64


def available_set(asked: str | None = None) -> str:
    """Return the instruction set that is asked for, here or in the environment, or the best there is."""
    chosen = asked or os.environ.get("HARMONAX_INSTRUCTION_SET") or _native.instruction_sets()[0]
    if chosen not in _native.instruction_sets():
        known = ", ".join(_native.instruction_sets())
        raise InputError(f"instruction set {chosen!r} is not available here; allowed are {known}")
    return chosen


def order(design: BatchDesign, schedule: FixedPartition, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Return the stable order of cells start..stop-1 by (block, joint level), counted from `start`."""
    stop = design.n_cells if stop is None else stop
    # NumPy sorts 16-bit keys by radix.
    joint = design.joint[start:stop].astype(np.min_scalar_type(max(design.n_joint - 1, 1)))
    by_joint = np.argsort(joint, kind="stable")
    by_block = np.argsort(schedule.block_of(start, stop)[by_joint], kind="stable")
    return np.ascontiguousarray(by_joint[by_block], np.int64)


def count_runs(design: BatchDesign, schedule: FixedPartition, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Count the cells of each (block, joint level) among cells start..stop-1, (n_blocks J,)."""
    stop = design.n_cells if stop is None else stop
    runs = np.zeros(schedule.n_blocks * design.n_joint, np.int64)
    for lo in range(start, stop, _SLAB):
        hi = min(stop, lo + _SLAB)
        keys = schedule.block_of(lo, hi).astype(np.int64) * design.n_joint + design.joint[lo:hi]
        runs += np.bincount(keys, minlength=len(runs))
    return runs


def plan(design: BatchDesign, schedule: FixedPartition) -> dict[str, Any]:
    """Cut cells that lie in that order into grains and segments: the arguments of `_native.Plan` but the order."""
    n_joint, n_cells = design.n_joint, design.n_cells
    runs = count_runs(design, schedule)
    run_stop = np.cumsum(runs)
    run_start = run_stop - runs
    block_start = np.concatenate([run_start[::n_joint], [n_cells]])
    largest = int(np.diff(block_start).max(initial=1))
    grain = max(MIN_GRAIN, -(-largest // _GRAINS_PER_BLOCK))
    grain_start = np.concatenate([np.arange(a, b, grain) for a, b in itertools.pairwise(block_start)])
    segment_start = np.union1d(run_start[runs > 0], grain_start).astype(np.int64)
    run = np.searchsorted(run_stop, segment_start, side="right")
    joint, of_block = (run % n_joint).astype(np.int32), (run // n_joint).astype(np.int32)
    by_joint = np.argsort(joint, kind="stable").astype(np.int64)
    return {
        "segment_start": np.append(segment_start, n_cells),
        "segment_joint": joint,
        "segment_block": of_block,
        "joint_levels": np.ascontiguousarray(design.joint_levels, np.int32),
        "block_segment": np.searchsorted(segment_start, block_start).astype(np.int64),
        "block_grain": np.searchsorted(grain_start, block_start).astype(np.int64),
        "grain_segment": np.append(np.searchsorted(segment_start, grain_start), len(segment_start)).astype(np.int64),
        "segments_by_joint": by_joint,
        "unit_segment": _units(joint[by_joint], np.diff(np.append(segment_start, n_cells))[by_joint]),
        "n_levels": design.n_levels,
        "n_covariates": len(design.covariates),
    }


def _units(joint: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Cut segments, ordered by joint level, where the level changes and about every N / 64 cells."""
    target = max(MIN_GRAIN, -(-int(sizes.sum()) // _UNITS))
    piece = (np.cumsum(sizes) - sizes) // target
    cut = np.flatnonzero((np.diff(joint) != 0) | (np.diff(piece) != 0)) + 1
    # Without cells there is no unit.
    return np.unique(np.concatenate([[0], cut, [len(joint)]])).astype(np.int64)
