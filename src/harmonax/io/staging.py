"""Files that appear whole or not at all: written beside their place, flushed to the disk, then renamed."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import HarmonaxError, OutputError

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
    # Only trying tells: access rights say nothing about read-only mounts, nor anything to root.
    probe = _part(place)
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{path}: cannot write in the directory {place.parent}: {error.strerror}") from None
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
        _check_free_name(places[-1], places[-1], overwrite)
        for place, part in zip(places, parts, strict=True):
            is_new = not place.exists()
            _move(part, place)
            moved += [place] if is_new else []
            _flush_entry(place.parent)
    except BaseException as error:
        for path in (*parts, *moved):
            _remove(path)
        if _is_full(error) or (isinstance(error, OSError) and not isinstance(error, HarmonaxError)):
            raise OutputError(_explain(error, places[-1], needed)) from error
        raise


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
    if not overwrite:
        raise OutputError(f"{path} exists already; choose another name, or pass --overwrite")
    if place.is_dir() and not any((place / name).exists() for name in ("zarr.json", ".zgroup")):
        raise OutputError(f"{path} is a directory that is no Zarr store: it is not written over")


def _same(place: Path, source: str | os.PathLike[str]) -> bool:
    # samefile also knows hard links and file systems that ignore case.
    try:
        return place == Path(os.path.realpath(source)) or os.path.samefile(place, source)
    except OSError:
        return False


def _part(place: Path) -> Path:
    return place.parent / f".harmonax-{secrets.token_hex(6)}.part"


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


def human(n_bytes: float) -> str:
    """Return a size as people write it, such as ``"1.5 GB"``."""
    if n_bytes < 1000:
        return f"{n_bytes:.0f} bytes"
    power = min(4, int(math.log10(n_bytes) // 3))
    return f"{n_bytes / 1000**power:.1f} {'kMGT'[power - 1]}B"
