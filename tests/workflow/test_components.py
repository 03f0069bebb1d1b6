"""Principal components: those of a full decomposition in float64, in memory and beyond, for any number of threads."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from harmonax.workflow import components, run
from harmonax.workflow.components import Components, principal_components

pytest.importorskip("scanpy")
pytest.importorskip("igraph")
pytest.importorskip("umap")


@pytest.fixture(scope="module")
def expression() -> np.ndarray:
    """500 cells x 60 genes, float32, far from the origin; from one axis to the next the spread falls by a fifth."""
    gen = np.random.default_rng(3)
    spread = 3 * 0.8 ** np.arange(60)
    values = gen.normal(size=(500, 60)) * spread @ np.linalg.qr(gen.normal(size=(60, 60)))[0]
    return np.maximum(values + 4, 0).astype(np.float32)


def exact(values: np.ndarray, n_comps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the scores, loadings, variances and shares of a singular value decomposition."""
    centred = values.astype(np.float64) - values.mean(axis=0, dtype=np.float64)
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    loadings = vt[:n_comps].T
    loadings = loadings * np.sign(loadings[np.abs(loadings).argmax(axis=0), np.arange(n_comps)])
    variance = s**2 / (len(values) - 1)
    return centred @ loadings, loadings, variance[:n_comps], (variance / variance.sum())[:n_comps]


def as_dask(values: np.ndarray) -> Any:
    return pytest.importorskip("dask.array").from_array(values, chunks=(170, 25)).map_blocks(sp.csr_matrix)


@pytest.mark.parametrize("make", [np.asarray, sp.csr_matrix, sp.csc_matrix, as_dask])
def test_it_is_the_exact_decomposition(expression, make, monkeypatch):
    # Several blocks, the last of them short.
    monkeypatch.setattr(components, "_ROWS", 64)
    genes = np.arange(60) % 7 != 0
    found = principal_components(make(expression), genes, 20, n_threads=2)
    assert found.scores.dtype == np.float32
    for one, other in zip(found, exact(expression[:, genes], 20), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6, rtol=1e-6)


def test_threads_do_not_show_in_the_bits(expression, monkeypatch):
    monkeypatch.setattr(components, "_ROWS", 32)
    every: list[Components] = [
        principal_components(sp.csr_matrix(expression), np.ones(60, bool), 10, n_threads=n) for n in (1, 2, 3, 5)
    ]
    for other in every[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(every[0], other, strict=True))


def test_genes_that_do_not_vary_and_components_that_nothing_is_left_for(expression):
    values = np.column_stack([expression[:, :3], np.full((500, 2), 7, np.float32)])
    found = principal_components(values, np.ones(5, bool), 4, n_threads=1)
    assert np.isfinite(found.scores).all()
    assert (found.variance >= 0).all()
    assert found.variance[3] == pytest.approx(0, abs=1e-9)


def test_more_genes_than_the_covariance_is_for_are_left_to_scanpy(monkeypatch):
    gen = np.random.default_rng(0)
    counts = gen.poisson(gen.gamma(1.0, size=(1, 80)), size=(90, 80)).astype(np.float32)
    adata = ad.AnnData(sp.csr_matrix(counts))
    adata.obs["batch"] = np.repeat(["a", "b"], 45)
    monkeypatch.setattr(components, "principal_components", None)
    skip = ("check", "umap", "umap_uncorrected", "markers", "evaluate", "diagnose")
    many = {"min_genes": 1, "n_top_genes": 80, "n_comps": 5, "skip": skip}
    monkeypatch.setattr("harmonax.workflow.prepare._MANY_GENES", 50)
    assert run(adata, "batch", **many).obsm["X_pca"].shape == (90, 5)
    monkeypatch.setattr("harmonax.workflow.prepare._MANY_GENES", 100)
    with pytest.raises(TypeError):
        run(adata, "batch", **many)
