"""The genes that the correction moved most."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..figures import Figures
from ..parts import Parts
from ..text import clean, number
from .section import Section, frame

MAX_GENES = 50


def genes(parts: Parts, figures: Figures) -> Section:
    """List the genes of which the correction removed most, each with the batch and group where it did."""
    stored = parts.part("harmonax_genes")
    table, effects = frame(stored.get("genes"), ("moved", "share")), frame(stored.get("effects"), ("gene", "removed"))
    rows: list[tuple] = []
    if table is not None and effects is not None:
        most = effects.assign(size=np.abs(pd.to_numeric(effects["removed"], errors="coerce")))
        most = most.sort_values("size", ascending=False, kind="stable").drop_duplicates("gene").set_index("gene")
        rows = [_row(gene, table.loc[gene], most.loc[gene]) for gene in table.index[:MAX_GENES] if gene in most.index]
    values: dict[str, Any] = {
        "heads": ["Gene", "Moved", "Share of its variance", "Most in", "Group", "Removed there"],
        "rows": rows,
    }
    return Section("genes", "Genes that the correction moved most", values)


def _row(gene: Any, moved: pd.Series, most: pd.Series) -> tuple:
    return (
        clean(gene),
        number(moved["moved"]),
        number(moved["share"]),
        clean(most.get("batch", "")),
        clean(most.get("group", "")),
        number(most["removed"]),
    )
