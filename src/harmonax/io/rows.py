"""Embeddings in files, read piece by piece: the file is opened for each, so none stays open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..inputs.rows import Rows
from .annotated import opened
from .formats import Format
from .source import reading


class AnnotatedRows(Rows):
    """An entry of ``obsm`` of an .h5ad or .zarr file."""

    def __init__(self, path: Path, kind: Format, basis: str, array: Any) -> None:
        super().__init__(array.shape, array.dtype)
        self._path, self._kind, self._basis = path, kind, basis

    def read(self, start: int, stop: int) -> np.ndarray:
        with reading(self._path, self._kind), opened(self._path, self._kind) as root:
            return np.asarray(root["obsm"][self._basis][start:stop])


class NpyRows(Rows):
    """A .npy file, its rows one after another."""

    def __init__(self, path: Path, shape: tuple[int, int], dtype: Any, offset: int) -> None:
        super().__init__(shape, dtype)
        self._path, self._offset = path, offset

    @classmethod
    def find(cls, path: Path) -> NpyRows | None:
        """Return the rows of a file; None where it holds no table of numbers row by row."""
        with reading(path, Format.NPY), open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, columns_first, dtype = read(file)
            if columns_first or len(shape) != 2 or dtype.hasobject:
                return None
            return cls(path, shape, dtype, file.tell())

    def read(self, start: int, stop: int) -> np.ndarray:
        d = self.shape[1]
        with reading(self._path, Format.NPY):
            at = self._offset + start * d * self.dtype.itemsize
            values = np.fromfile(self._path, self.dtype, (stop - start) * d, offset=at)
            return values.reshape(stop - start, d)


class ParquetRows(Rows):
    """Columns of a .parquet file, read by row groups."""

    def __init__(self, path: Path, columns: list[str], dtype: Any) -> None:
        import pyarrow.parquet as parquet

        with reading(path, Format.PARQUET):
            meta = parquet.read_metadata(path)
        super().__init__((meta.num_rows, len(columns)), dtype)
        self._path, self._columns = path, columns
        self._ends = np.cumsum([meta.row_group(i).num_rows for i in range(meta.num_row_groups)])

    def read(self, start: int, stop: int) -> np.ndarray:
        import pyarrow.parquet as parquet

        first, last = np.searchsorted(self._ends, [start, max(start, stop - 1)], side="right")
        begin = int(self._ends[first - 1]) if first else 0
        with reading(self._path, Format.PARQUET), parquet.ParquetFile(self._path) as file:
            table = file.read_row_groups(list(range(first, last + 1)), self._columns).slice(start - begin, stop - start)
            return np.column_stack([np.asarray(column.to_numpy(), self.dtype) for column in table.columns])
