"""Bare embeddings, and the tables with the batch columns of their cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..errors import InputError, MissingKeyError, nearest
from .formats import TABLES, BareFormat, Reading, format_of, reading
from .formats.tabular import split_names
from .source import Source


def read_bare(path: Path, kind: BareFormat, keys: Sequence[str], metadata: Path, how: Reading) -> Source:
    """Read an embedding and the batch columns of its cells from a second file."""
    table, labels = _read_metadata(metadata, keys)
    with reading(path, kind):
        left = kind.rows(path, how) if how.up_to is not None else None
        found = left if left is not None else kind.read(path)
    Z, names = found.Z, found.names
    notes: tuple[str, ...] = ()
    if names is not None and labels is not None:
        table, notes = _join(table, labels, names, path, metadata)
    elif Z.shape and len(Z) != len(table):
        raise InputError(
            f"{path} has {len(Z)} cells but {metadata} has {len(table)} rows; without cell names in both "
            "(a first column of text) they must agree"
        )
    elif kind.named and (names is None) != (labels is None):
        notes = (f"only one of {path} and {metadata} has cell names: their rows are taken to be in the same order",)
    known = names if names is not None else labels
    table = table.set_axis(known if known is not None else pd.RangeIndex(len(table)), axis=0)
    return Source(path, kind, Z, table, known is not None, found.features, notes)


def _read_metadata(path: Path, keys: Sequence[str]) -> tuple[pd.DataFrame, pd.Index | None]:
    kind = format_of(path, TABLES)
    with reading(path, kind):
        frame = kind.table(path)
    columns = [str(c) for c in frame.columns]
    for key in keys:
        if key not in columns:
            raise MissingKeyError(f"{path} has no column '{key}'; {nearest(key, columns)}")
    # A table of nothing but labels begins with one of them.
    by_position = isinstance(frame.index, pd.RangeIndex) and columns[0] in keys
    labels = None if by_position else split_names(frame, path)[1]
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
