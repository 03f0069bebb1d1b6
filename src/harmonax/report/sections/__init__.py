"""The sections of the page, in their order; each reads what a tool stored, or says which command makes it.

Only the sections on mapped cells and on a sweep are left out where there are none: they are other tasks.
"""

from __future__ import annotations

from collections.abc import Callable

from ..figures import Figures
from ..parts import Parts
from .check import check
from .clusters import clusters
from .composition import composition
from .convergence import convergence
from .diagnosis import diagnosis
from .evaluation import evaluation
from .genes import genes
from .mapping import mapping
from .maps import maps
from .markers import markers
from .quality import quality
from .reproduce import reproduce
from .section import Section
from .summary import summary
from .sweep import sweep
from .verdict import verdict

Maker = Callable[[Parts, Figures], Section | None]

SECTIONS: tuple[Maker, ...] = (
    verdict,
    sweep,
    summary,
    quality,
    maps,
    mapping,
    composition,
    clusters,
    markers,
    convergence,
    evaluation,
    diagnosis,
    genes,
    check,
    reproduce,
)

__all__ = ["SECTIONS", "Maker", "Section"]
