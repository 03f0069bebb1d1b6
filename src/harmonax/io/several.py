"""Several AnnData files read as one, none of them joined with another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import InputError
from ..inputs.rows import Rows
from .formats import Reading, format_of
from .names import short_names
from .read import read_source
from .source import Source


def read_several(
    paths: Sequence[str], keys: Sequence[str], *, basis: str, from_file: str | None, how: Reading
) -> Source:
    """Read the same basis and batch columns of several files.

    Parameters
    ----------
    from_file
        Batch column that is made of the files' names.

    Raises
    ------
    InputError
        If a file is named twice, is not an AnnData file, or has another number of features.
    """
    places = [os.path.realpath(path) for path in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise InputError(f"{path} is given more than once")
        if not format_of(path).annotated:
            raise InputError(f"{path}: several inputs must be .h5ad or .zarr")
    own_keys = [key for key in keys if key != from_file]
    parts = [read_source(path, own_keys, basis=basis, how=how) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if np.ndim(part.Z) != 2 and len(part.Z.shape) != 2:
            raise InputError(f"{path}: obsm['{basis}'] has shape {part.Z.shape}; allowed is (cells, features)")
        if part.Z.shape[1] != parts[0].Z.shape[1]:
            raise InputError(
                f"{path}: obsm['{basis}'] has {part.Z.shape[1]} features but that of {paths[0]} has "
                f"{parts[0].Z.shape[1]}: one PCA of all cells is needed"
            )
    names = short_names(paths)
    tables = [part.table.copy(deep=False) for part in parts]
    if from_file is not None:
        for table, name in zip(tables, names, strict=True):
            table[from_file] = pd.Categorical([name], categories=names).repeat(len(table))
    named = all(part.named for part in parts)
    if named and not pd.Index(np.concatenate([table.index for table in tables])).is_unique:
        tables = [table.set_axis(table.index + "-" + name) for table, name in zip(tables, names, strict=True)]
    first = parts[0]
    return replace(
        first,
        Z=JoinedRows([part.Z for part in parts]),
        table=_joined(tables, [*own_keys, *([from_file] if from_file else [])], named),
        named=named,
        features=None,
        notes=tuple(note for part in parts for note in part.notes),
        parts=tuple(Path(path) for path in paths),
    )


class JoinedRows(Rows):
    """Embeddings one after another."""

    def __init__(self, parts: Sequence[Rows | np.ndarray]) -> None:
        super().__init__(
            (sum(part.shape[0] for part in parts), parts[0].shape[1]), np.result_type(*(part.dtype for part in parts))
        )
        self._parts, self._ends = parts, np.cumsum([part.shape[0] for part in parts])

    def read(self, start: int, stop: int) -> np.ndarray:
        out = np.empty((stop - start, self.shape[1]), self.dtype)
        for part, end in zip(self._parts, self._ends.tolist(), strict=True):
            begin = end - part.shape[0]
            lo, hi = max(start, begin), min(stop, end)
            if lo < hi:
                out[lo - start : hi - start] = part[lo - begin : hi - begin]
        return out


def _joined(tables: list[pd.DataFrame], keys: Sequence[str], named: bool) -> pd.DataFrame:
    """Put tables one after another; categories stay categories."""
    columns = {}
    for key in keys:
        own = [pd.Categorical(table[key]) for table in tables]
        columns[key] = pd.api.types.union_categoricals(own, ignore_order=True)
    index = pd.Index(np.concatenate([table.index for table in tables])) if named else None
    return pd.DataFrame(columns, index=index)
