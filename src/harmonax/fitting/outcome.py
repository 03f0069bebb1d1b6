"""How a fit ended, and what it left."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..system.arguments import check_arguments
from ..system.validate import number, whole_number


class FitStatus(enum.Enum):
    """Why a fit stopped; ``advice`` says what to do about it."""

    COMPLETED = "completed"
    EARLY_STOPPED = "early_stopped"
    CALLBACK = "callback"
    NOT_FINITE = "not_finite"

    @property
    def advice(self) -> str:
        return {
            FitStatus.COMPLETED: "all steps were made",
            FitStatus.EARLY_STOPPED: "the loss no longer improved by min_delta within the patience given",
            FitStatus.CALLBACK: "a callback asked to stop",
            FitStatus.NOT_FINITE: "a loss or a gradient was NaN or infinite; the operator is as it last was without; "
            "lower the learning rate, clip gradients (optax.clip_by_global_norm), or look at the loss named",
        }[self]


@dataclass(frozen=True)
class FitResult:
    """What `fit` returns.

    Attributes
    ----------
    operator
        The operator that was passed, fitted.
    history
        Every loss, unweighted, and "total", the weighted sum, of each step before its update: (steps,) each. The last
        entry of a run that stopped being finite is the one that was not.
    status
        Why the run stopped.
    n_steps
        Updates that the operator has seen; those of a resumed run included.
    message
        The status in words, with the step and what to do.
    """

    operator: Any
    history: dict[str, np.ndarray]
    status: FitStatus
    n_steps: int
    message: str


@dataclass(frozen=True)
class EarlyStopping:
    """Stop a fit that no longer improves.

    With minibatches, what is watched is the mean over an epoch, looked at when one is complete; else, every step.

    Parameters
    ----------
    patience
        Epochs, or steps on all cells, without improvement after which the fit stops, at least 1. Higher values wait
        longer; lower values may stop on a plateau.
    min_delta
        What counts as improvement: a fall by more than this below the best so far, at least 0. Higher values stop
        earlier.
    monitor
        Entry of the history that is watched.

    Raises
    ------
    InputError
        If a value is out of range.

    Examples
    --------
    >>> stops = EarlyStopping(patience=2).watch(1)
    >>> [stops(value) for value in (3.0, 2.0, 2.0, 2.5)]
    [False, False, False, True]
    """

    patience: int = 20
    min_delta: float = 0.0
    monitor: str = "total"

    def __post_init__(self) -> None:
        check_arguments(EarlyStopping, vars(self))
        object.__setattr__(self, "patience", whole_number(self.patience, "patience", minimum=1))
        object.__setattr__(self, "min_delta", number(self.min_delta, "min_delta", minimum=0))

    def watch(self, epoch: int) -> Callable[[float], bool]:
        """Return a function to call with the value of each step, which says whether to stop; `epoch` steps are one."""
        epoch = whole_number(epoch, "epoch", minimum=1)
        best, since, values = np.inf, 0, []

        def stops(value: float) -> bool:
            nonlocal best, since
            values.append(value)
            if len(values) < epoch:
                return False
            mean = float(np.mean(values))
            values.clear()
            best, since = (mean, 0) if mean < best - self.min_delta else (best, since + 1)
            return since >= self.patience

        return stops
