"""Quality control: what the thresholds took of each batch, and how its measures were spread before and after."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from ..figures import Figures
from ..figures_cells import boxes
from ..parts import Parts
from ..render import share
from ..text import clean, number
from .section import Section, frame

# What each measure is called, and which options bound it, from below and from above.
_MEASURES = {
    "n_genes_by_counts": ("Genes in a cell", "min_genes", "max_genes"),
    "total_counts": ("Counts in a cell", "", ""),
    "pct_counts_mt": ("% of mitochondrial counts", "", "max_pct_mt"),
}
_COLUMNS = ("batch_key", "level", "measure", "when", "n_cells", "q05", "q25", "q50", "q75", "q95")


def quality(parts: Parts, figures: Figures) -> Section:
    """Show cells before and after in each batch, the thresholds, and each measure batch by batch."""
    own = parts.part("harmonax_workflow")
    genes, cells = dict(own.get("genes", {})), frame(own.get("cells"), ("batch_key", "level", "n_before", "n_after"))
    facts: list[tuple[str, Any]] = []
    if "n_genes_before" in genes and "n_genes_after" in genes:
        facts.append(("Genes", f"{number(genes['n_genes_before'])} → {number(genes['n_genes_after'])}"))
    if cells is not None:
        first = cells[cells["batch_key"] == cells["batch_key"].iloc[0]]
        facts.insert(0, ("Cells", f"{number(first['n_before'].sum())} → {number(first['n_after'].sum())}"))
    limits = _limits(own)
    facts += [(name.replace("_", "-"), number(value)) for name, value in limits.items()] if cells is not None else []
    facts += [(f"Median of {name}", number(parts.obs[name].median())) for name in _MEASURES if name in parts.obs]
    seen = frame(own.get("quality"), _COLUMNS)
    values = {"facts": facts if own else [], "kept": [] if cells is None else _kept(cells)}
    types = frame(own.get("types"), ("level", "type", "n_before", "n_after"))
    values["types"] = [] if types is None else _types(types)
    values["charts"] = [] if seen is None else _charts(seen, limits, figures)
    values["rows"] = [] if seen is None else _rows(seen)
    return Section("quality", "Quality control", values)


def _limits(own: dict[str, Any]) -> dict[str, float]:
    try:
        options = json.loads(str(own.get("options")))
    except ValueError:
        return {}
    names = ("min_genes", "max_genes", "max_pct_mt", "min_cells")
    return {n: options[n] for n in names if options.get(n) is not None} if isinstance(options, dict) else {}


def _kept(cells: pd.DataFrame) -> list[tuple]:
    several = cells["batch_key"].nunique() > 1
    made = []
    for key, level, before, after in cells[["batch_key", "level", "n_before", "n_after"]].itertuples(index=False):
        name = f"{key}: {level}" if several else level
        made.append((name, int(before), int(after), int(before) - int(after), share(after / max(before, 1))))
    return made


def _types(types: pd.DataFrame) -> list[tuple]:
    made = []
    for level, name, before, after in types[["level", "type", "n_before", "n_after"]].itertuples(index=False):
        made.append((level, name, int(before), int(after), share(after / max(before, 1))))
    return sorted(made, key=lambda row: row[3] / max(row[2], 1))


def _charts(seen: pd.DataFrame, limits: dict[str, float], figures: Figures) -> list[Any]:
    first = seen[seen["batch_key"] == seen["batch_key"].iloc[0]]
    made = []
    for measure, (title, low, high) in _MEASURES.items():
        rows = first[first["measure"] == measure]
        if len(rows):
            lines = [limits[name] for name in (low, high) if name in limits]
            says = f"Boxes of {title.lower()} in each batch ({clean(first['batch_key'].iloc[0])}), before and after"
            made.append((figures.add(boxes(rows, title, lines), says), bool(lines)))
    return made


def _rows(seen: pd.DataFrame) -> list[tuple]:
    names = {measure: about[0] for measure, about in _MEASURES.items()}
    wide = seen.pivot_table(index=["batch_key", "measure", "level"], columns="when", values=["q05", "q50", "q95"])
    made = []
    for (_, measure, level), row in wide.iterrows():
        numbers = (row.get((q, when)) for when in ("before", "after") for q in ("q05", "q50", "q95"))
        made.append((level, names.get(measure, measure), *numbers))
    return made
