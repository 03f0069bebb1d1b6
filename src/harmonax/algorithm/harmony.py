"""Harmony's loop, the only one. Tables here, cells behind their contract."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np

from ..design import BatchDesign
from ..kernels import _native
from ..params import ResolvedParams
from ..result import History, Status
from .contracts import Assignment, Cells, Sweep
from .convergence import passes_converged, rounds_converged
from .flavors import FLAVORS
from .objective import diversity, scale
from .penalty import expected_mass, log_penalty
from .ridge import Ridge, ridge
from .schedule import FixedPartition, RecordedSchedule
from .seeding import unit

# Levels whose masses and penalties are found at a time: pieces of thousands of levels stay in the cache.
_LEVELS = 1024

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Round:
    """The tables a round leaves. The cells are a function of Z and these, so a run can resume from them alone."""

    assigned: Assignment
    correction: Ridge  # what follows
    mass: np.ndarray  # (B, K)
    objective: np.ndarray  # (passes, 2): J after every pass, and its diversity term
    terms: np.ndarray  # (2,): the two others after the last pass, distance and entropy
    initial: float  # J_0


@dataclass
class Fit:
    """Where a run ended.

    What the last assignment was made from, the correction that followed, the mass (B, K) and R^T Zc (K, d).
    """

    assigned: Assignment
    correction: Ridge
    status: Status
    history: History
    mass: np.ndarray
    moment: np.ndarray
    notes: list[str] = field(default_factory=list)


class Harmony:
    """One run over some cells: where they live, their batches, their blocks, and the parameters for this data.

    The cells have the levels of ``design.carried``; those beyond the batch variables have no penalty.
    `n_threads` and `mapping`, which may be a pool's, are for what is done to tables; the bits do not depend on them.
    """

    def __init__(
        self,
        cells: Cells,
        design: BatchDesign,
        schedule: FixedPartition | RecordedSchedule,
        resolved: ResolvedParams,
        n_threads: int = 1,
        mapping: Callable[..., Iterable[Any]] = map,
    ) -> None:
        self.cells, self.design, self.schedule, self.resolved = cells, design, schedule, resolved
        self.n_threads, self.mapping = n_threads, mapping
        self.flavor = resolved.params.flavor
        self.rules = FLAVORS[self.flavor]
        self.pool = _native.ArrayPool()

    def run(
        self,
        Y: np.ndarray,
        out: Any,
        progress: Progress | None = None,
        past: Sequence[Round] = (),
        keep: Callable[[Round], None] = lambda ended: None,
    ) -> Fit:
        """Run from centroids Y until an end is reached; write the corrected embedding to `out`.

        With the rounds of an earlier run as `past` it resumes where they ended, with the same bits; `keep` is called
        with each new one.
        """
        history = History()
        ended = self._replay(past, history) if past else None
        if ended is None:
            moment, (history.initial, _), _ = self._assign_without_penalty(Y)
        notes = [note for i, each in enumerate(past) for note in _notes(i + 1, each)]
        status = self._status(history)
        while ended is None or status is None:
            if ended is not None:
                Y, moment = self._next_round(ended)
                ended = None  # with thousands of levels its tables are large
            ended = self._one_round(Y, moment, history, progress)
            notes += _notes(len(history.passes), ended)
            keep(ended)
            status = self._status(history)
        moment = self.cells.emit(ended.assigned, ended.correction.W, out, moment=True)
        return Fit(ended.assigned, ended.correction, status, history, ended.mass, moment, notes)

    def _one_round(self, Y: np.ndarray, moment: np.ndarray, history: History, progress: Progress | None) -> Round:
        """Run passes until they settle, and find the correction."""
        p, objectives = self.resolved.params, []
        # A new table each round: the assignment that it becomes part of is not written over by the next one.
        logp = self.pool.empty((self.schedule.n_blocks, self.design.carried.n_levels, self.resolved.n_clusters))
        logp[:] = 0.0
        for pass_ in range(1, p.max_iter_clustering + 1):
            if self.rules.moves_centroids:
                Y = unit(moment)
            moment, J, mass = self._one_pass(Y, logp, last=pass_ == p.max_iter_clustering)
            objectives.append(J)
            if progress is not None:
                progress(len(history.passes) + 1, pass_, J[0])
            if passes_converged(self.flavor, [total for total, _ in objectives], pass_, p.tol_clustering):
                break
        assigned = Assignment(Y, logp, self.resolved.sigma)
        found = self.cells.moments(assigned)
        correction = ridge(self.design, self.resolved, found.S, found.mass, n_threads=self.n_threads, pool=self.pool)
        entropy = found.entropy * scale(self.flavor, self.cells.n_cells)
        total, diverse = objectives[-1]
        terms = np.array([total - diverse - entropy, entropy])
        ended = Round(assigned, correction, mass, np.array(objectives), terms, history.initial)
        history.extend(ended.objective, ended.terms)
        return ended

    def _next_round(self, ended: Round) -> tuple[np.ndarray, np.ndarray]:
        """Correct the cells; return the next centroids, and R^T Zn where they move every pass."""
        Y, correction = ended.assigned.Y, ended.correction
        moment = self.cells.correct(ended.assigned, correction.W, moment=self.rules.moves_centroids)
        if self.rules.starts_cold:
            Y = np.where(correction.skipped[:, None], Y, unit(correction.W0))
            self._assign_without_penalty(Y)
        return Y, moment

    def _replay(self, past: Sequence[Round], history: History) -> Round:
        """Bring cells, schedule and history to where the last of these rounds ended."""
        history.initial = past[0].initial
        for ended in past:
            history.extend(ended.objective, ended.terms)
            for _ in ended.objective:
                self.schedule.next_pass()
        for ended in past[:-1]:
            self.cells.correct(ended.assigned, ended.correction.W, moment=False)
        assigned = past[-1].assigned
        if not self.rules.starts_cold:
            # R carries over, and with it each block's mass.
            for block in self.schedule.all_blocks():
                self.cells.sweep(block, assigned.Y, assigned.sigma, assigned.logp[block.index], moment=False)
        return past[-1]

    def _status(self, history: History) -> Status | None:
        """Return why the run ends here; None: it continues."""
        if not history.passes:
            return None
        p, (previous, now) = self.resolved.params, history.rounds[-2:]
        if rounds_converged(self.flavor, previous, now, p.tol_harmony):
            return Status.CONVERGED
        return Status.MAX_ITERATIONS if len(history.passes) >= p.max_iter_harmony else None

    def _assign_without_penalty(self, Y: np.ndarray) -> tuple[np.ndarray, tuple[float, float], np.ndarray]:
        """Assign every cell by distance alone: R = softmax(-D / sigma)."""
        sigma = self.resolved.sigma
        want = self.rules.moves_centroids
        sweeps = [self.cells.sweep(block, Y, sigma, None, moment=want) for block in self.schedule.all_blocks()]
        return self._collect(sweeps, _sum(s.mass for s in sweeps), [0.0] * len(sweeps))

    def _one_pass(
        self, Y: np.ndarray, logp: np.ndarray, *, last: bool
    ) -> tuple[np.ndarray, tuple[float, float], np.ndarray]:
        """Take each block out, reassign it under the others' penalty, written to `logp`, put it back."""
        resolved, want = self.resolved, self.rules.moves_centroids
        blocks = self.schedule.next_pass()
        # Summed anew every pass, so nothing drifts.
        O = np.zeros_like(logp[0])
        for block in blocks:
            self._update(np.add, O, self.cells.mass(block))
        sweeps, weights = [], []
        for block in blocks:
            self._update(np.subtract, O, self.cells.mass(block))
            own = logp[block.index]
            self._penalise(O, own)
            sweep = self.cells.sweep(block, Y, resolved.sigma, own, moment=want, last=last)
            self._update(np.add, O, sweep.mass)
            sweeps.append(sweep)
            weights.append(self._weight(sweep.mass, own))
        return self._collect(sweeps, O, weights)

    def _update(self, ufunc: np.ufunc, O: np.ndarray, mass: np.ndarray) -> None:
        """Add a block's mass to O, or take it out."""
        self._by_piece(lambda rows: ufunc(O[rows], mass[rows], out=O[rows]), len(O))

    def _penalise(self, O: np.ndarray, logp: np.ndarray) -> None:
        """Write the log-penalties that follow from O."""
        cluster_mass = self._cluster_mass(O)

        def piece(rows: slice) -> None:
            E = expected_mass(self.design, O, cluster_mass, rows)
            logp[rows] = log_penalty(self.flavor, O[rows], E, self.resolved.theta[rows])

        self._by_piece(piece, self.design.n_batch_levels)

    def _weight(self, mass: np.ndarray, logp: np.ndarray) -> float:
        """Return sum_bk sigma_k O_gbk logp_gbk of a block."""
        sigma = self.resolved.sigma
        return sum(self._by_piece(lambda b: float(np.einsum("bk,bk,k->", mass[b], logp[b], sigma)), len(mass)))

    def _by_piece(self, do: Callable[[slice], Any], n_levels: int) -> list[Any]:
        """Do this for all levels, some at a time; no piece reads what another writes."""
        pieces = [slice(lo, min(lo + _LEVELS, n_levels)) for lo in range(0, n_levels, _LEVELS)]
        return list((self.mapping if len(pieces) > 1 else map)(do, pieces))

    def _collect(
        self, sweeps: list[Sweep], O: np.ndarray, weights: list[float]
    ) -> tuple[np.ndarray, tuple[float, float], np.ndarray]:
        """Return R^T Zn, J and its diversity term, and O; `weights` are sum_bk sigma_k O_gbk logp_gbk of each block."""
        others = sum(weights) - sum(s.log_partition for s in sweeps)
        cluster_mass, theta, sigma = self._cluster_mass(O), self.resolved.theta, self.resolved.sigma

        def piece(rows: slice) -> float:
            E = expected_mass(self.design, O, cluster_mass, rows)
            return float(diversity(self.flavor, O[rows], E, theta[rows], sigma))

        c = scale(self.flavor, self.cells.n_cells)
        diverse = c * sum(self._by_piece(piece, self.design.n_batch_levels))
        return _sum(s.moment for s in sweeps), (c * others + diverse, diverse), O

    def _cluster_mass(self, O: np.ndarray) -> np.ndarray:
        """Return sum_i R_ik: every cell carries exactly one level of the first variable."""
        return O[: len(self.design.levels[0])].sum(axis=0)


def _notes(number: int, ended: Round) -> list[str]:
    n_singular = int(ended.correction.singular.sum())
    return [f"round {number}: no unique ridge solution in {n_singular} clusters"] if n_singular else []


def _sum(tables: Iterable[np.ndarray]) -> np.ndarray:
    """Add tables one after another: a fixed order, and no copy of them all."""
    return reduce(np.add, tables)
