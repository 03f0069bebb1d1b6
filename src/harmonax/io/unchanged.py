"""Inputs that have to stay as they are from the first time a run reads them to the last."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import InputError

# What is read of a folder that is not a Zarr store.
_OF_10X = re.compile(r"(matrix\.mtx|barcodes\.tsv|features\.tsv|genes\.tsv)(\.gz)?$")


class Unchanged:
    """Refuses what comes of inputs that another program changes before the body ends: it could be of both states.

    Parameters
    ----------
    *paths
        Files, Zarr stores and 10x folders, before any of them is read; None is passed over.
    """

    def __init__(self, *paths: str | os.PathLike[str] | None) -> None:
        self._paths = [path for path in paths if path is not None]
        self._before = [_stamp(path) for path in self._paths]

    def __enter__(self) -> None:
        """Do nothing: what the inputs were was noted before."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and not isinstance(error, Exception):
            return
        for path, before in zip(self._paths, self._before, strict=True):
            if _stamp(path) != before:
                raise InputError(
                    f"{path} was changed or replaced while it was in use; nothing was written: run again"
                ) from error


def _stamp(path: str | os.PathLike[str]) -> Any:
    """Return what tells one state of a file or folder from another."""
    place = Path(path)
    if not place.is_dir():
        return _facts(place)
    is_zarr = any((place / name).exists() for name in ("zarr.json", ".zgroup", ".zmetadata"))
    found = [Path(root, name) for root, _, names in os.walk(place) for name in names if is_zarr or _OF_10X.search(name)]
    return {str(file): _facts(file) for file in found}


def _facts(path: Path) -> tuple[int, ...] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
