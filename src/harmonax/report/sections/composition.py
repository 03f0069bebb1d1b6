"""What the batches and the clusters are made of: counts of cell types."""

from __future__ import annotations

import pandas as pd

from ..figures import Figures
from ..parts import Parts
from ..points import batch_keys, label_keys
from ..points import clusters as cluster_column
from .section import Section

MAX_KEYS, MAX_COLUMNS = 4, 60


def composition(parts: Parts, figures: Figures) -> Section:
    """Count the cells of each type in each batch, and of each type in each cluster."""
    column, labels = cluster_column(parts), label_keys(parts)
    tables = []
    for label in labels[:2]:
        for key in [key for key in batch_keys(parts) if key != label][:MAX_KEYS]:
            tables.append(_table(parts, label, key, "type", "batch"))
        if column is not None and column != label:
            tables.append(_table(parts, column, label, "cluster", "type"))
    if not labels and column is not None:
        for key in [key for key in batch_keys(parts) if key != column][:MAX_KEYS]:
            tables.append(_table(parts, column, key, "cluster", "batch"))
    return Section("composition", "Cell types, batches and clusters", {"labels": labels, "tables": tables})


def _table(parts: Parts, rows: str, columns: str, row: str, column: str) -> tuple[list[str], list[tuple], str, str]:
    """Return the heads, the rows and the caption of a table, and how many columns it leaves out."""
    counts = pd.crosstab(_text(parts.obs[rows]), _text(parts.obs[columns]))
    if counts.shape[1] > max(counts.shape[0], 12):
        counts, rows, columns, row, column = counts.T, columns, rows, column, row
    left = counts.shape[1] - MAX_COLUMNS
    held = counts.iloc[:, :MAX_COLUMNS]
    made = [(name, *(int(n) for n in line), int(counts.loc[name].sum())) for name, line in held.iterrows()]
    caption = f"Cells of each {row} ({rows}) in each {column} ({columns})"
    note = f"Only the first {MAX_COLUMNS} of {counts.shape[1]:,} columns are shown." if left > 0 else ""
    return [row.capitalize(), *map(str, held.columns), "All"], made, caption, note


def _text(values: pd.Series) -> pd.Series:
    named = values.astype(object).where(values.notna(), "(none)").astype(str)
    order = sorted(named.unique(), key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
    return pd.Series(pd.Categorical(named, order), index=values.index)
