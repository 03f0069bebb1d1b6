"""What the sections share: their form, findings, and tables as they are stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ...evaluation.findings import Finding, Level, by_severity, from_table
from ..parts import Parts
from ..points import Points
from ..render import render


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading of its own: what ``templates/sections/{template}.html`` is filled in with."""

    anchor: str
    title: str
    values: Mapping[str, Any] = field(default_factory=dict)
    template: str = ""  # "": the anchor

    def body(self, points: Points) -> str:
        """Return the part as HTML."""
        return render(f"sections/{self.template or self.anchor}.html", points=points, **self.values)

    def unreadable(self, error: Exception) -> Section:
        """Return what stands in its place where it cannot be made of what another version, or hand, has stored."""
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        return Section(self.anchor, self.title, {"why": why}, "unreadable")


def frame(value: Any, columns: Iterable[str]) -> pd.DataFrame | None:
    """Return a stored table if it has rows and the columns, else nothing: a report is made of what there is."""
    try:
        held = value if isinstance(value, pd.DataFrame) else pd.DataFrame(value)
    except (TypeError, ValueError):
        return None
    return held if len(held) and set(columns) <= set(held.columns) else None


def findings_of(part: Mapping[str, Any]) -> list[Finding]:
    """Return the findings that a tool stored, the most serious first."""
    table = frame(part.get("findings"), ("code", "level", "message", "advice"))
    if table is None:
        return []
    known = table[table["level"].astype(str).isin([str(level) for level in Level])]
    return by_severity(from_table(known[["code", "level", "message", "advice"]]))


def why_skipped(parts: Parts, step: str) -> str:
    """Return why the workflow left out a step; nothing where it is not known, or where it was asked to."""
    steps = frame(parts.part("harmonax_workflow").get("steps"), ("step", "status", "note"))
    for _, row in steps.iterrows() if steps is not None else ():
        if str(row["step"]) == step and str(row["status"]) == "skipped" and str(row["note"]) != "as asked":
            return str(row["note"])
    return ""
