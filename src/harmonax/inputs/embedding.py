"""Embeddings as users have them, checked: what cannot be corrected is refused with what to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..design import BatchDesign
from ..errors import InputError

_CHECK_ROWS = 1 << 16
# Squares of values up to here, summed over the features, stay finite in float32.
_LARGEST = 1e15
# ... and from here on do not vanish.
_SMALLEST = 1e-15


def check_embedding(
    Z: Any,
    what: str = "the embedding",
    cells: Sequence[Any] | None = None,
    digest: Any = None,
    least: int = 2,
) -> np.ndarray:
    """Return Z as a 2-D float array without copying one that is; refuse what cannot be corrected.

    Parameters
    ----------
    Z
        Array, DataFrame or sparse matrix, (N, d).
    what, cells
        What messages call it, and the names of its cells.
    digest
        A hash to be fed with the values; see `begin_digest`.
    least
        The fewest cells.
    """
    array = as_array(Z, what)
    check_shape(array.shape, what, least)
    if array.dtype not in (np.dtype("float32"), np.dtype("float64")):
        # float16 and byte-swapped float32 fit into float32, which is half the memory.
        array = array.astype(np.float32 if array.dtype.kind == "f" and array.itemsize <= 4 else np.float64)
    check = ValueCheck(what, cells, digest)
    for start in range(0, len(array), _CHECK_ROWS):
        check.add(array[start : start + _CHECK_ROWS])
    check.finish()
    return array


class Rows:
    """An embedding that is not in memory and gives its rows as ``rows[start:stop]``.

    Parameters
    ----------
    shape, dtype
        Of the whole embedding, (N, d).
    """

    def __init__(self, shape: tuple[int, int], dtype: Any) -> None:
        self.shape, self.dtype = (int(shape[0]), int(shape[1])), np.dtype(dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start..stop-1."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def astype(self, dtype: Any) -> Rows:
        """Return the same rows in another type of number."""
        return self if np.dtype(dtype) == self.dtype else _Cast(self, dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(len(self))
        return self.read(start, max(start, stop))[::step]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(0, len(self)), dtype)


class _Cast(Rows):
    def __init__(self, rows: Rows, dtype: Any) -> None:
        super().__init__(rows.shape, dtype)
        self._rows = rows

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._rows.read(start, stop).astype(self.dtype)


def slabs(Z: Any, slab_bytes: int = 32 << 20) -> Iterator[tuple[int, np.ndarray]]:
    """Give (start, rows) of an embedding piece by piece."""
    step = max(1, slab_bytes // max(1, Z.shape[1] * np.dtype(Z.dtype).itemsize))
    for start in range(0, Z.shape[0], step):
        yield start, np.asarray(Z[start : min(Z.shape[0], start + step)])


def take_rows(Z: Any, rows: np.ndarray) -> np.ndarray:
    """Return some rows of an embedding, by rising numbers, wherever it is."""
    if not is_sliced(Z):
        array: np.ndarray = as_array(Z, "the embedding")[rows]
        return array
    found = []
    for start, piece in slabs(Z):
        lo, hi = np.searchsorted(rows, [start, start + len(piece)])
        found.append(piece[rows[lo:hi] - start])
    return np.concatenate(found)


def is_dask(Z: Any) -> bool:
    """Return whether Z is a Dask array."""
    return hasattr(Z, "__dask_graph__") and hasattr(Z, "chunks")


def is_sliced(Z: Any) -> bool:
    """Return whether Z is read by slices from elsewhere, such as a data set of HDF5 or Zarr, rather than an array."""
    in_memory = isinstance(Z, (np.ndarray, np.generic)) or hasattr(Z, "to_numpy") or hasattr(Z, "toarray")
    return not in_memory and hasattr(Z, "shape") and hasattr(Z, "dtype") and hasattr(Z, "__getitem__")


def check_shape(shape: tuple[int, ...], what: str = "the embedding", least: int = 2) -> None:
    """Refuse a shape that is not (cells, features) of at least so many cells."""
    if len(shape) != 2:
        raise InputError(f"{what} has shape {shape}; allowed is (cells, features)")
    if shape[0] < least:
        raise InputError(f"{what} has {shape[0]} cells; at least {least} {'is' if least == 1 else 'are'} needed")
    if shape[1] == 0:
        raise InputError(f"{what} has no features")


class ValueCheck:
    """Looks at the values of an embedding piece by piece, in order.

    Parameters
    ----------
    what, cells
        What messages call the embedding, and the names of its cells.
    digest
        A hash to be fed with the values; see `begin_digest`.
    """

    def __init__(self, what: str, cells: Sequence[Any] | None = None, digest: Any = None) -> None:
        self.what, self.cells, self.digest = what, cells, digest
        self._seen = self._bad = 0
        self._first, self._largest = -1, 0.0

    def add(self, slab: np.ndarray) -> None:
        """Look at the next rows."""
        if self.digest is not None:
            self.digest.update(np.ascontiguousarray(slab))
        # One maximum settles most slabs without an N x d array; NaN and infinity pass through it.
        top = float(np.abs(slab).max(initial=0.0))
        if np.isfinite(top):
            self._largest = max(self._largest, top)
        else:
            rows = np.flatnonzero(~np.isfinite(slab).all(axis=1))
            self._bad += len(rows)
            self._first = self._seen + int(rows[0]) if self._first < 0 else self._first
        self._seen += len(slab)

    def merge(self, other: ValueCheck) -> None:
        """Take in what another has seen of the rows that follow."""
        if other._bad and self._first < 0:
            self._first = self._seen + other._first
        self._bad, self._seen = self._bad + other._bad, self._seen + other._seen
        self._largest = max(self._largest, other._largest)

    def finish(self) -> None:
        """Refuse values that cannot be corrected."""
        if self._bad:
            which = f"cell '{self.cells[self._first]}'" if self.cells is not None else f"row {self._first}"
            raise InputError(
                f"{self.what} has NaN or infinite values in {self._bad} cells (first: {which}); remove or repair them"
            )
        top = self._largest
        if top > _LARGEST:
            raise InputError(f"{self.what} has values up to {top:.1e}; allowed is up to {_LARGEST:.0e}: rescale it")
        if 0 < top < _SMALLEST:
            raise InputError(
                f"{self.what} has no value above {top:.1e}; allowed is from {_SMALLEST:.0e} on: rescale it"
            )


def begin_digest(dtype: Any, shape: tuple[int, ...]) -> Any:
    """Return a SHA-256 to be fed with the rows of an embedding; `end_digest` completes it."""
    return hashlib.sha256(f"{np.dtype(dtype).str} {tuple(shape)}\n".encode())


def end_digest(digest: Any, design: BatchDesign) -> str:
    """Return the hash of what a result depends on: embedding and batch labels, not the file around them."""
    digest = digest.copy()
    digest.update(json.dumps([design.variables, design.levels, design.joint_levels.tolist()]).encode())
    digest.update(np.ascontiguousarray(design.joint))
    return digest.hexdigest()


def data_hash(Z: np.ndarray, design: BatchDesign) -> str:
    """Return that hash of an embedding in memory."""
    digest = begin_digest(Z.dtype, Z.shape)
    for start in range(0, len(Z), _CHECK_ROWS):
        digest.update(np.ascontiguousarray(Z[start : start + _CHECK_ROWS]))
    return end_digest(digest, design)


def as_array(Z: Any, what: str) -> np.ndarray:
    """Return anything array-like as an array of real numbers."""
    try:
        if hasattr(Z, "to_numpy"):
            # pandas keeps its nullable numbers as objects unless told otherwise.
            array = np.asarray(Z)
            array = Z.to_numpy(np.float64, na_value=np.nan) if array.dtype == object else array
        else:
            array = np.asarray(Z.toarray() if hasattr(Z, "toarray") else Z)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} is not an array of numbers: {error}") from None
    if array.dtype.kind not in "fiub":
        raise InputError(f"{what} has dtype {array.dtype}; allowed are real numbers")
    return array
