"""What was known before the correction: was it needed, was it possible."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..figures import Figures, variance_bars
from ..source import Parts
from ..text import Safe, as_float, bar, clean, count, folded, number, paragraph, percent, table
from .base import Section, figure, finding_list, findings_of, frame, missing

_MOST_KEYS, _MOST_COMPONENTS = 4, 50


def check(parts: Parts, figures: Figures) -> Section:
    """Show what the check found, the variance that batches explain, and which columns go together."""
    title, own = "Was a correction needed?", parts.part("harmonax_check")
    if not own:
        return Section(
            "check",
            title,
            missing("The data were not checked before the correction.", 'harmonax.tl.check(adata, "batch")'),
        )
    body = paragraph(str(own.get("summary", "")), kind="lead")
    excess = as_float(dict(own.get("mixing", {})).get("own_batch_excess"))
    if not pd.isna(excess):
        body += paragraph(
            f"Before correction, {percent(excess)} of a cell's neighbours were from its own batch beyond what chance "
            "gives (0%: perfectly mixed, 100%: batches fully apart)."
        )
    found = findings_of(own)
    if found:
        body += folded(f"What the check found ({len(found)})", finding_list(found))
    return Section("check", title, body + _components(own, figures) + _associations(own))


def _components(own: dict[str, Any], figures: Figures) -> Safe:
    held = frame(own.get("components"), ("component", "variance_share", "batch_key", "explained"))
    if held is None:
        return Safe("")
    made = ""
    for key in list(dict.fromkeys(held["batch_key"].astype(str)))[:_MOST_KEYS]:
        rows = held[held["batch_key"].astype(str) == key].sort_values("component")
        share = (rows["variance_share"] * rows["explained"].clip(0, 1)).sum() / rows["variance_share"].sum()
        chart = figures.add(variance_bars(rows[:_MOST_COMPONENTS], key), f"Bars of variance explained by {clean(key)}")
        says = (
            f"Grey: each principal component's share of the variance before correction. Blue: the part of it that "
            f"{clean(key)} explains, in all {percent(share, 1)} of {count(len(rows), 'component')}."
        )
        made += figure(chart, says)
    return Safe("<h3>Variance that the batch explains</h3>" + made)


def _associations(own: dict[str, Any]) -> Safe:
    held = frame(own.get("associations"), ("first", "second", "cramers_v", "relation"))
    if held is None:
        return Safe("")
    rows = [
        (r["first"], str(r["second"]), bar(r["cramers_v"], shown=number(r["cramers_v"])), str(r["relation"]))
        for _, r in held.sort_values("cramers_v", ascending=False).iterrows()
    ]
    says = "Cramér's V: 0 where two columns have nothing to do with each other, 1 where one tells the other."
    return Safe("<h3>Columns that go together</h3>") + table(
        ["Column", "Column", "Cramér's V", "Relation"], rows, caption=says
    )
