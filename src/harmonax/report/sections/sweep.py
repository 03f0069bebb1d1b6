"""The runs of a sweep over parameters: what each gains in mixing, and what it costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..figures import Chart, Figures
from ..figures_cells import trade_off
from ..parts import Parts
from ..text import as_float, label, number
from .section import Section, frame

_FIRST = ("theta", "sigma", "n_clusters", "mixing", "kept", "structure", "score", "verdict", "chosen")
# Scores that look at other neighbourhoods than those of the same name elsewhere on the page.
_HEADS = {"mixing": "Mixing of 15 neighbours", "kept": "Kept of 50 neighbours"}
MAX_RUNS, MAX_COLUMNS = 200, 16


def sweep(parts: Parts, figures: Figures) -> Section | None:
    """Draw mixing against structure, run by run, and list the runs; nothing where there was no sweep."""
    table = _stored(parts)
    if table is None:
        return None
    table = table.iloc[:MAX_RUNS].reset_index(drop=True)
    columns = [name for name in _FIRST if name in table]
    # A run's name is made of its parameters.
    columns += [name for name in table if name not in columns and name != "run"][: MAX_COLUMNS - len(columns)]
    at = np.flatnonzero([_truth(v) for v in table["chosen"]]) if "chosen" in table else np.array([], int)
    chosen = int(at[0]) if len(at) else None
    chart: Chart | None = None
    # A file of an earlier version has no structure.
    y = "structure" if "structure" in table else "kept"
    if {"mixing", y} <= set(table) and pd.to_numeric(table["mixing"], errors="coerce").notna().any():
        drawn = trade_off(table, "mixing", y, [_about(row) for _, row in table.iterrows()], chosen)
        chart = figures.add(drawn, f"Points of the runs of the sweep: mixing against {y}")
    rows = [tuple(_shown(name, row[name]) for name in columns) for _, row in table.iterrows()]
    what = "" if chosen is None else ", ".join(f"{n} {_shown(n, table[n][chosen])}" for n in columns[:3])
    values: dict[str, Any] = {"chart": chart, "rows": rows, "chosen": what, "scored": y == "structure"}
    return Section(
        "sweep",
        "Which parameters?",
        values | {"heads": [_HEADS.get(c, c.replace("_", " ").capitalize()) for c in columns]},
    )


def _stored(parts: Parts) -> pd.DataFrame | None:
    """Return the table of the sweep, which is itself stored, or among what the sweep stored."""
    for own in (parts.part("harmonax").get("sweep"), parts.uns.get("harmonax_sweep")):
        held: Any = own
        if hasattr(own, "keys") and not isinstance(own, pd.DataFrame):
            held = next((held[name] for name in ("runs", "table") if name in held), held)
        table = frame(held, ("theta",)) if held is not None else None
        if table is not None:
            table = table.copy()
            table.columns = [str(name) for name in table.columns]
            return table
    return None


def _truth(value: Any) -> bool:
    return str(value).casefold() in ("true", "1", "1.0")


def _shown(name: str, value: Any) -> str:
    if name == "chosen":
        return "chosen" if _truth(value) else ""
    if isinstance(value, str):
        return value.replace("_", " ") if name == "verdict" else value
    return number(value) if not isinstance(value, (bool, np.bool_)) else str(value)


def _about(row: pd.Series) -> str:
    said = [f"{label(name)} {label(_shown(name, row[name]))}" for name in row.index if name != "chosen"][:8]
    score = as_float(row.get("score"))
    return "<br>".join(said) if said else number(score)
