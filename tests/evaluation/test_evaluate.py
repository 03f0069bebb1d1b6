"""Scores of embeddings: what they must be, what scib-metrics says, and what is refused."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import anndata
import numpy as np
import pandas as pd
import pytest

import harmonax
from harmonax.cli import cli
from harmonax.cli.evaluate import evaluate as command
from harmonax.errors import HarmonaxWarning, InputError, MissingKeyError
from harmonax.evaluation.lisi import lisi
from harmonax.evaluation.lisi import quiet as hush
from harmonax.evaluation.neighbours import OF_BATCH, own_batch_neighbours
from harmonax.evaluation.scores import labelfree, registry, scib
from harmonax.evaluation.scores.evaluate import Evaluation
from harmonax.evaluation.scores.evaluate import evaluate as evaluate_arrays
from harmonax.evaluation.scores.sample import disjoint_samples, interval
from harmonax.io.annotated import quiet
from harmonax.tl.evaluate import evaluate

for name in ("scib_metrics", "sklearn", "pynndescent"):
    pytest.importorskip(name, reason="needs harmonax[workflow]")

KEPT, UNEXPLAINED = "own-batch neighbors kept", "variance not explained by batch"
BATCH_SCORES = ("iLISI", "BRAS", "graph connectivity", "kBET per label")
BIO_SCORES = ("cLISI", "NMI", "ARI", "ASW label")
ISOLATED = ("isolated labels (ASW)", "isolated labels (F1)")
ENTER = ("batch", "bio", "total")


def read(path: Path) -> anndata.AnnData:
    if not path.exists():
        pytest.skip(f"no {path}")
    with quiet():
        return anndata.read_h5ad(path)


def value(result: Evaluation, embedding: str, metric: str, kind: str, key: str | None = None) -> float:
    s = result.scores
    rows = s[(s["embedding"] == embedding) & (s["metric"] == metric) & (s["kind"] == kind)]
    rows = rows if key is None else rows[rows["batch_key"] == key]
    assert len(rows) == 1, rows
    return float(rows["value"].iloc[0])


def two_batches(n: int = 200, apart: float = 0.0, seed: int = 0) -> tuple[np.ndarray, pd.DataFrame]:
    gen = np.random.default_rng(seed)
    batch = np.repeat(["a", "b"], n // 2)
    return gen.normal(size=(n, 4)) + apart * (batch == "b")[:, None], pd.DataFrame({"batch": batch})


@pytest.fixture(scope="module")
def small() -> anndata.AnnData:
    """Two batches of three cell types, uncorrected and corrected by subtracting what made them differ."""
    gen = np.random.default_rng(3)
    n = 240
    batch, kind = gen.choice(["a", "b"], n), gen.choice(["T", "B", "NK"], n)
    x = gen.normal(size=(n, 5))
    x[:, 0] += 8 * (kind == "T")
    x[:, 1] += 8 * (kind == "B")
    obs = pd.DataFrame(
        {"batch": batch, "cell_type": kind, "donor": gen.choice(["d1", "d2", "d3"], n)},
        index=[f"c{i}" for i in range(n)],
    )
    shifted = x + 4 * (batch == "b")[:, None] * np.eye(5)[2]
    return anndata.AnnData(obs=obs, obsm={"X_pca": shifted, "X_pca_harmony": x, "X_umap": x[:, :2]})


@pytest.fixture(scope="module")
def scored(small: anndata.AnnData) -> Evaluation:
    return evaluate(small.copy(), ["batch", "donor"], label_key="cell_type", controls=True)


# ---- LISI -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["batch", "cell_type"])
def test_lisi_agrees_with_the_reference(data_dir, column):
    a = read(data_dir / "lisi_reference.h5ad")
    found = lisi(a.obsm["X_pca"], a.obs[column].to_numpy(), perplexity=30)
    np.testing.assert_allclose(found, a.obs[f"lisi_{column}_R"], rtol=0, atol=1e-5)


def test_lisi_of_one_label_and_of_labels_far_apart():
    x, batch = two_batches(300, apart=1000.0)
    np.testing.assert_allclose(lisi(x, batch["batch"]), 1.0, atol=1e-5)
    assert (lisi(x, ["one"] * 300) == 1).all()
    x, batch = two_batches(300)
    assert 1.7 < np.median(lisi(x, batch["batch"])) <= 2


def test_lisi_refuses():
    x, batch = two_batches(60)
    with pytest.raises(InputError, match="needs more than 89 cells, but there are 60"):
        lisi(x, batch["batch"])
    with pytest.raises(InputError, match="3 labels"):
        lisi(x, ["a", "b", "c"])
    with pytest.raises(InputError, match="1 labels are missing"):
        lisi(x, [None, *batch["batch"][1:]], perplexity=10)


# ---- label-free -------------------------------------------------------------------------------------------------


def test_without_scib_metrics_the_scores_that_do_not_need_it_are_made_and_it_says_so(monkeypatch):
    x, batch = two_batches()
    whole = evaluate_arrays({"x": x}, batch)
    for module in (scib, labelfree):
        monkeypatch.setattr(module, "is_installed", lambda: False)
    result = evaluate_arrays({"x": x}, batch)
    kept = whole.scores[whole.scores["metric"] != "iLISI"].reset_index(drop=True)
    pd.testing.assert_frame_equal(result.scores.reset_index(drop=True), kept)
    assert any("iLISI is left out" in note for note in result.notes)


def test_scores_that_need_no_labels_are_those_of_scib_metrics(small):
    import scib_metrics as sm
    from scib_metrics.nearest_neighbors import NeighborsResults

    x, batch = small.obsm["X_pca"], small.obs["donor"].astype("category").cat.codes.to_numpy().astype(int)
    rows = np.arange(len(x))
    near = labelfree.near_of(x, rows)
    own = own_batch_neighbours(x, batch, OF_BATCH)
    found = registry.scores_of(registry.cell_values(labelfree.UnlabelledCells(near, x, batch, own, own)))
    results = NeighborsResults(
        indices=np.column_stack([rows, near.indices]), distances=np.column_stack([0.0 * rows, near.distances])
    )
    assert results.n_neighbors == 80
    with hush():
        assert found["iLISI"] == pytest.approx(sm.ilisi_knn(results, batch), abs=1e-5)
        # A quarter of the mean batch, and the cell itself.
        expected, _, _ = sm.kbet(results.subset_neighbors(240 // 3 // 4 + 1), batch)
        r2 = sm.utils.principal_component_regression(x, batch, categorical=True)
    assert found["kBET"] == pytest.approx(float(expected), abs=1e-9)
    # R^2 as it comes there, adjusted here: component by component, none below 0.
    n, levels = len(x), 3
    assert 1 - r2 - 1e-5 <= found[UNEXPLAINED] <= 1 - (1 - (1 - r2) * (n - 1) / (n - levels)) + 1e-5


def test_label_free_scores_of_known_cases():
    mixed, batch = two_batches(400)
    apart = two_batches(400, apart=50.0)[0]
    result = evaluate_arrays({"apart": apart, "mixed": mixed}, batch)
    for metric in ("iLISI", "kBET"):
        assert value(result, "apart", metric, "label-free") < 0.01
        assert value(result, "mixed", metric, "label-free") > 0.8
    # Between two batches d apart in each of four dimensions of variance 1: 1 / (1 + d^2 / 4).
    assert value(result, "apart", UNEXPLAINED, "label-free") == pytest.approx(1 / (1 + 625), rel=0.1)
    assert value(result, "mixed", UNEXPLAINED, "label-free") > 0.98
    # A shift of a whole batch takes nothing from within it.
    assert value(result, "apart", KEPT, "label-free") == 1
    assert value(result, "mixed", KEPT, "label-free") == 1


def test_neighbours_kept_of_a_shuffled_embedding_are_those_of_chance(scored, small):
    assert value(scored, "X_pca", KEPT, "label-free", "batch") == 1
    # 15 of the others with the cell's batch and donor, or a third of all these.
    size = small.obs.groupby(["batch", "donor"])["donor"].transform("size")
    chance = (np.minimum(15, size // 3) / (size - 1)).mean()
    assert value(scored, "shuffled", KEPT, "label-free", "batch") == pytest.approx(chance, abs=0.02)


def test_samples_have_the_score_of_all_cells(data_dir):
    """Neighbours are sought among all cells, so the intervals hold what all cells score."""
    a = read(data_dir / "onek1k_subset.h5ad")
    x = np.asarray(a.obsm["X_pca"])
    centred = x - pd.DataFrame(x).groupby(a.obs["batch"].to_numpy()).transform("mean").to_numpy() / 2
    both = {"X_pca": x, "centred": centred}
    full = evaluate_arrays(both, a.obs[["batch"]]).scores
    part = evaluate_arrays(both, a.obs[["batch"]], max_cells=2400, rng=1)
    assert full["low"].isna().all()
    assert part.n_used == 2400 < part.n_cells
    assert any("2400 random cells" in note for note in part.notes)
    merged = full.merge(part.scores, on=["embedding", "metric"], suffixes=("", "_part"))
    assert len(merged) == 8
    inside = (merged["low_part"] - 1e-9 <= merged["value"]) & (merged["value"] <= merged["high_part"] + 1e-9)
    assert inside.sum() >= 7, merged
    assert np.abs(merged["value"] - merged["value_part"]).max() < 0.03


def test_equal_cells_and_constant_dimensions_have_scores():
    x, batch = two_batches(120)
    x[:, 1] = 3.0
    x[:40] = x[0]
    result = evaluate_arrays({"X": x}, batch)
    assert result.scores["value"].between(0, 1).all()
    assert len(result.scores) == 4


# ---- with labels ------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_equals_scib_metrics_called_by_hand(small, scored):
    import scib_metrics as sm
    from scib_metrics.nearest_neighbors import pynndescent

    x = small.obsm["X_pca_harmony"].astype(np.float32)
    b, t = (pd.Categorical(small.obs[key]).codes for key in ("donor", "cell_type"))
    with hush():
        nn = pynndescent(x, n_neighbors=80, random_state=0)
        clusters = sm.nmi_ari_cluster_labels_kmeans(x, t)
        batch = [sm.ilisi_knn(nn, b), sm.bras(x, t, b), sm.graph_connectivity(nn, t), sm.kbet_per_label(nn, b, t)]
        bio = [sm.clisi_knn(nn, t), clusters["nmi"], clusters["ari"], sm.silhouette_label(x, t)]
    for metric, expected in zip(BATCH_SCORES, batch, strict=True):
        assert value(scored, "X_pca_harmony", metric, "batch", "donor") == pytest.approx(float(expected), abs=1e-6), (
            metric
        )
    for metric, expected in zip(BIO_SCORES, bio, strict=True):
        assert value(scored, "X_pca_harmony", metric, "bio", "") == pytest.approx(float(expected), abs=1e-6), metric
    total = 0.4 * np.mean(batch) + 0.6 * np.mean(bio)
    assert value(scored, "X_pca_harmony", "total", "total", "donor") == pytest.approx(float(total), abs=1e-6)


@pytest.fixture(scope="module")
def quality(data_dir) -> ModuleType:
    path = data_dir.parent / "quality.py"
    if not path.exists():
        pytest.skip(f"no {path}")
    spec = importlib.util.spec_from_file_location("quality", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with hush():
        spec.loader.exec_module(module)
    return module


@pytest.mark.thorough
def test_equals_the_scores_everybody_uses(data_dir, quality):
    a = read(data_dir / "pancreas_3prot.h5ad")
    a.obs["cell_type"] = a.obs["cell_type"].astype(str).where(np.arange(a.n_obs) % 20 > 0, "Unlabelled")
    result = evaluate(a, "batch", label_key="cell_type")
    keep = (a.obs["cell_type"] != "Unlabelled").to_numpy()
    with hush():
        expected = quality.scores(a.obsm["X_pca"][keep], a.obs["batch"].astype(str)[keep], a.obs["cell_type"][keep])
    found = {(row.kind, row.metric): row.value for row in result.scores.itertuples() if row.kind in ENTER}
    ours = {"graph": "graph connectivity", "kBET": "kBET per label", "ASW": "ASW label"}
    assert len(found) == len(expected) == 11
    for metric, theirs in expected.items():
        value = next(v for (_, m), v in found.items() if m == ours.get(metric, metric))
        assert value == pytest.approx(theirs, abs=1e-5), metric
    assert any("49 of 962 cells have no label" in note for note in result.notes)


def test_bio_scores_do_not_depend_on_the_batch(scored):
    s = scored.scores[scored.scores["metric"] != "kSIM"]
    assert (scored.scores.loc[scored.scores["metric"] == "kSIM", "batch_key"] == "").all()
    assert (s["batch_key"] == "").equals((s["kind"] == "bio") | (s["metric"] == "bio"))
    assert list(scored.totals.columns) == ["embedding", "batch_key", "batch", "bio", "total"]
    assert len(scored.totals) == 3 * 2
    np.testing.assert_allclose(scored.totals["total"], 0.4 * scored.totals["batch"] + 0.6 * scored.totals["bio"])


def test_what_is_better_scores_better(scored):
    total = scored.totals[scored.totals["batch_key"] == "batch"].set_index("embedding")
    assert total.loc["X_pca_harmony", "batch"] > total.loc["X_pca", "batch"] + 0.1
    # Shuffled cells mix best, and keep nothing.
    assert value(scored, "shuffled", "iLISI", "batch", "batch") > 0.9
    assert total.loc["shuffled", "bio"] < total.loc["X_pca", "bio"] - 0.3
    assert total.loc["X_pca_harmony", "total"] == total["total"].max()


def test_labels_in_large_data_are_sampled_from_the_labelled(small, monkeypatch):
    seen: list[np.ndarray] = []

    def score(cells: scib.LabelledCells) -> dict[str, float]:
        seen.append(cells.x[:, 0])
        return {"NMI": 0.1 * len(seen), "bio": 0.5}

    monkeypatch.setattr(registry, "bio_scores", score)
    monkeypatch.setattr(registry, "batch_scores", lambda *_: {"batch": 0.5})
    monkeypatch.setattr(registry, "further_scores", lambda *_, **__: {})
    a = small.copy()
    a.obs["cell_type"] = a.obs["cell_type"].where(np.arange(240) % 10 > 0)
    result = evaluate(a, "batch", label_key="cell_type", embeddings=[], max_cells=180)
    assert [len(x) for x in seen] == [60, 60, 60]
    labelled = a.obsm["X_pca"][np.arange(240) % 10 > 0, 0].astype(np.float32)
    assert len(np.unique(np.concatenate(seen))) == 180
    assert np.isin(np.concatenate(seen), labelled).all()
    row = result.scores[result.scores["metric"] == "NMI"].iloc[0]
    # 0.1, 0.2, 0.3: standard deviation 0.1, and the 97.5 % point of Student's t with 2 degrees of freedom.
    np.testing.assert_allclose(
        row[["value", "low", "high"]].astype(float), [0.2, 0, 0.2 + 4.30265 * 0.1 / 3**0.5], atol=1e-5
    )
    assert any("3 disjoint random samples of 60 cells" in note for note in result.notes)
    seen.clear()
    result = evaluate(a, "batch", label_key="cell_type", embeddings=[], max_cells=220)
    assert [len(x) for x in seen] == [216]
    assert result.n_used == 219


# ---- AnnData and what is stored ---------------------------------------------------------------------------------


def test_default_embeddings_are_those_of_known_methods(small):
    a = small.copy()
    a.obsm["X_scVI"] = a.obsm["X_umap"]
    result = evaluate(a, "batch")
    assert result.embeddings == ("X_pca", "X_pca_harmony", "X_scVI")
    assert result.baseline == "X_pca"
    assert result.label_key == ""
    assert evaluate(a, "batch", embeddings="X_umap", key_added="other").embeddings == ("X_pca", "X_umap")
    assert set(a.uns) == {"harmonax_evaluation", "other"}


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_stored_and_read_back_it_is_the_same(small, scored, tmp_path, ending):
    a = small.copy()
    a.uns["harmonax_evaluation"] = scored.to_uns()
    with quiet():
        if ending == "h5ad":
            a.write_h5ad(tmp_path / "a.h5ad")
            back = anndata.read_h5ad(tmp_path / "a.h5ad")
        else:
            a.write_zarr(tmp_path / "a.zarr")
            back = anndata.read_zarr(tmp_path / "a.zarr")
    found = Evaluation.from_uns(back.uns["harmonax_evaluation"])
    pd.testing.assert_frame_equal(found.scores, scored.scores)
    assert str(found) == str(scored)
    for name in ("n_cells", "n_used", "label_key", "batch_keys", "embeddings", "baseline", "seed", "versions", "notes"):
        assert getattr(found, name) == getattr(scored, name), name


def test_the_table_has_every_score_once(scored):
    table = scored.table()
    assert list(table.columns) == ["X_pca", "X_pca_harmony", "shuffled"]
    # Three labels are too few for scGraph.
    assert table.shape == (2 * 4 + 4 + 5 + 1 + 2 * 3 + 2 * 4, 3)
    assert table.notna().all().all()
    assert table.loc[("bio", "", "NMI"), "X_pca"] == value(scored, "X_pca", "NMI", "bio")
    for text in ("X_pca_harmony", "240 cells", "'batch', 'donor'", "labels 'cell_type'", "total"):
        assert text in str(scored)


def test_the_same_seed_gives_the_same_scores_and_the_input_stays(small):
    a, b = small.copy(), small.copy()
    one = evaluate(a, "donor", max_cells=120, rng=5)
    pd.testing.assert_frame_equal(one.scores, evaluate(b, "donor", max_cells=120, rng=5).scores)
    np.testing.assert_array_equal(a.obsm["X_pca"], small.obsm["X_pca"])
    pd.testing.assert_frame_equal(a.obs, small.obs)


def test_progress_is_told(small):
    seen: list[tuple[int, int, str]] = []
    evaluate(small.copy(), "batch", progress=lambda *step: seen.append(step))
    assert seen == [(0, 2, "X_pca"), (1, 2, "X_pca_harmony")]


# ---- what cannot be scored, or only in part ---------------------------------------------------------------------


def test_one_batch_leaves_what_does_not_need_two(small):
    a = small.copy()
    a.obs["batch"] = "one"
    result = evaluate(a, "batch", label_key="cell_type", embeddings=[])
    assert set(result.scores["metric"]) == {*BIO_SCORES, "bio", "kSIM", KEPT}
    assert any("'batch' has one batch only" in note for note in result.notes)


def test_one_label_leaves_the_batch_scores(small):
    a = small.copy()
    a.obs["cell_type"] = "T"
    result = evaluate(a, "batch", label_key="cell_type", embeddings=[])
    assert set(result.scores["kind"]) == {"batch", "total", "further", "label-free"}
    assert not set(result.scores["metric"]) & {*ISOLATED, "scGraph"}
    assert set(result.scores.loc[result.scores["kind"] == "total", "metric"]) == {"batch"}
    assert any("'cell_type' has one label only" in note for note in result.notes)


def test_a_batch_for_each_label_has_no_mean(small):
    a = small.copy()
    a.obs["confounded"] = a.obs["cell_type"].map({"T": "x", "B": "y", "NK": "z"})
    result = evaluate(a, "confounded", label_key="cell_type", embeddings=[])
    metrics = set(result.scores["metric"])
    assert not metrics & {"BRAS", "kBET per label", "batch", "total"}
    assert {"graph connectivity", "bio"} <= metrics
    assert any("no label has enough cells of two batches of 'confounded' for BRAS, kBET" in n for n in result.notes)
    assert result.totals["total"].isna().all()


def test_missing_batches_and_labels_are_left_out_with_a_word(small):
    a = small.copy()
    a.obs.loc[a.obs_names[:30], "batch"] = np.nan
    a.obs["cell_type"] = a.obs["cell_type"].where(np.arange(240) < 50)
    with pytest.warns(HarmonaxWarning, match="30 of 240 cells have no batch"):
        result = evaluate(a, "batch", label_key="cell_type", embeddings=[])
    assert result.n_used == 210
    assert set(result.scores["kind"]) == {"label-free"}
    assert any("190 of 210 cells have no label" in note for note in result.notes)
    assert any("20 cells have a label in 'cell_type', 30 are needed" in note for note in result.notes)
    rest = evaluate(a[30:].copy(), "batch", embeddings=[])
    pd.testing.assert_frame_equal(rest.scores, result.scores)


def test_few_cells_are_scored_with_a_word_and_fewer_refused(small):
    result = evaluate(small[:60].copy(), "batch", embeddings=[])
    assert any("60 cells are few" in note for note in result.notes)
    with pytest.raises(InputError, match="there are 20 cells with a batch; at least 30"):
        evaluate(small[:20].copy(), "batch", embeddings=[])


def test_names_that_are_not_there_are_refused_with_the_nearest(small):
    a = small.copy()
    with pytest.raises(MissingKeyError, match=r"obs has no column 'bacth'; did you mean 'batch'\?"):
        evaluate(a, "bacth")
    with pytest.raises(MissingKeyError, match=r"obs has no column 'celltype'; did you mean 'cell_type'\?"):
        evaluate(a, "batch", label_key="celltype")
    with pytest.raises(MissingKeyError, match=r"obsm has no embedding 'X_pca_harmoni'; did you mean 'X_pca_harmony'\?"):
        evaluate(a, "batch", embeddings=["X_pca_harmoni"])
    with pytest.raises(MissingKeyError, match="obsm has no embedding 'X_lsi'"):
        evaluate(a, "batch", baseline="X_lsi")
    assert not a.uns


def test_what_cannot_be_scored_is_refused(small):
    a = small.copy()
    a.obsm["X_scVI"] = a.obsm["X_pca"].copy()
    a.obsm["X_scVI"][[3, 7], 0] = np.nan
    a.obsm["X_flat"] = a.obsm["X_pca"][:, :0]
    a.obs["depth"] = np.arange(240) / 7
    with pytest.raises(InputError, match=r"'X_scVI' has NaN or infinite values in 2 cells \(first: row 3\)"):
        evaluate(a, "batch")
    with pytest.raises(InputError, match="'X_flat' has no features"):
        evaluate(a, "batch", embeddings="X_flat")
    with pytest.raises(InputError, match="named more than once"):
        evaluate(a, "batch", embeddings=["X_umap", "X_umap"])
    with pytest.raises(InputError, match="'batch' is given more than once"):
        evaluate(a, ["batch", "batch"], embeddings=[])
    with pytest.raises(InputError, match="'depth' has 240 different values in 240 cells: it looks like a measurement"):
        evaluate(a, "batch", label_key="depth", embeddings=[])
    with pytest.raises(InputError, match=r"obs\['depth'\] .* pass allow_many_levels=True"):
        evaluate(a, "depth", embeddings=[])
    with pytest.raises(InputError, match="'donor' is named as batch and as label"):
        evaluate(a, ["batch", "donor"], label_key="donor")
    with pytest.raises(InputError, match="max_cells=10 must be a whole number of at least"):
        evaluate(a, "batch", max_cells=10)
    with pytest.raises(InputError, match="no batch column given"):
        evaluate(a, [], embeddings=[])
    with pytest.raises(InputError, match="not an AnnData"):
        evaluate(a.obs, "batch")
    with pytest.raises(InputError, match=r"'short' has shape \(200, 4\); allowed is \(240, features\)"):
        evaluate_arrays({"short": two_batches(200)[0]}, a.obs[["batch"]])
    with pytest.raises(InputError, match="7 labels for 240 cells"):
        evaluate_arrays({"X": a.obsm["X_pca"]}, a.obs[["batch"]], ["T"] * 7)


def test_samples_are_disjoint_and_their_interval_covers():
    gen = np.random.default_rng(0)
    samples = disjoint_samples(np.arange(100, 1100), 301, gen)
    together = np.concatenate(samples)
    assert [len(s) for s in samples] == [100] * 3
    assert len(np.unique(together)) == 300
    assert together.min() >= 100
    held = [low <= 0.5 <= high for _, low, high in (interval(gen.normal(0.5, 0.05, 3)) for _ in range(2000))]
    assert 0.93 < np.mean(held) < 0.97
    assert np.isnan(interval(np.array([0.3]))[1])
    assert interval(np.array([0.3, np.nan, 0.3])) == (0.3, 0.3, 0.3)


# ---- command line -----------------------------------------------------------------------------------------------


@pytest.fixture
def file(small, tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    if "evaluate" not in cli.commands:
        monkeypatch.setitem(cli.commands, "evaluate", command)
    with quiet():
        anndata.AnnData(X=np.zeros((240, 3)), obs=small.obs, obsm=dict(small.obsm)).write_h5ad("in.h5ad")
    return "in.h5ad"


def test_command_prints_and_writes_what_python_finds(small, file, capsys):
    asked = ["evaluate", file, "--batch-key", "batch,donor", "--embedding", "X_umap", "-o", "metrics.tsv"]
    assert harmonax.cli.run([*asked, "--max-cells", "120", "--seed", "4"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    expected = evaluate(small.copy(), ["batch", "donor"], embeddings=["X_umap"], max_cells=120, rng=4)
    assert out == str(expected) + "\n"
    found = pd.read_csv("metrics.tsv", sep="\t", keep_default_na=False, dtype=str)
    assert list(found.columns) == list(expected.scores.columns)
    np.testing.assert_allclose(found["value"].astype(float), expected.scores["value"])
    assert sorted(p.name for p in Path().iterdir()) == ["in.h5ad", "metrics.tsv"]


def test_command_refuses_before_any_work(file, capsys, monkeypatch):
    # By its name the package gives the function.
    monkeypatch.setattr(sys.modules["harmonax.tl.evaluate"], "evaluate_arrays", lambda *a, **k: pytest.fail("worked"))
    Path("there.tsv").write_text("mine")
    for arguments, code, says in (
        (["--batch-key", "batch", "-o", "there.tsv"], 3, "exists already"),
        (["--batch-key", "batch", "-o", file], 3, "is the input"),
        (["--batch-key", "batch", "-o", "m.png", "--figure", "m.png"], 3, "is the input"),
        (["--batch-key", "bach"], 3, "did you mean 'batch'?"),
        (["--batch-key", "batch", "--embedding", "X_pcb"], 3, "did you mean 'X_pca'?"),
        (["--batch-key", "batch", "--figure", "m.xls"], 2, ".png, .pdf, .svg"),
        (["--batch-key", "batch", "--quiet", "--verbose"], 2, "exclude each other"),
        ([], 2, "--batch-key"),
    ):
        assert harmonax.cli.run(["evaluate", file, *arguments]) == code, arguments
        out, err = capsys.readouterr()
        assert out == ""
        assert says in err, err
    assert Path("there.tsv").read_text() == "mine"
    assert sorted(p.name for p in Path().iterdir()) == ["in.h5ad", "there.tsv"]


def test_command_draws(file, monkeypatch, capsys):
    pytest.importorskip("harmonax.pl")
    Path("options.toml").write_text('batch-key = "batch"\nfigure = "m.svg"\nquiet = true\n')
    assert harmonax.cli.run(["evaluate", file, "--config", "options.toml"]) == 0
    assert "kBET" in capsys.readouterr().out
    assert "<svg" in Path("m.svg").read_text()
