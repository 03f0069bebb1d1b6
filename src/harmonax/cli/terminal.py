"""Messages on stderr, one line each, and what signals do."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any

import click

from ..errors import HarmonaxWarning


def complain(message: str) -> None:
    """Print an error."""
    click.echo(f"harmonax: error: {_one_line(message)}", err=True)


@contextlib.contextmanager
def messages(*, quiet: bool, verbose: bool) -> Iterator[None]:
    """Print harmonax's warnings and log on stderr: all (verbose), none (quiet), or what most want to know."""
    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose exclude each other")
    log = logging.getLogger("harmonax")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
    log.propagate = False

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        place = "" if issubclass(category, HarmonaxWarning) else f" ({category.__name__}, {filename}:{lineno})"
        log.warning("%s%s", message, place)

    try:
        with warnings.catch_warnings():
            # Other packages' warnings are for programmers.
            if not verbose:
                warnings.simplefilter("ignore")
            warnings.simplefilter("always", HarmonaxWarning)
            warnings.showwarning = show
            yield
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before


@contextlib.contextmanager
def signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP, which schedulers send, end the program as Ctrl-C does: cleaning up."""
    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # One that is ignored (nohup) stays so; handlers can only be set in the main thread.
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            with contextlib.suppress(ValueError):
                before[number] = signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _one_line(message: str) -> str:
    return " ".join(message.split())


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        kind = (
            "warning: " if record.levelno == logging.WARNING else "error: " if record.levelno > logging.WARNING else ""
        )
        return f"harmonax: {kind}{_one_line(record.getMessage())}"
