"""Batch columns as numbers: levels, joint levels and their counts.

Levels of all variables are numbered through, 0..B-1, in the order of the variables; a joint level is one observed
combination. Codes are kept, never one-hot matrices.

Levels may be named as reference, whose cells stay where they are, and a last variable may be protected: what differs
between its levels is biology, and stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from .errors import InputError, nearest


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
    reference
        Numbers of the levels whose cells stay where they are, sorted.
    protects
        Whether the last variable is not a batch variable, but one whose effect stays.
    covariates
        Names of numeric columns, which lie beside the cells as the last columns of their embedding.

    Raises
    ------
    InputError
        If these do not fit together: a number that stands for no level, a level without cells.
    """

    joint: np.ndarray
    joint_levels: np.ndarray
    variables: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    reference: tuple[int, ...] = ()
    protects: bool = False
    covariates: tuple[str, ...] = ()

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

    def keeping(self, reference: Mapping[str, Sequence[Any]]) -> BatchDesign:
        """Return this design with these levels as reference: of each variable, the names of levels.

        Raises
        ------
        InputError
            If a variable or a level is not there, or no cell is left that may move.
        """
        numbers = set()
        for name, names in reference.items():
            if name not in self.variables:
                raise InputError(f"reference: there is no batch variable '{name}'; {nearest(name, self.variables)}")
            f = self.variables.index(name)
            for level in names:
                if level not in self.levels[f]:
                    raise InputError(f"reference: {name} has no level '{level}'; {nearest(str(level), self.levels[f])}")
                numbers.add(int(self.offsets[f]) + self.levels[f].index(level))
        found = replace(self, reference=tuple(sorted(numbers)))
        if found.fixed.all():
            raise InputError("reference: every cell has one of these levels, so none may move; name fewer levels")
        return found

    def protecting(self, other: BatchDesign) -> BatchDesign:
        """Return this design with the variables of `other`, joined into one, as the protected one.

        Raises
        ------
        InputError
            If they are of other cells, or one is a batch variable.
        """
        if other.n_cells != self.n_cells:
            raise InputError(f"protect has labels of {other.n_cells} cells, batches of {self.n_cells}; they must agree")
        if both := set(self.variables) & set(other.variables):
            raise InputError(f"protect: {', '.join(sorted(both))} is a batch variable: what it explains is removed")
        own = (self.joint_levels - self.offsets[:-1])[self.joint]
        names = [*self.variables, "+".join(other.variables)]
        levels = [*self.levels, other.joint_names("|")]
        whole = self.from_codes(np.column_stack([own, other.joint]), names, levels)
        return replace(whole, reference=self.reference, protects=True)

    @cached_property
    def carried(self) -> BatchDesign:
        """What cells are given: this design, or, with a reference and several variables, one with a variable more.

        The levels of that variable have the corrections of the reference cells' other levels, negated: see `applied`.
        """
        if not self.reference or self.n_variables == 1:
            return replace(self, reference=(), protects=False) if self.reference or self.protects else self
        place = _factorize(np.where(self.fixed, np.cumsum(self.fixed), 0))[1]
        levels = np.column_stack([self.joint_levels, place + self.n_levels]).astype(np.int32)
        names = tuple(str(i) for i in range(place.max() + 1))
        variables = (*self.variables, "reference")
        return BatchDesign(self.joint, levels, variables, (*self.levels, names), covariates=self.covariates)

    def applied(self, W: np.ndarray) -> np.ndarray:
        """Return coefficients (B, ...) as what is subtracted from the cells that `carried` describes.

        The protected variable's stay, and those of a reference cell cancel.
        """
        if self.protects:
            W[self.n_batch_levels :] = 0.0
        if self.carried.n_levels == self.n_levels:
            return W
        hold = np.zeros((self.carried.n_levels - self.n_levels, *W.shape[1:]))
        place = self.carried.joint_levels[:, -1] - self.n_levels
        for j in np.flatnonzero(self.fixed):
            hold[place[j]] = -W[self.joint_levels[j]].sum(axis=0)
        return np.concatenate([W, hold])

    @property
    def n_cells(self) -> int:
        return len(self.joint)

    @property
    def n_batch_variables(self) -> int:
        return self.n_variables - self.protects

    @property
    def n_batch_levels(self) -> int:
        """Number of levels of the batch variables, which come first."""
        return int(self.offsets[self.n_batch_variables])

    @cached_property
    def fixed(self) -> np.ndarray:
        """Which joint levels have a reference level, (J,) bool."""
        return np.asarray(np.isin(self.joint_levels, self.reference).any(axis=1))

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

    @cached_property
    def shares_given_protected(self) -> np.ndarray:
        """Pr(b | c): of the cells of each protected level, the share of each batch level, (batch levels, C)."""
        counts = np.zeros((self.n_batch_levels, len(self.levels[-1])))
        c = self.joint_levels[:, -1] - self.n_batch_levels
        for f in range(self.n_batch_variables):
            np.add.at(counts, (self.joint_levels[:, f], c), self.joint_counts)
        return counts / self.level_counts[self.n_batch_levels :]

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
        """Spread one number, one per batch variable, or one per level over the levels of the batch variables."""
        values = np.atleast_1d(np.asarray(value, np.float64))
        n_variables, n_levels = self.n_batch_variables, self.n_batch_levels
        if values.size == n_levels:
            return values.copy()
        if values.size == n_variables:
            return np.repeat(values, np.diff(self.offsets[: n_variables + 1]))
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
