"""Where the numbers of a figure come from: an AnnData that has them, or the object that a call returned."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..adata import uns_record
from ..errors import InputError, MissingKeyError, nearest
from ..inputs.expression import dense
from ..result import HarmonyResult

CORRECT = "harmonax.pp.harmony_integrate(adata, batch_key)"


def harmony_record(source: Any, key: str = "harmonax") -> dict[str, Any]:
    """Return the record of a run: that of a result, or the one in ``uns``."""
    # What `run_harmony` returns has it as `details`.
    source = getattr(source, "details", source)
    if isinstance(source, HarmonyResult):
        return uns_record(source, "", "")
    return dict(stored(source, key, CORRECT))


def stored(adata: Any, key: str, made_by: str) -> Any:
    """Return an entry of ``adata.uns``."""
    if not hasattr(adata, "uns"):
        raise InputError(f"a {type(adata).__name__} holds no results; pass an AnnData, or what {made_by} returned")
    if key not in adata.uns:
        raise MissingKeyError(f"uns has no '{key}'; it is made by {made_by}")
    return adata.uns[key]


def part(entry: Any, name: str, made_by: str) -> Any:
    """Return one part of a stored entry, or of the object that holds the same."""
    value = entry.get(name) if hasattr(entry, "get") else getattr(entry, name, None)
    if value is None:
        raise MissingKeyError(f"there is no '{name}' in a {type(entry).__name__}; it is made by {made_by}")
    return value


def points(adata: Any, basis: str) -> np.ndarray:
    """Return the first two columns of an embedding, (N, 2); "umap" is short for "X_umap", as in scanpy."""
    if basis not in adata.obsm and f"X_{basis}" not in adata.obsm:
        raise MissingKeyError(f"obsm has no '{basis}'; {nearest(basis, adata.obsm.keys())}")
    xy = dense(adata.obsm[basis if basis in adata.obsm else f"X_{basis}"], np.float64)
    if xy.ndim != 2 or xy.shape[1] < 2:
        raise InputError(f"obsm['{basis}'] has shape {xy.shape}; a figure needs two columns")
    if not np.isfinite(xy[:, :2]).all(axis=1).any():
        raise InputError(f"obsm['{basis}'] has no cell with finite coordinates")
    return xy[:, :2]
