"""Batch columns as numbers: levels, joint levels and their counts.

Levels of all variables are numbered through, 0..B-1, in the order of the variables; a joint level is one observed
combination. Codes are kept, never one-hot matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .errors import InputError


@dataclass(frozen=True, eq=False)
class BatchDesign:
    """The batch variables of N cells.

    Attributes
    ----------
    joint
        Joint level of every cell, (N,) int32.
    joint_levels
        The F levels that each joint level consists of, numbered 0..B-1, sorted, (J, F) int32.
    variables, levels
        Names of the F variables, and of each one's levels.

    Raises
    ------
    InputError
        If these do not fit together: a number that stands for no level, a level without cells.
    """

    joint: np.ndarray
    joint_levels: np.ndarray
    variables: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        # The kernels take these numbers as places in memory.
        for name, ndim in (("joint", 1), ("joint_levels", 2)):
            array = np.asarray(getattr(self, name))
            if array.ndim != ndim or array.dtype.kind not in "iu":
                raise InputError(
                    f"{name} of a BatchDesign has shape {array.shape} and dtype {array.dtype}; allowed are whole "
                    f"numbers in {ndim} dimension{'s' * (ndim > 1)}: make it with BatchDesign.from_codes"
                )
        n_joint, n_variables = self.joint_levels.shape
        if not len(self.variables) == len(self.levels) == n_variables > 0:
            wrong = f"{len(self.variables)} variables, the levels of {len(self.levels)}, and {n_variables} columns"
        elif self.joint.size and not 0 <= self.joint.min() <= self.joint.max() < n_joint:
            wrong = f"joint levels {self.joint.min()} to {self.joint.max()}, of {n_joint}"
        elif any(
            column.size and not begin <= column.min() <= column.max() < end
            for column, begin, end in zip(self.joint_levels.T, self.offsets[:-1], self.offsets[1:], strict=True)
        ):
            wrong = "joint_levels with numbers that are not levels of their variable"
        elif not _in_order(self.joint_levels) or (n_variables == 1 and n_joint != self.n_levels):
            wrong = "joint_levels that are out of order, occur twice or are missing"
        elif not all(
            np.bincount(codes.ravel(), minlength=n).all()
            for codes, n in ((self.joint, n_joint), (self.joint_levels, self.n_levels))
        ):
            wrong = "levels that no cell has"
        else:
            for name in ("joint", "joint_levels"):
                array = np.asarray(getattr(self, name))
                # Smaller codes stay: Dask's scheduler keeps those of all partitions.
                dtype = np.int32 if array.dtype.itemsize > 4 else array.dtype
                object.__setattr__(self, name, np.ascontiguousarray(array, dtype))
            return
        raise InputError(f"the BatchDesign has {wrong}: make it with BatchDesign.from_codes")

    @classmethod
    def from_codes(
        cls,
        codes: np.ndarray,
        variables: Sequence[str] | None = None,
        levels: Sequence[Sequence[Any]] | None = None,
    ) -> BatchDesign:
        """Build the design from codes (N, F), each variable's levels from 0.

        Levels that no cell carries are dropped.
        """
        codes = np.asarray(codes)
        codes = codes[:, None] if codes.ndim == 1 else codes
        n_cells, n_variables = codes.shape
        names = tuple(str(v) for v in variables) if variables is not None else _names(n_variables)
        joint = np.zeros(n_cells, np.int64)
        joint_levels = np.zeros((1, 0), np.int64)
        kept_levels: list[tuple[str, ...]] = []
        offset = 0
        for f in range(n_variables):
            present, level = _factorize(codes[:, f])
            labels = levels[f] if levels is not None else present
            kept_levels.append(tuple(str(labels[int(p)]) if levels is not None else str(p) for p in present))
            # Join with what came before one variable at a time, so the combined code never overflows.
            combined, joint = _factorize(joint * len(present) + level)
            before, this = np.divmod(combined, len(present))
            joint_levels = np.column_stack([joint_levels[before], this + offset])
            offset += len(present)
        return cls(joint.astype(np.int32), joint_levels.astype(np.int32), names, tuple(kept_levels))

    @property
    def n_cells(self) -> int:
        return len(self.joint)

    @property
    def n_variables(self) -> int:
        return self.joint_levels.shape[1]

    @property
    def n_joint(self) -> int:
        return self.joint_levels.shape[0]

    @cached_property
    def n_levels(self) -> int:
        return sum(len(names) for names in self.levels)

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each variable's levels begin, with B at the end, (F + 1,)."""
        return np.concatenate([[0], np.cumsum([len(names) for names in self.levels])]).astype(np.int64)

    @cached_property
    def joint_counts(self) -> np.ndarray:
        return np.bincount(self.joint, minlength=self.n_joint).astype(np.int64)

    @cached_property
    def level_counts(self) -> np.ndarray:
        """N_b, (B,)."""
        return self.fold(self.joint_counts.astype(np.float64)[:, None])[:, 0]

    @cached_property
    def level_shares(self) -> np.ndarray:
        """Pr_b = N_b / N, (B,); sums to the number of variables."""
        return self.level_counts / self.n_cells

    def fold(self, per_joint: np.ndarray) -> np.ndarray:
        """Sum a table over joint levels (J, ...) into one over levels (B, ...)."""
        if self.n_variables == 1:
            # Joint levels are the levels, in their order.
            return per_joint
        out = np.zeros((self.n_levels, *per_joint.shape[1:]))
        # Row by row: for rows of thousands of values np.add.at takes ten times as long.
        for f in range(self.n_variables):
            for level, row in zip(self.joint_levels[:, f].tolist(), per_joint, strict=True):
                out[level] += row
        return out

    def joint_names(self, between: str) -> list[str]:
        """Return the names of the levels that each joint level consists of, joined."""
        within = self.joint_levels - self.offsets[:-1]
        return [between.join(self.levels[f][b] for f, b in enumerate(row)) for row in within]

    def per_level(self, name: str, value: Any) -> np.ndarray:
        """Spread one number, one per variable, or one per level over the B levels."""
        values = np.atleast_1d(np.asarray(value, np.float64))
        n_variables, n_levels = self.n_variables, self.n_levels
        if values.size == n_levels:
            return values.copy()
        if values.size == n_variables:
            return np.repeat(values, np.diff(self.offsets))
        if values.size == 1:
            return np.full(n_levels, values[0])
        raise InputError(
            f"{name} has {values.size} values; allowed are 1, one per batch variable ({n_variables}) "
            f"or one per level of all variables ({n_levels})"
        )


def _in_order(rows: np.ndarray) -> bool:
    """Return whether each row comes after the one before it, compared number by number."""
    steps = np.diff(rows.astype(np.int64), axis=0)
    first = (steps != 0).argmax(axis=1)
    return bool((np.take_along_axis(steps, first[:, None], axis=1) > 0).all())


def _factorize(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted distinct codes and each cell's place among them; small codes are counted, not sorted."""
    top = int(codes.max(initial=0))
    if top <= max(1 << 20, 4 * len(codes)):
        present = np.flatnonzero(np.bincount(codes, minlength=top + 1))
        place = np.zeros(top + 1, np.int64)
        place[present] = np.arange(len(present))
        return present, place[codes]
    present, inverse = np.unique(codes, return_inverse=True)
    return present, inverse


def _names(n: int) -> tuple[str, ...]:
    return ("batch",) if n == 1 else tuple(f"batch{i}" for i in range(n))
