"""Text for a page: names from the data are escaped here, numbers get as many digits as they deserve."""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

# Of a name, in a table and in a figure; of a text such as a parameter's value.
LONGEST_NAME, LONGEST_LABEL, LONGEST_TEXT = 120, 26, 2000
MOST_ROWS = 100
NOTHING, MINUS, TIMES = "\u2013", "\u2212", "\u00d7"
# Within words of some scripts, and in emoji.
_JOINERS = "\u200c\u200d"


class Safe(str):
    """Markup that is written as it is; every other text is escaped, also when it is added to markup.

    Examples
    --------
    >>> Safe("<b>") + "<i>"
    '<b>&lt;i&gt;'
    """

    __slots__ = ()

    def __add__(self, other: str) -> Safe:
        return Safe(str.__add__(self, escape(other, LONGEST_TEXT)))


def clean(value: Any, most: int = LONGEST_NAME) -> str:
    """Return a value as one line of text of at most so many characters.

    Characters that steer rather than show, such as those that turn the direction of writing, become visible.

    Examples
    --------
    >>> clean("a\\u202eb\\nc")
    'a\\ufffdb c'
    """
    flat = " ".join(str(value)[: 4 * most].split())
    shown = "".join(
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in _JOINERS else c for c in flat
    )
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def escape(value: Any, most: int = LONGEST_NAME) -> Safe:
    """Return a value as text of a page; `Safe` markup stays as it is.

    Examples
    --------
    >>> escape("<script>")
    '&lt;script&gt;'
    """
    return value if isinstance(value, Safe) else Safe(html.escape(clean(value, most)))


def label(value: Any, most: int = LONGEST_LABEL) -> str:
    """Return a value as text of a figure: Plotly takes <b>, <br> or <a> in a text for markup, $...$ for a formula.

    Examples
    --------
    >>> label("<b>B cells</b>")
    '&lt;b&gt;B cells&lt;/b&gt;'
    """
    return html.escape(clean(value, most), quote=False).replace("$", "&#36;")


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
    """Return a number, or nan for what is none."""
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
    return [str(value)] if isinstance(value, str) else [str(v) for v in value]


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]], *, caption: str, most: int = MOST_ROWS) -> Safe:
    """Return a table; numbers are set to the right, and what exceeds `most` rows is counted below.

    The first column names the row. Cells are escaped unless `Safe`.
    """
    body = "".join(_row(row) for row in rows[:most])
    more = f'<p class="quiet">and {len(rows) - most:,} more rows</p>' if len(rows) > most else ""
    numeric = [bool(rows) and all(_is_number(row[i]) for row in rows[:most]) for i in range(len(heads))]
    top = "".join(
        f'<th scope="col"{" class=n" * n}>{escape(head)}</th>' for head, n in zip(heads, numeric, strict=True)
    )
    return Safe(
        f'<div class="wide" data-name="{escape(caption)}"><table>'
        f"<caption><span>{escape(caption, LONGEST_TEXT)}</span></caption>"
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>{more}"
    )


def bar(value: Any, *, low: Any = None, high: Any = None, mark: Any = None, shown: str | None = None) -> Safe:
    """Return a bar for a value from 0 to 1 with its number, its interval, and a mark to compare with."""
    share = as_float(value)
    if math.isnan(share):
        return Safe(f'<span class="none">{NOTHING}</span>')
    parts = [f'<i class="fill" style="width:{_position(share)}"></i>']
    a, b = as_float(low), as_float(high)
    if not (math.isnan(a) or math.isnan(b)):
        parts.append(f'<i class="range" style="left:{_position(a)};right:{_position(1 - min(max(b, 0), 1))}"></i>')
    if not math.isnan(as_float(mark)):
        parts.append(f'<i class="mark" style="left:{_position(as_float(mark))}"></i>')
    text = escape(number(share) if shown is None else shown)
    return Safe(f'<span class="bar"><b>{text}</b><span class="track" aria-hidden="true">{"".join(parts)}</span></span>')


def definitions(pairs: Iterable[tuple[str, Any]]) -> Safe:
    """Return a list of names and values."""
    rows = (f"<div><dt>{escape(k)}</dt><dd>{escape(v, LONGEST_TEXT)}</dd></div>" for k, v in pairs)
    return Safe(f'<dl class="facts">{"".join(rows)}</dl>')


def paragraph(*parts: Any, kind: str = "") -> Safe:
    """Return a paragraph; parts that are not `Safe` are escaped."""
    name = f' class="{kind}"' if kind else ""
    return Safe(f"<p{name}>{''.join(_prose(part) for part in parts)}</p>")


def code(value: Any) -> Safe:
    """Return a name or command in the type of code."""
    return Safe(f"<code>{escape(value, LONGEST_TEXT)}</code>")


def folded(summary: str, body: str) -> Safe:
    """Return a part that is shown when asked for, and in print."""
    return Safe(f"<details><summary>{escape(summary)}</summary>{body}</details>")


def _prose(part: Any) -> str:
    # Parts are joined: the spaces at their ends count.
    text = str(part)
    return (
        escape(part, LONGEST_TEXT)
        if isinstance(part, Safe)
        else (" " * text[:1].isspace() + escape(text, LONGEST_TEXT) + " " * text[-1:].isspace())
    )


def _row(row: Sequence[Any]) -> str:
    first = f'<th scope="row">{_cell(row[0])}</th>' if row else ""
    return f"<tr>{first}" + "".join(f"<td{' class=n' * _is_number(v)}>{_cell(v)}</td>" for v in row[1:]) + "</tr>"


def _cell(value: Any) -> Safe:
    return escape(number(value) if _is_number(value) else value, LONGEST_TEXT)


def _is_number(value: Any) -> bool:
    return not isinstance(value, (str, bool)) and (value is None or hasattr(value, "__float__"))


def _position(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.1f}%"
