""".csv and .tsv, gzipped or not."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ...errors import FileFormatError
from .contract import BareTable
from .tabular import TableFormat, frames

# Every number as it is written; from 3.1 on pandas reads no other way, and warns where one asks for this.
_EXACT: dict[str, Any] = (
    {"float_precision": "round_trip"} if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1) else {}
)


class TextFormat(TableFormat):
    """A text table, whose first line names the columns.

    Parameters
    ----------
    suffix, separator
        The end of the name, and what stands between two fields.
    """

    text: ClassVar[bool] = True

    def __init__(self, suffix: str, separator: str) -> None:
        super().__init__(suffix)
        self.separator = separator

    def table(self, path: Path) -> pd.DataFrame:
        compression = "gzip" if gzipped(path) else None
        # low_memory would guess types chunk by chunk, and make two levels of one label.
        frame = pd.read_csv(path, sep=self.separator, compression=compression, low_memory=False, **_EXACT)
        if _is_data([str(c) for c in frame.columns]):
            raise FileFormatError(f"{path} begins with numbers; its first line must name the columns")
        return frame

    def write(self, part: Path, table: BareTable, *, compress: bool) -> None:
        named = table.names is not None
        with open(part, "wb") as file:
            # No name and no time inside, so the same run gives the same bytes.
            packed = gzip.GzipFile("", "wb", 6, file, mtime=0) if compress else None
            with io.TextIOWrapper(packed or file, encoding="utf-8", newline="") as text:
                for i, frame in enumerate(frames(table)):
                    frame.to_csv(text, sep=self.separator, index=named, header=i == 0, lineterminator="\n")

    def size_of(self, n_bytes: int) -> int:
        # 12 characters a number.
        return n_bytes * 3


def gzipped(path: str | os.PathLike[str]) -> bool:
    """Return whether the name says that the file is gzipped."""
    return Path(path).name.lower().endswith(".gz")


def _is_data(columns: list[str]) -> bool:
    """Return whether a first line is data: numbers after its first field, but not columns counted 0, 1, 2, ..."""
    try:
        values = np.array([float(c) for c in columns[1:] or columns])
    except ValueError:
        return False
    return len(values) > 0 and not (values[0] in (0, 1, 2) and np.all(np.diff(values) == 1))


CSV, TSV = TextFormat(".csv", ","), TextFormat(".tsv", "\t")
