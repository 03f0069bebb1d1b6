"""Markers of the clusters: a table, and a dot plot of the best."""

from __future__ import annotations

from typing import Any

from ..figures import Chart, Figures
from ..figures_cells import dot_plot
from ..markers import PER_GROUP, Ranked, dots, ranked
from ..parts import Parts
from ..text import clean, number
from .section import Section

_HEADS = {"scores": "Score", "logfoldchanges": "log2 fold change", "pvals_adj": "Adjusted p"}
MAX_GROUPS, MAX_DOTS = 60, 60


def markers(parts: Parts, figures: Figures) -> Section:
    """List the best genes of each cluster, and draw in which clusters they are expressed."""
    found = ranked(parts)
    chart: Chart | None = None
    values: dict[str, Any] = {"heads": [], "rows": [], "by": "", "n": PER_GROUP}
    if found is not None:
        values |= {"heads": ["Cluster", "Rank", "Gene", *(_HEADS[m] for m in found.values)], "by": found.by}
        values["rows"] = _rows(found)
        seen = dots(parts, found, 3, MAX_DOTS) if len(found.groups) <= MAX_GROUPS else None
        if seen is not None:
            says = f"Dots of markers in the clusters ({clean(found.by)})"
            chart = figures.add(dot_plot(seen[1], seen[2], f"cluster ({found.by})"), says, 120 + 17 * len(seen[0]))
    return Section("markers", "Markers of the clusters", values | {"chart": chart})


def _rows(found: Ranked) -> list[tuple]:
    made = []
    for g, group in enumerate(found.groups[:MAX_GROUPS]):
        for rank, gene in enumerate(found.names[g][:PER_GROUP]):
            numbers = (number(found.values[m][g][rank]) for m in found.values)
            made.append((group, rank + 1, gene, *numbers))
    return made
