"""Learned strength: learn_strength, tl.tune and harmonax tune."""

from __future__ import annotations

import dataclasses
import sys

import anndata
import click
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("jax", reason="pip install 'harmonax[jax]'")
pytest.importorskip("flax", reason="pip install 'harmonax[jax]'")
pytest.importorskip("optax", reason="pip install 'harmonax[jax]'")
pytest.importorskip("sklearn", reason="pip install 'harmonax[workflow]'")


import harmonax as hx
from harmonax import cli
from harmonax.errors import InputError, MissingKeyError
from harmonax.evaluation.entropy import chance_entropy, neighbourhood_entropy
from harmonax.tl.tune import Tuning, tune
from harmonax.training.strength import StrengthConfig, learn_strength

pytestmark = pytest.mark.thorough

# Nearly all the time is compilation, and one serves each shape, start and seed: they are the same throughout.
N = 120
SMALL = StrengthConfig(n_clusters=6, steps=15)
QUICK = {"steps": 6, "weights": (0.3, 3.0), "n_clusters": 6}


def shifted(n: int = N, shift: float = 4.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two types in two batches, the second of them shifted in every feature."""
    gen = np.random.default_rng(seed)
    batch, kind = np.repeat([0, 1], n // 2), np.arange(n) % 2
    Z = gen.normal(size=(n, 8)) + 6 * np.where(kind[:, None] == 1, np.arange(8) < 4, np.arange(8) >= 4)
    return (Z + shift * batch[:, None]).astype(np.float32), batch, kind


@pytest.fixture
def cells() -> anndata.AnnData:
    Z, batch, kind = shifted()
    obs = pd.DataFrame({"batch": np.array(["a", "b"])[batch], "kind": kind}, index=[f"c{i}" for i in range(N)])
    return anndata.AnnData(X=np.ones((N, 3), np.float32), obs=obs, obsm={"X_pca": Z})


@pytest.fixture
def few_runs(monkeypatch):
    """Try two of the fourteen parameters that the sweep tries."""
    module = sys.modules["harmonax.tl.tune"]
    whole = module.candidates
    monkeypatch.setattr(module, "candidates", lambda *start: dict(list(whole(*start).items())[:2]))


class TestEntropy:
    def test_of_a_known_arrangement(self):
        # Four cells on a line, 1 neighbour each: 0 1 | 0 0 with neighbours 1 0 | 3 2.
        Z = np.array([[0.0], [1], [10], [11]])
        assert neighbourhood_entropy(Z, np.array([0, 1, 0, 0]), k=1) == 0
        assert neighbourhood_entropy(Z, np.array([0, 1, 0, 1]), k=3) == pytest.approx(
            -(np.log(1 / 3) / 3 + 2 * np.log(2 / 3) / 3)
        )

    def test_chance_keeps_groups_apart(self):
        gen, kind = np.random.default_rng(0), np.repeat([0, 1], 50)
        Z = gen.normal(size=(100, 3)) + 50 * kind[:, None]
        # Each group is one batch: permuting within it changes nothing.
        assert chance_entropy(Z, kind, gen, groups=kind) == 0
        assert chance_entropy(Z, kind, gen) > 0.6

    @pytest.mark.parametrize(("n_batches", "expected"), [(2, 0.66), (3, 1.03)])
    def test_chance_of_equal_batches(self, n_batches, expected):
        gen = np.random.default_rng(1)
        Z = gen.normal(size=(300, 5))
        assert chance_entropy(Z, np.arange(300) % n_batches, gen) == pytest.approx(expected, abs=0.02)


class TestLearnStrength:
    def test_mixes_what_the_defaults_do_not(self):
        Z, batch, kind = shifted()
        learned = learn_strength(Z, batch, SMALL)
        corrected = hx.harmonize(Z, batch, learned.params, rng=learned.operator.seed, progress=False).embedding
        chance = chance_entropy(corrected, batch, np.random.default_rng(0), groups=kind)
        assert neighbourhood_entropy(corrected, batch) > 0.95 * chance
        # A collapse would mix as well.
        within = [corrected[kind == k].var(axis=0).sum() for k in (0, 1)]
        assert within == pytest.approx([8, 8], rel=0.25)

    def test_the_best_step_is_what_comes_back(self):
        Z, batch, _ = shifted()
        learned = learn_strength(Z, batch, SMALL)
        assert learned.best == learned.history["loss"].idxmin()
        row = learned.history.iloc[learned.best]
        assert float(learned.operator.sigma) == pytest.approx(row["sigma"], rel=1e-5)
        assert learned.params.alpha == pytest.approx(row["ridge"], rel=1e-5)
        assert row["loss"] < learned.history["loss"].iloc[0]
        assert (learned.history[["theta", "sigma", "ridge"]] > 0).all().all()

    def test_preservation_weighs(self):
        Z, batch, _ = shifted(shift=2.0)
        free, held = (
            learn_strength(Z, batch, dataclasses.replace(SMALL, preservation=weight)) for weight in (0.0, 100.0)
        )
        at = lambda found: found.history["preservation"].iloc[found.best]  # noqa: E731
        assert at(held) < at(free)

    def test_a_start_without_gradient_is_left(self):
        # So far apart that at this width no cluster is shared.
        Z, batch, _ = shifted(shift=20.0)
        learned = learn_strength(Z, batch, dataclasses.replace(SMALL, sigma=0.01, steps=30))
        history = learned.history
        assert history["slope"].iloc[0] < 1e-6
        assert history["sigma"].iloc[1] == pytest.approx(0.02)
        assert history["theta"].iloc[1] == 2.0
        assert history["mixing"].iloc[0] > -0.5
        assert history["mixing"].iloc[learned.best] < -0.9
        # Once there is a gradient, it is what leads on.
        first = int((history["slope"] > 1e-6).idxmax())
        assert history["sigma"].iloc[first + 1] / history["sigma"].iloc[first] == pytest.approx(1, abs=0.15)

    def test_patience_ends_what_no_longer_falls(self):
        Z, batch, _ = shifted()
        long = learn_strength(Z, batch, dataclasses.replace(SMALL, steps=15, learning_rate=2.0)).history
        short = learn_strength(Z, batch, dataclasses.replace(SMALL, steps=15, learning_rate=2.0, patience=2)).history
        pd.testing.assert_frame_equal(short, long.iloc[: len(short)], check_exact=True)
        assert len(short) < len(long)
        assert short["loss"].idxmin() == len(short) - 3
        with pytest.raises(InputError, match="patience=0"):
            StrengthConfig(patience=0)

    def test_same_seed_same_bits(self):
        Z, batch, _ = shifted()
        first, second = (learn_strength(Z, batch, SMALL).history for _ in range(2))
        pd.testing.assert_frame_equal(first, second, check_exact=True)

    def test_several_variables_have_a_theta_each(self):
        Z, batch, _ = shifted()
        codes = np.column_stack([batch, np.arange(N) // 2 % 3])
        learned = learn_strength(Z, codes, dataclasses.replace(SMALL, theta=(2.0, 2.0), steps=3))
        assert len(learned.params.theta) == 2
        assert learned.params.theta[0] != learned.params.theta[1]

    def test_harmony1_learns_the_fixed_penalty(self):
        Z, batch, _ = shifted()
        learned = learn_strength(Z, batch, dataclasses.replace(SMALL, flavor="harmony1", steps=3))
        assert learned.params.flavor == "harmony1"
        assert learned.params.ridge_lambda != 1.0

    def test_refuses_what_it_cannot_use(self):
        Z, batch, _ = shifted()
        with pytest.raises(InputError, match="shape"):
            learn_strength(Z, batch[:-1])
        with pytest.raises(InputError, match="NaN"):
            learn_strength(np.where(np.arange(8) == 0, np.nan, Z), batch, SMALL)
        with pytest.raises(InputError, match="steps=-1"):
            StrengthConfig(steps=-1)
        with pytest.raises(InputError, match="preservation"):
            StrengthConfig(preservation=float("nan"))


class TestTune:
    def test_beats_the_defaults_and_runs_the_engine_with_the_choice(self, cells):
        found = tune(cells, "batch", rng=0, **QUICK)
        assert isinstance(found, Tuning)
        # What the sweep tries lies between.
        assert list(found.table.index[[0, -2, -1]]) == ["defaults", "preservation 0.3", "preservation 3"]
        assert len(found.table) == 17
        allowed = found.table[found.table["verdict"] != "do_not_trust"]
        assert found.table.loc[found.chosen, "score"] == allowed["score"].max()
        assert found.table["mixing"].between(0, 1).all()
        again = hx.harmonize(cells.obsm["X_pca"], cells.obs[["batch"]], found.params, rng=0, progress=False)
        np.testing.assert_array_equal(np.asarray(cells.obsm["X_pca_harmony"], np.float32), again.embedding)
        assert cells.uns["harmonax"]["params"]["sigma"] == found.params.sigma

    def test_the_defaults_win_where_they_are_best(self, cells, monkeypatch):
        # A learned correction that tears everything apart.
        spoilt = lambda start, learned: start.replace(theta=50.0, alpha=1e-9, sigma=0.01)  # noqa: E731
        monkeypatch.setattr(sys.modules["harmonax.tl.tune"], "_as_learned", spoilt)
        cells.obsm["X_pca"] = cells.obsm["X_pca"] - 4 * (cells.obs["batch"] == "b").to_numpy()[:, None]
        assert tune(cells, "batch", rng=0, **QUICK).chosen == "defaults"

    def test_tries_what_the_sweep_tries_and_judges_it_alike(self, cells, monkeypatch):
        module = sys.modules["harmonax.training.strength"]

        def learn(Z, batch_labels, config, **options):
            # Nothing is learned, so nothing is compiled.
            return module.LearnedStrength(
                config.operator(Z.shape[1], (2,), 0), pd.DataFrame({"step": [0], "loss": [0.0]}), 0
            )

        monkeypatch.setattr(module, "learn_strength", learn)
        swept = hx.tl.sweep(cells.copy(), "batch", n_clusters=QUICK["n_clusters"], rng=0).table
        swept = swept.rename(lambda name: name.removesuffix(", 6 clusters"))
        found = tune(cells, "batch", rng=0, **QUICK)
        runs, columns = found.table.index[1:-2], ["mixing", "kept", "structure", "score", "verdict"]
        assert len(runs) == 14
        pd.testing.assert_frame_equal(found.table.loc[runs, columns], swept.loc[runs, columns])

    @pytest.mark.usefixtures("few_runs")
    def test_is_written_and_read_back(self, cells, tmp_path):
        found = tune(cells, "batch", rng=0, **QUICK)
        cells.write_h5ad(tmp_path / "a.h5ad")
        stored = anndata.read_h5ad(tmp_path / "a.h5ad").uns["harmonax_tune"]
        assert stored["chosen"] == found.chosen
        np.testing.assert_allclose(stored["table"]["score"], found.table["score"])
        assert {"run", "step", "loss", "mixing", "preservation"} <= set(stored["history"])
        drawn = found.pareto(show=False)
        assert [drawn.get_xlabel(), drawn.get_ylabel()] == ["mixing (more is better)", "structure (more is better)"]
        assert found.chosen in str(found)

    @pytest.mark.usefixtures("few_runs")
    def test_learns_from_a_sample_and_corrects_all(self, cells, monkeypatch):
        module, seen = sys.modules["harmonax.training.strength"], []

        def learn(Z, batch_labels, config, **options):
            # Nothing is learned, so nothing is compiled for this shape.
            seen.append(Z)
            assert batch_labels.shape == (60, 1)
            op = config.operator(Z.shape[1], (2,), 0)
            return module.LearnedStrength(op, pd.DataFrame({"step": [0], "loss": [0.0]}), 0)

        monkeypatch.setattr(module, "learn_strength", learn)
        tune(cells, "batch", max_cells=60, rng=0, **QUICK)
        assert [Z.shape for Z in seen] == [(60, 8), (60, 8)]
        rows = [np.flatnonzero((cells.obsm["X_pca"] == z).all(axis=1)) for z in seen[0]]
        assert len(np.unique(np.concatenate(rows))) == 60
        assert cells.obsm["X_pca_harmony"].shape == cells.obsm["X_pca"].shape
        assert np.isfinite(cells.obsm["X_pca_harmony"]).all()
        assert not np.array_equal(cells.obsm["X_pca_harmony"], cells.obsm["X_pca"])

    @pytest.mark.usefixtures("few_runs")
    def test_several_keys(self, cells):
        cells.obs["lane"] = np.array(["x", "y", "z"])[np.arange(N) // 2 % 3]
        found = tune(cells, ["batch", "lane"], rng=0, **{**QUICK, "steps": 2, "weights": 1.0})
        assert list(cells.uns["harmonax"]["batch_keys"]) == ["batch", "lane"]
        assert "," in found.table["theta"].iloc[-1]

    @pytest.mark.usefixtures("few_runs")
    def test_says_how_far_it_is(self, cells):
        said = []
        tune(cells, "batch", progress=lambda *what: said.append(what), **{**QUICK, "weights": 1.0})
        assert ("preservation 1", 0, 6) in said
        assert said[-1][0] == "engine: preservation 1"

    def test_named_errors(self, cells):
        with pytest.raises(MissingKeyError, match="X_pcb"):
            tune(cells, "batch", basis="X_pcb")
        with pytest.raises(InputError, match="weights"):
            tune(cells, "batch", weights=(1.0, 1.0))
        with pytest.raises(InputError, match="weights"):
            tune(cells, "batch", weights=[-1.0])
        with pytest.raises(InputError, match="max_cells"):
            tune(cells, "batch", max_cells=3)
        cells.obs["one"] = "same"
        with pytest.raises(InputError, match="nothing to tune"):
            tune(cells, "one")


class TestCommand:
    @pytest.fixture(autouse=True)
    def registered(self, monkeypatch):
        from harmonax.cli.tune import tune as command

        if "tune" not in cli.cli.commands:
            monkeypatch.setitem(cli.cli.commands, "tune", command)

    @pytest.fixture
    def source(self, cells, tmp_path):
        path = tmp_path / "in.h5ad"
        cells.write_h5ad(path)
        return path

    def quick(self, source, out, *more):
        options = ["--batch-key", "batch", "--steps", "2", "--weights", "1", "--n-clusters", "6"]
        return cli.run(["tune", str(source), "-o", str(out), *options, *more])

    @pytest.mark.usefixtures("few_runs")
    def test_writes_the_result_and_the_figure(self, source, tmp_path, capsys):
        out, figure = tmp_path / "out.h5ad", tmp_path / "front.png"
        assert self.quick(source, out, "--figure", str(figure)) == 0
        written = anndata.read_h5ad(out)
        assert written.obsm["X_pca_harmony"].shape == (N, 8)
        assert written.X.shape == (N, 3)
        assert written.uns["harmonax_tune"]["chosen"] in capsys.readouterr().out
        assert figure.read_bytes().startswith(b"\x89PNG")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["front.png", "in.h5ad", "out.h5ad"]

    def test_refuses_before_any_work(self, source, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(sys.modules["harmonax.tl.tune"], "tune", None)
        assert self.quick(source, source) == 3
        assert self.quick(source, tmp_path / "out.csv") == 3
        assert self.quick(source, tmp_path / "out.h5ad", "--figure", "front.xyz") == 2
        (tmp_path / "out.h5ad").write_bytes(b"precious")
        assert self.quick(source, tmp_path / "out.h5ad") == 3
        assert (tmp_path / "out.h5ad").read_bytes() == b"precious"
        assert "Traceback" not in capsys.readouterr().err

    def test_what_stays_and_what_else_goes(self, source, tmp_path, monkeypatch):
        seen = []

        def stop(adata, keys, **given):
            seen.append(given)
            raise InputError("seen")

        monkeypatch.setattr(sys.modules["harmonax.tl.tune"], "tune", stop)
        roles = ["--reference", "a", "--protect", "kind", "--covariate", "depth,age"]
        assert self.quick(source, tmp_path / "o.h5ad", *roles) == 3
        assert self.quick(source, tmp_path / "o.h5ad") == 3
        asked = {"reference": {"batch": ["a"]}, "protect": ["kind"], "covariates": ["depth", "age"]}
        assert asked.items() <= seen[0].items()
        assert not asked.keys() & seen[1].keys()

    def test_bad_input_leaves_nothing(self, source, tmp_path, capsys):
        assert cli.run(["tune", str(source), "-o", str(tmp_path / "o.h5ad"), "--batch-key", "nobody"]) == 3
        assert "nobody" in capsys.readouterr().err
        assert [p.name for p in tmp_path.iterdir()] == ["in.h5ad"]

    def test_help(self, capsys):
        assert cli.run(["tune", "--help"]) == 0
        assert isinstance(cli.cli.commands["tune"], click.Command)
        assert "--max-cells" in capsys.readouterr().out


@pytest.mark.usefixtures("few_runs")
def test_what_must_stay_and_covariates_are_passed_on(cells):
    gen = np.random.default_rng(0)
    cells.obs["condition"], cells.obs["depth"] = np.tile(["x", "x", "y", "y"], N // 4), gen.normal(size=N)
    roles = {"reference": "a", "protect": "condition", "covariates": "depth"}
    before = cells.obsm["X_pca"].copy()
    found = tune(cells, "batch", **{**QUICK, "weights": 1.0, "steps": 2}, **roles)
    stays = (cells.obs["batch"] == "a").to_numpy()
    np.testing.assert_array_equal(cells.obsm["X_pca_harmony"][stays].astype(np.float32), before[stays])
    record = cells.uns["harmonax"]
    assert (record["protect"], list(record["covariates"])) == ("condition", ["depth"])
    assert record["reference"]["level"] == ["a"]
    # Learned with them: without, the first loss is another.
    first = found.history["loss"].iloc[0]
    plain = learn_strength(
        before, (cells.obs["batch"] == "b").to_numpy().astype(int), dataclasses.replace(SMALL, steps=0)
    )
    assert abs(first - plain.history["loss"].iloc[0]) > 1e-3
