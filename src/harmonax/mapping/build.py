"""A model of cells that were just corrected, with everything that mapping expression and labels needs."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import io
from ..adata import stored_run
from ..errors import InputError, MissingKeyError, nearest, warn
from ..inputs.columns import absent
from ..inputs.embedding import take_rows
from ..result import HarmonyResult
from ..system.extras import need
from ..system.validate import listed
from .model import HarmonyModel
from .novelty import by_distance, by_genes, sample_rows
from .projection import Projection
from .serialise import UNS, from_dict

log = logging.getLogger("harmonax")

_RUN = "harmonax"


def check_labels(obs: pd.DataFrame, labels: str | Sequence[str] | None) -> list[str]:
    """Return the label columns asked for, before any work."""
    names = listed(labels)
    for name in names:
        if name not in obs:
            raise MissingKeyError(f"obs has no column '{name}'; {nearest(name, obs.columns)}")
        if names.count(name) > 1 or obs.columns.tolist().count(name) > 1:
            raise InputError(f"label column '{name}' is there, or named, more than once")
        if "/" in str(name):
            raise InputError(f"label column '{name}' has a slash, which no name in a file may have; rename it")
        if absent(obs[name]).all():
            raise InputError(f"label column '{name}' has no labels")
    if names:
        need("sklearn", "workflow")
    return names


def model_of(result: HarmonyResult, adata: Any = None, basis: str = "X_pca", labels: Any = None) -> HarmonyModel:
    """Return the model of a run.

    Loadings in ``adata.varm["PCs"]`` that reproduce ``obsm[basis]`` from X are kept, of an AnnData or its like; None:
    the model takes embeddings. `labels` of the cells, one column each, are kept with their corrected embedding.
    """
    model = HarmonyModel.from_result(result)
    if labels is not None and len(labels.columns):
        model = model.with_reference(np.asarray(result.embedding[:]), labels, result.design.joint)
    rows = sample_rows(model.n_cells)
    projection = None
    if adata is not None:
        try:
            projection = Projection.of(adata, basis)
        except InputError as error:
            said = f"the model takes embeddings, not expression: {error}"
            # Without loadings nobody expects the model to take expression.
            warn(said) if "PCs" in adata.varm and adata.X is not None else log.info(said)
    if projection is None:
        if model.novelty is None:
            model = model.with_parts(
                novelty=by_distance(model.reference, model.cluster_means(), take_rows(result.embedding, rows))
            )
        return model
    model = model.with_parts(projection=projection)
    if find_spec("sklearn") is None:
        log.info("the model has no summary of its genes for novelty: pip install 'harmonax[workflow]'")
        return model
    X = adata.X[rows][:, pd.Index(adata.var_names).get_indexer(projection.genes.astype(str))]
    return model.with_parts(novelty=by_genes(projection, X, take_rows(adata.obsm[basis], rows)))


def read_model(reference: Any, labels: Sequence[str] | None = None) -> HarmonyModel:
    """Return a model: itself, or from its file, an AnnData that has it in ``uns``, or the ``.h5ad`` file of one.

    Where the model lacks the labels that will be asked for, an AnnData's own columns and corrected cells serve.
    """
    if isinstance(reference, HarmonyModel):
        return reference
    if isinstance(reference, (str, os.PathLike)):
        if Path(reference).suffix.lower() != ".h5ad":
            return HarmonyModel.load(reference)
        found = io.read_parts(reference, uns=(UNS, _RUN))
        basis = str(stored_run(found.uns).get("adjusted_basis", ""))
        return _model_in(io.read_parts(reference, optional=(basis,), uns=(UNS, _RUN)), labels, str(reference))
    if all(hasattr(reference, name) for name in ("uns", "obs", "obsm")):
        return _model_in(reference, labels, "the reference")
    raise InputError(
        f"reference is a {type(reference).__name__}; allowed are a HarmonyModel, its file, and an AnnData that has one"
    )


def _model_in(adata: Any, labels: Sequence[str] | None, where: str) -> HarmonyModel:
    if UNS not in adata.uns:
        raise MissingKeyError(
            f"uns of {where} has no '{UNS}': integrate it with save_model (--save-model), or pass its model's file"
        )
    model = from_dict(adata.uns[UNS], HarmonyModel, f"uns['{UNS}'] of {where}")
    kept = model.reference.labels if model.reference is not None else {}
    if labels is None or set(labels) <= set(kept):
        return model
    names, run = check_labels(adata.obs, labels), stored_run(adata.uns)
    basis, keys = str(run.get("adjusted_basis", "")), [str(key) for key in np.atleast_1d(run.get("batch_keys", []))]
    if basis not in adata.obsm or not set(keys) <= set(adata.obs):
        raise MissingKeyError(f"{where} has no longer the corrected cells and batches that its labels belong to")
    batch = pd.MultiIndex.from_frame(adata.obs[keys].astype(str)).factorize()[0] if keys else None
    return model.with_reference(adata.obsm[basis], adata.obs[names], batch)
