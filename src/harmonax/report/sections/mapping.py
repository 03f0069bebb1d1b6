"""Cells that were mapped onto a reference: how well they fit there, and which labels they were given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..figures import Figures
from ..parts import Parts
from ..render import bar, share
from ..text import as_float, count, number, percent
from .section import Section, frame

_NOVELTY, _UNKNOWN = "harmonax_novelty", "unknown"
_KINDS = {
    "genes": "expression that the reference's components do not explain",
    "reference": "the distance to the nearest cells of the reference",
    "clusters": "the distance to the nearest cluster, which is a weak criterion",
}
MAX_CLUSTERS = 10


def mapping(parts: Parts, figures: Figures) -> Section | None:
    """Show where the labels come from, which batches are unlike the reference, and which clusters hold novel cells."""
    own = parts.part("harmonax_map")
    if not own:
        return None
    there = _part(own, "reference")
    clusters = _clusters(own)
    values = {
        "n_cells": _whole(there.get("n_cells")),
        "n_clusters": _whole(there.get("n_clusters")),
        "numbers": _numbers(own, len(parts.obs)),
        "button": _NOVELTY if _NOVELTY in parts.obs else "",
        "batches": _batches(own),
        "labels": _labels(own, parts),
        "min_confidence": own.get("min_confidence"),
        "clusters": clusters[:MAX_CLUSTERS],
        "n_with_cells": len(clusters),
    }
    return Section("mapping", "How do the new cells fit the reference?", values)


def _part(own: dict[str, Any], name: str) -> dict[str, Any]:
    value: Any = own.get(name)
    return dict(value) if hasattr(value, "keys") else {}


def _whole(value: Any) -> int:
    number = as_float(value)
    return 0 if pd.isna(number) else int(number)


def _numbers(own: dict[str, Any], n_cells: int) -> list[tuple[str, str, str]]:
    """Return the cards: title, value, and what it means."""
    genes, novelty = _part(own, "genes"), _part(own, "novelty")
    made = [("Mapped cells", count(n_cells, "cell"), "The reference itself is unchanged.")]
    if genes:
        there = as_float(genes.get("reference")) - as_float(genes.get("missing"))
        says = f"Of {as_float(genes.get('reference')):,.0f}; a missing gene is set to the reference's mean."
        made.append(("Genes found", f"{there:,.0f}", says))
    if novelty:
        by = _KINDS.get(str(novelty.get("kind")), "an unknown score")
        says = f"Measured by {by}. Novel cells are not forced into known types."
        made.append(("Novel cells", percent(as_float(novelty.get("novel")), 1), says))
    return made


def _batches(own: dict[str, Any]) -> list[tuple]:
    novelty = _part(own, "novelty")
    shift = dict(zip(np.ravel(novelty.get("batch", ())).astype(str), np.ravel(novelty.get("shift", ())), strict=False))
    rows = []
    for key, word in (("known_batches", "learned there"), ("new_batches", "found with the reference held fixed")):
        held = frame(own.get(key), ("batch", "n_cells"))
        for _, row in held.iterrows() if held is not None else ():
            times = as_float(shift.get(str(row["batch"])))
            shown = number(times) if not pd.isna(times) else ""
            rows.append((row["batch"], f"{_whole(row['n_cells']):,}", word, shown))
    return rows


def _labels(own: dict[str, Any], parts: Parts) -> dict[str, list[tuple]]:
    """Return a table for each kind of labels."""
    made = {}
    for name, value in _part(own, "labels").items():
        held = frame(value, ("label", "n_cells"))
        if held is None:
            continue
        held = held.assign(n_cells=[_whole(n) for n in held["n_cells"]])
        total, sure, mapped = max(1, held["n_cells"].sum()), f"{name}_confidence", f"{name}_mapped"
        there = sure in parts.obs and mapped in parts.obs
        sured = pd.to_numeric(parts.obs[sure], errors="coerce") if there else pd.Series(dtype=float)
        mean = sured.groupby(parts.obs[mapped].astype(str)).mean() if there else sured
        made[name] = [
            (
                row["label"],
                bar(row["n_cells"] / total, f"{int(row['n_cells']):,}"),
                percent(mean[str(row["label"])]) if str(row["label"]) in mean and row["label"] != _UNKNOWN else "",
            )
            for _, row in held.iterrows()
        ]
    return made


def _clusters(own: dict[str, Any]) -> list[tuple]:
    """Return the reference's clusters with mapped cells, those with the largest share of novel ones first."""
    held = frame(own.get("clusters"), ("cluster", "n_cells", "novelty", "novel"))
    if held is None:
        return []
    held = held.apply(pd.to_numeric, errors="coerce").fillna(0)
    held = held[held["n_cells"] > 0].sort_values("novel", ascending=False)
    return [
        (str(int(r["cluster"])), f"{int(r['n_cells']):,}", number(r["novelty"]), share(r["novel"]))
        for _, r in held.iterrows()
    ]
