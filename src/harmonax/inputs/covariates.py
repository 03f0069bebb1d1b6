"""Numeric covariates as users name them: columns of numbers, standardised once, that lie beside the embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..design import BatchDesign
from ..errors import InputError, MissingKeyError, nearest
from ..system.extras import need
from ..system.validate import listed
from . import arrays
from .columns import as_table
from .embedding import Kind, as_array, kind_of
from .rows import Rows


class Covariates(NamedTuple):
    """Numeric columns of N cells."""

    names: tuple[str, ...]
    values: np.ndarray  # (N, C) float64


def with_covariates(
    design: BatchDesign, Z: Any, batches: Any, covariates: Any, digest: Any = None
) -> tuple[BatchDesign, Any, np.ndarray]:
    """Return the design with covariates, the embedding with them as its last columns, and their values (N, C).

    `digest` is fed with the values of an embedding that is read in slices, without the covariates.
    """
    found = covariates if isinstance(covariates, Covariates) else read_covariates(covariates, batches)
    values = standardised(found, ~design.fixed[design.joint])
    if same := set(found.names) & set(design.variables):
        raise InputError(f"covariates: {', '.join(sorted(same))} is a batch variable, or protected")
    return replace(design, covariates=found.names), _beside(Z, values, digest), values


def read_covariates(covariates: Any, batches: Any = None) -> Covariates:
    """Read covariates: names of columns of the table `batches`, or numbers of their own.

    Raises
    ------
    MissingKeyError
        If a column is not there.
    InputError
        If a column is not of numbers, or has missing or infinite ones.
    """
    table = arrays.as_table(batches)
    names = [covariates] if isinstance(covariates, str) else covariates
    named = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    if named and isinstance(table, (pd.DataFrame, Mapping)):
        return numeric_columns(as_table(table), names, "batches")
    if named:
        raise InputError(f"covariates={covariates!r} names columns, but the batches are not a table; pass the numbers")
    given = arrays.as_table(covariates)
    if isinstance(given, (pd.DataFrame, Mapping)):
        given = as_table(given)
        return numeric_columns(given, given.columns.tolist(), "covariates")
    if isinstance(given, pd.Series) and given.name is not None:
        return numeric_columns(given.to_frame(), [given.name], "covariates")
    values = as_array(given, "covariates")
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2:
        raise InputError(f"covariates have shape {values.shape}; allowed are (cells,) or (cells, covariates)")
    plain = ["covariate"] if values.shape[1] == 1 else [f"covariate{i}" for i in range(values.shape[1])]
    return numeric_columns(pd.DataFrame(values, columns=plain), plain, "covariates")


def numeric_columns(table: pd.DataFrame, names: Any, where: str) -> Covariates:
    """Read columns of a table as covariates; `where` is what messages call the table."""
    names = listed(names)
    if not names:
        raise InputError("covariates names no column; leave it out, or name at least one")
    columns = []
    for name in names:
        if name not in table.columns:
            raise MissingKeyError(f"{where} has no column '{name}'; {nearest(str(name), map(str, table.columns))}")
        column = table[name]
        if names.count(name) > 1 or isinstance(column, pd.DataFrame):
            raise InputError(f"covariate '{name}' is there, or named, more than once")
        if not pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_complex_dtype(column.dtype):
            raise InputError(
                f"covariate '{name}' has dtype {column.dtype}; allowed are numbers: labels are for batch_key or protect"
            )
        values = column.to_numpy(np.float64, na_value=np.nan)
        if not np.isfinite(values).all():
            bad = np.flatnonzero(~np.isfinite(values))
            raise InputError(
                f"covariate '{name}' has NaN or infinite values in {len(bad)} cells (first: row {bad[0]}); remove or "
                "repair them"
            )
        columns.append(values)
    return Covariates(tuple(str(name) for name in names), np.column_stack(columns))


def standardised(covariates: Covariates, moves: np.ndarray) -> np.ndarray:
    """Return the values (N, C), each centred and of unit variance over the cells that may move, 0 for the others.

    Raises
    ------
    InputError
        If they are of other cells, or one has the same value in all cells that may move.
    """
    if len(covariates.values) != len(moves):
        raise InputError(
            f"covariates have {len(covariates.values)} cells but the batch labels have {len(moves)}; they must agree"
        )
    own = covariates.values[moves]
    # Scaled first: the square of a large number is infinite.
    size = np.abs(own).max(axis=0, initial=0.0)
    scaled = own / np.where(size > 0, size, 1.0)
    centred = scaled - scaled.mean(axis=0)
    spread = np.sqrt((centred**2).mean(axis=0))
    for name, width in zip(covariates.names, spread, strict=True):
        if width < 1e-7:
            raise InputError(f"covariate '{name}' has one value in all cells that may move: it explains nothing")
    out = np.zeros_like(covariates.values)
    out[moves] = centred / spread
    return out


def _beside(Z: Any, values: np.ndarray, digest: Any) -> Any:
    """Return an embedding with these columns after its own, wherever it is."""
    dtype = np.dtype(Z.dtype if np.dtype(Z.dtype).kind == "f" else np.float64)
    if kind_of(Z) is not Kind.DASK:
        return _Beside(Z, values, dtype, digest if kind_of(Z) is Kind.ROWS else None)
    da = need("dask.array", "dask")
    if any(np.isnan(n) for axis in Z.chunks for n in axis):
        # The cells say what to do.
        return Z
    Z = Z.rechunk({1: -1})
    return da.concatenate([Z, da.from_array(values.astype(dtype), (Z.chunks[0], -1))], axis=1).rechunk({1: -1})


class _Beside(Rows):
    def __init__(self, Z: Any, values: np.ndarray, dtype: np.dtype, digest: Any) -> None:
        super().__init__((Z.shape[0], Z.shape[1] + values.shape[1]), dtype)
        self._Z, self._values, self._digest = Z, values, digest

    def read(self, start: int, stop: int) -> np.ndarray:
        rows = np.asarray(self._Z[start:stop])
        if self._digest is not None:
            self._digest.update(np.ascontiguousarray(rows))
        return np.concatenate([rows, self._values[start:stop]], axis=1, dtype=self.dtype)
