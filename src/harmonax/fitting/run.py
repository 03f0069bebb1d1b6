"""A fit in progress: steps, what they found, and when they end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ..errors import MissingKeyError, nearest
from ..system.progress import Report
from . import checkpoint as files
from .held_out import PREFIX
from .outcome import EarlyStopping, FitStatus
from .updates import Outcome, State, Step, several

Callback = Callable[[int, Mapping[str, float]], Any]


class Run:
    """A fit in progress."""

    def __init__(self, state: State, cells: Any, step: Step, key: jax.Array, at_once: int) -> None:
        self.state, self.cells, self.key, self.at_once = state, cells, key, at_once
        self.history: dict[str, list[float]] = {}
        self.wrong: list[str] = []
        self.n_updates = 0
        self._one, self._several = jax.jit(step), several(step)
        self._files: Any = None
        self._evaluate: Any = None

    def __len__(self) -> int:
        return len(next(iter(self.history.values()), []))

    def look_at(self, evaluate: Any, every: int) -> None:
        """Put the losses of held-out cells into the history, each so many steps."""
        self._evaluate, self._look_every = evaluate, every

    def keep(self, place: Any, every: int, settings: dict[str, Any]) -> None:
        """Write checkpoints from now on, and resume from an existing one."""
        self._every = every
        self._files = files.at(place, files.identity(self.state, settings, self.cells.identity))
        if self._files.exists():
            self.state, self.history = self._files.load(self.state)
            self.n_updates = len(self)

    def until(
        self, steps: int, early: EarlyStopping | None, report: Report | None, callbacks: Sequence[Callback]
    ) -> FitStatus:
        """Make steps; return why they ended. A checkpoint is left unless a value was not finite."""
        saved = len(self)
        former = self.state, self.n_updates
        stops = self._watch(early)
        if any([stops(values) for values in self._past()]):
            return FitStatus.EARLY_STOPPED
        status = FitStatus.COMPLETED
        while len(self) < steps and status is FitStatus.COMPLETED:
            number = len(self)
            self.state, before, found = self._advance(former[0], number, min(self.at_once, steps - number))
            good = found.losses_finite & found.state_finite
            made = len(good) if good.all() else int(good.argmin()) + 1
            for name, values in found.losses.items():
                self.history.setdefault(name, []).extend(values[:made].astype(float).tolist())
            self._look(steps)
            if not good.all():
                last = {name: values[made - 1] for name, values in found.losses.items()}
                self.wrong = [name for name, value in last.items() if not np.isfinite(value)] or ["gradient"]
                kept = made - 1 if found.losses_finite[made - 1] else made - 2
                self.n_updates = max(former[1], number + kept)
                return FitStatus.NOT_FINITE
            former, self.n_updates = (before, number + made - 1), number + made
            if self._files is not None and len(self) - saved >= self._every:
                saved = self._save()
            new = self._past(number)
            if report is not None:
                report(len(self), steps, new[-1]["total"])
            if any([callback(number + i, values) is True for i, values in enumerate(new) for callback in callbacks]):
                status = FitStatus.CALLBACK
            elif any([stops(values) for values in new]):
                status = FitStatus.EARLY_STOPPED
        if self._files is not None and len(self) > saved:
            self._save()
        return status

    def _advance(self, former: State, number: int, n: int) -> tuple[State, State, Outcome]:
        """Make n steps; return the last good state, the one before its last update, and the outcomes."""
        rows, numbers = [self.cells.rows(number + i) for i in range(n)], np.arange(number, number + n, dtype=np.uint32)
        if n > 1:
            stacked = jax.tree.map(lambda *of: np.stack(of), *rows)
            *states, found = self._several(self.state, former, self.cells, stacked, self.key, numbers)
            return *states, jax.device_get(found)
        new, found = self._one(self.state, self.cells, rows[0], self.key, numbers[0])
        found = jax.tree.map(lambda x: np.asarray(x)[None], jax.device_get(found))
        if not found.losses_finite[0]:
            # A state whose losses are not finite is not good either: the one before it was.
            new = former
        elif not found.state_finite[0]:
            new = self.state
        return new, self.state, found

    def _look(self, steps: int) -> None:
        """Put the losses of held-out cells into the history where it is time, and NaN where it is not."""
        if self._evaluate is None:
            return
        names = [name for name in self.history if name.startswith(PREFIX)]
        seen = len(self.history[names[0]]) if names else 0
        found = {}
        if len(self) // self._look_every > seen // self._look_every or len(self) == steps:
            values = jax.device_get(self._evaluate(self.state, len(self) - 1))
            found = {PREFIX + name: float(value) for name, value in values.items()}
        for name in names or found:
            values = self.history.setdefault(name, [])
            values += [np.nan] * (len(self) - len(values) - 1) + [found.get(name, np.nan)]

    def _past(self, first: int = 0) -> list[dict[str, float]]:
        return [{name: values[i] for name, values in self.history.items()} for i in range(first, len(self))]

    def _watch(self, early: EarlyStopping | None) -> Callable[[Mapping[str, float]], bool]:
        if early is None:
            return lambda values: False
        held = early.monitor.startswith(PREFIX) and self._evaluate is not None
        stops = early.watch(1 if held else self.cells.epoch)

        def look(values: Mapping[str, float]) -> bool:
            if held and np.isnan(values.get(early.monitor, np.nan)):
                # Not looked at here.
                return False
            if early.monitor not in values:
                raise MissingKeyError(f"there is no loss '{early.monitor}' to watch; {nearest(early.monitor, values)}")
            return stops(values[early.monitor])

        return look

    def _save(self) -> int:
        self._files.save(self.state, self.history)
        return len(self)
