"""Batch columns as users have them (pandas, arrays, dictionaries) to a `BatchDesign`, checked before any work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from .design import BatchDesign
from .errors import InputError, MissingKeyError, nearest

# A numeric column with more distinct values than this looks like a measurement.
_MOST_NUMERIC_LEVELS = 100
# Any column with more levels than this share of the cells looks like cell barcodes.
_MOST_LEVELS_SHARE = 0.5
# ... but only from this many levels on: tiny data may well have one-cell batches.
_BARCODE_LEVELS = 50


def design_from_table(
    table: pd.DataFrame,
    keys: str | Iterable[str],
    *,
    where: str = "obs",
    combine_keys: bool = False,
    missing: Literal["error", "level"] = "error",
    allow_many_levels: bool = False,
) -> BatchDesign:
    """Read batch columns of a table, one row per cell.

    Parameters
    ----------
    table
        One row per cell, such as ``adata.obs``.
    keys
        One column or several; several are separate batch variables unless `combine_keys`.
    where
        What messages call the table.
    combine_keys
        Join the columns into one variable with a level per observed combination.
    missing
        ``"error"``: refuse missing labels; ``"level"``: make them a level of their own, "missing".
    allow_many_levels
        Accept columns that look like measurements or cell barcodes.

    Raises
    ------
    MissingKeyError
        If a column is not there.
    InputError
        If a column has missing labels, or looks like a measurement or like cell barcodes.
    """
    names = [keys] if isinstance(keys, str) or not isinstance(keys, Iterable) else list(keys)
    if not names:
        raise InputError(f"no batch column given; name at least one column of {where}")
    if missing not in ("error", "level"):
        raise InputError(f"missing={missing!r} is not known; allowed are 'error', 'level'")
    known = [str(c) for c in table.columns]
    codes, levels = [], []
    for name in names:
        if name not in table.columns:
            raise MissingKeyError(f"{where} has no column '{name}'; {nearest(str(name), known)}")
        if names.count(name) > 1:
            raise InputError(f"batch column '{name}' is named more than once")
        column = table[name]
        if isinstance(column, pd.DataFrame):
            raise InputError(f"{where} has {column.shape[1]} columns called '{name}'; rename all but one")
        own_codes, own_levels = _encode(column, f"{where}['{name}']", missing, allow_many_levels)
        codes.append(own_codes)
        levels.append(own_levels)
    design = BatchDesign.from_codes(np.column_stack(codes), [str(n) for n in names], levels)
    return combined(design) if combine_keys and len(names) > 1 else design


def as_table(batches: Any, n_cells: int) -> pd.DataFrame:
    """Return batch labels given as a table, a mapping, a 1-D or 2-D array, or a list of arrays as one table."""
    if isinstance(batches, pd.DataFrame):
        table = batches
    elif isinstance(batches, Mapping):
        table = pd.DataFrame({k: np.asarray(v) if not isinstance(v, pd.Series) else v.array for k, v in batches.items()})
    elif isinstance(batches, (pd.Series, pd.Categorical, pd.Index)):
        table = pd.DataFrame({getattr(batches, "name", None) or "batch": pd.Series(batches).array})
    else:
        array = batches if isinstance(batches, np.ndarray) else _object_array(batches)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2:
            raise InputError(f"batches has shape {array.shape}; allowed are (cells,) or (cells, variables)")
        names = ["batch"] if array.shape[1] == 1 else [f"batch{i}" for i in range(array.shape[1])]
        table = pd.DataFrame({name: array[:, i] for i, name in enumerate(names)})
    if len(table) != n_cells:
        raise InputError(f"the embedding has {n_cells} cells but the batch labels have {len(table)}; they must agree")
    return table


def combined(design: BatchDesign) -> BatchDesign:
    """Return the design with its variables joined into one, a level per observed combination."""
    joined = [
        "|".join(design.levels[f][b - design.offsets[f]] for f, b in enumerate(row)) for row in design.joint_levels
    ]
    name = "+".join(design.variables)
    return BatchDesign.from_codes(design.joint, [name], [joined])


def _encode(column: pd.Series, label: str, missing: str, allow_many: bool) -> tuple[np.ndarray, Sequence[str]]:
    n = len(column)
    gaps = np.asarray(column.isna())
    if gaps.any() and missing == "error":
        first = column.index[int(np.argmax(gaps))]
        raise InputError(
            f"{label} has {int(gaps.sum())} missing values (first: cell '{first}'); "
            "fill them, drop those cells, or pass missing='level'"
        )
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, values = np.asarray(column.cat.codes, np.int64), column.cat.categories
        present = len(np.unique(codes[~gaps]))
        numeric = pd.api.types.is_numeric_dtype(values.dtype)
    else:
        numeric = pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)
        codes, values = _factorize(column)
        present = len(values)
    if not allow_many:
        _refuse_unlikely(label, n, present, numeric and not isinstance(column.dtype, pd.CategoricalDtype))
    names = [str(v) for v in values]
    if gaps.any():
        codes = np.where(gaps, len(names), codes)
        names.append("missing")
    return codes, names


def _factorize(column: pd.Series) -> tuple[np.ndarray, Sequence[Any]]:
    """Number the values in sorted order; labels of mixed types are compared as text."""
    try:
        codes, values = pd.factorize(column, sort=True)
    except TypeError:
        codes, values = pd.factorize(column.astype(object).where(column.isna(), column.astype(str)), sort=True)
    return np.asarray(codes, np.int64), values


def _refuse_unlikely(label: str, n: int, n_levels: int, numeric: bool) -> None:
    insist = "if these really are batches, pass allow_many_levels=True (--allow-many-levels)"
    if numeric and n_levels > _MOST_NUMERIC_LEVELS:
        raise InputError(f"{label} is numeric with {n_levels} distinct values: it looks like a measurement; {insist}")
    if n_levels >= _BARCODE_LEVELS and n_levels > _MOST_LEVELS_SHARE * n:
        raise InputError(f"{label} has {n_levels} levels for {n} cells: it looks like a cell barcode; {insist}")


def _object_array(values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError:
        raise InputError("batches must be one array or arrays of one length; got lists that differ in length") from None
