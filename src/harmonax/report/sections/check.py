"""What was known before the correction: whether it was needed, and possible."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..figures import Figures, variance_bars
from ..parts import Parts
from ..render import bar
from ..text import as_float, clean
from .section import Section, findings_of, frame, why_skipped

MAX_KEYS, MAX_COMPONENTS = 4, 50


def check(parts: Parts, figures: Figures) -> Section:
    """Show what the check found, the variance that batches explain, and which columns are associated."""
    own = parts.part("harmonax_check")
    excess, among = _excess(dict(own.get("mixing", {})))
    values = {
        "checked": bool(own),
        "why": why_skipped(parts, "check"),
        "summary": str(own.get("summary", "")),
        "excess": None if pd.isna(excess) else excess,
        "among": among,
        "found": findings_of(own),
        "components": _components(own, figures),
        "associations": _associations(own),
    }
    return Section("check", "Was a correction needed?", values)


def _excess(mixing: dict[str, Any]) -> tuple[float, str]:
    """Return the excess of same-batch neighbours that decided, the largest over the batch columns, and among whom."""
    keys = frame(mixing.get("per_key"), ("own_batch_excess", "within_types"))
    if keys is None or not len(keys):
        return as_float(mixing.get("own_batch_excess")), "all cells"
    inside = keys["within_types"].astype(float)
    among = "all cells" if inside.isna().any() else "cells of one type"
    return float(inside.fillna(keys["own_batch_excess"].astype(float)).max()), among


def _components(own: dict[str, Any], figures: Figures) -> list[dict[str, Any]]:
    held = frame(own.get("components"), ("component", "variance_share", "batch_key", "explained"))
    if held is None:
        return []
    made = []
    for key in list(dict.fromkeys(held["batch_key"].astype(str)))[:MAX_KEYS]:
        rows = held[held["batch_key"].astype(str) == key].sort_values("component")
        share = (rows["variance_share"] * rows["explained"].clip(0, 1)).sum() / rows["variance_share"].sum()
        chart = figures.add(variance_bars(rows[:MAX_COMPONENTS], key), f"Bars of variance explained by {clean(key)}")
        made.append({"chart": chart, "key": key, "share": share, "n": len(rows)})
    return made


def _associations(own: dict[str, Any]) -> list[tuple]:
    held = frame(own.get("associations"), ("first", "second", "cramers_v", "relation"))
    if held is None:
        return []
    ordered = held.sort_values("cramers_v", ascending=False)
    return [(r["first"], str(r["second"]), bar(r["cramers_v"]), str(r["relation"])) for _, r in ordered.iterrows()]
