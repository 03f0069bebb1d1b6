"""The page: sections, data, Plotly and scripts in one file, and a policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from importlib.resources import files
from typing import Any

from ..system.extras import need
from ..system.version import __version__
from .points import Points
from .render import render
from .sections import Section

# Of the page, in bytes: attachments above ten million are refused in many places.
LIMIT = 9_600_000


def page(head: dict[str, Any], sections: list[Section], figures: list[dict[str, Any]], points: Points) -> str:
    """Return the whole page, at most `LIMIT` bytes: as many cells are shown as there is room for.

    `head` has the title, a line about the data, and facts about the run.
    """
    own = ("maps.js", "map-tools.js", "tables.js", "charts.js")
    scripts = [need("plotly.offline", "workflow").get_plotlyjs(), *map(_file, own)]
    drawn = embedded(figures)
    bare = _fill(head, sections, scripts, drawn, points)
    points.fit(LIMIT - len(bare.encode()) - len(embedded({})))
    return _fill(head, sections, scripts, drawn, points, embedded(points.packed()))


def maps_page(section: Section, points: Points, limit: int) -> str:
    """Return a page of the maps alone, of about `limit` bytes at most."""
    scripts = [_file("maps.js"), _file("map-tools.js")]
    points.fit(limit)
    return _rendered("maps.html", scripts, body=section.body(points), data=embedded(points.packed()))


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
    head: dict[str, Any],
    sections: list[Section],
    scripts: list[str],
    figures: str,
    points: Points,
    data: str = "null",
) -> str:
    shown = [{"anchor": s.anchor, "title": s.title, "body": s.body(points)} for s in sections]
    return _rendered("page.html", scripts, **head, version=__version__, sections=shown, figures=figures, data=data)


def _rendered(template: str, scripts: list[str], **values: Any) -> str:
    """Return a template filled in, with scripts that its policy lets run."""
    # A page's line ends are read as "\n", and the policy's hashes are of what is read.
    scripts = [script.replace("\r\n", "\n").replace("\r", "\n") for script in scripts]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    return render(template, hashes=hashes, style=_file("page.css"), scripts=scripts, **values)


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
