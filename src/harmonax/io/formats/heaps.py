"""The heaps in which an HDF5 file has its text: damaged in one way, HDF5 (2.0) reads them without end, and cannot be
interrupted.

A collection is "GCOL", its version, its size, and objects of which each begins with its number and its size. Number 0
is what is free, the rest of the collection; where it claims another size, HDF5 follows it, for ever if it is 0.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...errors import FileFormatError

_COLLECTION = re.compile(rb"GCOL\x01\0\0\0", re.DOTALL)
_HEAD, _OBJECT = 16, struct.Struct("<H6xQ")
_PIECE, _OVERLAP = 1 << 24, 16


def check_heaps(path: str, data: Iterable[tuple[int, int]]) -> None:
    """Refuse a file with such a heap; `data` are places (start, stop) that are not looked into.

    Raises
    ------
    FileFormatError
        If it has one.
    """
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        at = 0
        for start, stop in [*sorted(data), (size, size)]:
            while at < start:
                file.seek(at)
                piece = file.read(min(_PIECE, start - at))
                for found in _COLLECTION.finditer(piece):
                    _check(path, file, at + found.start())
                at += max(len(piece) - (_OVERLAP if at + len(piece) < start else 0), 1)
            at = max(at, stop)


def _check(path: str, file: Any, begin: int) -> None:
    file.seek(begin + 8)
    length = int.from_bytes(file.read(8), "little")
    objects = file.read(max(0, min(length - _HEAD, Path(path).stat().st_size)))
    at, stop, unpack = 0, len(objects) - _OBJECT.size, _OBJECT.unpack_from
    while at <= stop:
        number, size = unpack(objects, at)
        if number == 0:
            if size != len(objects) - at:
                raise FileFormatError(f"{path} is damaged: the text at byte {begin} cannot be read")
            return
        at += _OBJECT.size + (size + 7) // 8 * 8
