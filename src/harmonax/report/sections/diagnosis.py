"""Over-correction: what was lost within the batches, compared with what is lost where there is nothing to correct."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..figures import Figures
from ..parts import Parts
from ..points import MOVEMENT, NEIGHBOURS_KEPT
from ..render import bar, share
from ..text import as_float, clean, percent, signed
from .section import Section, findings_of, frame, why_skipped

_KEPT, _EXCESS = "Same-batch neighbours kept", "Same-batch neighbours beyond chance"
_BUTTONS = {NEIGHBOURS_KEPT: "Show neighbours kept on the maps", MOVEMENT: "Show movement on the maps"}


def diagnosis(parts: Parts, figures: Figures) -> Section:
    """Show the numbers with their calibration, each batch and group, states of one batch, and markers."""
    own = parts.part("harmonax_diagnosis")
    null = dict(own.get("null", {}))
    kept = as_float(null.get("neighbours_kept"))
    heads, groups = _groups(own, kept)
    values = {
        "diagnosed": bool(own),
        "why": why_skipped(parts, "diagnose"),
        "summary": str(own.get("summary", "")),
        "numbers": _numbers(own),
        "buttons": {key: says for key, says in _BUTTONS.items() if key in parts.obs},
        "null": null and {"n_cells": _whole(null.get("n_cells", 0)), "batch": null.get("batch", ""), "kept": kept},
        "found": findings_of(own),
        "heads": heads,
        "groups": groups,
        "by": str(own.get("group_key", "")) or str(own.get("label_key", "")),
        "calibrated": not pd.isna(kept),
        "batches": _batches(own, kept),
        "states": _states(own),
        "markers": _markers(own),
    }
    return Section("diagnosis", "Was too much removed?", values)


def _whole(value: Any) -> int:
    return int(as_float(value))


def _numbers(own: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the cards: title, value, and what it means."""
    values, null = dict(own.get("numbers", {})), dict(own.get("null", {}))

    def calm(key: str, places: int = 0) -> str:
        # What the same correction did where there was nothing to correct.
        return (
            ""
            if pd.isna(as_float(null.get(key)))
            else f" Where there was nothing to correct: {percent(null[key], places)}."
        )

    near = "Share of a cell's same-batch neighbours that are still its neighbours."
    of = furthest(own)
    moves = "Squared length of all moves, as a share of the variance."
    shown = (
        (
            "neighbours_kept",
            "Same-batch neighbours kept",
            percent(values.get("neighbours_kept")),
            near + calm("neighbours_kept"),
        ),
        ("excess_before", _EXCESS, change(values, "excess"), "0%: mixed as by chance; 100%: fully separate." + of),
        ("explained_before", "Variance that batches explain", change(values, "explained", 1), "Before and after." + of),
        ("movement", "Movement", percent(values.get("movement"), 1), moves + calm("movement", 1)),
    )
    return [(name, value, says) for key, name, value, says in shown if not pd.isna(as_float(values.get(key)))]


def furthest(own: dict[str, Any]) -> str:
    """Say of which batch variable the numbers of a diagnosis are, where there are several."""
    held = frame(own.get("mixing"), ("batch_key", "before"))
    if held is None or len(held) < 2:
        return ""
    row = held.iloc[int(held["before"].map(as_float).fillna(-1.0).argmax())]
    return f" Of “{clean(row['batch_key'])}”, whose batches lay furthest apart."


def change(values: dict[str, Any], key: str, places: int = 0) -> str:
    """Return two shares, before and after; less than by chance counts as none."""
    before, after = (max(0.0, as_float(values.get(f"{key}_{when}"))) for when in ("before", "after"))
    return f"{percent(before, places)} → {percent(after, places)}"


def _groups(own: dict[str, Any], null: float) -> tuple[list[str], list[tuple]]:
    """Return the columns beside the group that there are, and a row for each group."""
    held = frame(own.get("clusters"), ("group", "n_cells", "neighbours_kept"))
    if held is None:
        return [], []
    columns: dict[str, Any] = {
        "Cells": ("n_cells", _whole),
        "Batches": ("n_batches", _whole),
        _KEPT: ("neighbours_kept", lambda v: share(v, mark=null)),
        _EXCESS: ("own_batch_excess", lambda v: bar(v, percent(max(0.0, as_float(v))))),
        "Movement": ("movement", as_float),
        "Merged": ("merged", lambda v: v if isinstance(v, str) else as_float(v)),
        "Note": ("note", lambda v: clean(v, 300)),
    }
    present = {head: made for head, made in columns.items() if made[0] in held}
    ordered = held.sort_values("neighbours_kept", kind="stable")
    rows = [(r["group"] or "(none)", *(make(r[key]) for key, make in present.values())) for _, r in ordered.iterrows()]
    return list(present), rows


def _batches(own: dict[str, Any], null: float) -> list[tuple]:
    held = frame(own.get("batches"), ("batch", "n_cells", "neighbours_kept"))
    if held is None:
        return []
    ordered = held.sort_values("neighbours_kept", kind="stable")
    return [(r["batch"], _whole(r["n_cells"]), share(r["neighbours_kept"], mark=null)) for _, r in ordered.iterrows()]


def _states(own: dict[str, Any]) -> list[tuple]:
    held = frame(own.get("one_batch_states"), ("state", "batch", "n_cells", "merged_share", "verdict"))
    if held is None:
        return []
    return [
        (r["state"], r["batch"], _whole(r["n_cells"]), share(r["merged_share"]), r["verdict"])
        for _, r in held.sort_values("merged_share", ascending=False, kind="stable").iterrows()
    ]


def _markers(own: dict[str, Any]) -> list[tuple]:
    held = frame(own.get("markers"), ("cell_type", "gene", "before", "after"))
    rows = []
    for _, r in held.iterrows() if held is not None else ():
        before, after = as_float(r["before"]), as_float(r["after"])
        bars = bar(before, f"{before:.2f}"), bar(after, f"{after:.2f}", mark=before)
        rows.append((r["gene"], r["cell_type"], *bars, signed(after - before)))
    return rows
