"""What the data are, and what was run on them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ...system.memory import human
from ..figures import Figures
from ..parts import Parts
from ..points import batch_keys, clusters, correction
from ..render import bar
from ..text import NOTHING, as_float, percent
from .section import Section, frame


def summary(parts: Parts, figures: Figures) -> Section:
    """Show how many cells, genes and batches there are, and the steps with their time and memory."""
    (own, corrector), keys = correction(parts), batch_keys(parts)
    facts: list[tuple[str, Any]] = [("Cells", f"{len(parts.obs):,}"), ("Genes", f"{len(parts.genes):,}")]
    facts += [(f"Batches in {key}", f"{parts.obs[key].nunique():,}") for key in keys]
    cluster = clusters(parts)
    if cluster is not None:
        facts.append((f"Clusters in {cluster}", f"{parts.obs[cluster].nunique():,}"))
    if own:
        start = own.get("basis", "X_pca") if corrector.needs == "embedding" else "expression"
        facts.append(("Corrected", f"{start} → {own.get('adjusted_basis', corrector.adjusted_basis)}"))
        facts.append(("Method", corrector.describe(own)))
    values = {"what": facts, "recorded": bool(own), "sizes": {key: _sizes(parts, key) for key in keys}}
    return Section("summary", "What was done", values | {"steps": _steps(parts)})


def _sizes(parts: Parts, key: str) -> list[tuple]:
    counts = parts.obs[key].value_counts()
    counts = counts[counts > 0]
    largest = float(counts.max()) if len(counts) else 1.0
    return [(level, bar(n / largest, f"{n:,}"), percent(n / len(parts.obs), 1)) for level, n in counts.items()]


def _steps(parts: Parts) -> list[tuple]:
    steps = frame(parts.part("harmonax_workflow").get("steps"), ("step", "status", "note"))
    rows = []
    for _, row in steps.iterrows() if steps is not None else ():
        seconds, peak = as_float(row.get("seconds")), as_float(row.get("peak_memory_bytes"))
        memory = NOTHING if pd.isna(peak) else human(peak)
        time = NOTHING if pd.isna(seconds) else f"{seconds:.1f} s"
        rows.append((row["step"], str(row["status"]), str(row["note"]), time, memory))
    return rows
