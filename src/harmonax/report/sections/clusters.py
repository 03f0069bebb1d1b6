"""Batches in clusters: those found afterwards, and Harmony's own soft ones."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..figures import Figures, heatmap
from ..points import batch_keys
from ..points import clusters as cluster_column
from ..source import Parts
from ..text import Safe, as_names, clean
from .base import INTEGRATE, WORKFLOW, Section, figure, frame, missing

_MOST_KEYS = 4


def clusters(parts: Parts, figures: Figures) -> Section:
    """Compare the cells that each batch has in each cluster with what mixing by chance would give."""
    return Section("clusters", "Batches in clusters", _hard(parts, figures) + _soft(parts, figures))


def _hard(parts: Parts, figures: Figures) -> Safe:
    column = cluster_column(parts)
    head = "<h3>Clusters of the corrected cells</h3>"
    if column is None:
        return Safe(head + missing("There are no clusters (leiden) in obs.", WORKFLOW))
    keys = [key for key in batch_keys(parts) if key != column][:_MOST_KEYS]
    if not keys:
        return Safe(head + missing("Which column holds the batches is not recorded.", INTEGRATE))
    made = ""
    for key in keys:
        counts = pd.crosstab(parts.obs[key].astype(str), parts.obs[column].astype(str))
        counts = counts[sorted(counts.columns, key=lambda c: (not c.isdigit(), int(c) if c.isdigit() else 0, c))]
        chart, note = heatmap(counts, key, f"cluster ({column})")
        says = (
            f"Cells of each batch ({clean(key)}) in each cluster ({clean(column)}), divided by the number that would "
            "be there if batches were spread evenly. White: as expected. Orange: fewer; blue: more. A batch that has "
            "more of a cell type also looks so: that is composition, not a batch effect. "
        )
        made += figure(figures.add(chart, f"Heatmap of batches ({clean(key)}) in clusters"), says + note)
    return Safe(head + made)


def _soft(parts: Parts, figures: Figures) -> Safe:
    head = "<h3>Harmony's soft clusters</h3>"
    own = parts.part("harmonax")
    mass, levels = np.asarray(own.get("cluster_mass", ())), frame(own.get("levels"), ("batch_key", "level"))
    if mass.ndim != 2 or levels is None or len(levels) != len(mass):
        return Safe(head + missing("The assignment to soft clusters is not recorded.", INTEGRATE))
    made = ""
    for key in as_names(own.get("batch_keys"))[:_MOST_KEYS]:
        rows = np.flatnonzero(levels["batch_key"].astype(str) == key)
        held = pd.DataFrame(mass[rows], index=levels["level"].astype(str).to_numpy()[rows])
        if held.empty:
            continue
        order = np.argsort(-held.to_numpy().sum(axis=0), kind="stable")
        chart, note = heatmap(held.iloc[:, order], key, "soft cluster, largest first")
        says = (
            "The same for the soft clusters that the correction worked with, after its last pass: its penalty drives "
            "every column to white, and where it did not, batches could not be brought together. "
        )
        made += figure(figures.add(chart, f"Heatmap of batches ({clean(key)}) in soft clusters"), says + note)
    return Safe(head + made)
