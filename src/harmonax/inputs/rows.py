"""Rows of an embedding that is not in memory, and any embedding piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


class Rows:
    """An embedding (N, d) that is not in memory and gives its rows as ``rows[start:stop]``."""

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
