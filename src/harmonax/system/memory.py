"""How much memory this process holds and may still take."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import re
import sys
from pathlib import Path

import numpy as np

from ..errors import InputError
from .cpus import control_groups

# From here on NumPy asks for huge pages.
_HUGE = 4 << 20
_UNITS = {"": 1, "k": 10, "m": 20, "g": 30, "t": 40}


def resident() -> int:
    """Return the memory that this process holds now, in bytes; its peak where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return peak() or 0


def peak() -> int | None:
    """Return the maximum memory that this process has held, in bytes; None where the system does not say."""
    # Not from getrusage where there is another way: on Linux that begins with what the parent process held.
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak_size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_size if sys.platform == "darwin" else peak_size * 1024


def available(
    meminfo: Path = Path("/proc/meminfo"),
    cgroup: Path = Path("/sys/fs/cgroup"),
    membership: Path = Path("/proc/self/cgroup"),
) -> int | None:
    """Return the bytes that this process may still take: free in the machine, and in its control groups.

    None where the system does not say.
    """
    found = [_left_in(folder) for folder in control_groups(cgroup, membership, "memory")]
    try:
        lines = meminfo.read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        pass
    known = [bytes_ for bytes_ in found if bytes_ is not None]
    return max(0, min(known)) if known else None


def zeros(shape: tuple[int, ...], dtype: np.typing.DTypeLike = np.float64) -> np.ndarray:
    """Return an array of zeros in small pages, where NumPy would ask for huge ones.

    In virtual machines the first touch of huge pages was seen to take 1 to 2.4 s a GiB, against 0.5 s of small ones.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < _HUGE or not hasattr(mmap, "MAP_ANONYMOUS"):
        return np.zeros(shape, dtype)
    try:
        return np.ndarray(shape, dtype, mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    except (OSError, OverflowError):
        raise MemoryError(f"Unable to allocate {size / 2**30:.3g} GiB for an array with shape {shape}") from None


def parse_size(value: int | float | str | None, name: str = "max_memory") -> int | None:
    """Return a size in bytes: a number of them, or one with a unit, such as "4G" (of 1024 M).

    Raises
    ------
    InputError
        If it is not a valid size.

    Examples
    --------
    >>> parse_size("1.5G") == 1.5 * 2**30
    True
    """
    if value is None:
        return None
    found = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*([kmgt]?)i?b?", str(value).strip().lower())
    try:
        size = int(float(found[1]) * 2 ** _UNITS[found[2]] if found[2] else float(found[1])) if found else 0
    except ValueError:
        size = 0
    if size <= 0:
        raise InputError(f"{name}={value!r} is not a valid size; write bytes, or for instance 500M or 4G")
    return size


def human(n_bytes: float) -> str:
    """Return a size as text, in the units of `parse_size`: of memory, and of files.

    Examples
    --------
    >>> human(3 * 2**29), human(5 << 20), human(999)
    ('1.50 GiB', '5 MiB', '999 bytes')
    """
    for unit, places in (("TiB", 2), ("GiB", 2), ("MiB", 0), ("KiB", 0)):
        if n_bytes >= (one := 2 ** _UNITS[unit[0].lower()]):
            return f"{n_bytes / one:.{places}f} {unit}"
    return f"{n_bytes:.0f} bytes"


def _left_in(folder: Path) -> int | None:
    """Return what one control group (v2, or v1) leaves; files in its cache can be dropped."""
    limit, used = (
        ("memory.max", "memory.current")
        if (folder / "memory.max").exists()
        else (
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
        )
    )
    try:
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cache = int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))
        return int((folder / limit).read_text()) - int((folder / used).read_text()) + cache
    except (OSError, ValueError):
        return None
