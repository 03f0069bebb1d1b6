"""Batches in clusters: those found afterwards, and Harmony's own soft ones."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..figures import Chart, Figures, heatmap
from ..parts import Parts
from ..points import batch_keys, correction
from ..points import clusters as cluster_column
from ..text import as_names, clean
from .section import Section, frame

MAX_KEYS = 4


def clusters(parts: Parts, figures: Figures) -> Section:
    """Compare the cells that each batch has in each cluster with what mixing by chance would give."""
    column = cluster_column(parts)
    values = {"column": column, "hard": _hard(parts, column, figures), "soft": _soft(parts, figures)}
    corrector = correction(parts)[1]
    values["without"] = "" if corrector.name == "harmony" else corrector.name.upper()
    return Section("clusters", "Batches in clusters", values)


def _hard(parts: Parts, column: str | None, figures: Figures) -> list[tuple[str, Chart, str]]:
    made = []
    for key in [key for key in batch_keys(parts) if key != column][:MAX_KEYS] if column is not None else ():
        counts = pd.crosstab(parts.obs[key].astype(str), parts.obs[column].astype(str))
        counts = counts[sorted(counts.columns, key=lambda c: (not c.isdigit(), int(c) if c.isdigit() else 0, c))]
        chart, note = heatmap(counts, key, f"cluster ({column})")
        made.append((key, figures.add(chart, f"Heatmap of batches ({clean(key)}) in clusters"), note))
    return made


def _soft(parts: Parts, figures: Figures) -> list[tuple[Chart, str]] | None:
    own = parts.part("harmonax")
    mass, levels = np.asarray(own.get("cluster_mass", ())), frame(own.get("levels"), ("batch_key", "level"))
    if mass.ndim != 2 or levels is None or len(levels) != len(mass):
        return None
    made = []
    for key in as_names(own.get("batch_keys"))[:MAX_KEYS]:
        rows = np.flatnonzero(levels["batch_key"].astype(str) == key)
        held = pd.DataFrame(mass[rows], index=levels["level"].astype(str).to_numpy()[rows])
        if held.empty:
            continue
        order = np.argsort(-held.to_numpy().sum(axis=0), kind="stable")
        chart, note = heatmap(held.iloc[:, order], key, "soft cluster, largest first")
        made.append((figures.add(chart, f"Heatmap of batches ({clean(key)}) in soft clusters"), note))
    return made
