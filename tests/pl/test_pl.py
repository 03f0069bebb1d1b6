"""Figures: what is drawn is what the tables say, under any name, and nothing else is touched."""

from __future__ import annotations

import warnings

import anndata
import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("agg")

from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

import harmonax
from harmonax import pl
from harmonax.errors import InputError, MissingKeyError, OutputError

HOSTILE = ["_hidden", "$a", "$x^2$", "<script>", "a\nb", "%s {0}", "Σ & co"]


@pytest.fixture(autouse=True)
def _no_figure_is_left():
    yield
    plt.close("all")


@pytest.fixture
def corrected(adata):
    harmonax.pp.harmony_integrate(adata, ["batch", "donor"], rng=0, verbose=False)
    return adata


def table(embeddings=("X_pca", "X_pca_harmony"), low=np.nan):
    rows = [
        (name, key, metric, kind, 0.1 * i + 0.2)
        for i, name in enumerate(embeddings)
        for key, metric, kind in [("batch", "iLISI", "batch"), ("donor", "iLISI", "batch"), ("", "ARI", "bio")]
    ]
    made = pd.DataFrame(rows, columns=["embedding", "batch_key", "metric", "kind", "value"])
    return made.assign(low=made["value"] - low, high=made["value"] + low)


def colours_by_place(ax, xy):
    """Return the hex colour at each of the given coordinates."""
    (drawn,) = ax.collections
    at = {
        tuple(p): to_hex(c) for p, c in zip(np.round(drawn.get_offsets().data, 5), drawn.get_facecolors(), strict=True)
    }
    return [at[tuple(p)] for p in np.round(np.asarray(xy, float), 5)]


def legend_names(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


class TestEmbedding:
    def test_each_cell_is_where_it_is_in_its_batchs_colour(self, corrected):
        axes = pl.embedding(corrected, "batch", show=False)
        key = dict(zip("abc", ["#0072b2", "#e69f00", "#009e73"], strict=True))
        for ax, basis in zip(axes, ["X_pca", "X_pca_harmony"], strict=True):
            xy = np.asarray(corrected.obsm[basis], float)[:, :2]
            assert colours_by_place(ax, xy) == [key[b] for b in corrected.obs["batch"]]
            assert ax.get_xlabel() == f"{basis}, column 1"
        assert legend_names(axes[-1]) == ["a (90)", "b (60)", "c (30)"]
        assert axes[0].get_legend() is None

    def test_umaps_go_before_principal_components(self, corrected):
        gen = np.random.default_rng(1)
        corrected.obsm["X_umap"] = gen.normal(size=(corrected.n_obs, 2))
        assert pl.embedding(corrected, "batch", show=False)[1].get_xlabel() == "X_pca_harmony, column 1"
        corrected.obsm["X_umap_uncorrected"] = gen.normal(size=(corrected.n_obs, 2))
        axes = pl.embedding(corrected, "batch", show=False)
        for ax, basis in zip(axes, pl.embedding.__kwdefaults__["bases"], strict=True):
            assert ax.get_xlabel() == "UMAP 1"
            assert {tuple(p) for p in ax.collections[0].get_offsets().data} == {tuple(p) for p in corrected.obsm[basis]}

    def test_the_order_is_random_and_always_the_same(self, corrected):
        drawn = [pl.embedding(corrected, "batch", show=False)[0].collections[0].get_offsets().data for _ in range(2)]
        np.testing.assert_array_equal(*drawn)
        assert not np.allclose(drawn[0], corrected.obsm["X_pca"][:, :2])

    def test_scanpys_colours_are_kept_also_where_a_category_has_no_cells(self, corrected):
        corrected.obs["kind"] = pd.Categorical(np.where(corrected.obs["batch"] == "a", "x", "z"), ["x", "y", "z"])
        corrected.uns["kind_colors"] = np.array(["#ff0000", "#00ff00", "#0000ff"], object)
        axes = pl.embedding(corrected, "kind", show=False)
        assert set(colours_by_place(axes[0], corrected.obsm["X_pca"][:, :2])) == {"#ff0000", "#0000ff"}
        assert legend_names(axes[-1]) == ["x (90)", "z (90)"]

    @pytest.mark.parametrize("bad", [["#ff0000"], ["no", "such", "colour"], "red", []])
    def test_colours_of_another_column_are_not_taken(self, corrected, bad):
        corrected.uns["batch_colors"] = bad
        axes = pl.embedding(corrected, "batch", show=False)
        assert "#0072b2" in colours_by_place(axes[0], corrected.obsm["X_pca"][:, :2])

    def test_names_are_shown_as_they_are(self, corrected, tmp_path):
        corrected.obs["$key_"] = np.resize(np.array(HOSTILE, object), corrected.n_obs)
        axes = pl.embedding(corrected, "$key_", show=False, save=tmp_path / "a.png")
        shown = [name.rsplit(" (", 1)[0] for name in legend_names(axes[-1])]
        assert sorted(shown) == sorted(name.replace("\n", "\\n") for name in HOSTILE)
        assert all(not text.get_parse_math() for text in axes[-1].get_legend().get_texts())
        assert axes[-1].get_legend().get_title().get_text() == "$key_"

    @pytest.mark.parametrize("n", [1, 8, 9, 60, 150])
    def test_any_number_of_groups(self, corrected, n, tmp_path):
        corrected.obs["group"] = [f"g{i % n}" for i in range(corrected.n_obs)]
        axes = pl.embedding(corrected, "group", show=False, save=tmp_path / "a.pdf")
        colours = colours_by_place(axes[0], corrected.obsm["X_pca"][:, :2])
        assert len(set(colours)) == n
        if n <= 120:
            assert len(legend_names(axes[-1])) == n
        else:
            assert "150 groups" in axes[-1].texts[0].get_text()

    def test_numbers_get_a_scale_and_missing_ones_are_grey(self, corrected):
        values = np.linspace(-1, 3, corrected.n_obs)
        values[:5] = [np.nan, np.inf, -np.inf, np.nan, np.nan]
        corrected.obs["age"] = values
        before = set(plt.get_fignums())
        ax = pl.embedding(corrected, "age", bases="X_pca", show=False)[0]
        grey, drawn = ax.collections
        assert len(grey.get_offsets()) == 5
        assert drawn.get_clim() == (pytest.approx(values[5]), 3)
        at = {tuple(p): v for p, v in zip(np.round(drawn.get_offsets().data, 5), drawn.get_array(), strict=True)}
        xy = np.round(corrected.obsm["X_pca"][5:, :2].astype(float), 5)
        np.testing.assert_allclose([at[tuple(p)] for p in xy], values[5:])
        assert len(set(plt.get_fignums()) - before) == 1

    @pytest.mark.parametrize(
        ("values", "names"),
        [
            ([1, 2], True),
            ([True, False], True),
            ([1.5, 2.5], False),
            (list(range(30)), False),
            (pd.array([1, None], dtype="Int64"), True),
        ],
    )
    def test_whole_numbers_of_few_values_are_names(self, corrected, values, names):
        corrected.obs["x"] = pd.Series(values).take(np.arange(corrected.n_obs) % len(values)).array
        ax = pl.embedding(corrected, "x", bases="X_pca", show=False)[0]
        assert (ax.get_legend() is not None) == names

    def test_missing_labels_and_those_that_mean_it_are_grey(self, corrected):
        kind = corrected.obs["batch"].astype(object).where(corrected.obs["batch"] != "c", np.nan)
        corrected.obs["kind"] = kind.replace("b", "Unlabelled")
        ax = pl.embedding(corrected, "kind", bases="X_pca", show=False)[0]
        assert set(colours_by_place(ax, corrected.obsm["X_pca"][:, :2])) == {"#0072b2", "#bbbbbb"}
        assert legend_names(ax) == ["Unlabelled (60)", "a (90)", "missing (30)"]

    def test_several_colours_are_rows_and_a_gene_is_one(self, corrected):
        gene = np.arange(corrected.n_obs, dtype=float)[:, None]
        full = anndata.AnnData(gene, obs=corrected.obs, obsm=dict(corrected.obsm), var=pd.DataFrame(index=["CD3"]))
        axes = pl.embedding(full, ["batch", "CD3"], show=False)
        assert axes.shape == (2, 2)
        np.testing.assert_array_equal(np.sort(axes[1, 0].collections[0].get_array()), gene.ravel())

    def test_many_points_are_an_image(self):
        obs = pd.DataFrame({"b": "x"}, index=pd.RangeIndex(50_001).astype(str))
        big = anndata.AnnData(obs=obs, obsm={"X_pca": np.random.default_rng(0).normal(size=(50_001, 2))})
        ax = pl.embedding(big, "b", bases="pca", show=False)[0]
        assert ax.collections[0].get_rasterized()

    def test_data_frames_sparse_matrices_and_nan_coordinates(self, corrected):
        from scipy import sparse

        xy = np.asarray(corrected.obsm["X_pca"][:, :2], float)
        xy[3] = np.nan
        corrected.obsm["frame"] = pd.DataFrame(xy, index=corrected.obs_names, columns=["u", "v"])
        corrected.obsm["sparse"] = sparse.csr_matrix(np.nan_to_num(xy))
        axes = pl.embedding(corrected, "batch", bases=("frame", "sparse"), show=False)
        assert all(np.isfinite(ax.get_xlim()).all() for ax in axes)

    def test_what_is_missing_is_named(self, corrected):
        with pytest.raises(MissingKeyError, match=r"no column 'bacth'.*did you mean 'batch'"):
            pl.embedding(corrected, "bacth")
        with pytest.raises(MissingKeyError, match="obsm has no 'X_tsne'"):
            pl.embedding(corrected, "batch", bases=("X_tsne",))
        del corrected.obsm["X_pca_harmony"]
        with pytest.raises(MissingKeyError, match=r"X_pca_harmony.*harmonax\.pp\.harmony_integrate"):
            pl.embedding(corrected, "batch")
        corrected.obsm["one"] = np.ones((corrected.n_obs, 1))
        with pytest.raises(InputError, match="two columns"):
            pl.embedding(corrected, "batch", bases="one")
        with pytest.raises(InputError, match="color is empty"):
            pl.embedding(corrected, [])
        assert plt.get_fignums() == []


class TestConvergence:
    def test_lines_are_the_history(self, corrected):
        history = corrected.uns["harmonax"]["history"]
        objective, terms = pl.convergence(corrected, show=False)
        line, ends = objective.get_lines()[:2]
        np.testing.assert_allclose(line.get_ydata()[1:], history["objective_passes"])
        np.testing.assert_allclose(ends.get_ydata(), history["objective"])
        np.testing.assert_array_equal(ends.get_xdata(), np.append(0, np.cumsum(history["passes"])))
        lines = [line for line in terms.get_lines() if not line.get_label().startswith("_")]
        change = sum(line.get_ydata() for line in lines)
        np.testing.assert_allclose(change, np.subtract(history["objective"][1:], history["objective"][1]), atol=1e-6)
        np.testing.assert_array_equal(lines[0].get_xdata(), np.cumsum(history["passes"]))

    def test_a_result_is_drawn_as_its_record_is(self, corrected):
        result = harmonax.harmonize(corrected.obsm["X_pca"], corrected.obs["batch"], rng=0)
        old = harmonax.run_harmony(corrected.obsm["X_pca"], corrected.obs, ["batch"], verbose=False)
        assert pl.convergence(result, show=False)[0].get_title(loc="left")
        assert len(pl.convergence(old, show=False)[0].get_lines()[1].get_ydata()) == len(old.objective_harmony)

    def test_the_title_says_why_it_stopped(self, adata):
        harmonax.pp.harmony_integrate(adata, "batch", max_iter_harmony=1, rng=0, verbose=False)
        title = pl.convergence(adata, show=False)[0].get_title(loc="left")
        assert title.startswith("Not converged")
        assert "1 round," in title
        assert f"{adata.uns['harmonax']['last_change']:.1e}, tolerance 1.0e-04" in title

    def test_it_reads_what_a_file_gave_back(self, corrected, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            corrected.write_h5ad(tmp_path / "a.h5ad")
            back = anndata.read_h5ad(tmp_path / "a.h5ad")
        for draw in (pl.convergence, pl.assignments):
            draw(back, show=False)
        np.testing.assert_allclose(*(pl.assignments(a, show=False).images[0].get_array() for a in (back, corrected)))

    def test_one_batch_is_no_error(self, adata):
        adata.obs["one"] = "x"
        with pytest.warns(harmonax.errors.HarmonaxWarning):
            harmonax.pp.harmony_integrate(adata, "one", verbose=False)
        assert "One batch" in pl.convergence(adata, show=False)[0].get_title(loc="left")
        with pytest.raises(InputError, match="one batch"):
            pl.assignments(adata)

    def test_uncorrected_data_say_what_to_run(self, adata):
        with pytest.raises(MissingKeyError, match=r"uns has no 'harmonax'.*harmony_integrate"):
            pl.convergence(adata)
        with pytest.raises(InputError, match="ndarray holds no results"):
            pl.convergence(np.ones(3))


class TestAssignments:
    def test_colours_are_observed_over_expected_from_the_assignments(self, corrected):
        result = harmonax.harmonize(corrected.obsm["X_pca"], corrected.obs["batch"], rng=0, dtype=np.float64)
        ax = pl.assignments(result, show=False)
        drawn = np.asarray(ax.images[0].get_array())
        R = result.assignments().astype(float)
        share = corrected.obs["batch"].value_counts(normalize=True)
        observed = np.stack([R[np.asarray(corrected.obs["batch"] == b)].sum(axis=0) for b in "abc"])
        expected = np.outer(share["a":"c"] if list(share.index) == list("abc") else share[list("abc")], R.sum(axis=0))
        truth = np.log2(observed / expected)
        np.testing.assert_allclose(np.sort(drawn, axis=1), np.sort(truth, axis=1), atol=1e-3)
        assert [t.get_text() for t in ax.get_yticklabels()] == ["a (90)", "b (60)", "c (30)"]

    def test_a_variable_of_several(self, corrected):
        assert [t.get_text()[:2] for t in pl.assignments(corrected, "donor", show=False).get_yticklabels()] == [
            "d1",
            "d2",
        ]
        with pytest.raises(MissingKeyError, match="did you mean 'donor'"):
            pl.assignments(corrected, "doner")

    def test_clusters_are_in_the_order_of_their_batch(self, corrected):
        drawn = np.asarray(pl.assignments(corrected, show=False).images[0].get_array())
        assert (np.diff(drawn.argmax(axis=0)) >= 0).all()

    def test_hostile_names_and_many_batches(self, tmp_path):
        gen = np.random.default_rng(0)
        names = np.array([*HOSTILE, *(f"batch {i:02}" for i in range(53))], object)
        batch = np.repeat(names, 10)
        result = harmonax.harmonize(gen.normal(size=(600, 4)), batch, rng=0)
        ax = pl.assignments(result, show=False, save=tmp_path / "a.png")
        shown = [t.get_text().rsplit(" (", 1)[0] for t in ax.get_yticklabels()]
        assert sorted(shown) == sorted(str(n).replace("\n", "\\n") for n in names)

    def test_an_older_record_says_to_run_again(self, corrected):
        del corrected.uns["harmonax"]["cluster_mass"]
        with pytest.raises(MissingKeyError, match="again to make it"):
            pl.assignments(corrected)


class TestMetrics:
    def test_a_bar_for_each_score_and_its_length(self):
        scores = table(("a", "$b_", "_c"))
        ax = pl.metrics(scores, show=False)
        assert sorted(bar.get_width() for bar in ax.patches) == pytest.approx(sorted(scores["value"]))
        assert legend_names(ax) == ["a", "$b_", "_c"]
        assert len(ax.containers) == 3

    def test_bars_of_a_metric_stand_at_its_name(self):
        ax = pl.metrics(table(), show=False)
        places = {t.get_text(): y for t, y in zip(ax.get_yticklabels(), ax.get_yticks(), strict=True)}
        assert "Batches mixed: donor" in places
        middle = np.mean([bar.get_y() + bar.get_height() / 2 for bar in (c[2] for c in ax.containers)])
        assert middle == pytest.approx(places["ARI"])

    def test_intervals_are_drawn_where_they_are(self):
        assert not pl.metrics(table(), show=False).collections
        scores = table(low=0.05)
        ax = pl.metrics(scores, show=False)
        reach = [segment[:, 0] for lines in ax.collections for segment in lines.get_segments()]
        np.testing.assert_allclose(np.sort(reach, axis=0), np.sort(scores[["low", "high"]].to_numpy(), axis=0))

    def test_a_score_that_is_nan_has_no_bar_but_a_word(self):
        scores = table()
        scores.loc[0, "value"] = np.nan
        ax = pl.metrics(scores, show=False)
        assert "not computed" in [text.get_text() for text in ax.texts]

    def test_it_reads_an_anndata_and_says_what_is_missing(self, adata):
        with pytest.raises(MissingKeyError, match=r"harmonax\.tl\.evaluate"):
            pl.metrics(adata)
        adata.uns["harmonax_evaluation"] = {"scores": table()}
        assert len(pl.metrics(adata, show=False).patches) == 6
        with pytest.raises(InputError, match="no column metric"):
            pl.metrics(table().drop(columns="metric"))
        with pytest.raises(InputError, match="empty"):
            pl.metrics(table().iloc[:0])


class TestPareto:
    def test_the_front_is_what_a_search_of_all_pairs_finds(self):
        xy = np.random.default_rng(2).normal(size=(60, 2)).round(1)
        from harmonax.pl.pareto import front

        beaten = [any((q >= p).all() and (q > p).any() for q in xy) for p in xy]
        np.testing.assert_array_equal(front(xy), ~np.array(beaten))

    def test_points_names_and_the_chosen_one(self):
        runs = pd.DataFrame({"x": [0, 1, 2, np.nan], "y": [2.0, 1.5, 0, 9], "who": ["_a", "$b", "c", "gone"]})
        ax = pl.pareto(runs, "x", "y", "who", chosen="$b", show=False)
        assert {t.get_text(): tuple(t.xy) for t in ax.texts} == {"_a": (0, 2), "$b": (1, 1.5), "c": (2, 0)}
        np.testing.assert_array_equal(ax.get_lines()[0].get_xydata(), [[0, 2], [1, 1.5], [2, 0]])
        np.testing.assert_array_equal(ax.collections[-1].get_offsets().data, [[1, 1.5]])

    def test_what_is_missing_is_named(self):
        runs = pd.DataFrame({"x": [1.0], "y": [np.nan]}, index=["r"])
        with pytest.raises(MissingKeyError, match="no column 'z'"):
            pl.pareto(runs, "x", "z")
        with pytest.raises(MissingKeyError, match="no point is called 'q'"):
            pl.pareto(runs, "x", "x", chosen="q")
        with pytest.raises(InputError, match="no row"):
            pl.pareto(runs, "x", "y")
        pl.pareto(runs, "x", "x", show=False)


class TestOvercorrection:
    @pytest.fixture
    def diagnosed(self, corrected):
        gen = np.random.default_rng(0)
        corrected.obs["harmonax_neighbors_kept"] = gen.integers(0, 16, corrected.n_obs) / 15
        corrected.uns["harmonax_diagnosis"] = {
            "verdict": "over_corrected",
            "null": {"neighbours_kept": 0.9},
            "label_key": "group",
            "clusters": pd.DataFrame({"group": ["$T", "B"], "n_cells": [90, 90], "neighbours_kept": [0.2, 0.6]}),
            "one_batch_states": pd.DataFrame(
                {"state": ["_x"], "batch": ["a"], "merged_share": [0.5], "verdict": ["merged"]}
            ),
        }
        corrected.obs["group"] = corrected.obs["group"].replace("T", "$T")
        return corrected

    def test_cells_carry_their_share_and_flagged_groups_their_names(self, diagnosed, tmp_path):
        left, right = pl.overcorrection(diagnosed, show=False, save=tmp_path / "a.png")
        (drawn,) = left.collections
        at = {tuple(p): v for p, v in zip(np.round(drawn.get_offsets().data, 5), drawn.get_array(), strict=True)}
        xy = np.round(diagnosed.obsm["X_pca_harmony"][:, :2].astype(float), 5)
        kept = diagnosed.obs["harmonax_neighbors_kept"]
        np.testing.assert_allclose([at[tuple(p)] for p in xy], kept)
        assert [t.get_text() for t in left.texts] == ["$T"]
        title = right.get_title(loc="left")
        assert "over corrected" in title
        assert "_x: only in a, merged with others (50%)" in title
        assert "$T: 20% kept" in title
        assert "B:" not in title

    def test_the_bars_count_the_cells(self, diagnosed):
        diagnosed.obs.loc[diagnosed.obs_names[:10], "harmonax_neighbors_kept"] = np.nan
        left, right = pl.overcorrection(diagnosed, show=False)
        kept = (diagnosed.obs["harmonax_neighbors_kept"] * 15).round().dropna().astype(int)
        np.testing.assert_array_equal([bar.get_height() for bar in right.patches], np.bincount(kept, minlength=16))
        assert len(left.collections[0].get_offsets()) == 10
        assert sorted(line.get_xdata()[0] for line in right.get_lines()) == pytest.approx(
            sorted([kept.mean() / 15, 0.9])
        )

    def test_what_is_missing_is_named(self, diagnosed):
        diagnosed.obs["harmonax_neighbors_kept"] = np.nan
        with pytest.raises(InputError, match="too few cells"):
            pl.overcorrection(diagnosed)
        del diagnosed.obs["harmonax_neighbors_kept"]
        with pytest.raises(MissingKeyError, match=r"harmonax\.tl\.diagnose"):
            pl.overcorrection(diagnosed)
        del diagnosed.uns["harmonax_diagnosis"]
        with pytest.raises(MissingKeyError, match=r"harmonax\.tl\.diagnose"):
            pl.overcorrection(diagnosed)


class TestCheck:
    def entry(self, keys=("batch", "$donor"), levels=("_a", "$b", "c")):
        components = pd.DataFrame([(i, 0.5 / (i + 1), k, 0.1 * i) for i in range(4) for k in keys])
        components.columns = ["component", "variance_share", "batch_key", "explained"]
        batches = pd.DataFrame([(k, v, 10 + i) for k in keys for i, v in enumerate(levels)])
        batches.columns = ["batch_key", "level", "n_cells"]
        return {"verdict": "not_needed", "components": components, "batches": batches}

    def test_bars_are_the_tables(self, adata, tmp_path):
        entry = adata.uns["harmonax_check"] = self.entry()
        left, right = pl.check(adata, show=False, save=tmp_path / "a.png")
        assert sorted(b.get_height() for b in left.patches) == pytest.approx(sorted(entry["components"]["explained"]))
        assert sorted(b.get_width() for b in right.patches) == sorted(entry["batches"]["n_cells"])
        assert right.get_yticklabels()[0].get_text() == "batch: c"
        assert legend_names(left)[:2] == ["explained by batch", "explained by $donor"]
        assert left.get_title(loc="left") == "Correction: not needed"

    def test_one_batch_and_no_embedding(self):
        from types import SimpleNamespace

        entry = self.entry(("batch",), ("only",))
        left, right = pl.check(SimpleNamespace(**entry | {"components": entry["components"].iloc[:0]}), show=False)
        assert "no embedding" in left.texts[0].get_text()
        assert len(right.patches) == 1

    def test_what_is_missing_is_named(self, adata):
        with pytest.raises(MissingKeyError, match=r"harmonax\.tl\.check"):
            pl.check(adata)
        with pytest.raises(MissingKeyError, match="'components'"):
            pl.check({"verdict": "needed"})


class TestConventions:
    CALLS = (
        (lambda a, **kw: pl.embedding(a, "batch", **kw), "axes", 2),
        (lambda a, **kw: pl.convergence(a, **kw), "axes", 2),
        (lambda a, **kw: pl.assignments(a, **kw), "ax", 1),
        (lambda a, **kw: pl.metrics(table(), **kw), "ax", 1),
        (lambda a, **kw: pl.pareto(table(), "value", "value", "metric", **kw), "ax", 1),
        (lambda a, **kw: pl.check(TestCheck().entry(), **kw), "axes", 2),
    )

    @pytest.mark.parametrize(("draw", "name", "n"), CALLS)
    def test_given_axes_are_drawn_into_and_returned(self, corrected, draw, name, n):
        figure, axes = plt.subplots(1, n)
        made = draw(corrected, **{name: axes})
        assert [ax is mine for ax, mine in zip(np.atleast_1d(made), np.atleast_1d(axes), strict=True)] == [True] * n
        assert plt.get_fignums() == [figure.number]
        with pytest.raises(InputError, match=f"{n} matplotlib Axes"):
            draw(corrected, **{name: plt.subplots(1, 3)[1]})

    @pytest.mark.parametrize(("draw", "name", "n"), CALLS)
    def test_nothing_global_changes(self, corrected, draw, name, n):
        before = dict(matplotlib.rcParams)
        draw(corrected, show=False)
        assert dict(matplotlib.rcParams) == before

    @pytest.mark.parametrize(("draw", "name", "n"), CALLS)
    @pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
    def test_saved_where_told_and_closed(self, corrected, draw, name, n, ending, tmp_path):
        path = tmp_path / f"figure.{ending}"
        assert draw(corrected, save=str(path)) is not None
        assert path.stat().st_size > 1000
        assert plt.get_fignums() == []

    def test_shown_means_none(self, corrected, monkeypatch):
        shown = []
        monkeypatch.setattr(plt, "show", lambda: shown.append(1))
        assert pl.convergence(corrected, show=True) is None
        assert pl.convergence(corrected, show=False) is not None
        # There is no screen here.
        assert pl.convergence(corrected) is not None
        monkeypatch.setattr(matplotlib, "get_backend", lambda: "QtAgg")
        assert pl.convergence(corrected) is None
        assert pl.assignments(corrected, ax=plt.subplots()[1]) is not None
        assert len(shown) == 2

    @pytest.mark.parametrize("save", [True, "", 3, "figure.nope"])
    def test_save_is_a_path(self, corrected, save, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match="save="):
            pl.convergence(corrected, save=save)
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_is_not_there(self, corrected, tmp_path):
        with pytest.raises(OutputError, match="cannot be written"):
            pl.convergence(corrected, save=tmp_path / "no" / "figure.png")

    def test_the_data_are_not_changed(self, corrected):
        before = corrected.copy()
        for draw in (
            lambda: pl.embedding(corrected, ["batch", "group"], show=False),
            lambda: pl.assignments(corrected, show=False),
        ):
            draw()
        pd.testing.assert_frame_equal(before.obs, corrected.obs)
        assert set(before.uns) == set(corrected.uns)
        assert set(before.obsm) == set(corrected.obsm)
