"""The expression in an AnnData file, left there and read in pieces of cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import FileFormatError, InputError, MissingKeyError, nearest
from ..inputs.features import COLUMNS
from ..inputs.sparse import check_stored, intact
from .annotated import quiet, read_obs
from .formats import AnnotatedFormat, reading


class StoredExpression:
    """X or a layer of a file, N cells x genes: ``[start:stop]`` gives rows as an array or a sparse matrix.

    Parameters
    ----------
    path, kind
        The file, .h5ad or .zarr.
    layer
        Instead of X.
    place
        Group of the file, where neither is meant.
    """

    def __init__(self, path: Path, kind: AnnotatedFormat, layer: str | None = None, place: str | None = None) -> None:
        self._path, self._kind = path, kind
        self._place = place or ("X" if layer is None else f"layers/{layer}")
        with reading(path, kind), kind.open(path) as root, quiet():
            if layer is not None and (("layers" not in root) or layer not in root["layers"]):
                there = sorted(root["layers"].keys()) if "layers" in root else []
                raise MissingKeyError(f"{path} has no layer '{layer}'; {nearest(layer, there)}")
            if self._place == "X" and not has_X(root):
                raise InputError(f"{path} has no X; name a layer, or an embedding that is projected already (--basis)")
            stored = self._open(root)
            self.shape = tuple(int(n) for n in stored.shape)
            # Rows of what is stored by columns come from all of it.
            if getattr(stored, "format", "") == "csc":
                check_stored(stored.group, self.shape[1], self.shape[0], str(path))

    def __getitem__(self, rows: slice | np.ndarray) -> Any:
        with reading(self._path, self._kind), self._kind.open(self._path) as root, quiet():
            stored = self._open(root)
            # Zarr takes lists of rows by another name.
            found = stored[rows] if isinstance(rows, slice) else getattr(stored, "oindex", stored)[rows]
            return intact(found, str(self._path))

    def _open(self, root: Any) -> Any:
        from anndata.io import sparse_dataset

        stored = root[self._place]
        return sparse_dataset(stored) if hasattr(stored, "keys") else stored


@dataclass(frozen=True, eq=False)
class StoredRaw:
    """What of an AnnData file's ``raw`` its totals are known from."""

    X: StoredExpression
    var_names: pd.Index


@dataclass(frozen=True, eq=False)
class StoredCells:
    """What of an AnnData file its principal components are known from; X stays there."""

    X: StoredExpression | None
    var: pd.DataFrame
    varm: dict[str, Any]
    obsm: dict[str, Any]
    raw: StoredRaw | None = None

    @property
    def var_names(self) -> pd.Index:
        return self.var.index


def stored_cells(path: Path, kind: AnnotatedFormat, obsm: dict[str, Any], loadings: str = "PCs") -> StoredCells:
    """Return the genes and loadings of a file, with these embeddings of it."""
    from anndata.io import read_elem

    with reading(path, kind), kind.open(path) as root, quiet():
        varm = root.get("varm", {})
        read = {name: read_elem(varm[name]) for name in (loadings,) if name in varm}
        var, present = read_elem(root["var"]), has_X(root)
        names = read_elem(root["raw/var"]).index if "raw" in root and has_X(root["raw"]) else None
    raw = None if names is None else StoredRaw(StoredExpression(path, kind, place="raw/X"), names)
    return StoredCells(StoredExpression(path, kind) if present else None, var, read, obsm, raw)


def has_X(root: Any) -> bool:
    """Return whether an AnnData file has an X; that of one without may be an element that stands for None."""
    return "X" in root and root["X"].attrs.get("encoding-type") != "null"


def read_expression(
    path: Path, kind: AnnotatedFormat, keys: Sequence[str], layer: str | None = None
) -> tuple[StoredExpression, pd.DataFrame, pd.DataFrame]:
    """Return the expression of a file, the names and kinds of its features, and these columns of obs of 0..N-1."""
    X = StoredExpression(path, kind, layer)
    with reading(path, kind), kind.open(path) as root, quiet():
        from anndata.io import read_elem

        if "obs" not in root or "var" not in root:
            raise FileFormatError(f"{path} is not an AnnData file: it has no obs and var")
        var = root["var"]
        names = [str(name) for name in np.asarray(read_elem(var[var.attrs["_index"]]), object)]
        kinds = {name: np.asarray(read_elem(var[name]), object) for name in COLUMNS if name in var}
        return (
            X,
            pd.DataFrame(kinds, index=pd.Index(names, dtype=object)),
            read_obs(path, root["obs"], keys, names=False),
        )
