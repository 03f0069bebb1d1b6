"""Counts to principal components in a few lines, as scanpy's tutorials do it, so that the demo needs no scanpy."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from scipy import linalg, sparse

from ..errors import MissingKeyError, nearest
from ..system.arguments import check_arguments
from ..system.validate import expect_anndata, whole_number

_TARGET = 1e4
_BINS = 20
_CLIP = 10.0


def prepare(adata: ad.AnnData, *, n_genes: int = 1000, n_components: int = 30) -> None:
    """Add ``var["highly_variable"]`` and ``obsm["X_pca"]`` (no batch handling but in the choice of genes).

    Also ``var["highly_variable_nbatches"]``, as scanpy does with a `batch_key`.
    """
    check_arguments(prepare, locals())
    expect_anndata(adata, parts=("X", "obs", "var", "obsm"))
    n_genes = whole_number(n_genes, "n_genes", minimum=1)
    n_components = whole_number(n_components, "n_components", minimum=1)
    if "batch" not in adata.obs:
        raise MissingKeyError(f"obs has no column 'batch'; {nearest('batch', adata.obs.columns)}")
    counts = sparse.csr_matrix(adata.X, dtype=np.float64)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    normalised = sparse.diags_array(_TARGET / np.maximum(totals, 1.0)) @ counts
    batch = pd.factorize(adata.obs["batch"], sort=True)[0]
    chosen = variable_genes(normalised, batch, n_genes)
    adata.var["highly_variable"] = chosen
    alone = [variable_genes(normalised[batch == b], batch[batch == b], n_genes) for b in np.unique(batch)]
    adata.var["highly_variable_nbatches"] = np.sum(alone, axis=0)
    x = np.log1p(normalised[:, np.flatnonzero(chosen)].toarray())
    x -= x.mean(axis=0)
    deviation = x.std(axis=0)
    x /= np.where(deviation > 0, deviation, 1.0)
    np.clip(x, -_CLIP, _CLIP, out=x)
    adata.obsm["X_pca"] = principal_components(x, n_components).astype(np.float32)


def variable_genes(normalised: sparse.csr_matrix, batch: np.ndarray, n_genes: int) -> np.ndarray:
    """Return which genes vary most for their mean, within batches.

    Per batch, the log of variance / mean is compared with the median of genes of like mean (20 bins), in median
    absolute deviations; genes are ranked by the sum over batches.
    """
    scores = np.zeros(normalised.shape[1])
    for b in np.unique(batch):
        in_batch = normalised[np.flatnonzero(batch == b)]
        mean = np.asarray(in_batch.mean(axis=0)).ravel()
        variance = np.asarray(in_batch.multiply(in_batch).mean(axis=0)).ravel() - mean**2
        dispersion = pd.Series(np.log(np.maximum(variance, 1e-12) / np.maximum(mean, 1e-12)))
        by_mean = dispersion.groupby(np.argsort(np.argsort(mean)) * _BINS // len(mean))
        centre = by_mean.transform("median")
        spread = (dispersion - centre).abs().groupby(by_mean.ngroup()).transform("median")
        scores += np.where(mean > 0, (dispersion - centre) / np.maximum(spread, 1e-12), -np.inf)
    chosen = np.zeros(len(scores), bool)
    chosen[np.argsort(-scores, kind="stable")[:n_genes]] = True
    return chosen


def principal_components(x: np.ndarray, n_components: int) -> np.ndarray:
    """Return the scores (N, n_components) of a centred matrix, each component's sign fixed by its largest loading."""
    n = x.shape[1]
    n_components = min(n_components, n, len(x))
    _, vectors = linalg.eigh(x.T @ x, subset_by_index=[n - n_components, n - 1])
    vectors = vectors[:, ::-1]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(n_components)]
    return x @ (vectors * np.sign(largest))
