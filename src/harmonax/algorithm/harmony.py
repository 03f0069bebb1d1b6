"""Harmony's loop, the only one. Tables here, cells behind their contract."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np

from ..design import BatchDesign
from ..params import ResolvedParams
from ..result import History, Status
from ..schedule import FixedPartition, RecordedSchedule
from .contracts import Assignment, Cells, Sweep
from .convergence import passes_converged, rounds_converged
from .diversity import expected, log_penalty
from .objective import Objective, objective
from .ridge import Ridge, ridge
from .seeding import unit

Progress = Callable[[int, int, float], None]


@dataclass
class Fit:
    """Where a run ended: what the last assignment was made from, its mass (B, K), and the correction that followed."""

    assigned: Assignment
    correction: Ridge
    status: Status
    history: History
    mass: np.ndarray
    notes: list[str] = field(default_factory=list)


class Harmony:
    """One run over some cells.

    Parameters
    ----------
    cells, design, schedule, resolved
        Where the cells live, their batches, their blocks, and the parameters for this data.
    """

    def __init__(
        self,
        cells: Cells,
        design: BatchDesign,
        schedule: FixedPartition | RecordedSchedule,
        resolved: ResolvedParams,
    ) -> None:
        self.cells, self.design, self.schedule, self.resolved = cells, design, schedule, resolved
        self.flavor = resolved.params.flavor
        self.logp = np.zeros((schedule.n_blocks, design.n_levels, resolved.n_clusters))

    def run(self, Y: np.ndarray, out: Any, progress: Progress | None = None) -> Fit:
        """Run from centroids Y until an end is reached; write the corrected embedding to `out`."""
        p, history, notes = self.resolved.params, History(), []
        harmony1 = self.flavor == "harmony1"
        moment, J, mass = self._assign_without_penalty(Y)
        history.initial = previous = J.total
        for round_ in range(1, p.max_iter_harmony + 1):
            start = len(history.total)
            for pass_ in range(1, p.max_iter_clustering + 1):
                if harmony1:
                    Y = unit(moment)
                moment, J, mass = self._one_pass(Y, last=pass_ == p.max_iter_clustering)
                for name in ("total", "distance", "entropy", "diversity"):
                    getattr(history, name).append(getattr(J, name))
                if progress is not None:
                    progress(round_, pass_, J.total)
                if passes_converged(self.flavor, history.total[start:], p.tol_clustering):
                    break
            history.passes.append(len(history.total) - start)
            converged = rounds_converged(self.flavor, previous, J.total, p.tol_harmony)
            previous = J.total
            assigned = Assignment(Y, self.logp, self.resolved.sigma)
            correction = ridge(self.design, self.resolved, *self.cells.moments(assigned))
            if correction.singular.any():
                notes.append(f"round {round_}: no unique ridge solution in {int(correction.singular.sum())} clusters")
            if converged or round_ == p.max_iter_harmony:
                break
            moment = self.cells.correct(assigned, correction.W, moment=harmony1)
            if not harmony1:
                Y = np.where(correction.skipped[:, None], Y, unit(correction.W0))
                self._assign_without_penalty(Y)
        self.cells.emit(assigned, correction.W, out)
        status = Status.CONVERGED if converged else Status.MAX_ITERATIONS
        return Fit(assigned, correction, status, history, mass, notes)

    def _assign_without_penalty(self, Y: np.ndarray) -> tuple[np.ndarray, Objective, np.ndarray]:
        """Assign every cell by distance alone: R = softmax(-D / sigma)."""
        self.logp[:] = 0.0
        sigma = self.resolved.sigma
        want = self.flavor == "harmony1"
        sweeps = [self.cells.sweep(block, Y, sigma, None, moment=want) for block in self.schedule.all_blocks()]
        return self._collect(sweeps, _sum(s.mass for s in sweeps), [0.0] * len(sweeps))

    def _one_pass(self, Y: np.ndarray, *, last: bool) -> tuple[np.ndarray, Objective, np.ndarray]:
        """Take each block out, reassign it under the others' penalty, put it back."""
        design, resolved = self.design, self.resolved
        want = self.flavor == "harmony1"
        blocks = self.schedule.next_pass()
        # Summed anew every pass, so nothing drifts.
        O = _sum(self.cells.mass(block) for block in blocks)
        sweeps, weights = [], []
        for block in blocks:
            O = O - self.cells.mass(block)
            E = expected(design.level_shares, self._cluster_mass(O))
            logp = log_penalty(self.flavor, O, E, resolved.theta)
            self.logp[block.index] = logp
            sweep = self.cells.sweep(block, Y, resolved.sigma, logp, moment=want, last=last)
            O = O + sweep.mass
            sweeps.append(sweep)
            weights.append(float((sweep.mass * logp * resolved.sigma).sum()))
        return self._collect(sweeps, O, weights)

    def _collect(
        self, sweeps: list[Sweep], O: np.ndarray, weights: list[float]
    ) -> tuple[np.ndarray, Objective, np.ndarray]:
        """Return R^T Zn, the objective, and O; `weights` are sum_bk sigma_k O_gbk logp_gbk of each block."""
        entropy = sum(s.entropy for s in sweeps)
        distance = sum(weights) - sum(s.log_partition for s in sweeps) - entropy
        E = expected(self.design.level_shares, self._cluster_mass(O))
        J = objective(
            self.flavor, self.cells.n_cells, distance, entropy, O, E, self.resolved.theta, self.resolved.sigma
        )
        return _sum(s.moment for s in sweeps), J, O

    def _cluster_mass(self, O: np.ndarray) -> np.ndarray:
        """Return sum_i R_ik: every cell carries exactly one level of the first variable."""
        return O[: len(self.design.levels[0])].sum(axis=0)


def _sum(tables: Iterable[np.ndarray]) -> np.ndarray:
    """Add tables one after another: a fixed order, and no copy of them all."""
    return reduce(np.add, tables)
