"""Sparse matrices whose arrays fit together, in memory and in files: compiled code follows every index it is given."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from ..errors import FileFormatError

# Stored values whose indices are read at a time.
_BLOCK = 1 << 24


def intact(X: Any, what: str = "the expression") -> Any:
    """Return what it is given; refuse a sparse matrix whose indices lead outside of it.

    Raises
    ------
    FileFormatError
        If its arrays do not fit together.

    Examples
    --------
    >>> intact(sparse.csr_matrix([[0, 1], [2, 0]])).nnz
    2
    """
    if sparse.issparse(X) and X.format in ("csr", "csc"):
        try:
            # A second one of the same arrays, since the check may put the one that it is asked of in order.
            type(X)((X.data, X.indices, X.indptr), shape=X.shape).check_format(full_check=True)
        except ValueError as error:
            raise FileFormatError(f"{what} is a damaged sparse matrix: {str(error).splitlines()[0]}") from None
    return X


def check_stored(group: Any, n_outer: int, n_inner: int, what: str) -> None:
    """Refuse a sparse matrix in a file, block by block, whose arrays do not fit together.

    Parameters
    ----------
    group
        Of HDF5 or Zarr, with ``data``, ``indices`` and ``indptr``.
    n_outer, n_inner
        Rows and columns of CSR; columns and rows of CSC.
    what
        What the message calls it.

    Raises
    ------
    FileFormatError
        If an index leads outside of the matrix, or the arrays have other lengths than they must.
    """
    data, indices, indptr = (group[name] for name in ("data", "indices", "indptr"))
    starts = np.asarray(indptr[:])
    if starts.dtype.kind not in "iu" or indices.dtype.kind not in "iu" or starts.ndim != 1 or len(indices.shape) != 1:
        raise FileFormatError(f"{what} is a damaged sparse matrix: its indices are not whole numbers in one dimension")
    ends_well = len(starts) == n_outer + 1 and starts[0] == 0 and starts[-1] == indices.shape[0] == data.shape[0]
    if not ends_well or (starts[1:] < starts[:-1]).any():
        raise FileFormatError(f"{what} is a damaged sparse matrix: its indptr does not fit the other arrays")
    for begin in range(0, indices.shape[0], _BLOCK):
        block = np.asarray(indices[begin : begin + _BLOCK])
        if block.min() < 0 or block.max() >= n_inner:
            raise FileFormatError(f"{what} is a damaged sparse matrix: an index leads outside of its {n_inner} places")


def check_matrix_market(path: Path) -> None:
    """Refuse a Matrix Market file (.mtx, gzipped or not) whose body has anything but numbers in it.

    SciPy's reader ends the process at some other bytes.
    """
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        line = file.readline()
        while line.startswith(b"%"):
            line = file.readline()
        while line:
            if line.translate(None, b"0123456789+-.eEnNaAiIfF \t\r\n"):
                raise FileFormatError(f"{path} is damaged: there are other characters than numbers in it")
            line = file.read(1 << 20)
