"""How many CPUs this process may really use: its affinity and its container's quota, not what the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np

from .errors import InputError


def resolve_threads(n_threads: int | None) -> int:
    """Return the number of threads to use; None: every CPU this process may use."""
    if n_threads is None:
        return available_cpus()
    if isinstance(n_threads, bool) or not isinstance(n_threads, (int, np.integer)) or n_threads < 1:
        raise InputError(f"n_threads={n_threads!r} must be a whole number of at least 1, or None for every CPU")
    return int(n_threads)


def available_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the CPUs of this process's affinity, at most its cgroup quota rounded up."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        cpus = os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, min(cpus, math.ceil(quota)) if quota is not None else cpus)


def _quota(cgroup: Path) -> float | None:
    """Return the CPU quota of the container: cgroup v2's cpu.max, or v1's cfs quota; None where there is none."""
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()[:2]
        return None if limit == "max" else float(limit) / float(period)
    except (OSError, ValueError):
        pass
    try:
        limit = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
        period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        return None if float(limit) <= 0 else float(limit) / float(period)
    except (OSError, ValueError):
        return None
