"""The maps before and after; their controls and points are made in the browser."""

from __future__ import annotations

from ..figures import Figures
from ..points import choose_maps
from ..source import Parts
from ..text import Safe, escape, paragraph
from .base import WORKFLOW, Section, missing

# page.py puts in what is known only when the points were chosen.
PLACE = "<!--maps-->"


def maps(parts: Parts, figures: Figures) -> Section:
    """Hold the place of the maps, and say which are missing."""
    found = choose_maps(parts)
    notes = Safe("".join(paragraph(m.note, kind="missing") for m in found if m.note))
    body = (Safe(PLACE) if found else "") + notes
    if len(found) < 2:
        lacking = (
            "There is nothing to draw: neither a UMAP nor an embedding is in the data."
            if not found
            else (f"Only one of the two maps can be drawn ({escape(found[0].title)}).")
        )
        body += missing(lacking, WORKFLOW)
    return Section("maps", "Before and after", body)
