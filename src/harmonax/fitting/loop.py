"""fit: one update after the other, until it ends, stops early or stops being finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from ..errors import MissingKeyError, nearest, warn
from ..system.arguments import check_arguments
from ..system.progress import Report, bar, line
from ..system.rng import seed_from
from ..system.validate import whole_number
from . import checkpoint as files
from .minibatches import Cells, read_cells
from .outcome import EarlyStopping, FitResult, FitStatus
from .terms import Group, Loss, groups_of, read_terms
from .updates import State, Step, start, step_function

Callback = Callable[[int, Mapping[str, float]], Any]


def fit(
    operator: Any,
    data: Mapping[str, Any],
    losses: Mapping[str, Loss] | None = None,
    weights: Mapping[str, float] | str | None = None,
    optimizer: optax.GradientTransformation | Mapping[str, optax.GradientTransformation] | None = None,
    steps: int = 200,
    batch_size: int | None = None,
    rng: Any = 0,
    *,
    trainable: Any = nnx.Param,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    early_stopping: EarlyStopping | None = None,
    progress: bool | Report | None = None,
    callbacks: Sequence[Callback] = (),
) -> FitResult:
    """Train an operator: minimise a weighted sum of losses by gradient descent.

    Parameters
    ----------
    operator
        A module of Flax NNX with ``apply(data, state, metadata)``; it is changed in place. Losses of the model, from a
        method ``training_losses(data, rngs)`` that returns a dict, are minimised too. A method ``training_groups()``
        has groups of parameters learn in turn (see `harmonax.fitting.terms.groups_of`).
    data
        What the operator reads, such as ``embeddings`` and ``batch_labels``: arrays.
    losses
        By name: functions of the operator's result (a dict that has the data as well), or of (operator, data).
    weights
        By name, 1 where none is given; or the name of a preset in `WEIGHTS`. A higher weight lowers that loss more, at
        the others' expense; 0 leaves it out of the sum.
    optimizer
        An optimiser of Optax; None: Adam with a learning rate of 0.01. With groups, also a dict of them.
    steps
        Number of updates, including those of a run that is resumed. More updates fit better, and take more time.
    batch_size
        Cells in an update, shuffled anew each epoch; the last of an epoch is filled up with padding that
        ``data["mask"]`` marks. None: all cells. Larger updates are steadier, and take more time and memory.
    rng
        Seed of everything that is random: None, an integer, or a Generator or SeedSequence of NumPy.
    trainable
        Which parameters are trained: a filter of Flax NNX.
    checkpoint
        File to resume from, where there is one, and to write. A resumed run gives the same bits as one that was never
        interrupted.
    checkpoint_every
        Steps between two writes; one more comes at the end. Lower values lose less of a killed run, and write more.
    early_stopping
        When to stop before all steps are made.
    progress
        None: a line on stderr where that is a terminal. True, False, or a function of (step, steps, total).
    callbacks
        Functions of (step, losses), called after each step, from 0; one that returns True ends the run.

    Returns
    -------
    FitResult
        The operator, the history of every loss, and why the run stopped. If a loss or gradient was not finite, a
        warning says at which step, the status is ``FitStatus.NOT_FINITE``, and the operator is as it was when all
        losses were last finite.

    Raises
    ------
    InputError
        If the data or an argument cannot be used, or the checkpoint is of another run.
    FileFormatError
        If the file is damaged, or not a checkpoint.
    OutputError
        If the checkpoint cannot be written.

    Examples
    --------
    >>> from flax import nnx
    >>> class Shift(nnx.Module):
    ...     def __init__(self):
    ...         self.by = nnx.Param(np.zeros(2, np.float32))
    ...     def apply(self, data, state, metadata):
    ...         return data | {"shifted": data["x"] + self.by[...]}, state, metadata
    >>> data = {"x": np.ones((10, 2), np.float32)}
    >>> result = fit(Shift(), data, {"square": lambda result: (result["shifted"] ** 2).mean()}, steps=300)
    >>> result.status.value, bool(result.history["square"][-1] < 0.01)
    ('completed', True)
    """
    check_arguments(fit, locals())
    steps = whole_number(steps, "steps", minimum=1)
    checkpoint_every = whole_number(checkpoint_every, "checkpoint_every", minimum=1)
    seed = seed_from(rng)
    terms, groups = read_terms(operator, losses, weights), groups_of(operator, trainable)
    cells, rules = read_cells(data, batch_size, seed), _rules(optimizer, groups)
    graph, state = start(operator, groups, rules)
    run = _Run(state, cells, step_function(graph, groups, rules, terms), jax.random.key(seed))
    if checkpoint is not None:
        named = sorted({*(losses or {}), *terms.weights})
        settings: dict[str, Any] = {"losses": [[name, terms.weights.get(name, 1.0)] for name in named]}
        settings |= {"batch_size": cells.size, "seed": seed}
        run.keep(Path(checkpoint), checkpoint_every, settings)
    with line(progress, _progress) as report:
        try:
            status = run.until(steps, early_stopping, report, callbacks)
        finally:
            # However the run ends, an interrupt included, the operator has what was learned.
            nnx.update(operator, *run.state.params, run.state.rest)
    message = f"step {len(run)}: {status.advice}"
    if status is FitStatus.NOT_FINITE:
        message = f"step {len(run) - 1} ({', '.join(run.wrong)}): {status.advice}"
        warn(message)
    history = {name: np.asarray(values) for name, values in run.history.items()}
    return FitResult(operator, history, status, run.n_updates, message)


class _Run:
    """A fit in progress."""

    def __init__(self, state: State, cells: Cells, step: Step, key: jax.Array) -> None:
        self.state, self.cells, self.step, self.key = state, cells, step, key
        self.history: dict[str, list[float]] = {}
        self.wrong: list[str] = []
        self.n_updates = 0
        self._path: Path | None = None

    def __len__(self) -> int:
        return len(next(iter(self.history.values()), []))

    def keep(self, path: Path, every: int, settings: dict[str, Any]) -> None:
        """Write checkpoints from now on, and resume from an existing one."""
        self._path, self._every = path, every
        self._identity = files.identity(self.state, settings, {**self.cells.per_cell, **self.cells.whole})
        if path.exists():
            self.state, self.history = files.load(path, self.state, self._identity)
            self.n_updates = len(self)

    def until(
        self, steps: int, early: EarlyStopping | None, report: Report | None, callbacks: Sequence[Callback]
    ) -> FitStatus:
        """Make steps; return why they ended. A checkpoint is left unless a value was not finite."""
        saved, former = len(self), (self.state, self.n_updates)
        stops = self._watch(early)
        if any([stops(values) for values in self._past()]):
            return FitStatus.EARLY_STOPPED
        status = FitStatus.COMPLETED
        while len(self) < steps and status is FitStatus.COMPLETED:
            number = len(self)
            new, found = self.step(self.state, self.cells, self.cells.rows(number), self.key, np.uint32(number))
            found = jax.device_get(found)
            values = {name: float(value) for name, value in found.losses.items()}
            for name, value in values.items():
                self.history.setdefault(name, []).append(value)
            if not (found.losses_finite and found.state_finite):
                self.wrong = [name for name, value in values.items() if not np.isfinite(value)] or ["gradient"]
                if not found.losses_finite:
                    # A state whose losses are not finite is not good either: the one before it was.
                    self.state, self.n_updates = former
                return FitStatus.NOT_FINITE
            former = self.state, self.n_updates
            self.state, self.n_updates = new, number + 1
            if self._path is not None and len(self) - saved >= self._every:
                saved = self._save()
            if report is not None:
                report(number + 1, steps, values["total"])
            if any([callback(number, values) is True for callback in callbacks]):
                status = FitStatus.CALLBACK
            elif stops(values):
                status = FitStatus.EARLY_STOPPED
        if self._path is not None and len(self) > saved:
            self._save()
        return status

    def _past(self) -> list[dict[str, float]]:
        return [{name: values[i] for name, values in self.history.items()} for i in range(len(self))]

    def _watch(self, early: EarlyStopping | None) -> Callable[[Mapping[str, float]], bool]:
        if early is None:
            return lambda values: False
        stops = early.watch(self.cells.epoch)

        def look(values: Mapping[str, float]) -> bool:
            if early.monitor not in values:
                raise MissingKeyError(f"there is no loss '{early.monitor}' to watch; {nearest(early.monitor, values)}")
            return stops(values[early.monitor])

        return look

    def _save(self) -> int:
        assert self._path is not None
        files.save(self._path, self.state, self.history, self._identity)
        return len(self)


def _rules(optimizer: Any, groups: Sequence[Group]) -> list[optax.GradientTransformation]:
    if not isinstance(optimizer, Mapping):
        return [optax.adam(1e-2) if optimizer is None else optimizer for _ in groups]
    for group in groups:
        if group.name not in optimizer:
            raise MissingKeyError(
                f"optimizer has no entry for the group '{group.name}'; {nearest(group.name, optimizer)}"
            )
    return [optimizer[group.name] for group in groups]


def _progress(step: int, steps: int, total: float) -> str:
    return f"fit {bar(step / steps)} step {step} of {steps}, loss {total:.6g}"
