"""A model of cells that were just corrected, with all that mapping expression and labels needs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd

from ..embedding import take_rows
from ..errors import InputError, MissingKeyError, nearest
from ..extras import need
from ..result import HarmonyResult
from .model import HarmonyModel
from .novelty import by_distance, by_genes, some
from .projection import Projection

log = logging.getLogger("harmonax")


def check_labels(obs: pd.DataFrame, labels: str | Sequence[str] | None) -> list[str]:
    """Return the label columns asked for, before any work."""
    names = [] if labels is None else [labels] if isinstance(labels, str) else list(labels)
    for name in names:
        if name not in obs:
            raise MissingKeyError(f"obs has no column '{name}'; {nearest(name, obs.columns)}")
    if names:
        need("sklearn", "workflow")
    return names


def model_of(result: HarmonyResult, adata: Any = None, basis: str = "X_pca", labels: Any = None) -> HarmonyModel:
    """Return the model of a run.

    Parameters
    ----------
    result
        The run.
    adata
        The cells that were corrected, as an AnnData or its like: loadings in ``varm["PCs"]`` that reproduce
        ``obsm[basis]`` from X are kept. None: the model takes embeddings.
    labels
        Labels of the cells, one column each, to keep with their corrected embedding; None: neither.
    """
    model = HarmonyModel.from_result(result)
    if labels is not None and len(labels.columns):
        model = model.with_reference(np.asarray(result.embedding[:]), labels, result.design.joint)
    rows = some(model.n_cells)
    projection = None
    if adata is not None:
        try:
            projection = Projection.of(adata, basis)
        except InputError as error:
            log.info("the model takes embeddings, not expression: %s", error)
    if projection is None:
        if model.novelty is None:
            model = model.with_parts(novelty=by_distance(model, take_rows(result.embedding, rows)))
        return model
    model = model.with_parts(projection=projection)
    if find_spec("sklearn") is None:
        log.info("the model has no summary of its genes for novelty: pip install 'harmonax[workflow]'")
        return model
    X = adata.X[rows][:, pd.Index(adata.var_names).get_indexer(projection.genes.astype(str))]
    return model.with_parts(novelty=by_genes(projection, X, take_rows(adata.obsm[basis], rows)))
