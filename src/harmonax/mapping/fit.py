"""A model of an AnnData that was just corrected, with all that mapping expression and labels needs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from ..embedding import is_sliced
from ..errors import InputError, MissingKeyError, nearest
from ..extras import need
from ..result import HarmonyResult
from .model import HarmonyModel
from .novelty import by_distance, by_genes, some
from .projection import Projection

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger("harmonax")


def check_labels(adata: AnnData, labels: str | Sequence[str] | None) -> list[str]:
    """Return the label columns asked for, before any work."""
    names = [] if labels is None else [labels] if isinstance(labels, str) else list(labels)
    for name in names:
        if name not in adata.obs:
            raise MissingKeyError(f"obs has no column '{name}'; {nearest(name, adata.obs.columns)}")
    if names:
        need("sklearn", "workflow")
    return names


def model_of(
    adata: AnnData, result: HarmonyResult, basis: str, *, labels: Sequence[str] = (), with_reference: bool = False
) -> HarmonyModel:
    """Return the model of a run over ``obsm[basis]``.

    Parameters
    ----------
    adata
        The cells that were corrected. Loadings in ``varm["PCs"]`` that reproduce the embedding from ``X`` are kept.
    result
        The run.
    labels
        Columns of ``adata.obs`` to keep for label transfer.
    with_reference
        Keep the corrected cells; so do `labels`.
    """
    model = HarmonyModel.from_result(result)
    Zc = result.embedding[:] if is_sliced(result.embedding) else np.asarray(result.embedding)
    if labels or with_reference:
        model = model.with_reference(Zc, adata.obs[list(labels)], result.design.joint)
    try:
        projection = Projection.of(adata, basis)
    except InputError as error:
        log.info("the model takes embeddings, not expression: %s", error)
        return model if model.novelty is not None else model.with_parts(novelty=by_distance(model, Zc))
    rows = some(len(Zc))
    X = adata.X[rows][:, adata.var_names.get_indexer(projection.genes.astype(str))]
    model = model.with_parts(projection=projection)
    if find_spec("sklearn") is None:
        log.info("the model has no summary of its genes for novelty: pip install 'harmonax[workflow]'")
        return model
    return model.with_parts(novelty=by_genes(projection, X, np.asarray(adata.obsm[basis])[rows]))
