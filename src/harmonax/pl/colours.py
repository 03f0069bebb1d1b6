"""Colours that colour-blind readers can tell apart, as far as their number allows."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..evaluation.variables import UNLABELLED

INK, MUTED, FAINT = "#222222", "#666666", "#DDDDDD"
MISSING = "#BBBBBB"
# Okabe and Ito's colours; yellow and black come last, since one is hard to see on white and the other is a text's.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
# Paul Tol's "muted" and a grey.
TOL = (*("#332288", "#88CCEE", "#44AA99", "#882255", "#999933", "#DDCC77", "#CC6677", "#AA4499", "#117733", "#555555"),)
# Of numbers: light means much; told apart without colour vision, and unlike cividis never grey, which means missing.
NUMBERS = "viridis"
# Less and more than expected.
DIVERGING = "PuOr_r"
# Whole numbers with at most so many values are names (batch 1, 2, 3), others are measurements.
_MOST_NUMBERED = 10
_GOLDEN = 0.618034


class Categories(NamedTuple):
    """Names of the cells' groups: a code per cell (-1: missing), and for each code its name, colour and cells."""

    codes: np.ndarray
    names: list[str]
    colours: list[str]
    counts: np.ndarray


def palette(n: int) -> list[str]:
    """Return n colours: Okabe and Ito's up to 8, Tol's up to 10, then hues whose lightness alternates.

    Examples
    --------
    >>> palette(2)
    ['#0072B2', '#E69F00']
    >>> len(set(palette(60)))
    60
    """
    if n <= len(OKABE_ITO):
        return list(OKABE_ITO[:n])
    if n <= len(TOL):
        return list(TOL[:n])
    made = []
    for i in range(n):
        # Neighbours in the legend differ in hue, and in lightness, which every reader sees.
        rgb = colorsys.hls_to_rgb((0.58 + i * _GOLDEN) % 1.0, (0.38, 0.62, 0.25, 0.75)[i % 4], 0.75)
        made.append("#" + "".join(f"{round(255 * v):02X}" for v in rgb))
    return made


def is_categorical(values: pd.Series) -> bool:
    """Return whether a column holds names: text, categories, truth values, or whole numbers of few values."""
    if not pd.api.types.is_numeric_dtype(values.dtype) or pd.api.types.is_bool_dtype(values.dtype):
        return True
    return pd.api.types.is_integer_dtype(values.dtype) and values.nunique() <= _MOST_NUMBERED


def categories(values: pd.Series, given: Sequence[Any] | None = None) -> Categories:
    """Number a column's groups, leaving out those without cells.

    Parameters
    ----------
    values
        One per cell.
    given
        Colours, one per category of the column, as scanpy keeps them; they are taken where there are enough.
    """
    column = values.astype("category")
    names, codes = list(column.cat.categories), np.asarray(column.cat.codes, np.int64)
    used = np.unique(codes[codes >= 0])
    colours = _given(given, len(names))
    colours = [colours[i] for i in used] if colours else _chosen([str(names[i]) for i in used])
    position = np.full(len(names) + 1, -1)
    position[used] = np.arange(len(used))
    codes = position[codes]
    counts = np.bincount(codes[codes >= 0], minlength=len(used))
    return Categories(codes, [str(names[i]) for i in used], colours, counts)


def _chosen(names: list[str]) -> list[str]:
    """Return a colour per name; a name that stands for none gets the grey of missing values."""
    named = [name for name in names if name.casefold() not in UNLABELLED]
    colours = dict(zip(named, palette(len(named)), strict=True))
    return [colours.get(name, MISSING) for name in names]


def _given(colours: Sequence[Any] | None, n: int) -> list[str] | None:
    from matplotlib.colors import is_color_like

    if colours is None or isinstance(colours, str):
        return None
    listed = [str(c) for c in colours]
    return listed if len(listed) >= n and all(is_color_like(c) for c in listed) else None
