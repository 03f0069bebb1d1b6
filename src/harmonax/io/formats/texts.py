"""Texts in a Zarr store: a chunk begins with how many it has, and numcodecs takes room for as many as it claims."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import FileFormatError

_FILTERS = ("vlen-utf8", "vlen-bytes")


def check_texts(folder: str) -> None:
    """Refuse an array of texts of which a chunk claims more than there is place for; `folder` may be anything.

    Raises
    ------
    FileFormatError
        If it is such an array.
    """
    wrong: list[Path] = []
    for name in (".zarray", "zarr.json"):
        # What else is wrong with it, its reader says.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, RuntimeError):
            about = json.loads(Path(folder, name).read_bytes())
            found = _of_2(about) if name == ".zarray" else _of_3(about)
            if found is not None:
                wrong += _too_many(Path(folder), *found)
    if wrong:
        raise FileFormatError(f"{wrong[0]} is damaged: it claims more texts than its array has place for")


def _of_2(about: dict[str, Any]) -> tuple[int, list[dict[str, Any]]] | None:
    """Return how many texts a chunk has place for, and how it is compressed; None if it is none of texts."""
    if not any(one.get("id") in _FILTERS for one in about["filters"] or ()):
        return None
    return math.prod(about["chunks"]), [about["compressor"]] if about["compressor"] else []


def _of_3(about: dict[str, Any]) -> tuple[int, list[dict[str, Any]]] | None:
    first, *rest = about["codecs"]
    if first["name"] not in _FILTERS:
        return None
    return math.prod(about["chunk_grid"]["configuration"]["chunk_shape"]), [{"id": one["name"]} for one in rest]


def _too_many(folder: Path, place_for: int, compressed: list[dict[str, Any]]) -> Iterator[Path]:
    """Yield the chunks that claim too many texts."""
    import numcodecs

    codecs = [numcodecs.get_codec(dict(one)) for one in compressed]
    for path in folder.rglob("*"):
        if path.name.startswith(".") or path.name == "zarr.json" or not path.is_file():
            continue
        data: Any = path.read_bytes()
        for codec in reversed(codecs):
            data = codec.decode(data)
        if int.from_bytes(bytes(memoryview(data)[:4]), "little") > place_for:
            yield path
