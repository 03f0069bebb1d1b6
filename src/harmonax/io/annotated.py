"""AnnData on disk: one entry of obsm and some columns of obs, never X."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import FileFormatError, MissingKeyError, nearest
from ..inputs.embedding import either_spelling
from ..inputs.expression import dense
from ..inputs.values import check_real
from .formats import AnnotatedFormat, Reading, reading
from .source import Source


def read_annotated(path: Path, kind: AnnotatedFormat, keys: Sequence[str], basis: str, how: Reading) -> Source:
    """Read ``obsm[basis]`` and the batch columns of an AnnData file."""
    with reading(path, kind), kind.open(path) as root:
        for part in ("obs", "obsm"):
            if part not in root:
                raise FileFormatError(f"{path} is not an AnnData file: it has no '{part}'")
            if not hasattr(root[part], "keys"):
                raise FileFormatError(f"{path} was written by anndata before 0.7; read and write it again with anndata")
        bases = sorted(root["obsm"].keys())
        basis = either_spelling(bases, basis)
        if basis not in bases:
            raise MissingKeyError(f"{path}: obsm has no basis '{basis}'; {nearest(basis, bases)}")
        element = root["obsm"][basis]
        if how.in_pieces(element):
            table, named = read_obs(path, root["obs"], keys, names=how.names), how.names
            return _agreeing(Source(path, kind, kind.rows(path, basis, element), table, named), basis)
        table = read_obs(path, root["obs"], keys)
        Z, features = _as_matrix(_read(element))
    return _agreeing(Source(path, kind, Z, table, named=True, features=features), basis)


def _agreeing(source: Source, basis: str) -> Source:
    shape, n_cells = source.Z.shape, len(source.table)
    if shape and shape[0] != n_cells:
        raise FileFormatError(
            f"{source.path}: obsm['{basis}'] has {shape[0]} rows but obs has {n_cells}; they must agree"
        )
    return source


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what anndata and zarr announce about their own formats, older and coming."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def nullable_strings() -> Iterator[None]:
    """Let anndata write the string columns that it just read, which some versions refuse by default."""
    import anndata

    if "allow_write_nullable_strings" not in dir(anndata.settings):
        yield
        return
    with anndata.settings.override(allow_write_nullable_strings=True):
        yield


def _read(element: Any) -> Any:
    from anndata.io import read_elem

    with quiet():
        return read_elem(element)


def read_obs(path: Path, obs: Any, keys: Sequence[str], *, names: bool = True) -> pd.DataFrame:
    """Read these columns of obs, indexed by the cells' names or by 0..N-1."""
    columns = [str(c) for c in obs.attrs["column-order"]]
    for key in keys:
        if key not in columns:
            raise MissingKeyError(f"{path}: obs has no column '{key}'; {nearest(key, columns)}")
    if obs.attrs.get("encoding-version") == "0.1.0":
        # Older categories lie beside the columns and are put together only when obs is read as a whole.
        return _read(obs)[list(keys)]
    known = obs[obs.attrs["_index"]]
    # A hundred million names would take more memory than all else.
    # Newer text that may be missing is a group of values and a mask.
    n_cells = (known["values"] if hasattr(known, "keys") else known).shape[0]
    index = pd.Index(_strings(_read(known))).astype(str) if names else pd.RangeIndex(n_cells)
    # A repeated key is for the design to refuse.
    read = {key: _strings(_read(obs[key])) for key in keys}
    for key, values in read.items():
        if len(values) != len(index):
            raise FileFormatError(f"{path}: obs['{key}'] has {len(values)} rows but there are {len(index)} cells")
    return pd.DataFrame(read, index=index)


def _strings(values: Any) -> Any:
    """Return NumPy's own strings, which zarr 3 reads and pandas does not know, as objects; all else as it is."""
    return values.astype(object) if isinstance(values, np.ndarray) and values.dtype.kind == "T" else values


def _as_matrix(value: Any) -> tuple[np.ndarray, list[str] | None]:
    array = dense(value)
    check_real(array.dtype, "the basis")
    return array, [str(c) for c in value.columns] if isinstance(value, pd.DataFrame) else None
