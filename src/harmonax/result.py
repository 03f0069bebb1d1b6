"""What a run gives back."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from .design import BatchDesign
from .params import HarmonyParams
from .system.log import say
from .system.version import __version__


class Status(enum.Enum):
    """Why a run stopped; ``advice`` says what to do about it."""

    CONVERGED = "converged"
    MAX_ITERATIONS = "max_iterations"
    SINGLE_BATCH = "single_batch"

    @property
    def advice(self) -> str:
        return {
            Status.CONVERGED: "the objective changed less than tol_harmony in the last round",
            Status.MAX_ITERATIONS: "stopped at max_iter_harmony before the objective settled; raise max_iter_harmony",
            Status.SINGLE_BATCH: "every cell has the same batch: nothing to correct, the input is returned unchanged",
        }[self]


@dataclass
class History:
    """The objective along the way.

    Attributes
    ----------
    initial
        J_0, of the first, unpenalised assignment.
    total, diversity
        J after every pass, and its diversity term.
    distance, entropy
        Its two other terms, at the end of every round.
    passes
        Number of passes in each round.
    """

    initial: float = float("nan")
    total: list[float] = field(default_factory=list)
    distance: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    diversity: list[float] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)

    @property
    def rounds(self) -> np.ndarray:
        """J_0 and J at the end of every round, (n_rounds + 1,)."""
        ends = np.cumsum(self.passes) - 1
        return np.concatenate([[self.initial], np.asarray(self.total)[ends] if len(ends) else []])

    @property
    def last_change(self) -> float:
        """Relative decrease of J in the last round (negative: an increase); nan before one has ended."""
        rounds = self.rounds
        if len(rounds) < 2:
            return float("nan")
        return float((rounds[-2] - rounds[-1]) / abs(rounds[-2])) if rounds[-2] != 0 else 0.0

    def extend(self, objective: np.ndarray, terms: np.ndarray) -> None:
        """Add one round: J and its diversity term after every pass, (passes, 2), and the other terms at its end."""
        self.total.extend(objective[:, 0].tolist())
        self.diversity.extend(objective[:, 1].tolist())
        self.distance.append(float(terms[0]))
        self.entropy.append(float(terms[1]))
        self.passes.append(len(objective))

    def to_dict(self) -> dict[str, list[float] | list[int]]:
        """Return plain lists, for JSON and ``adata.uns``."""
        return {
            "objective": [float(v) for v in self.rounds],
            "objective_passes": list(self.total),
            "distance": list(self.distance),
            "entropy": list(self.entropy),
            "diversity": list(self.diversity),
            "passes": list(self.passes),
        }


@dataclass(eq=False)
class HarmonyResult:
    """The corrected embedding and how it was reached.

    It keeps the cells' working copies (2 N d values) and the input alive, for `assignments`.

    Attributes
    ----------
    embedding
        Corrected embedding, (N, d), rows in the order of the input: an array, or what was asked for as `out`.
    status
        Why the run stopped.
    history
        Objective per pass, and passes per round.
    centroids
        Unit-length centroids that the last assignment used, (K, d).
    params, design, seed
        What was run: parameters, batch variables, and the integer that reproduces it.
    backend
        Where the cells lived, with instruction set and threads.
    notes
        What else the user should know, such as clusters whose ridge system had no unique solution.
    next_centroids
        Unit-length ridge intercepts of the last correction, (K, d): where another round of harmony2 would start, and
        what harmonypy calls Y.
    cluster_mass
        Cells of each level in each soft cluster, sum of R over the level's cells: (levels of all variables in turn, K).
    ridge
        Coefficients of the last correction, which was subtracted: (levels of all variables in turn, K, d).
    slopes
        Coefficients of the last correction for one standard deviation of each covariate: (C, K, d).
    moment
        R^T of the corrected embedding, (K, d): with the mass and the coefficients what `HarmonyModel` is made of.
    roles
        What stays: "reference", a table of levels, and "protect", the column; and "covariates", the names of what is
        removed beside the batches. Without what was not asked for.
    data_sha256
        Hash of embedding and batch labels, where it was made: for a checkpoint, and when the embedding was read in
        pieces.
    """

    embedding: Any
    status: Status
    history: History
    centroids: np.ndarray
    params: HarmonyParams
    design: BatchDesign
    seed: int
    backend: dict[str, Any]
    notes: list[str]
    next_centroids: np.ndarray = field(repr=False, default_factory=lambda: np.empty((0, 0)))
    cluster_mass: np.ndarray = field(repr=False, default_factory=lambda: np.empty((0, 0)))
    ridge: np.ndarray = field(repr=False, default_factory=lambda: np.empty((0, 0, 0)))
    slopes: np.ndarray = field(repr=False, default_factory=lambda: np.empty((0, 0, 0)))
    moment: np.ndarray = field(repr=False, default_factory=lambda: np.empty((0, 0)))
    roles: dict[str, Any] = field(repr=False, default_factory=dict)
    data_sha256: str | None = field(repr=False, default=None)
    _assignments: Callable[[], np.ndarray] = field(repr=False, default=lambda: np.empty((0, 0)))

    @property
    def n_clusters(self) -> int:
        return len(self.centroids)

    def assignments(self) -> np.ndarray:
        """Return R of the last clustering pass, (N, K); computed when asked for, never stored."""
        return self._assignments()

    def summary(self) -> str:
        """Return one line that says how the run ended."""
        rounds = len(self.history.passes)
        if self.status is Status.SINGLE_BATCH:
            return self.status.advice
        return (
            f"{self.status.value} after {rounds} round{'s' * (rounds != 1)} "
            f"({sum(self.history.passes)} passes); last relative change of the objective "
            f"{self.history.last_change:.1e} (tol_harmony {self.params.tol_harmony:.1e}): {self.status.advice}"
        )

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        return f"<div><strong>harmonax</strong><p>{escape(self.summary())}</p><ul>{notes}</ul></div>"

    def record(self) -> dict[str, Any]:
        """Return everything but the arrays, as plain values for JSON and ``adata.uns``."""
        import sys

        return {
            "params": {k: v for k, v in self.params.to_dict().items() if v is not None},
            "n_clusters": self.n_clusters,
            "batch_keys": list(self.design.variables),
            "levels": {
                name: list(names) for name, names in zip(self.design.variables, self.design.levels, strict=True)
            },
            **self.roles,
            "status": self.status.value,
            "advice": self.status.advice,
            "last_change": self.history.last_change,
            "history": self.history.to_dict(),
            "seed": self.seed,
            "backend": dict(self.backend),
            "notes": list(self.notes),
            "versions": {"harmonax": __version__, "numpy": np.__version__, "python": sys.version.split()[0]},
        }


def announce(result: HarmonyResult) -> None:
    """Log how a run ended, in one line: a warning where it stopped before convergence, else information."""
    say(logging.WARNING if result.status is Status.MAX_ITERATIONS else logging.INFO, f"harmony: {result.summary()}")
