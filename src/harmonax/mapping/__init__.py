"""A fitted model: what a run learned, kept without its cells, and new cells mapped with it.

    tables.py       what a model keeps of a run
    model.py        HarmonyModel: the tables with all that is done with them, on top of the rest
    symphony.py     new cells into the reference's corrected space, which does not move
    projection.py   from genes to the reference's uncorrected embedding
    normalisation.py  how expression was normalised, read from its numbers
    expression.py   the query's expression, brought to the reference's normalisation
    novelty.py      how unlike anything in the reference a new cell is
    reference.py    the reference's cells and labels, and label transfer
    query.py        new cells from expression or embedding to labels and novelty: all of the above
    build.py        a model from an AnnData that was corrected
    serialise.py    one file, or ``adata.uns``

Kang et al. 2021, Nature Communications 12:5890 (Symphony). Knows the cells' contract and the ridge, not the loop.
"""

from __future__ import annotations

from .model import HarmonyModel
from .symphony import MappedQuery, map_query

# Their former names.
Placed, place = MappedQuery, map_query

__all__ = ["HarmonyModel", "MappedQuery", "Placed", "map_query", "place"]
