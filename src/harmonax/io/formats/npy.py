""".npy: one NumPy array, without names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...errors import FileFormatError
from ...inputs.rows import Rows, slabs
from .contract import BareFormat, BareTable, Reading, reading


class NpyFormat(BareFormat):
    """NumPy's own format."""

    named: ClassVar[bool] = False

    def read(self, path: Path) -> BareTable:
        # Pickled objects could run anything.
        array = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise FileFormatError(f"{path} is an archive of several arrays (.npz); save one array")
        return BareTable(array)

    def rows(self, path: Path, how: Reading) -> BareTable | None:
        rows = NpyRows.find(path)
        return BareTable(rows) if rows is not None and how.in_pieces(rows) else None

    def write(self, part: Path, table: BareTable, *, compress: bool) -> None:
        Z = table.Z
        with open(part, "wb") as file:
            # Not np.save: where the disk is full it forgets to say so.
            header = {"descr": np.dtype(Z.dtype).str, "fortran_order": False, "shape": tuple(Z.shape)}
            np.lib.format.write_array_header_1_0(file, header)
            for _, rows in slabs(Z):
                file.write(np.ascontiguousarray(rows).data)


class NpyRows(Rows):
    """The rows of a .npy file, one after another."""

    def __init__(self, path: Path, shape: tuple[int, int], dtype: Any, offset: int) -> None:
        super().__init__(shape, dtype)
        self._path, self._offset = path, offset

    @classmethod
    def find(cls, path: Path) -> NpyRows | None:
        """Return the rows of a file; None where it does not hold a table of numbers row by row."""
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, columns_first, dtype = read(file)
            if columns_first or len(shape) != 2 or dtype.hasobject:
                return None
            return cls(path, shape, dtype, file.tell())

    def read(self, start: int, stop: int) -> np.ndarray:
        d = self.shape[1]
        with reading(self._path, NPY):
            at = self._offset + start * d * self.dtype.itemsize
            values = np.fromfile(self._path, self.dtype, (stop - start) * d, offset=at)
            return values.reshape(stop - start, d)


NPY = NpyFormat(".npy")
