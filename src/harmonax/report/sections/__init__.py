"""The sections of the page, in their order; each reads what a tool stored, or says which command makes it.

Only the section on mapped cells is left out where there are none: mapping is another task.
"""

from __future__ import annotations

from collections.abc import Callable

from ..figures import Figures
from ..parts import Parts
from .check import check
from .clusters import clusters
from .convergence import convergence
from .diagnosis import diagnosis
from .evaluation import evaluation
from .mapping import mapping
from .maps import maps
from .reproduce import reproduce
from .section import Section
from .summary import summary
from .verdict import verdict

SECTIONS: tuple[Callable[[Parts, Figures], Section | None], ...] = (
    verdict,
    summary,
    maps,
    mapping,
    clusters,
    convergence,
    evaluation,
    diagnosis,
    check,
    reproduce,
)

__all__ = ["SECTIONS", "Section"]
