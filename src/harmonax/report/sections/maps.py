"""The maps before and after; their controls and points are made in the browser."""

from __future__ import annotations

from ..figures import Figures
from ..parts import Parts
from ..points import choose_maps
from .section import Section


def maps(parts: Parts, figures: Figures) -> Section:
    """Hold the place of the maps, and say which are missing."""
    return Section("maps", "Before and after", {"found": choose_maps(parts)})
