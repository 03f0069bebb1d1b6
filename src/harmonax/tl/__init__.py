"""Tools around a correction, AnnData in: each stores its result in ``adata.uns`` and returns it.

check       before: is a correction needed, and is it possible
evaluate    after: scores of embeddings, with cell types and without
diagnose    after: too little corrected, or too much
verdict     one answer of both: can the correction be trusted
gene_effects  which genes the correction changed, in which batches and groups
random_split  where there is nothing to correct: what a correction changes all the same
map_query   new cells onto an integrated reference, which does not move
sweep       run with several parameters, judge each result, and keep the best
tune        learn theta, sigma and the ridge strength by gradient, then correct with them
"""

from __future__ import annotations

from .check import check
from .diagnose import diagnose
from .evaluate import evaluate
from .gene_effects import gene_effects
from .map_query import map_query
from .random_split import random_split
from .sweep import sweep
from .tune import tune
from .verdict import verdict

__all__ = ["check", "diagnose", "evaluate", "gene_effects", "map_query", "random_split", "sweep", "tune", "verdict"]
