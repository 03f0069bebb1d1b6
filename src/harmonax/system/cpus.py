"""How many CPUs this process may really use: its affinity and its container's quota, not what the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path

from .validate import whole_number

# More than any machine has; the native side counts in 32 bits.
_MAX_THREADS = 4096


def resolve_threads(n_threads: int | None) -> int:
    """Return the number of threads to use; None: every CPU this process may use."""
    if n_threads is None:
        return available_cpus()
    asked = whole_number(n_threads, "n_threads", minimum=1, alternative="None for every CPU")
    return min(asked, _MAX_THREADS)


def available_cpus(cgroup: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Return the CPUs of this process's affinity, at most its cgroup quota rounded up."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        cpus = os.cpu_count() or 1
    # A quota of an enclosing group binds as well, so all of them are asked.
    found = [_quota(folder) for folder in control_groups(cgroup, membership, "cpu")]
    quotas = [math.ceil(quota) for quota in found if quota is not None]
    return max(1, min([cpus, *quotas]))


def control_groups(cgroup: Path, membership: Path, controller: str) -> list[Path]:
    """Return the folders of the control groups (v2, and v1's of one controller) that this process is in."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    folders = [cgroup, cgroup / controller]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = cgroup / controller if controllers else cgroup
        own = base / path.lstrip("/")
        folders += [folder for folder in (own, *own.parents) if base in folder.parents]
    return folders


def _quota(folder: Path) -> float | None:
    """Return the CPU quota of one control group, v2's cpu.max or v1's cfs quota; None where there is none."""
    try:
        if (folder / "cpu.max").exists():
            limit, period = (folder / "cpu.max").read_text().split()
        else:
            limit, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return None if limit == "max" or float(limit) <= 0 else float(limit) / float(period)
    except (OSError, ValueError):
        return None
