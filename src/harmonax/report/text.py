"""Text for a page: names from the data become one line each, numbers get as many digits as a reader needs."""

from __future__ import annotations

import html
import math
import unicodedata
from typing import Any

# Characters of a name in the page, of a name in a figure, and of a text such as a parameter's value.
MAX_NAME, MAX_LABEL, MAX_TEXT = 120, 26, 2000
NOTHING, MINUS, TIMES = "\u2013", "\u2212", "\u00d7"
# Part of words in some scripts, and of emoji.
_JOINERS = "\u200c\u200d"


def clean(value: Any, longest: int = MAX_NAME) -> str:
    """Return a value as one line of text of at most `longest` characters.

    Characters that steer rather than show, such as those that turn the direction of writing, become visible.

    Examples
    --------
    >>> clean("a\\u202eb\\nc")
    'a\\ufffdb c'
    """
    flat = " ".join(str(value)[: 4 * longest].split())
    shown = "".join(
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in _JOINERS else c for c in flat
    )
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def label(value: Any, longest: int = MAX_LABEL) -> str:
    """Return a value as text of a figure: Plotly reads <b>, <br> or <a> in a text as markup, $...$ as a formula.

    Examples
    --------
    >>> label("<b>B cells</b>")
    '&lt;b&gt;B cells&lt;/b&gt;'
    """
    return html.escape(clean(value, longest), quote=False).replace("$", "&#36;")


def number(value: Any, digits: int = 3) -> str:
    """Return a number as people read it.

    Examples
    --------
    >>> number(12345), number(0.12345), number(0.00001234), number(float("nan"))
    ('12,345', '0.123', '1.23e-05', '\u2013')
    """
    try:
        value = float(value)
    except (TypeError, ValueError):
        return clean(value)
    if not math.isfinite(value):
        return NOTHING if math.isnan(value) else ("∞" if value > 0 else MINUS + "∞")
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}".replace("-", MINUS)
    if 1e-3 <= abs(value) < 1e5:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if abs(value) >= 1 else digits
        return f"{value:,.{places}f}".replace("-", MINUS)
    return f"{value:.{digits - 1}e}"


def signed(change: float) -> str:
    """Return a change with its sign.

    Examples
    --------
    >>> signed(0.123), signed(0.0001)
    ('+0.12', '0.00')
    """
    if abs(change) < 0.005:
        return "0.00"
    return f"{'+' if change > 0 else MINUS}{abs(change):.2f}"


def percent(value: Any, places: int = 0) -> str:
    """Return a share as percent.

    Examples
    --------
    >>> percent(0.1234), percent(None)
    ('12%', '\u2013')
    """
    share = as_float(value)
    return NOTHING if math.isnan(share) else f"{100 * share:.{places}f}%"


def count(n: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> count(1, "cell"), count(2000, "batch", "batches")
    ('1 cell', '2,000 batches')
    """
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def as_float(value: Any) -> float:
    """Return a value as a number; nan if it is not one."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def as_names(value: Any) -> list[str]:
    """Return a list of names that files hold as an array, a list, or one text.

    Examples
    --------
    >>> as_names("batch"), as_names(None)
    (['batch'], [])
    """
    if value is None:
        return []
    return [str(v) for v in value] if hasattr(value, "__iter__") and not isinstance(value, str) else [str(value)]
