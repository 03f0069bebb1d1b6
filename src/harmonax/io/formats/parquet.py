""".parquet: a table stored by columns; needs pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...errors import MissingExtraError
from ...inputs.rows import Rows
from .contract import BareTable, Reading, reading
from .tabular import TableFormat, frames, split_names


class ParquetFormat(TableFormat):
    """Parquet, read and written by pyarrow."""

    def check_installed(self) -> None:
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise MissingExtraError("Parquet files need pyarrow: pip install 'harmonax[parquet]'") from None

    def table(self, path: Path) -> pd.DataFrame:
        self.check_installed()
        return pd.read_parquet(path, engine="pyarrow")

    def rows(self, path: Path, how: Reading) -> BareTable | None:
        self.check_installed()
        import pyarrow.parquet as parquet

        # The first rows tell which columns are names.
        head = next(parquet.ParquetFile(path).iter_batches(batch_size=100), None)
        frame = head.to_pandas() if head is not None else pd.DataFrame()
        numbers, names = split_names(frame, path)
        features = [str(c) for c in numbers.columns]
        kinds = {column.dtype for _, column in numbers.items()}
        if not kinds or not all(isinstance(kind, np.dtype) and kind.kind in "fiu" for kind in kinds):
            return None
        rows = ParquetRows(path, features, np.float32 if kinds == {np.dtype(np.float32)} else np.float64)
        if not how.in_pieces(rows):
            return None
        if names is not None:
            others = [c for c in parquet.read_schema(path).names if c not in features]
            found = parquet.read_table(path, columns=others[:1]).to_pandas()
            names = found.index.astype(str) if found.shape[1] == 0 else pd.Index(found.iloc[:, 0].astype(str))
        return BareTable(rows, names, features)

    def write(self, part: Path, table: BareTable, *, compress: bool) -> None:
        import pyarrow
        import pyarrow.parquet as parquet

        writer = None
        try:
            for frame in frames(table):
                columns = pyarrow.Table.from_pandas(frame, preserve_index=table.names is not None)
                writer = writer or parquet.ParquetWriter(part, columns.schema)
                writer.write_table(columns)
        finally:
            if writer is not None:
                writer.close()


class ParquetRows(Rows):
    """Columns of a .parquet file, read by row groups."""

    def __init__(self, path: Path, columns: list[str], dtype: Any) -> None:
        import pyarrow.parquet as parquet

        meta = parquet.read_metadata(path)
        super().__init__((meta.num_rows, len(columns)), dtype)
        self._path, self._columns = path, columns
        self._ends = np.cumsum([meta.row_group(i).num_rows for i in range(meta.num_row_groups)])

    def read(self, start: int, stop: int) -> np.ndarray:
        import pyarrow.parquet as parquet

        first, last = np.searchsorted(self._ends, [start, max(start, stop - 1)], side="right")
        begin = int(self._ends[first - 1]) if first else 0
        with reading(self._path, PARQUET), parquet.ParquetFile(self._path) as file:
            table = file.read_row_groups(list(range(first, last + 1)), self._columns).slice(start - begin, stop - start)
            return np.column_stack([np.asarray(column.to_numpy(), self.dtype) for column in table.columns])


PARQUET = ParquetFormat(".parquet")
