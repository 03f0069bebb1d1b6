"""Progress of a run, on stderr, only where somebody is looking."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .params import HarmonyParams

Report = Callable[[int, int, float], None]


@contextmanager
def reporter(progress: bool | Report | None, params: HarmonyParams) -> Iterator[Report | None]:
    """Give a function to call after each pass; its line is cleared when the run ends, however it ends."""
    if callable(progress):
        yield progress
        return
    if progress is None:
        progress = sys.stderr is not None and sys.stderr.isatty()
    if not progress:
        yield None
        return

    def show(round_: int, pass_: int, objective: float) -> None:
        done = round_ / params.max_iter_harmony
        bar = "#" * round(20 * done)
        sys.stderr.write(
            f"\rharmony [{bar:<20}] round {round_} of at most {params.max_iter_harmony}, "
            f"pass {pass_}, objective {objective:.6g}\x1b[K"
        )
        sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
