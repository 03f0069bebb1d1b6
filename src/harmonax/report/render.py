"""The page's templates, filled in: whatever goes into one is made a line of visible characters, and escaped."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

from ..system.extras import need
from .text import MAX_TEXT, NOTHING, as_float, clean, count, number, percent, signed


class Bar(NamedTuple):
    """A bar for a value from 0 to 1, in percent of its length; parts that there are not are None.

    Attributes
    ----------
    text
        The value as written beside the bar.
    fill
        Where the bar ends.
    interval
        Where the value's interval begins, and what is left of the bar where it ends.
    mark
        Where the value to compare with stands.
    """

    text: str
    fill: str | None = None
    interval: tuple[str, str] | None = None
    mark: str | None = None


def bar(value: Any, shown: str | None = None, *, low: Any = None, high: Any = None, mark: Any = None) -> Bar:
    """Return a bar for a value from 0 to 1 with its number, its interval, and a mark to compare with.

    Examples
    --------
    >>> bar(0.5, mark=2), bar(None)
    (Bar(text='0.500', fill='50.0%', interval=None, mark='100.0%'), Bar(text='–', fill=None, interval=None, mark=None))
    """
    share, a, b, at = (as_float(v) for v in (value, low, high, mark))
    if math.isnan(share):
        return Bar(NOTHING)
    interval = None if math.isnan(a) or math.isnan(b) else (_position(a), _position(1 - min(max(b, 0), 1)))
    text = number(share) if shown is None else shown
    return Bar(text, _position(share), interval, None if math.isnan(at) else _position(at))


def share(value: Any, *, mark: Any = None) -> Bar:
    """Return a bar for a share, in percent."""
    return bar(value, percent(value), mark=mark)


@cache
def environment() -> Any:
    """Return the Jinja2 environment of all templates.

    Raises
    ------
    MissingExtraError
        If Jinja2 is not installed.

    Examples
    --------
    >>> environment().from_string("<p>{{ name }}</p>").render(name="<script>")
    '<p>&lt;script&gt;</p>'
    """
    jinja2 = need("jinja2", "workflow")
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("harmonax.report"),
        autoescape=True,
        finalize=_short,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"short": _short, "number": number, "percent": percent, "signed": signed, "count": count}
    made.tests |= {"bar": lambda value: isinstance(value, Bar), "numeric": _is_number}
    return made


def render(template: str, **values: Any) -> str:
    """Return a template filled in."""
    return environment().get_template(template).render(values)


def _short(value: Any, longest: int = MAX_TEXT) -> Any:
    # What templates made is escaped already, and cutting it would cut markup.
    return value if hasattr(value, "__html__") else clean(value, longest)


def _is_number(value: Any) -> bool:
    return not isinstance(value, (str, bool, Bar)) and (value is None or hasattr(value, "__float__"))


def _position(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.1f}%"
