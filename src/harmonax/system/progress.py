"""Progress of a run, on stderr, only where somebody is looking."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Report = Callable[[int, int, float], None]


@contextmanager
def reporter(progress: bool | Report | None, max_rounds: int) -> Iterator[Report | None]:
    """Give a function to call after each pass of a run of at most `max_rounds` rounds."""

    def text(round_: int, pass_: int, objective: float) -> str:
        done = f"{bar(round_ / max_rounds)} round {round_} of at most {max_rounds}"
        return f"harmony {done}, pass {pass_}, objective {objective:.6g}"

    with line(progress, text) as show:
        yield show


@contextmanager
def line(progress: bool | Callable[..., None] | None, text: Callable[..., str]) -> Iterator[Callable[..., None] | None]:
    """Give a function that shows its text in one line, which is cleared when the run ends, however it ends.

    Where `progress` is a function, that one; None where nothing is to be shown.
    """
    if callable(progress):
        yield progress
        return
    if progress is None:
        progress = sys.stderr is not None and sys.stderr.isatty()
    if not progress:
        yield None
        return

    def show(*at: Any) -> None:
        sys.stderr.write(f"\r{text(*at)}\x1b[K")
        sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def bar(done: float) -> str:
    """Return a bar of 20 characters, so much of it filled."""
    return f"[{'#' * round(20 * done):<20}]"
