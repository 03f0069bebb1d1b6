"""Formats of files, each in a module of its own, told by the ends of their names.

How to add a format:

1. Write ``formats/<name>.py`` with a class of one of the three kinds, and one object of it:
   `BareFormat` (read, write and perhaps rows), `TableFormat` (table and write) or `AnnotatedFormat`.
2. Add that object to `FORMATS` below. Every command and function then reads and writes it.
3. Name it in the help of ``harmonax integrate`` (``cli/integrate.py``).

`tests/io/test_formats.py` follows the first two steps.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar, overload

from ...errors import InputError
from .contract import BareFormat, BareTable, NamedFormat, Reading, reading
from .delimited import CSV, TSV, gzipped
from .groups import AnnotatedFormat
from .h5ad import H5AD
from .links import check_links
from .npy import NPY
from .parquet import PARQUET
from .tabular import TableFormat
from .zarr import ZARR

# What a format is to everyone else.
Format = BareFormat | AnnotatedFormat

FORMATS: dict[str, Format] = {kind.suffix: kind for kind in (H5AD, ZARR, CSV, TSV, PARQUET, NPY)}
ANNOTATED: tuple[AnnotatedFormat, ...] = tuple(kind for kind in FORMATS.values() if isinstance(kind, AnnotatedFormat))
TABLES: tuple[TableFormat, ...] = tuple(kind for kind in FORMATS.values() if isinstance(kind, TableFormat))

_Kind = TypeVar("_Kind", bound=NamedFormat)


@overload
def format_of(path: str | os.PathLike[str]) -> Format: ...
@overload
def format_of(path: str | os.PathLike[str], allowed: Iterable[_Kind]) -> _Kind: ...
def format_of(path: str | os.PathLike[str], allowed: Iterable[NamedFormat] | None = None) -> NamedFormat:
    """Return the format that the name of a file stands for; by default any of `FORMATS`.

    Raises
    ------
    InputError
        If the name ends in nothing known or allowed.
    """
    name = Path(path).name.lower()
    kinds: list[NamedFormat] = list(FORMATS.values() if allowed is None else allowed)
    for kind in kinds:
        if name.endswith(kind.suffix) or (kind.text and name.endswith(kind.suffix + ".gz")):
            return kind
    ends = ", ".join(kind.suffix + ("[.gz]" if kind.text else "") for kind in kinds)
    raise InputError(f"{path}: the format is told by the end of the name; allowed are {ends}")


__all__ = [
    "ANNOTATED",
    "CSV",
    "FORMATS",
    "H5AD",
    "NPY",
    "PARQUET",
    "TABLES",
    "TSV",
    "ZARR",
    "AnnotatedFormat",
    "BareFormat",
    "BareTable",
    "Format",
    "Reading",
    "TableFormat",
    "check_links",
    "format_of",
    "gzipped",
    "reading",
]
