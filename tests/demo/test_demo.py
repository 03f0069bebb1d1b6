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
from harmonax.demo.layout import lay_out, leiden
from harmonax.demo.scores import neighbours, score
from harmonax.errors import InputError, OutputError

N_CELLS = 800


@pytest.fixture(scope="module")
def counts():
    return simulate(N_CELLS, np.random.default_rng(3))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return run_demo(tmp_path_factory.mktemp("demo") / "made" / "here", n_cells=N_CELLS, seed=1, quiet=True)


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


class TestScores:
    def test_neighbours_are_other_cells_also_where_cells_coincide(self):
        x = np.zeros((9, 2))
        x[6:] = 1.0
        _, index = neighbours(x, 2)
        assert (index != np.arange(9)[:, None]).all()

    @pytest.mark.parametrize(("shift", "mixing"), [(0.0, 1.0), (100.0, 0.0)])
    def test_mixing_is_one_by_chance_and_zero_apart(self, shift, mixing):
        rng = np.random.default_rng(0)
        batch = np.arange(1000) % 2
        x = rng.normal(size=(1000, 4)) + shift * batch[:, None]
        cell_type = np.zeros(1000, int)
        got = score(neighbours(x, 30)[1], batch, cell_type, 0, rng)
        assert got.mixing == pytest.approx(mixing, abs=0.02)
        assert got.purity == got.absent_purity == 1.0

    def test_mixing_is_judged_within_types(self):
        # Each type in a batch of its own: nothing could be mixed, so nothing is missing.
        rng = np.random.default_rng(0)
        batch = np.arange(400) % 2
        x = rng.normal(size=(400, 3)) + 100.0 * batch[:, None]
        assert score(neighbours(x, 30)[1], batch, batch, 0, rng).mixing == 1.0


class TestLayout:
    def test_groups_stay_apart_and_a_seed_keeps_its_view(self):
        pytest.importorskip("igraph", reason="igraph draws the UMAP views")
        rng = np.random.default_rng(0)
        group = np.arange(300) % 3
        x = rng.normal(size=(300, 5)) + 12 * np.eye(3, 5)[group]
        y = lay_out(x, *neighbours(x, 15), seed=1)
        assert (group[neighbours(y, 5)[1]] == group[:, None]).mean() > 0.99
        np.testing.assert_array_equal(y, lay_out(x, *neighbours(x, 15), seed=1))
        assert not np.array_equal(y, lay_out(x, *neighbours(x, 15), seed=2))

    def test_clusters_are_the_groups_largest_first(self):
        pytest.importorskip("igraph", reason="igraph makes the clusters")
        group = np.repeat([0, 1, 2], [50, 150, 100])
        x = np.random.default_rng(0).normal(size=(300, 5)) + 60 * np.eye(3, 5)[group]
        found = leiden(neighbours(x, 15)[1], seed=1)
        assert all(len(np.unique(group[found == c])) == 1 for c in np.unique(found))
        assert (np.diff(np.bincount(found)) <= 0).all()

    def test_without_igraph_the_first_two_components_are_shown_and_it_says_so(self, monkeypatch, tmp_path, capsys):
        monkeypatch.setitem(sys.modules, "igraph", None)
        x = np.random.default_rng(0).normal(size=(50, 5))
        np.testing.assert_array_equal(lay_out(x, *neighbours(x, 15), seed=0), x[:, :2])
        run_demo(tmp_path, n_cells=200)
        assert "pip install 'harmonax[demo]'" in capsys.readouterr().out


class TestRunDemo:
    def test_batches_mix_and_types_stay(self, demo):
        assert demo.after.mixing > demo.before.mixing + 0.2
        assert demo.after.purity > demo.before.purity - 0.02
        assert demo.after.absent_purity > demo.before.absent_purity - 0.02

    def test_the_file_has_counts_both_embeddings_and_the_run(self, demo):
        adata = ad.read_h5ad(demo.h5ad)
        assert adata.n_obs == N_CELLS
        assert adata.obsm["X_pca"].shape == adata.obsm["X_pca_harmony"].shape == (N_CELLS, 30)
        assert adata.uns["harmonax"]["status"] == "converged"
        assert adata.uns["harmonax_demo"]["after"]["mixing"] == pytest.approx(demo.after.mixing)
        assert float(adata.X.max()) == int(adata.X.max())

    def test_the_figure_is_a_png_of_some_size(self, demo):
        import matplotlib.image

        pixels = matplotlib.image.imread(demo.figure)
        assert pixels.shape[0] > 800
        assert pixels.shape[1] > 800
        assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 100

    def test_nothing_else_is_left_behind(self, demo):
        assert {p.name for p in demo.h5ad.parent.iterdir()} == {"demo.h5ad", "demo.png", "report.html"}

    def test_the_report_says_that_the_correction_can_be_trusted(self, tmp_path):
        pytest.importorskip("plotly", reason="the report needs plotly")
        report = run_demo(tmp_path, n_cells=2000, quiet=True).report
        assert "This correction can be trusted." in report.read_text(encoding="utf-8")

    def test_without_plotly_there_is_no_report_and_it_says_how_to_get_it(self, monkeypatch, tmp_path, capsys):
        monkeypatch.setattr("harmonax.demo.run._reportable", lambda: False)
        assert run_demo(tmp_path, n_cells=200).report is None
        assert "not made: pip install 'harmonax[demo]'" in capsys.readouterr().out
        assert not (tmp_path / "report.html").exists()

    def test_quiet_prints_nothing_and_a_second_demo_replaces_the_first(self, tmp_path, capsys):
        run_demo(tmp_path, n_cells=120, quiet=True)
        assert capsys.readouterr() == ("", "")
        first = (tmp_path / "demo.png").read_bytes()
        second = run_demo(tmp_path, n_cells=150)
        assert (tmp_path / "demo.png").read_bytes() != first
        out = capsys.readouterr().out
        assert "batch mixing" in out
        assert str(second.figure) in out

    def test_too_few_cells_are_refused(self, tmp_path):
        with pytest.raises(InputError, match="at least 100"):
            run_demo(tmp_path, n_cells=20)

    def test_a_directory_that_cannot_be_made_is_refused_before_any_work(self, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(OutputError, match="cannot make"):
            run_demo(tmp_path / "file" / "demo")
