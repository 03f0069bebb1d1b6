"""Today's stack: lazily read files, either spelling of an embedding's name, rapids' and scanpy's arguments."""

from __future__ import annotations

import logging

import anndata
import numpy as np
import pandas as pd
import pytest

import harmonax
from harmonax.cli import run
from harmonax.errors import MissingKeyError

HOW = {"rng": 0, "verbose": False, "max_iter_harmony": 3}


@pytest.fixture
def lazy(adata, tmp_path):
    pytest.importorskip("xarray", reason="xarray is not installed")
    adata.write_zarr(tmp_path / "a.zarr")
    return lambda: anndata.experimental.read_lazy(tmp_path / "a.zarr")


@pytest.mark.filterwarnings("ignore:Writing zarr v2", "ignore::FutureWarning", "ignore::DeprecationWarning")
class TestReadLazy:
    def test_is_as_in_memory(self, adata, lazy):
        harmonax.pp.harmony_integrate(adata, "batch", **HOW)
        found = lazy()
        harmonax.pp.harmony_integrate(found, "batch", **HOW)
        np.testing.assert_array_equal(np.asarray(found.obsm["X_pca_harmony"]), adata.obsm["X_pca_harmony"])
        assert isinstance(found.obs, pd.DataFrame)
        assert harmonax.tl.check(found, "batch").n_cells == adata.n_obs
        assert harmonax.tl.evaluate(found, "batch").n_cells == adata.n_obs
        assert harmonax.tl.diagnose(found, null=False).verdict == harmonax.tl.diagnose(adata, null=False).verdict

    def test_every_front_alone(self, adata, lazy):
        assert harmonax.tl.check(lazy(), "batch").verdict == harmonax.tl.check(adata, "batch").verdict
        assert harmonax.tl.evaluate(lazy(), "batch").n_cells == adata.n_obs
        harmonax.pp.harmony_integrate(adata, "batch", save_model=True, **HOW)
        query, want = lazy(), adata.copy()
        for one in (query, want):
            harmonax.tl.map_query(one, adata, "batch", basis="X_pca")
        np.testing.assert_array_equal(query.obsm["X_pca_harmony"], want.obsm["X_pca_harmony"])


class TestSpelling:
    @pytest.mark.parametrize(("there", "asked"), [("pca", "X_pca"), ("X_pca", "pca"), ("X_pca", "X_pca")])
    def test_either_finds_the_other_with_one_note(self, adata, there, asked, caplog, tmp_path):
        want = adata.copy()
        harmonax.pp.harmony_integrate(want, "batch", **HOW)
        adata.obsm[there] = adata.obsm.pop("X_pca")
        with caplog.at_level(logging.INFO, "harmonax"):
            harmonax.pp.harmony_integrate(adata, "batch", basis=asked, adjusted_basis=None, **HOW)
        notes = [record for record in caplog.records if "is taken" in record.message]
        assert len(notes) == (there != asked)
        np.testing.assert_array_equal(adata.obsm[f"{there}_harmony"], want.obsm["X_pca_harmony"])
        assert adata.uns["harmonax"]["basis"] == there
        assert harmonax.tl.check(adata, "batch", basis=asked).basis
        assert harmonax.tl.evaluate(adata, "batch", baseline=asked, embeddings=[]).embeddings == (there,)
        adata.write_h5ad(tmp_path / "in.h5ad")
        words = ["--batch-key", "batch", "--basis", asked, "--max-iter-harmony", "1", "--quiet"]
        assert run(["integrate", str(tmp_path / "in.h5ad"), "-o", str(tmp_path / "out.h5ad"), *words]) == 0

    def test_neither_is_named(self, adata):
        with pytest.raises(MissingKeyError, match="obsm has no 'X_lsi'"):
            harmonax.pp.harmony_integrate(adata, "batch", basis="X_lsi")


def test_the_arguments_of_scanpy_and_rapids(adata):
    want = adata.copy()
    harmonax.pp.harmony_integrate(want, "batch", **HOW)
    for more in (
        {"max_iter_clustering": None, "tol_harmony": None, "tol_clustering": None},
        {"use_gemm": True, "colsum_algo": "benchmark", "correction_method": "original"},
        {"random_state": 0, "block_size": 0.05},
    ):
        harmonax.pp.harmony_integrate(
            adata, "batch", **(HOW | more | ({"rng": None} if "random_state" in more else {}))
        )
        assert adata.obsm["X_pca_harmony"].shape == want.obsm["X_pca_harmony"].shape
