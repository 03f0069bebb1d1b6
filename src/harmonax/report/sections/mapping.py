"""Cells that were mapped onto a reference: how well they fit there, and which labels they were given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..figures import Figures
from ..source import Parts
from ..text import Safe, as_float, bar, clean, count, number, paragraph, percent, table
from .base import Section, card, cards, frame

_NOVELTY, _UNKNOWN = "harmonax_novelty", "unknown"
_KINDS = {
    "genes": "expression that the reference's components do not explain",
    "reference": "the distance to the nearest cells of the reference",
    "clusters": "the distance to the nearest cluster, which tells little",
}
_MOST_CLUSTERS = 10


def mapping(parts: Parts, figures: Figures) -> Section | None:
    """Show where the labels come from, which batches are unlike the reference, and which clusters hold novel cells."""
    own = parts.part("harmonax_map")
    if not own:
        return None
    there = _part(own, "reference")
    cells, clusters = (_whole(there.get(name)) for name in ("n_cells", "n_clusters"))
    says = f"These cells were mapped onto a reference of {count(cells, 'cell')} in {count(clusters, 'soft cluster')}."
    lead = paragraph(says, kind="lead")
    body = lead + _numbers(own, len(parts.obs)) + _button(parts) + _batches(own) + _labels(own, parts) + _clusters(own)
    return Section("mapping", "How do the new cells fit the reference?", body)


def _part(own: dict[str, Any], name: str) -> dict[str, Any]:
    value: Any = own.get(name)
    return dict(value) if hasattr(value, "keys") else {}


def _whole(value: Any) -> int:
    number = as_float(value)
    return 0 if pd.isna(number) else int(number)


def _numbers(own: dict[str, Any], n_cells: int) -> Safe:
    genes, novelty = _part(own, "genes"), _part(own, "novelty")
    made = [card("Mapped cells", count(n_cells, "cell"), "None of them moved the reference.")]
    if genes:
        there = as_float(genes.get("reference")) - as_float(genes.get("missing"))
        says = f"Of {as_float(genes.get('reference')):,.0f}; a missing gene is taken as the reference's mean."
        made.append(card("Genes found", f"{there:,.0f}", says))
    if novelty:
        says = f"Judged by {_KINDS.get(str(novelty.get('kind')), 'an unknown score')}. Not forced into known types."
        made.append(card("Novel cells", percent(as_float(novelty.get("novel")), 1), says))
    return cards(*made)


def _button(parts: Parts) -> Safe:
    if _NOVELTY not in parts.obs:
        return Safe("")
    return Safe(
        f'<p class="buttons"><button type="button" data-colour="{_NOVELTY}">Show novelty on the maps</button></p>'
    )


def _batches(own: dict[str, Any]) -> Safe:
    novelty = _part(own, "novelty")
    shift = dict(zip(np.ravel(novelty.get("batch", ())).astype(str), np.ravel(novelty.get("shift", ())), strict=False))
    rows = []
    for key, word in (("known_batches", "learned there"), ("new_batches", "found with the reference held fixed")):
        held = frame(own.get(key), ("batch", "n_cells"))
        for _, row in held.iterrows() if held is not None else ():
            times = as_float(shift.get(str(row["batch"])))
            shown = number(times) if not pd.isna(times) else ""
            rows.append((row["batch"], f"{_whole(row['n_cells']):,}", word, shown))
    if not rows:
        return Safe("")
    says = (
        "Novelty of the batch as a whole, its lower quartile against the reference's own: 1 is no more than there; far "
        "above, it is another protocol, tissue or treatment, and labels deserve a second look."
    )
    return Safe("<h3>Batches</h3>") + table(["Batch", "Cells", "Correction", "Novelty"], rows, caption=says)


def _labels(own: dict[str, Any], parts: Parts) -> Safe:
    made = Safe("")
    for name, value in _part(own, "labels").items():
        held = frame(value, ("label", "n_cells"))
        if held is None:
            continue
        held = held.assign(n_cells=[_whole(n) for n in held["n_cells"]])
        total, sure = max(1, held["n_cells"].sum()), f"{name}_confidence"
        mapped = f"{name}_mapped"
        there = sure in parts.obs and mapped in parts.obs
        sured = pd.to_numeric(parts.obs[sure], errors="coerce") if there else pd.Series(dtype=float)
        mean = sured.groupby(parts.obs[mapped].astype(str)).mean() if there else sured
        rows = [
            (
                row["label"],
                bar(row["n_cells"] / total, shown=f"{int(row['n_cells']):,}"),
                percent(mean[str(row["label"])]) if str(row["label"]) in mean and row["label"] != _UNKNOWN else "",
            )
            for _, row in held.iterrows()
        ]
        says = (
            "Labels of the nearest reference cells. Confidence: the share of the reference's own cells with such a "
            "vote, among cells of other batches, for which it was right. Novel cells, and those below "
            f"{percent(as_float(own.get('min_confidence')))}, are “unknown”."
        )
        made += Safe(f"<h3>Labels handed on: {clean(name)}</h3>") + table(
            ["Label", "Cells", "Confidence"], rows, caption=says
        )
    return made


def _clusters(own: dict[str, Any]) -> Safe:
    held = frame(own.get("clusters"), ("cluster", "n_cells", "novelty", "novel"))
    if held is None:
        return Safe("")
    held = held.apply(pd.to_numeric, errors="coerce").fillna(0)
    held = held[held["n_cells"] > 0].sort_values("novel", ascending=False)
    rows = [
        (
            str(int(r["cluster"])),
            f"{int(r['n_cells']):,}",
            number(r["novelty"]),
            bar(r["novel"], shown=percent(r["novel"])),
        )
        for _, r in held.head(_MOST_CLUSTERS).iterrows()
    ]
    says = (
        f"The reference's soft clusters in which most new cells are novel, {min(len(held), _MOST_CLUSTERS)} of "
        f"{len(held)} with new cells. Novelty: 1 is the median cell of the reference."
    )
    return Safe("<h3>Where the novel cells are</h3>") + table(
        ["Soft cluster", "Cells", "Novelty", "Novel"], rows, caption=says
    )
