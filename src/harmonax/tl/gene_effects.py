"""``harmonax.tl.gene_effects``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..adata import stored_run
from ..errors import InputError, MissingKeyError, nearest
from ..inputs.columns import design_from_table
from ..inputs.embedding import read_obsm
from ..inputs.roles import batch_columns
from ..system.arguments import check_arguments
from ..system.validate import expect_anndata, whole_number
from .diagnose import level_names

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, eq=False)
class GeneEffects:
    """What a correction removed from each gene.

    Attributes
    ----------
    genes
        A row per gene, those moved most first: ``moved``, the root mean square of what was removed over all cells, in
        the units that the components were computed from; and ``share``, its square as a share of the gene's variance in
        the embedding: from 0, and above 1 where more moved than the cells differ.
    effects
        Of the first genes, a row per batch and group that has cells: ``removed``, the mean of what was subtracted,
        above 0 where the gene was higher in that batch than in the others, and ``n_cells``.
    """

    genes: pd.DataFrame
    effects: pd.DataFrame

    def to_uns(self) -> dict[str, Any]:
        """Return it as ``adata.uns`` holds it."""
        return {"genes": self.genes, "effects": self.effects}


def gene_effects(
    adata: AnnData,
    batch_key: str | Sequence[str] | None = None,
    *,
    group_key: str | None = None,
    n_genes: int = 50,
    basis: str | None = None,
    adjusted_basis: str | None = None,
    loadings: str = "PCs",
    key_added: str = "harmonax_genes",
) -> GeneEffects:
    """Say which genes a correction changed, in which batches and groups, and by how much.

    A correction of principal components takes sums of the components' genes away: what it subtracts from a cell, times
    the loadings, is what it subtracts from each gene. Of Harmony these are the ridge coefficients of the cell's soft
    clusters, weighted by its part in each.

    Parameters
    ----------
    adata
        N cells with an embedding before and after the correction, of the same width, and its loadings.
    batch_key
        Batch columns of ``adata.obs``; None: those of the last `harmonax.pp.harmony_integrate`.
    group_key
        Column by which effects are shown, such as cell types; None: ``"leiden"`` if that exists, else all cells.
    n_genes
        Genes of which effects are listed. More make a longer table; the order of all genes is always there.
    basis, adjusted_basis
        Embeddings in ``adata.obsm`` before and after, (N, d) each; None: those of the last run, else ``"X_pca"`` and
        ``"X_pca_harmony"``.
    loadings
        Where in ``adata.varm`` the loadings are, (genes, d). Genes with none (not variable) are left out.
    key_added
        Where in ``adata.uns`` the result goes.

    Returns
    -------
    GeneEffects
        Also written to ``adata.uns[key_added]``.

    Raises
    ------
    MissingKeyError
        If a column, an embedding or the loadings are not there.
    InputError
        If no batch column is known, or the embeddings and loadings differ in width.

    Examples
    --------
    >>> import anndata, harmonax, numpy as np, pandas as pd
    >>> gen = np.random.default_rng(0)
    >>> batch = np.repeat(["a", "b"], 100)
    >>> Z = gen.normal(size=(200, 2))
    >>> adata = anndata.AnnData(
    ...     obs=pd.DataFrame({"batch": batch}, index=[f"cell{i}" for i in range(200)]),
    ...     var=pd.DataFrame(index=["ACTB", "MALAT1", "XIST"]),
    ...     obsm={"X_pca": Z, "X_pca_harmony": Z - (batch == "b")[:, None] * [0, 2]},
    ...     varm={"PCs": np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])},
    ... )
    >>> found = harmonax.tl.gene_effects(adata, "batch")
    >>> found.genes.index.tolist(), found.genes["moved"].round(2).tolist()
    (['MALAT1', 'XIST', 'ACTB'], [1.41, 1.13, 0.0])
    >>> found.effects.loc[found.effects["gene"] == "MALAT1", ["batch", "removed"]].to_numpy().tolist()
    [['a', 0.0], ['b', 2.0]]
    """
    check_arguments(gene_effects, locals())
    expect_anndata(adata)
    n_genes = whole_number(n_genes, "n_genes", minimum=1)
    run = stored_run(adata.uns)
    keys, _ = batch_columns(run, batch_key)
    batch = design_from_table(adata.obs, keys, missing="level", allow_many_levels=True)
    if group_key is None and "leiden" in adata.obs:
        group_key = "leiden"
    group = (
        None if group_key is None else design_from_table(adata.obs, group_key, missing="level", allow_many_levels=True)
    )
    Z = _embedding(adata, basis or str(run.get("basis", "X_pca")))
    moves = Z - _like(adata, adjusted_basis or str(run.get("adjusted_basis", "X_pca_harmony")), Z)
    names, weights = _loadings(adata, loadings, Z.shape[1])
    genes = _order(names, weights, moves, Z)
    first = genes.index[:n_genes]
    of = weights[pd.Index(names).get_indexer(first)]
    label = level_names(batch), level_names(group) if group is not None else ["all cells"]
    effects = _by_group(moves, batch.joint, group.joint if group is not None else np.zeros(len(Z), np.int64), *label)
    found = GeneEffects(genes, _long(first, of, *effects))
    adata.uns[key_added] = found.to_uns()
    return found


def _embedding(adata: AnnData, name: str) -> np.ndarray:
    return np.asarray(read_obsm(adata, name).array(), np.float64)


def _like(adata: AnnData, name: str, Z: np.ndarray) -> np.ndarray:
    after = _embedding(adata, name)
    if after.shape != Z.shape:
        raise InputError(
            f"obsm['{name}'] has {after.shape[1]} columns, the embedding before {Z.shape[1]}: changes of genes are "
            "known only for a correction that keeps the components"
        )
    return after


def _loadings(adata: AnnData, name: str, width: int) -> tuple[list[str], np.ndarray]:
    """Return genes that have loadings, and these."""
    if name not in adata.varm:
        there = nearest(name, [str(key) for key in adata.varm])
        raise MissingKeyError(f"varm has no loadings '{name}', which scanpy.pp.pca writes; {there}")
    weights = np.asarray(adata.varm[name], np.float64)
    if weights.ndim != 2 or weights.shape[1] < width:
        raise InputError(f"varm['{name}'] has shape {weights.shape}; allowed is (genes, {width}), one per component")
    weights = np.nan_to_num(weights[:, :width])
    used = weights.any(axis=1)
    return [str(gene) for gene in adata.var_names[used]], weights[used]


def _order(names: list[str], weights: np.ndarray, moves: np.ndarray, Z: np.ndarray) -> pd.DataFrame:
    """Return how far each gene was moved, those moved most first: from d x d tables, not from cells x genes."""
    spread, moved = (
        np.einsum("gi,ij,gj->g", weights, M, weights, optimize=True)
        for M in (np.cov(Z.T, bias=True), moves.T @ moves / len(Z))
    )
    moved = np.maximum(moved, 0.0)
    share = np.divide(moved, spread, out=np.zeros_like(moved), where=spread > 0)
    table = pd.DataFrame({"moved": np.sqrt(moved), "share": share}, index=pd.Index(names, name="gene"))
    return table.sort_values("moved", ascending=False, kind="stable")


def _by_group(
    moves: np.ndarray, batch: np.ndarray, group: np.ndarray, batches: list[str], groups: list[str]
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return each batch and group with cells, with their number, and their mean moves."""
    pairs, place, counts = np.unique(batch * len(groups) + group, return_inverse=True, return_counts=True)
    sums = np.zeros((len(pairs), moves.shape[1]))
    np.add.at(sums, place, moves)
    table = {"batch": [batches[p // len(groups)] for p in pairs], "group": [groups[p % len(groups)] for p in pairs]}
    return pd.DataFrame(table | {"n_cells": counts}), sums / counts[:, None]


def _long(genes: pd.Index, weights: np.ndarray, pairs: pd.DataFrame, means: np.ndarray) -> pd.DataFrame:
    """Return a row per gene, batch and group."""
    table = pd.concat([pairs] * len(genes), ignore_index=True)
    table.insert(0, "gene", np.repeat(genes.to_numpy(object), len(pairs)))
    return table.assign(removed=(weights @ means.T).ravel())
