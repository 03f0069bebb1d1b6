"""The numbers of an embedding: which of them cannot be corrected, and their hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..design import BatchDesign
from ..errors import InputError

# Rows that are looked at together.
CHECK_ROWS = 1 << 16
# Squares of values up to here, summed over the features, stay finite in float32.
_LARGEST = 1e15
# ... and from here on do not vanish.
_SMALLEST = 1e-15


def check_shape(shape: tuple[int, ...], what: str = "the embedding", least: int = 2) -> None:
    """Refuse a shape that is not (cells, features) of at least so many cells."""
    if len(shape) != 2:
        raise InputError(f"{what} has shape {shape}; allowed is (cells, features)")
    if shape[0] < least:
        raise InputError(f"{what} has {shape[0]} cells; at least {least} {'is' if least == 1 else 'are'} needed")
    if shape[1] == 0:
        raise InputError(f"{what} has no features")


def check_real(dtype: Any, what: str = "the embedding") -> None:
    """Refuse what is not made of real numbers."""
    if np.dtype(dtype).kind not in "fiub":
        raise InputError(f"{what} has dtype {dtype}; allowed are real numbers")


class ValueCheck:
    """Checks the values of an embedding piece by piece, in order, and feeds them to a hash; see `begin_digest`.

    `what` and `cells` are what messages call the embedding, and the names of its cells.
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


def end_digest(digest: Any, design: BatchDesign, covariates: np.ndarray | None = None) -> str:
    """Return the hash of what a result depends on: embedding, labels and covariates, not the file around them."""
    digest = digest.copy()
    said = [design.variables, design.levels, design.joint_levels.tolist()]
    digest.update(json.dumps(said + ([design.reference] if design.reference else [])).encode())
    digest.update(np.ascontiguousarray(design.joint))
    if covariates is not None:
        digest.update(json.dumps(design.covariates).encode())
        digest.update(np.ascontiguousarray(covariates))
    return digest.hexdigest()


def data_hash(Z: np.ndarray, design: BatchDesign) -> str:
    """Return that hash of an embedding in memory."""
    digest = begin_digest(Z.dtype, Z.shape)
    for start in range(0, len(Z), CHECK_ROWS):
        digest.update(np.ascontiguousarray(Z[start : start + CHECK_ROWS]))
    return end_digest(digest, design)
