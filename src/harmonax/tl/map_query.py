"""``harmonax.tl.map_query``."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..adata import storable
from ..engine.run import Backend
from ..errors import InputError, MissingKeyError, nearest
from ..inputs.columns import Missing, design_from_table
from ..inputs.embedding import Kind, either_spelling, kind_of, read_obsm
from ..inputs.expression import layer_of
from ..mapping.build import read_model
from ..mapping.model import HarmonyModel
from ..mapping.query import Mapped, QueryOptions, check_places, map_cells, project
from ..mapping.symphony import KnownBatches
from ..pp.harmony import check_target
from ..system.arguments import check_arguments
from ..system.log import chosen_threads, say
from ..system.validate import listed, number

if TYPE_CHECKING:
    from anndata import AnnData

# Embeddings above this many bytes are computed piece by piece.
_MAX_IN_MEMORY = 1 << 30


def map_query(
    query: AnnData,
    reference: HarmonyModel | AnnData | str | os.PathLike[str],
    batch_key: str | Sequence[str] | None = None,
    *,
    labels: str | Sequence[str] | None = None,
    basis: str | None = None,
    layer: str | None = None,
    adjusted_basis: str = "X_pca_harmony",
    projected_basis: str = "X_pca_reference",
    known_batches: KnownBatches = "learned",
    ridge_lambda: float = 1.0,
    n_iter: int = 2,
    min_gene_share: float = 0.5,
    min_confidence: float = 0.5,
    target_sum: float | None = None,
    dtype: Any = np.float32,
    n_threads: int | None = None,
    backend: Backend = "auto",
    max_memory: int | str | None = None,
    missing: Missing = "error",
    allow_many_levels: bool = False,
    key_added: str = "harmonax_map",
    min_genes: float | None = None,
) -> Mapped:
    """Map new cells onto an integrated reference, which does not move.

    New cells are projected with the reference's loadings, assigned to its soft clusters, and corrected with the
    reference held fixed: no integration is done again, and the time does not depend on the reference's size. Where
    the model keeps labels, they are transferred; cells unlike anything in the reference are not forced into its types.

    Parameters
    ----------
    query
        N new cells. X (or `layer`) has counts or log-normalised expression of all genes; not scaled. Of features of
        several kinds (``var["feature_types"]``) those of the reference's kind are taken, with a warning. What was
        normalised to another total than the reference (scanpy's default takes each data set's median) is rescaled to
        the reference's, where its numbers show that total; else there is a warning.
    reference
        A model (``harmony_integrate(..., save_model=...)``), its file, or an AnnData that has it in ``uns``, or the
        ``.h5ad`` file of one.
    batch_key
        Column of ``query.obs`` that says which batch a cell is from, or several; None: one batch.
    labels
        Columns of labels to transfer; None: all that the model keeps. Of an AnnData, any column of ``obs``.
    basis
        Entry of ``query.obsm`` with the cells in the reference's uncorrected embedding, (N, d), where they are
        projected already. None: project them from the expression.
    layer
        Layer to take instead of X.
    adjusted_basis, projected_basis
        Where in ``query.obsm`` the mapped cells go, and the projected ones before correction.
    known_batches
        ``"learned"``: cells of batches that the reference has, in columns of the same name, get the correction learned
        there. ``"new"``: batches with the same name are different ones.
    ridge_lambda
        Ridge penalty for batches that the reference does not have. Higher values correct them less, lower values more.
    n_iter
        Rounds of assigning and correcting. 1 is the published method; more follow large shifts better, and take more
        time.
    min_gene_share
        Refuse a query with a smaller share of the reference's genes; missing ones are taken as the reference's mean.
        Lower values accept queries that are projected less exactly. `min_genes` is its former name.
    min_confidence
        Below it a label is "unknown": higher values leave more cells unknown, and fewer labels wrong. The confidence is
        the share of the reference's cells, judged by cells of other batches, for which such a vote was right.
    target_sum
        Counts per cell that the query was normalised to, where genes were left out of it since, so that its numbers do
        not show it. A value above the right one hides cells of absent types, one below it makes known cells look novel.
    dtype
        Of the mapped embedding.
    n_threads, backend, max_memory
        As in `harmonax.pp.harmony_integrate`.
    missing, allow_many_levels
        How batch columns are read, as there.
    key_added
        Where in ``query.uns`` the record goes.

    Returns
    -------
    Mapped
        What was written: ``obsm[adjusted_basis]``, ``obsm[projected_basis]``, ``obs["harmonax_novelty"]`` (1: as the
        median cell of the reference), ``obs["harmonax_novel"]``, for each label ``obs["NAME_mapped"]`` ("unknown" where
        novel, not confident, or of a batch unlike the reference as a whole), ``obs["NAME_nearest"]`` (whatever fits
        best) and ``obs["NAME_confidence"]``, and ``uns[key_added]``.

    Raises
    ------
    MissingKeyError
        If a column, label, layer or basis is not there.
    InputError
        If too few genes match, X is scaled, or anything else cannot be used.

    Warns
    -----
    HarmonaxWarning
        If genes are missing, only some batches have names of the reference's, or cells or whole batches are unlike
        anything there.

    Notes
    -----
    Kang et al. 2021, Nature Communications 12:5890 (Symphony), Methods. Novelty is the expression that the reference's
    components do not explain; see `harmonax.mapping.novelty`.

    Examples
    --------
    >>> import anndata, harmonax, numpy as np, pandas as pd
    >>> gen = np.random.default_rng(0)
    >>> obs = pd.DataFrame({"batch": np.repeat(["a", "b"], 100)}, index=[f"cell{i}" for i in range(200)])
    >>> Z = gen.normal(size=(200, 5)) + (obs["batch"] == "b").to_numpy()[:, None]
    >>> adata = anndata.AnnData(obs=obs, obsm={"X_pca": Z})
    >>> harmonax.pp.harmony_integrate(adata, "batch", rng=0, max_iter_harmony=50, save_model=True)
    >>> query = anndata.AnnData(
    ...     obs=pd.DataFrame(index=[f"new{i}" for i in range(50)]), obsm={"X_pca": gen.normal(size=(50, 5))}
    ... )
    >>> mapped = harmonax.tl.map_query(query, adata, basis="X_pca")
    >>> query.obsm["X_pca_harmony"].shape
    (50, 5)
    """
    check_arguments(map_query, locals())
    share = min_gene_share if min_genes is None else number(min_genes, "min_genes", minimum=0, maximum=1)
    check_target(query, adjusted_basis, "query")
    check_places(adjusted_basis, basis or projected_basis)
    wanted_labels = None if labels is None else listed(labels)
    model = read_model(reference, wanted_labels)
    design = None
    if batch_key is not None:
        design = design_from_table(
            query.obs, batch_key, where="query.obs", missing=missing, allow_many_levels=allow_many_levels
        )
    how: dict[str, Any] = {
        "known_batches": known_batches,
        "ridge_lambda": ridge_lambda,
        "n_iter": n_iter,
        "dtype": dtype,
        "n_threads": n_threads if n_threads is not None else chosen_threads(),
        "backend": backend,
        "max_memory": max_memory,
    }
    wanted = QueryOptions(wanted_labels, share, min_confidence, target_sum, how)
    Z, matched, X = _projected(query, model, wanted, basis, layer)
    mapped = map_cells(model, Z, design, wanted, matched, X)
    if basis is None:
        query.obsm[projected_basis] = np.asarray(mapped.projected[:])
    query.obsm[adjusted_basis] = mapped.embedding
    for name in mapped.columns:
        query.obs[name] = mapped.columns[name].array
    query.uns[key_added] = storable(mapped.record) | {"adjusted_basis": adjusted_basis}
    say(logging.INFO, summary(mapped))
    return mapped


def _projected(query: AnnData, model: HarmonyModel, wanted: QueryOptions, basis: str | None, layer: str | None) -> Any:
    if basis is not None:
        basis = either_spelling(query.obsm.keys(), basis)
        if basis not in query.obsm:
            raise MissingKeyError(f"query.obsm has no '{basis}'; {nearest(basis, query.obsm.keys())}")
        Z = query.obsm[basis]
        # New cells are mapped in memory or from disk, not on a cluster.
        return (read_obsm(query, basis).array() if kind_of(Z) is Kind.DASK else Z), None, None
    X, what = layer_of(query, layer, "query.layers")
    if X is None:
        raise InputError("the query has no X: pass layer=, or basis= for cells that are projected already")
    Z, matched, expression = project(model, X, query.var, wanted, what=what)
    # Computed once, where it may be in memory.
    whole = Z.nbytes <= _MAX_IN_MEMORY and wanted.how.get("max_memory") is None
    return Z[:] if whole else Z, matched, expression


def summary(mapped: Mapped) -> str:
    """Return one line on what was mapped."""
    record, n = mapped.record, mapped.embedding.shape[0]
    counts = {word: len(record[f"{word}_batches"]["batch"]) for word in ("known", "new")}
    batches = ", ".join(f"{count} {word} batch{'es' * (count != 1)}" for word, count in counts.items() if count)
    parts = [f"mapped {n:,} cells", batches]
    if "genes" in record:
        genes = record["genes"]
        parts.append(f"{genes['reference'] - genes['missing']:,} of {genes['reference']:,} genes")
    if record.get("normalisation", {}).get("done") == "rescaled":
        totals = record["normalisation"]
        parts.append(f"rescaled from {totals['query'].max():,.6g} to {totals['reference']:,.6g} counts per cell")
    if "novelty" in record:
        parts.append(f"{record['novelty']['novel']:.1%} novel")
    return "; ".join(parts)
