"""Files that appear whole or not at all: written beside their place, flushed to the disk, then renamed.

What a killed process was writing is told by its name, and removed by the next one that writes in that directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import HarmonaxError, OutputError
from ..system.lock import locked
from ..system.memory import human

# EFBIG is what a file size limit (ulimit -f) answers.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) if hasattr(errno, "EDQUOT") else (errno.ENOSPC, errno.EFBIG)


def check_destination(
    path: str | os.PathLike[str], *, inputs: Sequence[str | os.PathLike[str]], overwrite: bool
) -> Path:
    """Return where `path` really lies, or refuse it: called before any work.

    Parameters
    ----------
    path
        File or Zarr directory to be made. A link is followed: what it points to is written.
    inputs
        What the run reads; none of it is ever written over, under whatever name.
    overwrite
        Allow a file, or a Zarr directory, that is there already.

    Raises
    ------
    OutputError
        If the directory is missing or cannot be written, or something that must stay is in the way.
    """
    place = Path(os.path.realpath(path))
    if place.is_symlink():
        raise OutputError(f"{path} is a link that leads to itself; remove it, or choose another name")
    for source in inputs:
        if _same(place, source):
            raise OutputError(f"the output {path} is the input {source}; choose another name")
        if Path(os.path.realpath(source)) in place.parents:
            raise OutputError(f"the output {path} lies inside the input {source}; choose another directory")
        if place in Path(os.path.realpath(source)).parents:
            raise OutputError(f"the output {path} contains the input {source}; choose another name")
    if not place.parent.is_dir():
        raise OutputError(f"{path}: there is no directory {place.parent}; make it first")
    _check_free_name(path, place, overwrite)
    _remove_abandoned(place.parent)
    # Only trying tells: access rights say nothing about read-only mounts, nor anything to root.
    probe = _part(place)
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except OSError as error:
        raise OutputError(f"{path}: cannot write in the directory {place.parent}: {error.strerror}") from None
    finally:
        _remove(probe)
    return place


def check_space(place: Path, needed: int) -> None:
    """Refuse a result for which the disk has no room."""
    free = shutil.disk_usage(place.parent).free
    if needed > free:
        raise OutputError(f"{place}: {human(needed)} are needed, but only {human(free)} are free in {place.parent}")


@contextlib.contextmanager
def whole_or_nothing(*places: Path, overwrite: bool, needed: int) -> Iterator[list[Path]]:
    """Give one path to write for each place; move them there, in order, when the body ends well.

    Whatever ends the body otherwise, an interrupt included, leaves the places as they were and nothing else behind.
    Should a move fail after another was made, what was written over before it is not brought back.

    Parameters
    ----------
    places
        As `check_destination` returned them; the last is the result, which comes after all that goes with it.
    overwrite
        Whether the result may be there already: checked again, since time has passed.
    needed
        Size of the result in bytes, for the message when the disk is full.
    """
    parts = [_part(place) for place in places]
    moved: list[Path] = []
    try:
        yield parts
        for part in parts:
            _flush(part)
        with _alone(places[-1].parent):
            _check_free_name(places[-1], places[-1], overwrite)
            for place, part in zip(places, parts, strict=True):
                is_new = not place.exists()
                _move(part, place)
                moved += [place] if is_new else []
                _flush_entry(place.parent)
    except BaseException as error:
        if any(part.is_dir() for part in parts):
            _wait_for_zarr()
        for path in (*parts, *moved):
            _remove(path)
        if _is_full(error) or (isinstance(error, OSError) and not isinstance(error, HarmonaxError)):
            raise OutputError(_explain(error, places[-1], needed)) from error
        raise


def _wait_for_zarr() -> None:
    """Wait until zarr 3 has written what it is still writing: an interrupt ends only the waiting for it."""
    sync = sys.modules.get("zarr.core.sync")
    if sync is not None:
        sync.sync(_others())


async def _others() -> None:
    """Wait for the other tasks of this loop."""
    current = asyncio.current_task()
    if others := [task for task in asyncio.all_tasks() if task is not current]:
        await asyncio.wait(others, timeout=60)


def _is_full(error: BaseException) -> bool:
    # HDF5 says it in words, and h5py as a RuntimeError when the file is closed.
    said = isinstance(error, (OSError, RuntimeError)) and any(f"errno = {number}," in str(error) for number in _FULL)
    return said or (isinstance(error, OSError) and error.errno in _FULL)


def _explain(error: BaseException, place: Path, needed: int) -> str:
    if _is_full(error):
        free = shutil.disk_usage(place.parent).free
        why = " (a quota, or a limit on files?)" if free > needed else ""
        return f"{place}: the disk is full: {human(needed)} are needed, {human(free)} are free in {place.parent}{why}"
    return f"{place}: could not be written: {getattr(error, 'strerror', None) or str(error).splitlines()[0]}"


def _check_free_name(path: str | os.PathLike[str], place: Path, overwrite: bool) -> None:
    if not place.exists():
        return
    if not (place.is_file() or place.is_dir()):
        raise OutputError(f"{path} is a pipe, a socket or a device, not a file; choose another name")
    if not overwrite:
        raise OutputError(f"{path} exists already; choose another name, or pass --overwrite")
    if place.is_dir() and not any((place / name).exists() for name in ("zarr.json", ".zgroup")):
        raise OutputError(f"{path} is a directory that is not a Zarr store: it is not written over")


def _same(place: Path, source: str | os.PathLike[str]) -> bool:
    # samefile also knows hard links and file systems that ignore case.
    try:
        return place == Path(os.path.realpath(source)) or os.path.samefile(place, source)
    except OSError:
        return False


def _part(place: Path) -> Path:
    """Return a new name beside a place, which says whose it is: the computer, the process and when that began."""
    number = os.getpid()
    return place.parent / f".harmonax-{_computer()}-{number}-{_began(number)}-{secrets.token_hex(4)}.part"


_PART = re.compile(r"\.harmonax-(\w+)-(\d+)-(\d+)-\w+\.part")


def _remove_abandoned(folder: Path) -> None:
    """Remove what processes of this computer that have ended were writing in a directory."""
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            if (name := _PART.fullmatch(path.name)) and name[1] == _computer() and _ended(int(name[2]), int(name[3])):
                _remove(path)


@functools.cache
def _computer() -> str:
    """Return a short text for this computer; containers that count processes each for itself are several."""
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


def _began(number: int) -> int:
    """Return when a process began, in the system's ticks; 0 where that is not known."""
    try:
        stat = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
        # The name before it may have spaces and brackets in it.
        return int(stat.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _ended(number: int, began: int) -> bool:
    """Return whether the process with this number and start has ended; False where that cannot be known."""
    if os.name != "posix":
        return False
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return _began(number) != began


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a directory while files take their places in it: of two runs, the second then finds the first's result."""
    with contextlib.ExitStack() as stack:
        # Windows does not open directories.
        if os.name == "posix":
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            locked(handle, wait=True)
        yield


def _move(part: Path, place: Path) -> None:
    """Put the part in its place; only a directory that is there needs a moment in which neither is."""
    if not place.exists() or not (place.is_dir() or part.is_dir()):
        os.replace(part, place)
        return
    old = _part(place)
    os.rename(place, old)
    try:
        os.rename(part, place)
    except BaseException:
        os.rename(old, place)
        raise
    _remove(old)


def _flush(path: Path) -> None:
    """Have the disk hold a file, or all of a directory."""
    if not path.is_dir():
        _flush_file(path)
        return
    found = [(Path(root), names) for root, _, names in os.walk(path)]
    # Side by side, since a store may have a hundred thousand files and each waits for the disk.
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(_flush_file, [root / name for root, names in found for name in names]))
        list(pool.map(_flush_entry, [root for root, _ in found]))


def _flush_file(path: Path) -> None:
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def _flush_entry(directory: Path) -> None:
    # Windows has no such thing, and some network file systems refuse it.
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
