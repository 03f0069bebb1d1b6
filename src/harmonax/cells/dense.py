"""The oracle: plain NumPy that stores R, and so can replay any schedule. Small N only."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..algorithm.contracts import Assignment, Moments, Sweep
from ..algorithm.schedule import Block, FixedPartition, RecordedSchedule
from ..algorithm.seeding import unit
from ..design import BatchDesign


class DenseCells:
    """Cells in float64 with their whole R, as docs/algorithm.md writes it down."""

    def __init__(self, Z: np.ndarray, design: BatchDesign, schedule: FixedPartition | RecordedSchedule) -> None:
        whole = np.array(Z, np.float64)
        self.n_cells, self.n_features = len(whole), whole.shape[1] - len(design.covariates)
        self.Z, self._x = whole[:, : self.n_features], whole[:, self.n_features :]
        self.Zn = unit(self.Z)
        self.design = design
        self._codes = design.joint_levels[design.joint]
        self._block_of = schedule.block_of(0, self.n_cells) if isinstance(schedule, FixedPartition) else None
        self._R: np.ndarray | None = None
        self.embedding: np.ndarray | None = None
        self.description: dict[str, Any] = {}

    def take(self, rows: np.ndarray) -> DenseCells:
        one = BatchDesign.from_codes(np.zeros(len(rows), np.int64))
        return DenseCells(self.Z[rows], one, FixedPartition(1, np.random.SeedSequence(0)))

    def points(self, rows: np.ndarray) -> np.ndarray:
        return unit(self.Z[rows])

    def mass(self, block: Block) -> np.ndarray:
        rows = self._rows(block)
        return self._by_level(rows, self.R[rows])

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
        rows = self._rows(block)
        Zn = self.Zn[rows]
        logits = -2.0 * (1.0 - Zn @ Y.T) / sigma
        if logp is not None:
            logits += logp[self._codes[rows]].sum(axis=1)
        top = logits.max(axis=1, keepdims=True, initial=-np.inf)
        log_z = top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
        R = np.exp(logits - log_z)
        if self._R is None:
            self._R = np.zeros((self.n_cells, len(Y)))
        self._R[rows] = R
        return Sweep(
            mass=self._by_level(rows, R),
            log_partition=float(((R * sigma).sum(axis=1, keepdims=True) * log_z).sum()),
            moment=R.T @ Zn if moment else np.empty((0, self.n_features)),
        )

    def moments(self, assigned: Assignment) -> Moments:
        J, K = self.design.n_joint, self.R.shape[1]
        whole = np.column_stack([self.Z, self._x])
        products = np.concatenate([whole, *(x[:, None] * whole for x in self._x.T)], axis=1)
        S, O = np.zeros((J, K, products.shape[1])), np.zeros((J, K))
        for j in range(J):
            rows = self.design.joint == j
            S[j], O[j] = self.R[rows].T @ products[rows], self.R[rows].sum(axis=0)
        log_R = np.log(self.R, out=np.zeros_like(self.R), where=self.R > 0)
        return Moments(S, O, float((self.R * assigned.sigma * log_R).sum()))

    def correct(self, assigned: Assignment, W: np.ndarray, moment: bool) -> np.ndarray:
        self.Zn = unit(self._corrected(W))
        return self.R.T @ self.Zn if moment else np.empty((0, self.n_features))

    def emit(self, assigned: Assignment, W: np.ndarray, out: Any, moment: bool) -> np.ndarray:
        Zc = self._corrected(W)
        if out is None:
            self.embedding = Zc
        else:
            out[:] = Zc
        return self.R.T @ Zc if moment else np.empty((0, self.n_features))

    def assignments(self, assigned: Assignment) -> np.ndarray:
        return self.R

    def close(self) -> None:
        """Release nothing: R answers `assignments`."""

    @property
    def R(self) -> np.ndarray:
        if self._R is None:
            raise RuntimeError("no cell has been assigned yet")
        return self._R

    def _corrected(self, W: np.ndarray) -> np.ndarray:
        Zc = self.Z.copy()
        for f in range(self.design.n_variables):
            for b in np.unique(self._codes[:, f]):
                rows = self._codes[:, f] == b
                Zc[rows] -= self.R[rows] @ W[b]
        for x, w in zip(self._x.T, W[self.design.n_levels :], strict=True):
            Zc -= x[:, None] * (self.R @ w)
        return Zc

    def _rows(self, block: Block) -> np.ndarray:
        return block.rows if block.rows is not None else np.flatnonzero(self._block_of == block.index)

    def _by_level(self, rows: np.ndarray, R: np.ndarray) -> np.ndarray:
        out = np.zeros((self.design.n_levels, R.shape[1]))
        for f in range(self.design.n_variables):
            np.add.at(out, self._codes[rows, f], R)
        return out
