"""The default: cells in memory.

Beyond the input and the result they hold 2 N d values, Z and Zn, and about a dozen bytes a cell.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..algorithm.contracts import Assignment
from ..algorithm.schedule import FixedPartition
from ..algorithm.seeding import unit
from ..design import BatchDesign
from ..inputs.rows import slabs
from ..kernels import _native
from ..system.memory import zeros
from .native import Arithmetic, NativeCells, order, plan


class MemoryCells(NativeCells):
    """Cells in memory; Z may be float32 or float64, with any strides, and is read at the first sweep."""

    embedding: np.ndarray | None = None

    def _open(self, kind: Any) -> Any:
        # At the first sweep: seeding needs a sample only, and its memory is free by then.
        Z = self._Z
        # The native side reads any strides, but only whole, native-endian values.
        if Z.dtype not in (np.float32, np.float64) or not Z.dtype.isnative or not Z.flags.aligned:
            Z = Z.astype(self.precision)
        return kind(
            Z,
            _native.Plan(**plan(self.design, self.schedule), order=order(self.design, self.schedule)),
            instruction_set=self.arithmetic.instruction_set,
            n_threads=self.arithmetic.n_threads,
        )

    def take(self, rows: np.ndarray) -> MemoryCells:
        return sample(self._Z[rows, : self.n_features], self.arithmetic)

    def points(self, rows: np.ndarray) -> np.ndarray:
        return unit(self._Z[rows, : self.n_features].astype(self.precision).astype(np.float64))

    def emit(self, assigned: Assignment, W: np.ndarray, out: Any, moment: bool) -> np.ndarray:
        # The tables of a thousand batches are worth releasing: this is where most memory is in use.
        self._mass.clear()
        target = out
        # The kernels write to an array of their own layout only.
        if not (isinstance(out, np.ndarray) and out.flags.c_contiguous and out.dtype in (np.float32, np.float64)):
            target = zeros((self.n_cells, self.n_features), self.precision)
        sums = self._narrow(self._cells.emit(*self._tables(assigned), self._wide(W), target, moment))
        if out is None:
            self.embedding = target
        elif target is not out:
            for start, rows in slabs(target):
                out[start : start + len(rows)] = rows
        return sums


def sample(Z: np.ndarray, arithmetic: Arithmetic) -> MemoryCells:
    """Return these cells as one block without batches."""
    one = BatchDesign.from_codes(np.zeros(len(Z), np.int64))
    return MemoryCells(
        Z,
        one,
        FixedPartition(1, np.random.SeedSequence(0)),
        precision=arithmetic.precision,
        n_threads=arithmetic.n_threads,
        instruction_set=arithmetic.instruction_set,
    )
