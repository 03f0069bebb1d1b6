"""Expression that is not in memory: Dask arrays, cell by cell in pieces."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from ..system.extras import need
from .sparse import intact

# Parts that are added in one go.
_FAN_IN = 4


def is_lazy(X: Any) -> bool:
    """Return whether a matrix is a Dask array."""
    # Whoever made one has imported Dask.
    dask = sys.modules.get("dask.array")
    return dask is not None and isinstance(X, dask.Array)


def per_piece(X: Any, function: Callable[..., Any], *more: Any) -> list[Any]:
    """Return what a function makes of each piece, in the order of the cells."""
    dask = need("dask", "dask")
    whole = X.rechunk({1: -1})
    do = dask.delayed(function, pure=False)
    return list(dask.compute(*(do(piece, *more) for piece in whole.to_delayed().ravel())))


def summed(X: Any, function: Callable[..., Any], *more: Any) -> Any:
    """Return the sum of what a function makes of each piece, a few of them in memory at a time."""
    dask = need("dask", "dask")
    do, add = dask.delayed(function, pure=False), dask.delayed(sum, pure=False)
    parts = [do(piece, *more) for piece in X.rechunk({1: -1}).to_delayed().ravel()]
    while len(parts) > 1:
        parts = [add(parts[i : i + _FAN_IN]) for i in range(0, len(parts), _FAN_IN)]
    return parts[0].compute()


def as_csr(X: Any) -> Any:
    """Return a Dask array of counts as scanpy wants it: float32, CSR, pieces of whole cells; nothing is read yet."""
    empty = sparse.csr_matrix((0, 0), dtype=np.float32)
    return X.rechunk({1: -1}).map_blocks(_csr, dtype=np.float32, meta=empty)


def _csr(piece: Any) -> sparse.csr_matrix:
    made = sparse.csr_matrix(intact(piece), dtype=np.float32)
    # What came may be another's.
    made = made.copy() if made is piece else made
    made.sum_duplicates()
    made.eliminate_zeros()
    return made
