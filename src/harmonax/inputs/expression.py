"""Expression as users have it: made dense, where the raw counts are, and whether they are counts."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from ..errors import InputError, MissingKeyError, nearest
from .lazy import as_csr, is_lazy, per_piece
from .sparse import intact

if TYPE_CHECKING:
    from anndata import AnnData

_BLOCK = 1 << 24
# float32 holds whole numbers up to here.
_EXACT = 1 << 24


class Kind(StrEnum):
    """What a matrix holds, by its numbers."""

    COUNTS = "counts"
    POSITIVE = "values that are not whole numbers"
    NEGATIVE = "negative values"
    BROKEN = "NaN or infinity"
    NOTHING = "nothing"


def kind_of(X: Any) -> Kind:
    """Return what the numbers of a matrix, dense or sparse, are.

    Examples
    --------
    >>> kind_of(np.array([[0, 2], [1, 0]])), kind_of(np.log1p([[0, 2], [1, 0]]))
    (<Kind.COUNTS: 'counts'>, <Kind.POSITIVE: 'values that are not whole numbers'>)
    """
    if X is None or not X.shape[1]:
        return Kind.NOTHING
    if is_lazy(X):
        found = set(per_piece(X, kind_of))
        return next(kind for kind in (Kind.BROKEN, Kind.NEGATIVE, Kind.POSITIVE, Kind.COUNTS) if kind in found)
    values = np.asarray(X.data if sparse.issparse(X) else X).reshape(-1)
    whole = True
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        if block.dtype.kind not in "fiub":
            raise InputError(f"the expression matrix holds {block.dtype}; it must hold real numbers")
        if not np.isfinite(block).all():
            return Kind.BROKEN
        if (block < 0).any():
            return Kind.NEGATIVE
        whole = whole and (block.dtype.kind in "iub" or bool((block == np.floor(block)).all()))
    return Kind.COUNTS if whole else Kind.POSITIVE


def dense(X: Any, dtype: Any = None) -> np.ndarray:
    """Return expression as a dense array; a Dask array is computed, an array of that dtype is not copied.

    Examples
    --------
    >>> dense(sparse.csr_matrix([[0, 1], [2, 0]])).tolist()
    [[0, 1], [2, 0]]
    """
    X = X.compute() if hasattr(X, "compute") else X
    return np.asarray(intact(X).toarray() if is_sparse(X) else X, dtype)


def layer_of(adata: Any, layer: str | None, where: str = "layers") -> tuple[Any, str]:
    """Return a layer of an AnnData, or X, and what messages call it; `where` is what they call the layers."""
    if layer is None:
        return adata.X, "X"
    if layer not in adata.layers:
        raise MissingKeyError(f"{where} has no '{layer}'; {nearest(layer, adata.layers.keys())}")
    return adata.layers[layer], f"layers['{layer}']"


def is_sparse(X: Any) -> bool:
    """Return whether a matrix keeps its nonzero values only."""
    # anndata's views of dense arrays have the method too.
    return hasattr(X, "toarray") and not isinstance(X, np.ndarray)


def where_counts(adata: AnnData, asked: str | None, *, decimals: bool = False) -> str | None:
    """Return where the counts are: "X", "raw" or a name in layers; None where there are none.

    With `decimals` counts may have some; what was logged is none all the same.

    Raises
    ------
    MissingKeyError
        If the place that was asked for is not there.
    InputError
        If that place, or ``layers["counts"]``, does not hold counts.
    """
    allowed = (Kind.COUNTS, Kind.POSITIVE) if decimals else (Kind.COUNTS,)
    if asked is None and "counts" not in adata.layers:
        logged = decimals and "log1p" in adata.uns
        return "X" if kind_of(adata.X) in (allowed if not logged else allowed[:1]) else None
    place = asked if asked is not None else "counts"
    check_there(adata, place)
    kind = kind_of(matrix(adata, place))
    if kind not in allowed:
        raise not_counts(label(place), kind)
    return place


def check_there(adata: AnnData, place: str) -> None:
    """Refuse a place of counts, "X", "raw" or a name in layers, that is not there."""
    if place == "raw" and adata.raw is None:
        raise MissingKeyError("counts_layer='raw', but the file has no raw")
    if place not in ("X", "raw") and place not in adata.layers:
        raise MissingKeyError(f"layers has no '{place}'; {nearest(place, ['X', *adata.layers.keys()])}")


def not_counts(place: str, kind: Kind) -> InputError:
    """Return the refusal of a place that holds something else than counts."""
    return InputError(
        f"{place} should hold raw counts, but it has {kind}; --counts-layer names another place{_more(kind)}"
    )


def _more(kind: Kind) -> str:
    """Return how counts with decimals are run."""
    if kind is not Kind.POSITIVE:
        return ""
    return ", and decimals=True (--decimals) takes counts that have them (ambient RNA removed, EM counts, TPM)"


def matrix(adata: AnnData, place: str) -> Any:
    """Return the matrix at "X", "raw" (for the genes of X) or a name in layers."""
    if place == "X":
        return adata.X
    if place != "raw":
        return adata.layers[place]
    missing = ~adata.var_names.isin(adata.raw.var_names)
    if missing.any():
        raise InputError(f"raw lacks {int(missing.sum())} genes of X (first: '{adata.var_names[missing][0]}')")
    return adata.raw[:, adata.var_names].X


def label(place: str) -> str:
    """Return what messages call a place."""
    return place if place in ("X", "raw") else f"layers['{place}']"


def as_counts(X: Any) -> Any:
    """Return counts as scanpy wants them: CSR, float32 where that is exact; the same matrix where it is that."""
    if is_lazy(X):
        return as_csr(X)
    intact(X)
    highest = X.max() if X.shape[0] and X.shape[1] else 0
    dtype = np.float32 if highest < _EXACT else np.float64
    counts = sparse.csr_matrix(X, dtype=dtype)
    counts.sum_duplicates()
    counts.eliminate_zeros()
    return counts


def no_counts(adata: AnnData) -> InputError:
    """Return the refusal of data without counts, which says what there is instead."""
    kind = kind_of(adata.X)
    seen = {
        Kind.POSITIVE: f"X has {kind}: it looks normalised or log-transformed already",
        Kind.NEGATIVE: f"X has {kind}: it looks scaled or corrected already",
        Kind.BROKEN: f"X has {kind}",
        Kind.NOTHING: "there is no X",
    }[kind]
    others = [f"'{name}'" for name in adata.layers if name is not None]
    others += ["'raw'"] if adata.raw is not None else []
    there = f" (there is {', '.join(others)})" if others else ""
    return InputError(
        f"raw counts are needed, but {seen}. Put the counts in layers['counts'] or X, or name their place with "
        f"counts_layer (--counts-layer){there}{_more(kind)}; a file with obsm['X_pca'] needs none"
    )
