"""Kinds of files, told by their names."""

from __future__ import annotations

import enum
import os
from pathlib import Path

from ..errors import InputError


class Format(enum.Enum):
    """What a file holds; the value is the end of its name."""

    H5AD = ".h5ad"
    ZARR = ".zarr"
    CSV = ".csv"
    TSV = ".tsv"
    PARQUET = ".parquet"
    NPY = ".npy"

    @property
    def annotated(self) -> bool:
        """Whether it holds a whole AnnData rather than one table."""
        return self in (Format.H5AD, Format.ZARR)

    @property
    def text(self) -> bool:
        """Whether it is a text table, which may be gzipped."""
        return self in (Format.CSV, Format.TSV)


TABLES = (Format.PARQUET, Format.CSV, Format.TSV)


def format_of(path: str | os.PathLike[str], allowed: tuple[Format, ...] = tuple(Format)) -> Format:
    """Return the format that the name of a file stands for.

    Raises
    ------
    InputError
        If the name ends in nothing known or allowed.
    """
    name = Path(path).name.lower()
    for found in allowed:
        if name.endswith(found.value) or (found.text and name.endswith(found.value + ".gz")):
            return found
    ends = ", ".join(f.value + ("[.gz]" if f.text else "") for f in allowed)
    raise InputError(f"{path}: the format is told by the end of the name; allowed are {ends}")


def gzipped(path: str | os.PathLike[str]) -> bool:
    """Return whether the name says that the file is gzipped."""
    return Path(path).name.lower().endswith(".gz")
