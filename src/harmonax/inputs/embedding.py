"""An embedding as users have it, read once into a value that knows what it is; nobody asks the source again."""

from __future__ import annotations

import enum
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError, MissingKeyError, nearest
from .arrays import as_numpy, of_numbers
from .rows import slabs
from .sparse import intact
from .values import CHECK_ROWS, ValueCheck, begin_digest, check_real, check_shape

log = logging.getLogger("harmonax")


class Kind(enum.Enum):
    """Where the numbers of an embedding are."""

    ARRAY = "array"  # in memory, every value seen and found usable
    ROWS = "rows"  # elsewhere, read by slices: a data set of HDF5 or Zarr, a file; values are checked when read
    DASK = "dask"  # on the workers of a cluster


@dataclass(frozen=True, eq=False)
class Embedding:
    """An embedding (N, d) whose shape and type are known to be usable; `read_embedding` makes one."""

    # A float32 or float64 array for `Kind.ARRAY` (the user's own, not a copy, where it was one already); else what was
    # passed.
    source: Any = field(repr=False)
    kind: Kind  # where the numbers are
    came_as: np.dtype  # the dtype that was passed; `dtype` is that of the numbers in `source`
    # what, cells: what messages call the embedding, and the names of its cells.
    what: str = "the embedding"
    cells: Sequence[Any] | None = field(default=None, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        n_cells, n_features = self.source.shape
        return int(n_cells), int(n_features)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.source.dtype)

    @property
    def in_memory(self) -> bool:
        return self.kind is Kind.ARRAY

    def __len__(self) -> int:
        return self.shape[0]

    def chunks(self, slab_bytes: int = 32 << 20) -> Iterator[tuple[int, np.ndarray]]:
        """Give (start, rows) piece by piece; values that were not in memory are checked on the way."""
        check = None if self.in_memory else self.check()
        for start, rows in slabs(self.source, slab_bytes):
            if check is not None:
                check.add(rows)
            yield start, rows
        if check is not None:
            check.finish()

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Return some rows, by rising numbers."""
        return take_rows(self.source, numbers)

    def check(self, digest: Any = None) -> ValueCheck:
        """Return what looks at the values where they are read by others, and feeds them to a hash."""
        return ValueCheck(self.what, self.cells, digest)

    def digest(self) -> Any:
        """Return a SHA-256 of the values in memory; else one that is to be fed with them as they are read."""
        digest = begin_digest(self.came_as, self.shape)
        if self.kind is Kind.DASK:
            # Its name is a hash of how it is made.
            digest.update(self.source.name.encode())
        elif self.in_memory:
            for start in range(0, len(self), CHECK_ROWS):
                digest.update(np.ascontiguousarray(self.source[start : start + CHECK_ROWS]))
        return digest

    def load(self, digest: Any = None) -> Embedding:
        """Return the embedding in memory, each value read once, checked, and fed to the hash of `digest`."""
        if self.in_memory:
            return self
        array = _checked(as_array(self.source[:], self.what), self.check(digest))
        return Embedding(array, Kind.ARRAY, self.came_as, self.what, self.cells)

    def array(self) -> np.ndarray:
        """Return the embedding as an array in memory."""
        array: np.ndarray = self.load().source
        return array


def read_embedding(
    Z: Any, *, what: str = "the embedding", cells: Sequence[Any] | None = None, min_cells: int = 2
) -> Embedding:
    """Read what users pass as an embedding; refuse what cannot be corrected.

    What is in memory is checked here, value by value, and not copied where it is an array of float32 or float64; what
    is read by slices stays where it is. An `Embedding` is returned as it is.

    Parameters
    ----------
    Z
        Array, DataFrame (pandas, polars, pyarrow), sparse matrix, tensor (torch, cupy, JAX; without its gradient), Dask
        array, or what gives rows as ``Z[start:stop]``; (N, d).
    what, cells
        What messages call it, and the names of its cells.
    min_cells
        Refuse fewer cells.

    Examples
    --------
    >>> Z = read_embedding(np.ones((3, 2), np.float32), what="obsm['X_pca']")
    >>> Z.kind, Z.shape, Z.dtype
    (<Kind.ARRAY: 'array'>, (3, 2), dtype('float32'))
    """
    if isinstance(Z, Embedding):
        check_shape(Z.shape, Z.what, min_cells)
        return Z
    Z = as_numpy(Z, what)
    kind = kind_of(Z)
    if kind is Kind.ARRAY:
        array = as_array(Z, what)
        check_shape(array.shape, what, min_cells)
        return Embedding(_checked(array, ValueCheck(what, cells)), kind, array.dtype, what, cells)
    check_shape(tuple(Z.shape), what, min_cells)
    check_real(Z.dtype, what)
    return Embedding(Z, kind, np.dtype(Z.dtype), what, cells)


def either_spelling(there: Iterable[str], basis: str) -> str:
    """Return the name of an embedding among those that are there: "X_pca" finds "pca" and the reverse, with one note.

    Examples
    --------
    >>> either_spelling(["X_umap", "pca"], "X_pca"), either_spelling(["X_umap", "pca"], "umap")
    ('pca', 'X_umap')
    """
    if not isinstance(basis, str):
        return basis
    names = set(there)
    other = basis.removeprefix("X_") if basis.startswith("X_") else f"X_{basis}"
    if basis in names or other not in names:
        return basis
    log.info("obsm has no '%s'; its '%s' is taken", basis, other)
    return other


def read_obsm(adata: Any, basis: str, hint: str = "") -> Embedding:
    """Read ``adata.obsm[basis]``, in either spelling; `hint` ends the message where there is none."""
    basis = either_spelling(adata.obsm.keys(), basis)
    if basis not in adata.obsm:
        raise MissingKeyError(f"obsm has no '{basis}'; {nearest(basis, adata.obsm.keys())}{hint}")
    return read_embedding(adata.obsm[basis], what=f"obsm['{basis}']", cells=adata.obs_names)


def kind_of(Z: Any) -> Kind:
    """Return where the numbers of an embedding, or of a result, are."""
    if isinstance(Z, Embedding):
        return Z.kind
    if isinstance(Z, (np.ndarray, np.generic)) or hasattr(Z, "to_numpy") or hasattr(Z, "toarray"):
        return Kind.ARRAY
    if hasattr(Z, "__dask_graph__") and hasattr(Z, "chunks"):
        return Kind.DASK
    sliced = hasattr(Z, "shape") and hasattr(Z, "dtype") and hasattr(Z, "__getitem__")
    return Kind.ROWS if sliced else Kind.ARRAY


def take_rows(Z: Any, rows: np.ndarray) -> np.ndarray:
    """Return some rows of an embedding, by rising numbers, wherever it is."""
    if kind_of(Z) is Kind.ARRAY:
        array: np.ndarray = as_array(Z, "the embedding")[rows]
        return array
    found = []
    for start, piece in slabs(Z):
        lo, hi = np.searchsorted(rows, [start, start + len(piece)])
        found.append(piece[rows[lo:hi] - start])
    return np.concatenate(found)


def _checked(array: np.ndarray, check: ValueCheck) -> np.ndarray:
    """Return an array as float32 or float64, every value looked at."""
    if array.dtype not in (np.dtype("float32"), np.dtype("float64")):
        # float16 and byte-swapped float32 fit into float32, which is half the memory.
        array = array.astype(np.float32 if array.dtype.kind == "f" and array.itemsize <= 4 else np.float64)
    for start in range(0, len(array), CHECK_ROWS):
        check.add(array[start : start + CHECK_ROWS])
    check.finish()
    return array


def as_array(Z: Any, what: str) -> np.ndarray:
    """Return anything array-like as an array of real numbers."""
    try:
        if hasattr(Z, "to_numpy"):
            # pandas keeps its nullable numbers as objects by default.
            array = np.asarray(Z)
            nullable = array.dtype == object and isinstance(Z, (pd.DataFrame, pd.Series))
            array = Z.to_numpy(np.float64, na_value=np.nan) if nullable else array
        else:
            Z = as_numpy(Z, what)
            array = np.asarray(intact(Z, what).toarray() if hasattr(Z, "toarray") else Z)
        array = of_numbers(array, what)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} is not an array of numbers: {error}") from None
    check_real(array.dtype, what)
    return array
