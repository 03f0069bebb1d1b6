"""One run as a value: where the data come from, what is asked for, where the results go, and how each step went."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import meter
from .options import WorkflowOptions
from .state import Done

if TYPE_CHECKING:
    from anndata import AnnData

Progress = bool | Callable[[Done], None] | None


@dataclass
class Job:
    """What a run was told, and what it has done so far."""

    source: Callable[[], AnnData]
    facts: list[dict[str, Any]]
    options: WorkflowOptions
    out: Path | None = None
    overwrite: bool = False
    progress: Progress = None
    inputs: Sequence[str] = ()
    also_read: Sequence[str] = ()
    command: str = ""
    done: list[Done] = field(default_factory=list)
    started: float = field(default_factory=time.time)

    @property
    def folder(self) -> Path:
        """Where the results go, in a run that has any."""
        if self.out is None:
            raise ValueError("this run writes no files")
        return self.out

    @property
    def live(self) -> bool:
        """Whether somebody is looking."""
        if self.progress is None:
            return sys.stderr is not None and sys.stderr.isatty()
        return self.progress is True

    def finish(self, done: Done) -> None:
        """Take note of a step, and say so."""
        self.done.append(done)
        meter.tell(done)
        if callable(self.progress):
            self.progress(done)
