"""Seconds, CPU seconds and memory of each step, and the lines about them."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..system import memory
from ..system.log import say
from ..system.progress import line
from .state import Done

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Meter:
    """Takes the time and the memory of one step."""

    def __init__(self) -> None:
        self._start, self._cpu_start = time.perf_counter(), time.process_time()
        # Linux can forget the peak so far; elsewhere it is that of the whole process.
        with contextlib.suppress(OSError):
            _RESET.write_text("5")

    def took(self) -> dict[str, Any]:
        """Return what `Done` has of it; on a machine that others use too, the CPU time says more than the clock's."""
        seconds, cpu = time.perf_counter() - self._start, time.process_time() - self._cpu_start
        return {"seconds": seconds, "cpu_seconds": cpu, "peak_memory_bytes": self._peak()}

    def _peak(self) -> int:
        """Return the most memory held, in bytes, or 0 where the system does not tell."""
        with contextlib.suppress(OSError, StopIteration, ValueError):
            lines = _STATUS.read_text(encoding="ascii", errors="ignore").splitlines()
            return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
        return memory.peak() or 0


@contextlib.contextmanager
def live_line(name: str, place: str, show: bool) -> Iterator[None]:
    """Show on a terminal what is being done; the line is gone afterwards."""
    with line(show, lambda: f"{place} {name} ...") as report:
        if report is not None:
            report()
        yield


def tell(done: Done) -> None:
    """Say in one line how a step went."""
    status = "done earlier" if done.resumed else done.status
    seconds = f" in {done.seconds:.1f} s" if done.status == "done" and not done.resumed else ""
    say(logging.INFO, f"{done.step}: {status}{seconds}" + (f"; {done.note}" if done.note else ""))
