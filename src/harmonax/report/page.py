"""The page: sections, data, Plotly and scripts in one file, and a policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from importlib.resources import files
from string import Template
from typing import Any

from ..system.extras import need
from ..system.version import __version__
from .points import Points
from .sections import Section
from .sections.maps import PLACE
from .text import Safe, clean, count, escape, paragraph

# Of the page, in bytes: attachments above ten million are refused in many places.
LIMIT = 9_600_000


def page(title: str, about: str, sections: list[Section], figures: list[dict[str, Any]], points: Points) -> str:
    """Return the whole page, at most `LIMIT` bytes: as many cells are shown as there is room for."""
    scripts = [need("plotly.offline", "workflow").get_plotlyjs(), _file("maps.js"), _file("charts.js")]
    # A page's line ends are read as "\n", and the policy's hashes are of what is read.
    scripts = [script.replace("\r\n", "\n").replace("\r", "\n") for script in scripts]
    drawn = embedded(figures)
    bare = _fill(title, about, sections, scripts, drawn, points)
    points.fit(LIMIT - len(bare.encode()) - len(embedded({})))
    return _fill(title, about, sections, scripts, drawn, points, embedded(points.packed()))


def embedded(value: Any) -> str:
    r"""Return JSON that can stand inside a script element: nothing in it can end the element.

    Examples
    --------
    >>> embedded(["</script>", float("nan")])
    '["\\u003c/script\\u003e",null]'
    """
    text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _fill(
    title: str,
    about: str,
    sections: list[Section],
    scripts: list[str],
    figures: str,
    points: Points,
    data: str = "null",
) -> str:
    shown = "".join(_section(section, points) for section in sections)
    links = "".join(f'<li><a href="#{s.anchor}">{escape(s.title)}</a></li>' for s in sections)
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return Template(_file("page.html")).substitute(
        title=escape(title),
        about=escape(about, 400),
        version=escape(__version__),
        hashes=hashes,
        style=_file("page.css"),
        links=links,
        sections=shown,
        figures=figures,
        points=data,
        scripts="".join(f"<script>{script}</script>\n" for script in scripts),
    )


def _section(section: Section, points: Points) -> str:
    body = section.body.replace(PLACE, _file("maps.html") + sampling(points), 1)
    head = f'<h2 id="{section.anchor}-title">{escape(section.title)}</h2>'
    return f'<section id="{section.anchor}" aria-labelledby="{section.anchor}-title">{head}{body}</section>\n'


def sampling(points: Points) -> Safe:
    """Return what the maps leave out, in words; nothing where they show all."""
    said = Safe("")
    if points.n < points.total:
        said += paragraph(
            f"The maps show a random sample of {points.n:,} of the {count(points.total, 'cell')}, so that the file "
            "stays below 10 MB; every number outside the maps is of all cells.",
            kind="sampled",
        )
    if points.left_out:
        names = ", ".join(clean(name, 40) for name in points.left_out[:12])
        more = f" and {len(points.left_out) - 12:,} more" if len(points.left_out) > 12 else ""
        text = f"No room was left to colour by {names}{more}: name the ones you want with "
        said += paragraph(text, Safe("<code>--color-by</code>"), ".", kind="sampled")
    return Safe(said)


def _file(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
