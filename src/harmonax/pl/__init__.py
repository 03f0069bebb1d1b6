"""Figures, with scanpy's conventions: ``show=``, ``ax=`` or ``axes=``, ``save=``; the Axes come back unless shown.

    embedding        the cells before and after correction
    convergence      the objective and its terms, and why the run stopped
    assignments      which batches each soft cluster is made of
    metrics          scores of several embeddings
    pareto           the trade-off between two scores
    overcorrection   where neighbours were separated
    check            what batches explain before any correction, and their sizes

They share: canvas (Axes, showing, saving), views (cells in two dimensions), stored (where the numbers come from),
colours (of groups of cells), palette (the colours), lettering (names from the data).

Nothing global is changed, and matplotlib is loaded when a figure is drawn. `save` is the path of a file, written as
given.
"""

from __future__ import annotations

from .assignments import assignments
from .check import check
from .convergence import convergence
from .embedding import embedding
from .metrics import metrics
from .overcorrection import overcorrection
from .pareto import pareto

__all__ = ["assignments", "check", "convergence", "embedding", "metrics", "overcorrection", "pareto"]
