"""What the formats of tables have in common: named columns, of which the first may be the cells' names."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from ...errors import FileFormatError, InputError
from ...inputs.rows import slabs
from .contract import BareFormat, BareTable


class TableFormat(BareFormat):
    """A table with named columns; it may also hold the batch columns that go with an embedding."""

    @abstractmethod
    def table(self, path: Path) -> pd.DataFrame:
        """Read a table as it is."""

    def read(self, path: Path) -> BareTable:
        frame, names = split_names(self.table(path), path)
        return BareTable(_numbers(frame, path), names, [str(c) for c in frame.columns])


def split_names(frame: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, pd.Index | None]:
    """Take the cells' names off a table: its index, or a first column of text."""
    if isinstance(frame.index, pd.MultiIndex):
        raise FileFormatError(f"{path}: its lines have more fields than the first, which names the columns")
    if not isinstance(frame.index, pd.RangeIndex):
        return frame, frame.index.astype(str)
    if frame.shape[1] == 0:
        raise FileFormatError(f"{path} has no columns")
    first = frame.iloc[:, 0]
    unnamed = str(frame.columns[0]).startswith("Unnamed:") or str(frame.columns[0]) == ""
    if not unnamed and pd.api.types.is_numeric_dtype(first.dtype):
        return frame, None
    rest = frame.iloc[:, 1:]
    # What pandas and R write when nobody named the rows says nothing about the cells.
    counted = pd.api.types.is_integer_dtype(first.dtype) and any(
        np.array_equal(first, np.arange(start, start + len(first))) for start in (0, 1)
    )
    return rest, None if unnamed and counted else pd.Index(first.astype(str))


def frames(table: BareTable) -> Iterator[pd.DataFrame]:
    """Give an embedding as tables of some rows, indexed by the cells' names where it has some."""
    for start, rows in slabs(table.Z):
        frame = pd.DataFrame(rows, columns=table.features, copy=False)
        if table.names is not None:
            frame.index = table.names[start : start + len(rows)].rename("cell")
        yield frame


def _numbers(frame: pd.DataFrame, path: Path) -> np.ndarray:
    for name, column in frame.items():
        if not pd.api.types.is_numeric_dtype(column.dtype):
            wrong = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
            raise InputError(
                f"{path}: column '{name}' does not hold numbers only (first: '{[*wrong, 'nothing'][0]}'); "
                "an embedding has at most one column of cell names, the first, and then numbers"
            )
    return frame.to_numpy(dtype=np.float32 if (frame.dtypes == np.float32).all() else np.float64, na_value=np.nan)
