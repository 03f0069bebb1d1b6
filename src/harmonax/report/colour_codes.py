"""What the maps can be coloured by: columns of obs and genes, one byte per cell."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..pl.colours import is_unlabelled, level_colours
from ..pl.palette import RARE
from .text import clean

# One byte per cell: the last value means missing. More levels than this are shown with the rarest as one.
MISSING, MAX_LEVELS = 255, 254
# Whole numbers with at most this many values are names of something.
MAX_NUMBERED = 30
MAX_LEVEL_NAME = 80


@dataclass
class Column:
    """Something to colour the cells by.

    Attributes
    ----------
    about
        What the page is told: name, group, kind, and the levels or the range.
    codes
        One byte for each cell of the sample.
    spare
        Shown only where it fits without leaving out cells or other columns.
    """

    about: dict[str, Any]
    codes: np.ndarray
    spare: bool = False

    def packed(self, n: int) -> dict[str, Any]:
        """Return it for the page, of the first `n` cells."""
        return self.about | {"codes": pack(self.codes[:n])}

    def size(self, n: int) -> int:
        """Return about how many bytes of the page `packed` takes."""
        return len(json.dumps(self.about, ensure_ascii=False).encode()) + 4 * -(-n // 3) + 200


def pack(values: np.ndarray) -> str:
    """Return an array as base64 text, its bytes little-endian."""
    return base64.b64encode(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes()).decode()


def is_category(values: pd.Series, *, asked: bool = False) -> bool:
    """Return whether a column holds names rather than measurements."""
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return True
    if asked:
        return not pd.api.types.is_float_dtype(values)
    return pd.api.types.is_integer_dtype(values) and values.nunique() <= MAX_NUMBERED


def is_worth_showing(values: pd.Series) -> bool:
    """Return whether colours by a column would show anything: at least two values, and not one per cell."""
    different = int(values.nunique())
    if different < 2:
        return False
    return not is_category(values) or different <= max(MAX_LEVELS, 20) or 10 * different <= len(values)


def category(name: str, values: pd.Series, rows: np.ndarray, group: str, given: Any = None) -> Column:
    """Return a column of names; its levels in their own order, the rarest together where they are too many.

    Colours are those of `pl`: `given`, one per category, where they are valid, else those of the palette.
    """
    held = values if isinstance(values.dtype, pd.CategoricalDtype) else _as_category(values)
    codes = np.asarray(held.cat.codes)
    counts = np.bincount(codes[codes >= 0], minlength=len(held.cat.categories))
    shown = np.flatnonzero(counts)
    colours = dict(zip(shown, level_colours(list(held.cat.categories), shown, given), strict=True))
    merged = 0
    if len(shown) > MAX_LEVELS:
        keep = np.sort(shown[np.argsort(-counts[shown], kind="stable")[: MAX_LEVELS - 1]])
        merged, shown = len(shown) - len(keep), keep
    place = np.full(len(held.cat.categories) + 1, MISSING, np.uint8)
    if merged:
        place[np.flatnonzero(counts)] = len(shown)
    place[shown] = np.arange(len(shown))
    levels = [clean(held.cat.categories[i], MAX_LEVEL_NAME) for i in shown]
    sizes = counts[shown].tolist()
    if merged:
        levels.append(f"({merged:,} rarer levels together)")
        sizes.append(int(counts.sum() - counts[shown].sum()))
    about = {"name": clean(name), "group": group, "kind": "category", "levels": levels, "counts": sizes}
    about["colours"] = [colours[i] for i in shown] + [RARE] * bool(merged)
    about["unlabelled"] = [k for k, i in enumerate(shown) if is_unlabelled(str(held.cat.categories[i]))]
    return Column(about | {"missing": int((codes < 0).sum()), "merged": bool(merged)}, place[codes[rows]])


def measured(
    name: str,
    values: Any,
    rows: np.ndarray,
    group: str,
    *,
    gene: bool = False,
    limits: tuple[float, float] | None = None,
) -> Column:
    """Return a column of numbers in 255 steps.

    They run from its 1st to its 99th percentile, so that outliers hide nothing, or between `limits`.
    """
    array = pd.to_numeric(pd.Series(values), errors="coerce").to_numpy(np.float64, na_value=np.nan, copy=True)
    array[~np.isfinite(array)] = np.nan
    held = array[~np.isnan(array)]
    low, high, least, most = 0.0, 1.0, 0.0, 1.0
    if len(held):
        least, most = float(held.min()), float(held.max())
        low, high = (float(q) for q in np.quantile(held, [0.01, 0.99]))
        if gene:
            expressed = held[held > 0]
            low, high = min(least, 0.0), float(np.quantile(expressed, 0.98)) if len(expressed) else most
        low, high = limits if limits is not None else (low, high)
        if not high > low:
            low, high = least, most if most > least else least + 1
    picked = array[rows]
    steps = np.nan_to_num(np.clip((picked - low) / (high - low), 0, 1) * (MISSING - 1))
    codes = np.where(np.isnan(picked), MISSING, np.round(steps)).astype(np.uint8)
    about = {"name": clean(name), "group": group, "kind": "number", "low": low, "high": high}
    about |= {"below": least < low, "above": most > high, "missing": int(np.isnan(array).sum()), "gene": gene}
    return Column(about, codes)


def _as_category(values: pd.Series) -> pd.Series:
    text = values.astype(object).map(str, na_action="ignore")
    order = sorted(text.dropna().unique(), key=_natural)
    return pd.Series(pd.Categorical(text, categories=order), index=values.index)


def _natural(name: str) -> tuple[int, float, str]:
    try:
        return (0, float(name), name)
    except ValueError:
        return (1, 0.0, name)
