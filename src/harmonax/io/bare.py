"""Bare embeddings and their metadata tables: .csv, .tsv (.gz), .parquet, .npy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import FileFormatError, InputError, MissingExtraError, MissingKeyError, nearest
from .formats import TABLES, Format, format_of, gzipped
from .rows import NpyRows, ParquetRows
from .source import Reading, Source, reading

# Every number as it is written; from 3.1 on pandas reads no other way, and warns where one asks for this.
_EXACT: dict[str, Any] = (
    {"float_precision": "round_trip"} if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1) else {}
)


def read_bare(path: Path, kind: Format, keys: Sequence[str], metadata: Path, how: Reading) -> Source:
    """Read an embedding and the batch columns of its cells from a second file."""
    table, labels = _read_metadata(metadata, keys)
    names: pd.Index | None = None
    features: list[str] | None = None
    if kind is Format.NPY:
        Z = _read_npy(path, how)
    elif kind is Format.PARQUET and (left := _left_in_parquet(path, how)) is not None:
        Z, names, features = left
    else:
        frame, names = _split_names(_read_table(path, kind), path)
        Z, features = _numbers(frame, path), [str(c) for c in frame.columns]
    notes: tuple[str, ...] = ()
    if names is not None and labels is not None:
        table, notes = _join(table, labels, names, path, metadata)
    elif Z.shape and len(Z) != len(table):
        raise InputError(
            f"{path} has {len(Z)} cells but {metadata} has {len(table)} rows; without cell names in both "
            "(a first column of text) they must agree"
        )
    elif kind is not Format.NPY and (names is None) != (labels is None):
        notes = (f"only one of {path} and {metadata} has cell names: their rows are taken to be in the same order",)
    known = names if names is not None else labels
    table = table.set_axis(known if known is not None else pd.RangeIndex(len(table)), axis=0)
    return Source(path, kind, Z, table, known is not None, features, notes)


def _read_npy(path: Path, how: Reading) -> Any:
    rows = NpyRows.find(path) if how.up_to is not None else None
    if rows is not None and how.in_pieces(rows):
        return rows
    with reading(path, Format.NPY):
        # Pickled objects could run anything.
        array = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise FileFormatError(f"{path} is an archive of several arrays (.npz); save one array")
        return array


def _read_table(path: Path, kind: Format) -> pd.DataFrame:
    with reading(path, kind):
        if kind is Format.PARQUET:
            return _read_parquet(path)
        separator = "," if kind is Format.CSV else "\t"
        compression = "gzip" if gzipped(path) else None
        # low_memory would guess types chunk by chunk, and make two levels of one label.
        frame = pd.read_csv(path, sep=separator, compression=compression, low_memory=False, **_EXACT)
    if _is_data([str(c) for c in frame.columns]):
        raise FileFormatError(f"{path} begins with numbers; its first line must name the columns")
    return frame


def _read_parquet(path: Path) -> pd.DataFrame:
    _need_parquet()
    return pd.read_parquet(path, engine="pyarrow")


def _split_names(frame: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, pd.Index | None]:
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


def _left_in_parquet(path: Path, how: Reading) -> tuple[ParquetRows, pd.Index | None, list[str]] | None:
    """Return the rows of a file that is not to be read at once, with the cells' names; None where it is."""
    if how.up_to is None:
        return None
    _need_parquet()
    import pyarrow.parquet as parquet

    with reading(path, Format.PARQUET):
        # The first rows tell which columns are names.
        head = next(parquet.ParquetFile(path).iter_batches(batch_size=100), None)
        frame = head.to_pandas() if head is not None else pd.DataFrame()
    numbers, names = _split_names(frame, path)
    features = [str(c) for c in numbers.columns]
    kinds = {column.dtype for _, column in numbers.items()}
    if not kinds or not all(isinstance(kind, np.dtype) and kind.kind in "fiu" for kind in kinds):
        return None
    rows = ParquetRows(path, features, np.float32 if kinds == {np.dtype(np.float32)} else np.float64)
    if not how.in_pieces(rows):
        return None
    if names is not None:
        with reading(path, Format.PARQUET):
            others = [c for c in parquet.read_schema(path).names if c not in features]
            found = parquet.read_table(path, columns=others[:1]).to_pandas()
        names = found.index.astype(str) if found.shape[1] == 0 else pd.Index(found.iloc[:, 0].astype(str))
    return rows, names, features


def _need_parquet() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise MissingExtraError("Parquet files need pyarrow: pip install 'harmonax[parquet]'") from None


def _numbers(frame: pd.DataFrame, path: Path) -> np.ndarray:
    for name, column in frame.items():
        if not pd.api.types.is_numeric_dtype(column.dtype):
            wrong = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
            raise InputError(
                f"{path}: column '{name}' does not hold numbers only (first: '{[*wrong, 'nothing'][0]}'); "
                "an embedding has at most one column of cell names, the first, and then numbers"
            )
    return frame.to_numpy(dtype=np.float32 if (frame.dtypes == np.float32).all() else np.float64, na_value=np.nan)


def _read_metadata(path: Path, keys: Sequence[str]) -> tuple[pd.DataFrame, pd.Index | None]:
    frame = _read_table(path, format_of(path, TABLES))
    columns = [str(c) for c in frame.columns]
    for key in keys:
        if key not in columns:
            raise MissingKeyError(f"{path} has no column '{key}'; {nearest(key, columns)}")
    # A table of nothing but labels begins with one of them.
    by_position = isinstance(frame.index, pd.RangeIndex) and columns[0] in keys
    labels = None if by_position else _split_names(frame, path)[1]
    return frame[list(dict.fromkeys(keys))], labels


def _join(
    table: pd.DataFrame, labels: pd.Index, names: pd.Index, path: Path, metadata: Path
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Put the rows of the metadata in the order of the embedding's cells."""
    if labels.equals(names):
        return table, ()
    lost = names[~names.isin(labels)]
    if len(lost):
        raise InputError(
            f"{len(lost)} of the {len(names)} cells of {path} are not in the first column of {metadata} "
            f"(first: '{lost[0]}')" + (f"; there the names look like '{labels[0]}'" if len(labels) else "")
        )
    for index, where in ((labels, metadata), (names, path)):
        if not index.is_unique:
            twice = index[index.duplicated()][0]
            raise InputError(f"{where}: the cell name '{twice}' occurs more than once; cells are matched by name")
    spare = len(labels) - len(names)
    notes = (f"{metadata}: {spare} rows belong to no cell of {path} and are left out",) if spare else ()
    return table.iloc[labels.get_indexer(names)], notes


def _is_data(columns: list[str]) -> bool:
    """Return whether a first line is data: numbers after its first field, but not columns counted 0, 1, 2, ..."""
    try:
        values = np.array([float(c) for c in columns[1:] or columns])
    except ValueError:
        return False
    return len(values) > 0 and not (values[0] in (0, 1, 2) and np.all(np.diff(values) == 1))
