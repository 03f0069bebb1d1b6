"""Batch columns as users have them (pandas, arrays, dictionaries) to a `BatchDesign`, checked before any work."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from ..design import BatchDesign
from ..errors import InputError, MissingKeyError, nearest
from ..system.validate import listed, one_of
from . import arrays
from .levels import level_names, looks, native, warn_of_twins

Missing = Literal["error", "level", "literal"]
# What files have in place of a missing label once it was made text, in lower case.
MISSING_TEXT = frozenset({"", "<na>", "n/a", "na", "nan", "none", "null"})
# A numeric column with more distinct values than this looks like a measurement.
_MAX_NUMERIC_LEVELS = 100
# Any column with more levels than this share of the cells looks like cell barcodes,
_MAX_LEVELS_SHARE = 0.5
# but only from this many levels on: small data may well have one-cell batches,
_BARCODE_LEVELS = 50
# though hardly this many if every cell has its own.
_MIN_BARCODES = 10


def design_from_table(
    table: pd.DataFrame,
    keys: str | Iterable[str],
    *,
    where: str = "obs",
    combine_keys: bool = False,
    missing: Missing = "error",
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
        ``"error"``: refuse missing and infinite labels, and text that stands for such ("nan", "NA", ""); ``"level"``:
        make them a level of their own, "missing"; ``"literal"``: as ``"error"``, but such text is the name of a level.
    allow_many_levels
        Accept columns that look like measurements or cell barcodes.

    Raises
    ------
    MissingKeyError
        If a column is not there.
    InputError
        If a column has missing labels, or looks like a measurement or like cell barcodes.
    """
    names = [None] if keys is None else listed(keys)
    if not names:
        raise InputError(f"no batch column given; name at least one column of {where}")
    one_of(missing, "missing", get_args(Missing))
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


def absent(column: pd.Series, *, literal: bool = False) -> np.ndarray:
    """Return which cells have no label: a missing or infinite value, or text that stands for one unless `literal`.

    Examples
    --------
    >>> absent(pd.Series(["a", None, "nan", "NA", ""])).tolist()
    [False, True, True, True, True]
    >>> absent(pd.Series([1.0, np.nan, np.inf])).tolist()
    [False, True, True]
    """
    gaps = np.asarray(column.isna())
    # Pandas sees in a hundredth of the time that all is text.
    text_only = column.dtype != object or pd.api.types.infer_dtype(column, skipna=True) == "string"
    if not text_only and not all(isinstance(value, Hashable) for value in column):
        raise InputError(f"column '{column.name}' holds lists or the like; allowed is one label per cell")
    if pd.api.types.is_numeric_dtype(column.dtype):
        # Such as the logarithm of 0: nothing that was measured, and no batch's name.
        floats = pd.api.types.is_float_dtype(column.dtype)
        return gaps | np.isinf(column.to_numpy(np.float64, na_value=np.nan)) if floats else gaps
    known = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column[~gaps].unique()
    without = [value for value in known if _stands_for_none(value, literal)]
    return gaps | np.asarray(column.isin(without)) if without else gaps


def _stands_for_none(value: Any, literal: bool) -> bool:
    if isinstance(value, str):
        return not literal and value.strip().casefold() in MISSING_TEXT
    return isinstance(value, (float, np.floating)) and bool(np.isinf(value))


def as_table(batches: Any) -> pd.DataFrame:
    """Return batch labels given as a table, a mapping, a 1-D or 2-D array, or a list of labels as one table.

    Raises
    ------
    InputError
        If columns differ in length or are not flat.
    """
    batches = arrays.as_table(batches)
    if isinstance(batches, pd.DataFrame):
        return batches
    if isinstance(batches, Mapping):
        return pd.DataFrame(_flat_columns(batches))
    if isinstance(batches, pd.MultiIndex):
        return batches.to_frame(index=False, name=[n or f"batch{i}" for i, n in enumerate(batches.names)])
    if isinstance(batches, (pd.Series, pd.Categorical, pd.Index)):
        name = getattr(batches, "name", None)
        return pd.DataFrame({"batch" if name is None else name: pd.Series(batches).array})
    array = _labels(batches)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2:
        raise InputError(f"batches has shape {array.shape}; allowed are (cells,) or (cells, variables)")
    names = ["batch"] if array.shape[1] == 1 else [f"batch{i}" for i in range(array.shape[1])]
    return pd.DataFrame({name: array[:, i] for i, name in enumerate(names)})


def table_like(batches: Any, names: Sequence[str]) -> pd.DataFrame:
    """Return the batch labels of other cells as a table with these columns, in this order.

    A single variable is the one that is named; columns of tables and mappings are found by name, of arrays by place.

    Raises
    ------
    InputError
        If the variables are others.
    """
    table = as_table(batches)
    own = [str(name) for name in table.columns]
    named = len(own) > 1 and isinstance(batches, (pd.DataFrame, Mapping))
    if len(own) == len(names) and not named:
        return table.set_axis(list(names), axis=1)
    if sorted(own) != sorted(names):
        there, asked = (", ".join(f"'{name}'" for name in listed) for listed in (own, names))
        raise InputError(
            f"batch has the variables {there}, the fit had {asked}: pass those, or known_batches='new' where all of "
            "these cells' batches are new"
        )
    return table.set_axis(own, axis=1)[list(names)]


def _flat_columns(columns: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the columns as arrays of one length; rows are matched by place, never by index."""
    flat: dict[Any, Any] = {}
    for name, given in columns.items():
        column = arrays.as_table(given, str(name))
        pandas_like = isinstance(column, (pd.Series, pd.Categorical, pd.Index))
        flat[name] = pd.Series(column).array if pandas_like else _labels(column)
    for name, column in flat.items():
        if column.ndim != 1:
            raise InputError(f"batch labels '{name}' have shape {column.shape}; allowed is (cells,)")
    if len({len(column) for column in flat.values()}) > 1:
        lengths = ", ".join(f"'{name}' has {len(column)}" for name, column in flat.items())
        raise InputError(f"the batch labels differ in length: {lengths}")
    return flat


def check_order(cells: Any, batches: Any, names: tuple[str, str] = ("the embedding", "the batch labels")) -> None:
    """Refuse tables whose indexes name the same cells in another order: rows are matched by place.

    `cells` and `batches` may be anything; what has no names is taken as it is.
    """
    for column in batches.values() if isinstance(batches, Mapping) else [batches]:
        own, rows = (getattr(one, "index", None) for one in (cells, column))
        if not (isinstance(own, pd.Index) and isinstance(rows, pd.Index)) or len(own) != len(rows):
            continue
        numbered = isinstance(own, pd.RangeIndex) or isinstance(rows, pd.RangeIndex)
        if not numbered and not own.equals(rows) and len(own.symmetric_difference(rows)) == 0:
            raise InputError(f"{names[0]} and {names[1]} name the same cells in a different order; reindex one of them")


def combined(design: BatchDesign) -> BatchDesign:
    """Return the design with its variables joined into one, a level per observed combination."""
    name = "+".join(design.variables)
    return BatchDesign.from_codes(design.joint, [name], [design.joint_names("|")])


def _encode(column: pd.Series, label: str, missing: str, allow_many: bool) -> tuple[np.ndarray, list[str]]:
    """Return each cell's code and the names of the codes."""
    column = native(column)
    gaps = absent(column, literal=missing == "literal")
    if gaps.any() and missing != "level":
        place = int(np.argmax(gaps))
        value, kind, said = column.iloc[place], "missing", ""
        if isinstance(value, str):
            said = f" has the text '{value}'; missing='literal' takes it as a name"
        elif not pd.isna(value):
            kind, said = "missing or infinite", f" has {value}"
        raise InputError(
            f"{label} has {int(gaps.sum())} {kind} values (first: cell '{column.index[place]}'{said}); "
            "fill them, drop those cells, or pass missing='level'"
        )
    column = column.infer_objects()
    categorical = isinstance(column.dtype, pd.CategoricalDtype)
    if gaps.any() and (categorical or pd.api.types.is_float_dtype(column.dtype)):
        # So that others are not called 1.0 for the sake of an infinite one.
        column = column.mask(gaps)
        column = column.cat.remove_unused_categories() if categorical else column
    if categorical:
        codes, values = np.asarray(column.cat.codes, np.int64), column.cat.categories
    else:
        codes, values = _factorize(column, gaps)
    if not allow_many:
        numbers = pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)
        _refuse_unlikely(label, len(column), int(np.count_nonzero(np.bincount(codes[~gaps]))), numbers)
    codes, names = _named(codes, values)
    # Hardly ever, so that the cells are not looked at for it.
    if len(set(map(looks, names))) < len(names):
        warn_of_twins(label, pd.Index(names, dtype=object)[np.unique(codes[~gaps])])
    if gaps.any():
        # They join a level of that name where there is one.
        names.append("missing")
        codes = np.where(gaps, names.index("missing"), codes)
    return codes, names


def _named(codes: np.ndarray, values: Iterable[Any]) -> tuple[np.ndarray, list[str]]:
    """Return codes and names, with values that are called the same as one level."""
    place, names = pd.factorize(np.array(level_names(values), dtype=object))
    return np.where(codes >= 0, place[codes] if len(place) else codes, -1), [str(name) for name in names]


def _factorize(column: pd.Series, gaps: np.ndarray) -> tuple[np.ndarray, pd.Index]:
    """Number the values in sorted order; labels of mixed types are compared as text, so that 1 and "1" are one."""
    if column.dtype == object and pd.api.types.infer_dtype(column, skipna=True) != "string":
        column = pd.Series(level_names(column), column.index, object).mask(gaps, None)
    codes, values = pd.factorize(column, sort=True)
    return np.asarray(codes, np.int64), pd.Index(values)


def _refuse_unlikely(label: str, n: int, n_levels: int, numbers: bool) -> None:
    insist = "if these really are batches, pass allow_many_levels=True (--allow-many-levels)"
    if numbers and n_levels > _MAX_NUMERIC_LEVELS:
        raise InputError(
            f"{label} is numeric with {n_levels} distinct values: it looks like a measurement; {insist}, and to remove "
            "the effect of a measurement, covariates= (--covariate)"
        )
    each_its_own = n_levels == n and n >= _MIN_BARCODES
    if each_its_own or (n_levels >= _BARCODE_LEVELS and n_levels > _MAX_LEVELS_SHARE * n):
        raise InputError(f"{label} has {n_levels} levels for {n} cells: it looks like a cell barcode; {insist}")


def _labels(values: Any) -> np.ndarray:
    """Return labels as an array; those of a list keep their types: as NumPy text, a missing one would read "nan"."""
    if isinstance(values, np.ma.MaskedArray):
        labels = np.array(values.data, dtype=object)
        labels[np.ma.getmaskarray(values)] = None
        return labels
    refusal = "batches must be labels, one per cell, or rows of labels of one length"
    if hasattr(values, "__array__"):
        if (array := np.asarray(values)).dtype.kind == "V":
            raise InputError(f"{refusal}; got records of {array.dtype}: pass pandas.DataFrame(batches)")
        return array
    if isinstance(values, (str, bytes)):
        raise InputError(f"{refusal}; got the text {values!r}: name a column of a table with batch_key= or key=")
    try:
        array = np.asarray(list(values), dtype=object)
    except (TypeError, ValueError):
        raise InputError(refusal) from None
    if array.ndim == 1 and any(isinstance(v, (list, tuple, np.ndarray)) for v in array):
        raise InputError(refusal)
    return array
