"""From counts to principal components: quality control, normalisation, gene choice, PCA; all of it scanpy's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..errors import InputError, warn
from ..evaluation.labels import UNLABELLED
from ..inputs import expression as counts
from ..inputs.columns import design_from_table
from ..inputs.lazy import is_lazy
from ..system.cpus import resolve_threads
from ..system.extras import need
from . import components, features
from . import out_of_core as beyond
from .inputs import silent
from .options import WorkflowOptions
from .quality import spread
from .state import Skip, State

if TYPE_CHECKING:
    from anndata import AnnData

# A batch of fewer cells says nothing about which genes vary in it.
_FEWEST_FOR_GENES = 10
_FEWEST_CELLS = 5
# The covariance of more genes, and its eigenvectors, take longer than scanpy's own solver.
_MANY_GENES = 5000
_SYMBOLS = ("gene_symbols", "gene_symbol", "gene_name", "gene_names", "feature_name", "symbol")


def scanpy() -> Any:
    """Return scanpy, or say how to install it."""
    with silent():
        return need("scanpy", "workflow")


def qc(state: State) -> str:
    """Measure the cells and genes, and leave out those beyond the thresholds."""
    adata, options = state.adata, state.options
    if state.counts is None:
        raise Skip("no raw counts, which it needs")
    X = counts.matrix(adata, state.counts)
    mitochondrial, word = _mitochondrial(adata, options.mt_prefix)
    adata.var["mt"] = mitochondrial
    work = _measured(adata, X, mitochondrial)
    for name in ("n_genes_by_counts", "total_counts", "pct_counts_mt"):
        if name in work.obs:
            adata.obs[name] = np.nan_to_num(work.obs[name].to_numpy())
    for name in ("n_cells_by_counts", "mean_counts", "pct_dropout_by_counts"):
        adata.var[name] = work.var[name].to_numpy()
    kept_cells, why = _cells(adata.obs, options)
    kept_genes = _genes(X, kept_cells, options.min_cells)
    per_batch = _per_batch(adata, kept_cells, options)
    seen = spread(adata.obs, kept_cells, options.batch_key)
    genes = {"n_genes_before": adata.n_vars, "n_genes_after": int(kept_genes.sum())}
    lost = int((~kept_cells).sum()), int((~kept_genes).sum())
    note = f"removed {lost[0]:,} of {adata.n_obs:,} cells ({why}), {lost[1]:,} of {adata.n_vars:,} genes; {word}"
    _check_left(kept_cells, kept_genes, why, options)
    if not (kept_cells.all() and kept_genes.all()):
        state.adata = adata[kept_cells, kept_genes].copy()
    state.adata.uns["harmonax_workflow"] = {"genes": genes, "cells": per_batch, "quality": seen}
    if options.label_key in adata.obs:
        state.adata.uns["harmonax_workflow"]["types"] = _per_type(adata, kept_cells, options)
    _tell_lost_batches(per_batch)
    return note


def _measured(adata: AnnData, X: Any, mitochondrial: np.ndarray) -> AnnData:
    """Return what scanpy measures of the counts, apart, so that its columns do not replace the user's."""
    import anndata

    if is_lazy(X):
        return beyond.measured(counts.as_counts(X), mitochondrial, adata.obs_names, adata.var_names)
    index = pd.DataFrame(index=adata.obs_names)
    work = anndata.AnnData(X, obs=index, var=pd.DataFrame({"mt": mitochondrial}, index=adata.var_names))
    with silent():
        scanpy().pp.calculate_qc_metrics(
            work, qc_vars=["mt"] if mitochondrial.any() else [], percent_top=None, log1p=False, inplace=True
        )
    return work


def _mitochondrial(adata: AnnData, prefix: str | None) -> tuple[np.ndarray, str]:
    """Return which genes are mitochondrial, and what there is to say about it."""
    prefixes = ("MT-", "mt-") if prefix is None else (prefix,)
    columns = [adata.var_names.to_series()]
    columns += [adata.var[name].astype(str) for name in _SYMBOLS if name in adata.var]
    for names in columns:
        for begin in prefixes:
            found = names.astype(str).str.startswith(begin).to_numpy(dtype=bool)
            if found.any():
                return found, f"{int(found.sum())} mitochondrial genes ({begin})"
    tried = " or ".join(f"'{begin}'" for begin in prefixes)
    return np.zeros(adata.n_vars, bool), f"no mitochondrial genes (none begins with {tried}): that part is skipped"


def _cells(obs: pd.DataFrame, options: WorkflowOptions) -> tuple[np.ndarray, str]:
    """Return which cells stay, and how many each threshold is against."""
    genes = obs["n_genes_by_counts"].to_numpy()
    fewest = features.min_features(options)
    against = {f"min_genes={fewest}": genes < fewest}
    if options.max_genes is not None:
        against[f"max_genes={options.max_genes}"] = genes > options.max_genes
    if "pct_counts_mt" in obs:
        against[f"max_pct_mt={options.max_pct_mt:g}"] = obs["pct_counts_mt"].to_numpy() > options.max_pct_mt
    kept = ~np.logical_or.reduce(list(against.values()))
    return kept, ", ".join(f"{name}: {int(out.sum()):,}" for name, out in against.items())


def _genes(X: Any, kept_cells: np.ndarray, min_cells: int) -> np.ndarray:
    if is_lazy(X):
        return beyond.cells_with(counts.as_counts(X), kept_cells) >= min_cells
    seen = np.asarray((X[kept_cells] > 0).sum(axis=0)).ravel()
    return seen >= min_cells


def _check_left(cells: np.ndarray, genes: np.ndarray, why: str, options: WorkflowOptions) -> None:
    if cells.sum() < _FEWEST_CELLS:
        raise InputError(
            f"quality control leaves {int(cells.sum())} of {len(cells):,} cells (out by {why}); loosen that threshold"
        )
    if genes.sum() < 2:
        raise InputError(
            f"quality control leaves {int(genes.sum())} of {len(genes):,} genes (min_cells={options.min_cells})"
        )


def _per_batch(adata: AnnData, kept: np.ndarray, options: WorkflowOptions) -> pd.DataFrame:
    """Return the cells of every batch before and after."""
    rows = []
    for key in options.batch_key:
        labels = adata.obs[key].astype(str)
        before, after = labels.value_counts(sort=False), labels[kept].value_counts(sort=False)
        rows += [(key, level, int(n), int(after.get(level, 0))) for level, n in before.sort_index().items()]
    names = ["batch_key", "level", "n_before", "n_after"]
    return pd.DataFrame(rows, columns=names, index=[str(i) for i in range(len(rows))])


def _per_type(adata: AnnData, kept: np.ndarray, options: WorkflowOptions) -> pd.DataFrame:
    """Return the cells of every type in every batch before and after."""
    types = adata.obs[options.label_key].astype(object).where(~adata.obs[options.label_key].isna(), "").astype(str)
    types = types.where(~types.str.strip().str.casefold().isin(UNLABELLED), "")
    rows = []
    for key in options.batch_key:
        table = pd.DataFrame({"level": adata.obs[key].astype(str), "type": types, "after": kept})
        for (level, name), found in table.groupby(["level", "type"])["after"]:
            rows.append((key, level, name, len(found), int(found.sum())))
    names = ["batch_key", "level", "type", "n_before", "n_after"]
    return pd.DataFrame(rows, columns=names, index=[str(i) for i in range(len(rows))])


def _tell_lost_batches(per_batch: pd.DataFrame) -> None:
    gone = per_batch.loc[per_batch["n_after"] == 0, "level"].tolist()
    if gone:
        warn(f"quality control removed all cells of {len(gone)} batches: {', '.join(map(repr, gone[:5]))}")


def normalise(state: State) -> str:
    """Keep the counts in ``layers["counts"]`` and make X log1p of counts per `target_sum`."""
    if state.counts is None:
        raise Skip("no raw counts; X is taken as it is")
    adata = state.adata
    raw = counts.as_counts(counts.matrix(adata, state.counts))
    lazy = is_lazy(raw)
    # Of what is beyond memory nothing is put there.
    if not lazy and state.counts != "counts" and "counts" in adata.layers and _differ(raw, adata.layers["counts"]):
        raise InputError(
            f"layers['counts'] holds other values than {counts.label(state.counts)}, which the run would put there; "
            "rename that layer, or leave counts_layer (--counts-layer) out to use it"
        )
    if not lazy:
        adata.layers["counts"] = raw
    adata.uns.pop("log1p", None)
    from_where = "" if state.counts == "counts" else f" (from {counts.label(state.counts)})"
    if not features.are_genes(state.options):
        adata.X, called = features.transformed(raw, state.options)
        return f"{called}; counts in layers['counts']{from_where}"
    adata.X = raw.copy()
    with silent():
        scanpy().pp.normalize_total(adata, target_sum=state.options.target_sum)
        scanpy().pp.log1p(adata)
    kept = "beyond memory" if lazy else "counts in layers['counts']"
    return f"to {state.options.target_sum:g} per cell, log1p; {kept}{from_where}"


def _differ(one: Any, other: Any) -> bool:
    if one.shape != other.shape:
        return True
    difference = one - other
    return bool(abs(difference).sum() > 0)


def hvg(state: State) -> str:
    """Choose highly variable genes, within batches of some size."""
    adata, options = state.adata, state.options
    n_top = min(options.n_top_genes, adata.n_vars)
    if not features.are_genes(options):
        adata.var["highly_variable"] = np.ones(adata.n_vars, bool)
        return f"all {adata.n_vars:,} features: they are not genes"
    if n_top == adata.n_vars:
        adata.var["highly_variable"] = np.ones(adata.n_vars, bool)
        return f"all {n_top:,} genes: not more than n_top_genes={options.n_top_genes:,}"
    design = design_from_table(adata.obs, options.batch_key, allow_many_levels=True, missing="literal")
    sizes = np.bincount(design.joint)
    large = sizes[design.joint] >= _FEWEST_FOR_GENES
    few = not large.any()
    source = adata if large.all() or few else adata[large].copy()
    joint = "harmonax_joint_batch"
    source.obs[joint] = pd.Categorical((design.joint if few else design.joint[large]).astype(str))
    from_counts = options.hvg_flavor.startswith("seurat_v3")
    try:
        with silent():
            scanpy().pp.highly_variable_genes(
                source,
                n_top_genes=n_top,
                flavor=options.hvg_flavor,
                layer="counts" if from_counts else None,
                batch_key=None if few else joint,
            )
    except ValueError as error:
        # loess has no curve for few cells.
        raise InputError(
            f"hvg_flavor='{options.hvg_flavor}' cannot choose genes here ({error}); the smallest batch it looks at "
            f"has {int(sizes[sizes >= (0 if few else _FEWEST_FOR_GENES)].min())} cells: use hvg_flavor='seurat'"
        ) from error
    finally:
        del source.obs[joint]
    if source is not adata:
        for name in set(source.var) - set(adata.var) | {"highly_variable"}:
            adata.var[name] = source.var[name]
        adata.uns["hvg"] = source.uns["hvg"]
    small = int((sizes < _FEWEST_FOR_GENES).sum())
    word = f"; {small} batches of under {_FEWEST_FOR_GENES} cells have no say" if small and not few else ""
    how = "over all cells: every batch is tiny" if few else f"within {len(sizes) - small} batches"
    return f"{int(adata.var['highly_variable'].sum()):,} of {adata.n_vars:,} genes ({options.hvg_flavor}), {how}{word}"


def pca(state: State) -> str:
    """Reduce the highly variable genes to principal components."""
    adata, options = state.adata, state.options
    if features.name_of(options.feature_type) == features.KINDS["peaks"]:
        return features.semantic_indexing(adata, options.n_comps, options.seed)
    chosen = int(adata.var["highly_variable"].sum())
    n_comps = min(options.n_comps, adata.n_obs - 1, chosen - 1)
    if n_comps < 1:
        raise InputError(f"{adata.n_obs} cells and {chosen} highly variable genes have no principal components")
    if is_lazy(adata.X) or chosen <= min(_MANY_GENES, adata.n_obs):
        components.pca(adata, n_comps, resolve_threads(options.n_threads))
    else:
        with silent():
            scanpy().pp.pca(adata, n_comps=n_comps, mask_var="highly_variable", random_state=options.seed)
    capped = f" (n_comps={options.n_comps} is more than the data have)" if n_comps < options.n_comps else ""
    share = float(np.sum(adata.uns["pca"]["variance_ratio"]))
    return f"{n_comps} components{capped}, {share:.0%} of the variance of {chosen:,} genes"


def is_normalised(state: State) -> bool:
    """Return whether X has normalised values, whatever their counts."""
    return state.counts != "X" and counts.kind_of(state.adata.X) is counts.Kind.POSITIVE
