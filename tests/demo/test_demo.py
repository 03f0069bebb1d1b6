"""The demo: what it promises about its data, its scores and its files."""

from __future__ import annotations

import sys

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from harmonax.datasets import simulate
from harmonax.datasets.preparation import principal_components, variable_genes
from harmonax.datasets.simulation import ABSENT, BATCHES, TREE
from harmonax.demo import run_demo
from harmonax.errors import InputError, MissingExtraError, OutputError

N_CELLS, N_DEMO = 800, 2000


@pytest.fixture(scope="module")
def counts():
    return simulate(N_CELLS, np.random.default_rng(3))


KEPT, UNEXPLAINED = "own-batch neighbors kept", "variance not explained by batch"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    for name in ("scanpy", "umap", "igraph", "sklearn", "plotly"):
        pytest.importorskip(name, reason="needs harmonax[demo]")
    return run_demo(tmp_path_factory.mktemp("demo") / "made" / "here", n_cells=N_DEMO, seed=1, quiet=True)


class TestSimulate:
    def test_one_type_is_absent_from_one_batch_only(self, counts):
        table = counts.obs.groupby(["cell_type", "batch"], observed=False).size().unstack()
        assert table.loc[ABSENT] == 0
        assert (table.loc[ABSENT[0]].drop(ABSENT[1]) > 0).all()

    def test_abundances_are_unequal(self, counts):
        sizes = counts.obs["cell_type"].value_counts()
        assert sizes.max() > 4 * sizes.min()
        assert len(sizes) == sum(node.abundance > 0 for node in TREE)

    def test_counts_are_overdispersed_integers(self, counts):
        x = counts.X.toarray()
        assert (x == np.round(x)).all()
        assert x.min() == 0
        one = x[np.asarray((counts.obs["cell_type"] == "CD4 naive") & (counts.obs["batch"] == BATCHES[0].name))]
        mean, variance = one.mean(axis=0), one.var(axis=0)
        high = mean > np.quantile(mean, 0.9)
        assert np.median(variance[high] / mean[high]) > 1.3

    def test_same_seed_same_counts(self, counts):
        again = simulate(N_CELLS, np.random.default_rng(3))
        assert (again.X != counts.X).nnz == 0

    def test_library_sizes_follow_their_batch(self, counts):
        totals = np.asarray(counts.X.sum(axis=1)).ravel()
        for batch in BATCHES:
            median = np.median(totals[np.asarray(counts.obs["batch"] == batch.name)])
            assert median == pytest.approx(batch.median_library, rel=0.15)


class TestPrepare:
    def test_components_are_those_of_the_svd(self):
        x = np.random.default_rng(0).normal(size=(60, 12)) * np.arange(1, 13)
        x -= x.mean(axis=0)
        u, s, _ = np.linalg.svd(x, full_matrices=False)
        np.testing.assert_allclose(np.abs(principal_components(x, 4)), np.abs(u[:, :4] * s[:4]), atol=1e-8)

    def test_a_gene_that_varies_within_batches_is_chosen_one_that_differs_between_them_is_not(self):
        rng = np.random.default_rng(0)
        batch = np.repeat([0, 1], 200)
        x = rng.poisson(np.exp(rng.normal(1, 0.5, 300)), (400, 300)).astype(float)
        x[:, 7] = rng.poisson(np.where(rng.random(400) < 0.5, 1.0, 9.0))
        x[:, 8] = rng.poisson(np.where(batch == 0, 1.0, 9.0))
        chosen = variable_genes(sparse.csr_matrix(x), batch, 3)
        assert chosen.sum() == 3
        assert chosen[7]
        assert not chosen[8]


class TestRunDemo:
    def test_batches_mix_and_what_each_batch_had_stays(self, demo):
        before, after = demo.scores["before"], demo.scores["after"]
        # The verdict is from neighbours of the own batch in excess of chance; kBET is strict about compositions.
        assert ad.read_h5ad(demo.h5ad).uns["harmonax_diagnosis"]["verdict"] == "fine"
        assert after[UNEXPLAINED] > before[UNEXPLAINED]
        assert after[KEPT] > 0.8

    def test_types_stay_apart_also_the_one_that_a_batch_lacks(self, demo):
        from scipy.spatial import cKDTree

        adata = ad.read_h5ad(demo.h5ad)
        same = []
        for basis in ("X_pca", "X_pca_harmony"):
            x, types = adata.obsm[basis], adata.obs["cell_type"].to_numpy(str)
            near = cKDTree(x).query(x, 31)[1][:, 1:]
            own = (types[near] == types[:, None]).mean(axis=1)
            same.append((own.mean(), own[types == ABSENT[0]].mean()))
        assert same[1][0] > same[0][0] - 0.02
        assert same[1][1] > same[0][1] - 0.02

    def test_the_file_has_counts_both_embeddings_and_the_run(self, demo):
        adata = ad.read_h5ad(demo.h5ad)
        assert adata.n_obs == N_DEMO
        assert adata.obsm["X_pca"].shape == adata.obsm["X_pca_harmony"].shape == (N_DEMO, 30)
        assert adata.uns["harmonax"]["status"] == "converged"
        assert {"harmonax_workflow", "harmonax_evaluation", "harmonax_diagnosis"} <= set(adata.uns)
        assert (adata.layers["counts"] != simulate(N_DEMO, np.random.default_rng(1)).X).nnz == 0

    def test_the_figure_is_a_png_of_some_size(self, demo):
        import matplotlib.image

        pixels = matplotlib.image.imread(demo.figure)
        assert pixels.shape[0] > 800
        assert pixels.shape[1] > 800
        assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 100

    def test_nothing_else_is_left_behind(self, demo):
        assert {p.name for p in demo.h5ad.parent.iterdir()} == {"demo.h5ad", "demo.png", "report.html"}

    def test_the_report_has_metrics_and_says_that_the_correction_can_be_trusted(self, demo):
        page = demo.report.read_text(encoding="utf-8")
        assert "This correction can be trusted." in page
        assert "same-batch neighbours kept" in page

    @pytest.mark.parametrize("module", ["scanpy", "plotly"])
    def test_without_the_extra_it_says_how_to_get_it(self, module, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtraError, match=r"pip install 'harmonax\[demo\]'"):
            run_demo(tmp_path, n_cells=200)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.thorough
    def test_quiet_prints_nothing_and_a_second_demo_replaces_the_first(self, demo, tmp_path, capsys):
        run_demo(tmp_path, n_cells=120, quiet=True)
        assert capsys.readouterr() == ("", "")
        first = (tmp_path / "demo.png").read_bytes()
        second = run_demo(tmp_path, n_cells=150)
        assert (tmp_path / "demo.png").read_bytes() != first
        out = capsys.readouterr().out
        assert "higher is better" in out
        assert str(second.figure) in out

    def test_too_few_cells_are_refused(self, tmp_path):
        with pytest.raises(InputError, match="at least 100"):
            run_demo(tmp_path, n_cells=20)

    def test_a_directory_that_cannot_be_made_is_refused_before_any_work(self, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(OutputError, match="cannot make"):
            run_demo(tmp_path / "file" / "demo")
