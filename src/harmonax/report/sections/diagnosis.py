"""Over-correction: what was lost within the batches, against what is lost where there is nothing to correct."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..figures import Figures
from ..points import MOVEMENT, NEIGHBOURS_KEPT
from ..source import Parts
from ..text import Safe, as_float, bar, clean, count, escape, folded, paragraph, percent, signed, table
from .base import FEW, Section, card, cards, finding_list, findings_of, frame, missing

_EXCESS = "Own-batch neighbours beyond chance"
NOT_DIAGNOSED = (
    "Whether the correction tore apart what belongs together was not measured.",
    "harmonax.tl.diagnose(adata)",
)


def diagnosis(parts: Parts, figures: Figures) -> Section:
    """Show the numbers with their calibration, each batch and group, states of one batch, and markers."""
    title, own = "Was too much removed?", parts.part("harmonax_diagnosis")
    if not own:
        return Section("diagnosis", title, missing(*NOT_DIAGNOSED))
    null = as_float(dict(own.get("null", {})).get("neighbours_kept"))
    body = paragraph(str(own.get("summary", "")), kind="lead") + _numbers(own) + _buttons(parts) + _null(own)
    found = findings_of(own)
    if found:
        body += folded(f"What the diagnosis found ({len(found)})", finding_list(found))
    body += _groups(own, null) + _batches(own, null) + _states(own) + _markers(own)
    return Section("diagnosis", title, body)


def _numbers(own: dict[str, Any]) -> Safe:
    values, null = dict(own.get("numbers", {})), dict(own.get("null", {}))

    def calm(key: str, places: int = 0) -> str:
        # What the same correction did where there was nothing to correct.
        return (
            "" if pd.isna(as_float(null.get(key))) else f" Where nothing was to correct: {percent(null[key], places)}."
        )

    near = "Of a cell's nearest neighbours in its own batch, how many still are."
    moves = "Squared length of all moves, as a share of the variance."
    shown = (
        ("neighbours_kept", "Neighbours kept", percent(values.get("neighbours_kept")), near + calm("neighbours_kept")),
        ("excess_before", _EXCESS, change(values, "excess"), "0%: batches mixed as by chance; 100%: wholly apart."),
        ("explained_before", "Variance that batches explain", change(values, "explained", 1), "Before and after."),
        ("movement", "Movement", percent(values.get("movement"), 1), moves + calm("movement", 1)),
    )
    return cards(
        *(card(name, value, says) for key, name, value, says in shown if not pd.isna(as_float(values.get(key))))
    )


def change(values: dict[str, Any], key: str, places: int = 0) -> str:
    """Return two shares, before and after; below what chance gives counts as none."""
    before, after = (max(0.0, as_float(values.get(f"{key}_{when}"))) for when in ("before", "after"))
    return f"{percent(before, places)} → {percent(after, places)}"


def _buttons(parts: Parts) -> Safe:
    names = {NEIGHBOURS_KEPT: "Show neighbours kept on the maps", MOVEMENT: "Show movement on the maps"}
    made = [
        f'<button type="button" data-colour="{key}">{says}</button>' for key, says in names.items() if key in parts.obs
    ]
    if not made:
        return missing("The values of each cell are not in obs.", "harmonax.tl.diagnose(adata)")
    return Safe(f'<p class="buttons">{"".join(made)}</p>')


def _null(own: dict[str, Any]) -> Safe:
    null = dict(own.get("null", {}))
    if not null:
        return paragraph("The calibration was left out: what the same correction does to one batch alone is not known.")
    return paragraph(
        Safe("<strong>How this is calibrated.</strong> "),
        f"The {count(int(as_float(null.get('n_cells', 0))), 'cell')} of batch “{clean(null.get('batch', ''))}” were "
        "split in two at random and corrected as if the halves were batches. There was nothing to correct, so whatever "
        f"changed is distortion: {percent(null.get('neighbours_kept'), 1)} of the neighbours were kept. A correction "
        "without fault would keep them all.",
    )


def _groups(own: dict[str, Any], null: float) -> Safe:
    held = frame(own.get("clusters"), ("group", "n_cells", "neighbours_kept"))
    if held is None:
        return Safe("")
    columns: dict[str, Any] = {
        "Cells": ("n_cells", lambda v: int(as_float(v))),
        "Batches": ("n_batches", lambda v: int(as_float(v))),
        "Neighbours kept": ("neighbours_kept", lambda v: bar(v, mark=null, shown=percent(v))),
        "Own-batch neighbours beyond chance": (
            "own_batch_excess",
            lambda v: bar(v, shown=percent(max(0.0, as_float(v)))),
        ),
        "Movement": ("movement", as_float),
        "Merged": ("merged", lambda v: v if isinstance(v, str) else as_float(v)),
        "Note": ("note", lambda v: clean(v, 300)),
    }
    present = {head: made for head, made in columns.items() if made[0] in held}
    ordered = held.sort_values("neighbours_kept", kind="stable")
    rows = [(r["group"] or "(none)", *(make(r[key]) for key, make in present.values())) for _, r in ordered.iterrows()]
    by = str(own.get("group_key", "")) or str(own.get("label_key", ""))
    mark = "" if pd.isna(null) else " Orange marks: the calibration."
    says = f"Fewest neighbours kept first.{mark} Movement: apart from the own batch, in units of its spread."
    head = Safe(f"<h3>Group by group{escape(f': {by}' if by else '')}</h3>")
    return head + table(["Group", *present], rows, caption=says)


def _batches(own: dict[str, Any], null: float) -> Safe:
    held = frame(own.get("batches"), ("batch", "n_cells", "neighbours_kept"))
    if held is None:
        return Safe("")
    rows = [
        (
            r["batch"],
            int(as_float(r["n_cells"])),
            bar(r["neighbours_kept"], mark=null, shown=percent(r["neighbours_kept"])),
        )
        for _, r in held.sort_values("neighbours_kept", kind="stable").iterrows()
    ]
    says = "Fewest neighbours kept first; no number for batches too small to tell."
    made = table(["Batch", "Cells", "Neighbours kept"], rows, caption=says)
    head = Safe("<h3>Batch by batch</h3>")
    return head + (made if len(rows) <= FEW else folded(f"Neighbours kept in each of the {len(rows):,} batches", made))


def _states(own: dict[str, Any]) -> Safe:
    held = frame(own.get("one_batch_states"), ("state", "batch", "n_cells", "merged_share", "verdict"))
    if held is None:
        return Safe("")
    rows = [
        (r["state"], r["batch"], int(as_float(r["n_cells"])), _share(r["merged_share"]), r["verdict"])
        for _, r in held.sort_values("merged_share", ascending=False, kind="stable").iterrows()
    ]
    says = "Share merged: neighbours of other batches and other states. What one batch alone has must stay apart."
    heads = ["State", "Batch", "Cells", "Share merged", "Verdict"]
    return Safe("<h3>States of one batch only</h3>") + table(heads, rows, caption=says)


def _share(value: Any) -> Safe:
    return bar(value, shown=percent(value))


def _markers(own: dict[str, Any]) -> Safe:
    held = frame(own.get("markers"), ("cell_type", "gene", "before", "after"))
    if held is None:
        return Safe("")
    rows = [
        (
            r["gene"],
            r["cell_type"],
            bar(r["before"], shown=f"{as_float(r['before']):.2f}"),
            bar(r["after"], mark=r["before"], shown=f"{as_float(r['after']):.2f}"),
            signed(as_float(r["after"]) - as_float(r["before"])),
        )
        for _, r in held.iterrows()
    ]
    says = "How well each marker, averaged over neighbours, tells its cell type: 1 perfectly, 0.5 not at all (AUC)."
    return Safe("<h3>Markers</h3>") + table(["Gene", "Cell type", "Before", "After", "Change"], rows, caption=says)
