"""What the levels of a column of labels are called, and which of them look the same."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError, warn


def native(column: pd.Series) -> pd.Series:
    """Return a column in this machine's byte order, without which pandas sorts and takes nothing, and bytes as text.

    Examples
    --------
    >>> native(pd.Series([b"a", "a", None])).tolist()
    ['a', 'a', None]
    """
    if not isinstance(column, pd.Series):
        return column
    if isinstance(column.dtype, np.dtype) and not column.dtype.isnative:
        return column.astype(column.dtype.newbyteorder("="))
    known = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    if known.dtype != object or not pd.api.types.infer_dtype(known, skipna=True).startswith(("bytes", "mixed")):
        return column
    return column.map(_text) if any(isinstance(value, bytes) for value in known) else column


def _text(value: Any) -> Any:
    """Return bytes, which HDF5 and older Python programs have for text, as text; all else as it is."""
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        raise InputError(
            f"the label {value!r} is bytes that are not UTF-8; decode it: label.decode('latin-1')"
        ) from None


def level_names(values: Iterable[Any]) -> list[str]:
    """Return what levels are called: 1, 1.0 and "1" are one, whichever way a file has them.

    Examples
    --------
    >>> level_names([1.0, 2.0]), level_names([1, "1", 1.0]), level_names([1.0, 0.5])
    (['1', '2'], ['1', '1', '1'], ['1.0', '0.5'])
    """
    listed = list(values)
    floats = [isinstance(v, (float, np.floating)) for v in listed]
    whole = [f and np.isfinite(v) and v == int(v) for f, v in zip(floats, listed, strict=True)]
    # A column with fractions has measurements; those are called as they are.
    plain = all(floats) and not all(whole)
    return [str(int(v)) if w and not plain else str(v) for w, v in zip(whole, listed, strict=True)]


def looks(name: str) -> str:
    """Return what a name looks like: without spaces around it, capitals, leading zeros and ways to write one letter."""
    if not name.isascii():
        name = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    seen = name.strip().casefold()
    return seen.lstrip("0") or "0" if seen.isdecimal() else seen


def warn_of_twins(label: str, names: pd.Index) -> None:
    """Warn of levels that look the same, since nothing else would show that a batch was split by a typing error."""
    look = names.map(looks) if len(names) else names
    if not look.is_unique:
        first, second = names[look == look[look.duplicated()][0]][:2]
        warn(f"{label}: {_alike(first, second, 'are two batches')}")


def warn_of_strangers(label: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Warn of new levels that look like one of the known levels, which they may have been meant to be."""
    seen = {looks(name): name for name in known}
    pairs = [(name, seen[looks(name)]) for name in names if looks(name) in seen]
    if pairs:
        more = f" (and {len(pairs) - 1} more)" if len(pairs) > 1 else ""
        but = f"the first{more} is taken as a batch that the reference does not have"
        warn(f"{label} of the new cells and of the reference: {_alike(*pairs[0], but)}")


def _alike(first: str, second: str, but: str) -> str:
    if first.strip() == second.strip():
        return f"{first!r} and {second!r} differ in spaces only, and {but}; strip the labels if they are one"
    if looks(first).isdecimal():
        return f"{first!a} and {second!a} are the same number but {but}; write it in one way if they are one"
    return f"{first!a} and {second!a} look the same but {but}; give them one spelling if they are one"
