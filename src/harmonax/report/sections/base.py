"""What the sections share: findings, tables of files, and the line for a part that is missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ...evaluation.findings import Finding, Level, from_table
from ..text import MOST_ROWS, Safe, code, count, escape, paragraph

WORKFLOW = "harmonax run"
INTEGRATE = "harmonax integrate IN -o OUT --batch-key COLUMN"
# Rows of a table that nobody minds; longer ones are folded.
FEW = 12
_WORDS = {Level.PROBLEM: "Problem", Level.WARNING: "Warning", Level.NOTE: "Note", Level.GOOD: "Good"}


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading of its own."""

    anchor: str
    title: str
    body: str


def missing(what: str, command: str) -> Safe:
    """Return the line that stands for a part that the data lack; the workflow makes every part."""
    other = (", or for every part: ", code(WORKFLOW)) if command != WORKFLOW else ()
    return paragraph(f"{what} For this part: ", code(command), *other, kind="missing")


def frame(value: Any, columns: Iterable[str]) -> pd.DataFrame | None:
    """Return a stored table if it has rows and the columns, else nothing: a report is made of what there is."""
    try:
        held = value if isinstance(value, pd.DataFrame) else pd.DataFrame(value)
    except (TypeError, ValueError):
        return None
    return held if len(held) and set(columns) <= set(held.columns) else None


def findings_of(part: dict[str, Any]) -> list[Finding]:
    """Return the findings that a tool stored."""
    table = frame(part.get("findings"), ("code", "level", "message", "advice"))
    if table is None:
        return []
    known = table[table["level"].astype(str).isin([str(level) for level in Level])]
    return from_table(known[["code", "level", "message", "advice"]])


def finding_list(findings: Iterable[Finding]) -> Safe:
    """Return findings as a list, the most serious first."""
    order = list(Level)
    ranked = sorted(findings, key=lambda finding: -order.index(finding.level))
    items = "".join(
        f'<li class="finding {finding.level}"><span class="badge">{_WORDS[finding.level]}</span>'
        f"<div><p>{escape(finding.message[:1].upper() + finding.message[1:], 600)}</p>"
        + (
            f'<p class="advice"><strong>What to do:</strong> {escape(finding.advice, 600)}</p>'
            if finding.advice
            else ""
        )
        + "</div></li>"
        for finding in ranked[:MOST_ROWS]
    )
    more = "" if len(ranked) <= MOST_ROWS else f'<p class="quiet">and {count(len(ranked) - MOST_ROWS, "more")}</p>'
    return Safe(f'<ul class="findings">{items}</ul>{more}')


def figure(chart: Safe, caption: Any) -> Safe:
    """Return a chart with what it shows in words."""
    return Safe(f"<figure>{chart}<figcaption>{escape(caption, 600)}</figcaption></figure>")


def card(title: str, value: Any, says: Any) -> Safe:
    """Return a number that matters, with its name and what it means."""
    return Safe(
        f'<div class="card"><p class="card-title">{escape(title)}</p><p class="card-value">{escape(value)}</p>'
        f'<p class="card-says">{escape(says, 400)}</p></div>'
    )


def cards(*made: Safe) -> Safe:
    """Return cards side by side."""
    return Safe(f'<div class="cards">{"".join(made)}</div>') if made else Safe("")
