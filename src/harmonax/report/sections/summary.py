"""What the data are, and what was run on them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..figures import Figures
from ..points import batch_keys, clusters, correction
from ..source import Parts
from ..text import NOTHING, Safe, as_float, bar, code, count, definitions, folded, number, percent, table
from .base import FEW, INTEGRATE, Section, frame, missing

_MEASURED = ("n_genes_by_counts", "total_counts", "pct_counts_mt")


def summary(parts: Parts, figures: Figures) -> Section:
    """Show how many cells, genes and batches there are, and the steps with their time and memory."""
    (own, corrector), keys = correction(parts), batch_keys(parts)
    facts: list[tuple[str, Any]] = [("Cells", f"{len(parts.obs):,}"), ("Genes", f"{len(parts.genes):,}")]
    for key in keys:
        facts.append((f"Batches in {key}", f"{parts.obs[key].nunique():,}"))
    cluster = clusters(parts)
    if cluster is not None:
        facts.append((f"Clusters in {cluster}", f"{parts.obs[cluster].nunique():,}"))
    if own:
        start = own.get("basis", "X_pca") if corrector.needs == "embedding" else "expression"
        facts.append(("Corrected", f"{start} → {own.get('adjusted_basis', corrector.adjusted_basis)}"))
        facts.append(("Method", corrector.describe(own)))
    body = definitions(facts)
    if not own:
        body += missing("No record of a correction is in the data.", INTEGRATE)
    body += Safe("".join(_sizes(parts, key) for key in keys))
    return Section("summary", "What was done", body + _quality(parts) + _steps(parts))


def _sizes(parts: Parts, key: str) -> Safe:
    counts = parts.obs[key].value_counts()
    counts = counts[counts > 0]
    largest = float(counts.max()) if len(counts) else 1.0
    rows = [(level, bar(n / largest, shown=f"{n:,}"), percent(n / len(parts.obs), 1)) for level, n in counts.items()]
    made = table(["Batch", "Cells", "Share"], rows, caption=f"Cells of each batch ({key})")
    return made if len(rows) <= FEW else folded(f"Cells of each of the {len(rows):,} batches in {key}", made)


def _quality(parts: Parts) -> Safe:
    """Show what the workflow's quality control left."""
    own = parts.part("harmonax_workflow")
    genes, cells = dict(own.get("genes", {})), frame(own.get("cells"), ("batch_key", "level", "n_before", "n_after"))
    facts: list[tuple[str, Any]] = []
    if "n_genes_before" in genes and "n_genes_after" in genes:
        facts.append(("Genes", f"{number(genes['n_genes_before'])} → {number(genes['n_genes_after'])}"))
    body = ""
    if cells is not None:
        first = cells[cells["batch_key"] == cells["batch_key"].iloc[0]]
        facts.insert(0, ("Cells", f"{number(first['n_before'].sum())} → {number(first['n_after'].sum())}"))
        several = cells["batch_key"].nunique() > 1
        rows = [
            (f"{key}: {level}" if several else level, int(before), int(after), _share(after / max(before, 1)))
            for key, level, before, after in cells[["batch_key", "level", "n_before", "n_after"]].itertuples(
                index=False
            )
        ]
        made = table(
            ["Batch", "Cells before", "Cells after", "Kept"], rows, caption="Cells of each batch that were kept"
        )
        body = made if len(rows) <= FEW else folded(f"Cells kept in each of the {len(rows):,} batches", made)
    facts += [(f"Median of {name}", number(parts.obs[name].median())) for name in _MEASURED if name in parts.obs]
    return Safe("<h3>Quality control</h3>" + definitions(facts) + body) if facts and own else Safe("")


def _share(value: float) -> Safe:
    return bar(value, shown=percent(value))


def _steps(parts: Parts) -> Safe:
    steps = frame(parts.part("harmonax_workflow").get("steps"), ("step", "status", "note"))
    if steps is None:
        return Safe("")
    rows = []
    for _, row in steps.iterrows():
        seconds, peak = as_float(row.get("seconds")), as_float(row.get("peak_memory_bytes"))
        memory = NOTHING if pd.isna(peak) else f"{peak / 1e6:,.0f} MB"
        time = NOTHING if pd.isna(seconds) else f"{seconds:.1f} s"
        rows.append((code(row["step"]), str(row["status"]), str(row["note"]), time, memory))
    heads = ["Step", "Status", "Note", "Time", "Peak memory"]
    return Safe("<h3>Steps</h3>" + table(heads, rows, caption=f"The workflow, {count(len(rows), 'step')}"))
