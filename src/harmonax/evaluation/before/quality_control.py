"""What quality control left out: cells of a batch, and types in it. What is gone, no correction brings back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from ..findings import Finding, Level, listed

CELLS = ("batch_key", "level", "n_before", "n_after")
TYPES = ("batch_key", "level", "type", "n_before", "n_after")
# The codes of what is found here.
LOSSES = ("cells_lost", "types_gone", "types_lost")
# Share of a batch's cells from which a loss is told, and of the cells of a type in a batch.
MAX_LOST, MAX_TYPE_LOST = 0.2, 0.5
# Fewer cells of a type in a batch say nothing.
MIN_CELLS = 10


def losses(cells: Any, types: Any = None) -> list[Finding]:
    """Return what quality control took too much of.

    Parameters
    ----------
    cells
        Table with a row per batch: ``batch_key``, ``level``, ``n_before``, ``n_after``; None: not known.
    types
        Table with a row per cell type in a batch: those columns and ``type``; None: not known.

    Examples
    --------
    >>> cells = pd.DataFrame([("batch", "a", 100, 50), ("batch", "b", 100, 99)], columns=CELLS)
    >>> losses(cells)[0].message
    "quality control left out 26% of the cells; by batch: 50% of 'a'."
    """
    return [*_cells(cells), *_types(types)]


def _cells(table: Any) -> Iterable[Finding]:
    if not _has(table, CELLS):
        return
    first = table[table["batch_key"] == table["batch_key"].iloc[0]]
    overall = 1 - first["n_after"].sum() / max(first["n_before"].sum(), 1)
    lost = (table["n_before"] - table["n_after"]) / table["n_before"].clip(lower=1)
    worst = table.assign(lost=lost)[lost >= MAX_LOST].sort_values("lost", ascending=False)
    if overall < MAX_LOST and not len(worst):
        return
    by_batch = f"; by batch: {listed(f'{row.lost:.0%} of {row.level!r}' for row in worst.itertuples())}"
    yield Finding(
        "cells_lost",
        Level.WARNING,
        f"quality control left out {overall:.0%} of the cells{by_batch if len(worst) else ''}.",
        "Look at the distributions of genes and mitochondrial counts by batch before you set thresholds; the right "
        "ones differ between protocols.",
    )


def _types(table: Any) -> Iterable[Finding]:
    if not _has(table, TYPES):
        return
    had = table[(table["n_before"] >= MIN_CELLS) & (table["type"] != "")]
    lost = (had["n_before"] - had["n_after"]) / had["n_before"]
    gone, halved = had[had["n_after"] == 0], had[(lost >= MAX_TYPE_LOST) & (had["n_after"] > 0)]
    for code, part, said in (("types_gone", gone, "all"), ("types_lost", halved, "most")):
        if len(part):
            rows = (f"{r.type} in {r.level} ({r.n_before - r.n_after:,} of {r.n_before:,})" for r in part.itertuples())
            yield Finding(
                code,
                Level.WARNING,
                f"quality control left out {said} cells of a type: {listed(rows)}.",
                "Are these cells of poor quality, or do the thresholds take a type for it? Loosen them and compare.",
            )


def _has(table: Any, columns: tuple[str, ...]) -> bool:
    return isinstance(table, pd.DataFrame) and len(table) > 0 and set(columns) <= set(table)
