"""Which colour each cell gets: the groups of a column, numbered and coloured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..evaluation.variables import UNLABELLED
from .palette import MISSING, palette

# Whole numbers with at most this many values are names (batch 1, 2, 3), others are measurements.
MAX_NUMBERED = 10


class Categories(NamedTuple):
    """Names of the cells' groups: a code per cell (-1: missing), and for each code its name, colour and cells."""

    codes: np.ndarray
    names: list[str]
    colours: list[str]
    counts: np.ndarray


def is_categorical(values: pd.Series) -> bool:
    """Return whether a column holds names: text, categories, truth values, or whole numbers of few values."""
    if not pd.api.types.is_numeric_dtype(values.dtype) or pd.api.types.is_bool_dtype(values.dtype):
        return True
    return pd.api.types.is_integer_dtype(values.dtype) and values.nunique() <= MAX_NUMBERED


def categories(values: pd.Series, given: Sequence[Any] | None = None) -> Categories:
    """Number a column's groups, leaving out those without cells.

    `given` are colours, one per category of the column, as scanpy keeps them; they are taken where there are enough.
    """
    column = values.astype("category")
    names, codes = list(column.cat.categories), np.asarray(column.cat.codes, np.int64)
    used = np.unique(codes[codes >= 0])
    colours = level_colours(names, used, given)
    position = np.full(len(names) + 1, -1)
    position[used] = np.arange(len(used))
    codes = position[codes]
    counts = np.bincount(codes[codes >= 0], minlength=len(used))
    return Categories(codes, [str(names[i]) for i in used], colours, counts)


def level_colours(names: Sequence[Any], used: np.ndarray, given: Sequence[Any] | None = None) -> list[str]:
    """Return the colours of the categories that have cells, as hexadecimal numbers: everywhere the same ones.

    A name that stands for no label is grey.
    """
    colours = _given(given, len(names))
    chosen = [str(names[i]) for i in used]
    found = [colours[i] for i in used] if colours else _chosen(chosen)
    return [MISSING if is_unlabelled(name) else colour for name, colour in zip(chosen, found, strict=True)]


def is_unlabelled(name: str) -> bool:
    """Return whether a category's name says that there is no label."""
    return name.strip().casefold() in UNLABELLED


def _chosen(names: list[str]) -> list[str]:
    """Return a colour per name; one that stands for no label uses none up."""
    named = [name for name in names if not is_unlabelled(name)]
    colours = dict(zip(named, palette(len(named)), strict=True))
    return [colours.get(name, MISSING) for name in names]


def _given(colours: Sequence[Any] | None, n: int) -> list[str] | None:
    if colours is None or isinstance(colours, str):
        return None
    from matplotlib.colors import is_color_like, to_hex

    listed = [str(c) for c in np.atleast_1d(colours)]
    return [to_hex(c) for c in listed] if len(listed) >= n and all(is_color_like(c) for c in listed) else None
