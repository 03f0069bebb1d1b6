"""The sweep: runs of the exact engine with several parameters, judged alike, and the best one kept."""

from __future__ import annotations

import re

import anndata
import numpy as np
import pandas as pd
import pytest
from sampling import first

pytest.importorskip("sklearn", reason="pip install 'harmonax[workflow]'")

import harmonax as hx
from harmonax import cli
from harmonax.errors import InputError, MissingKeyError
from harmonax.evaluation.after.advice import from_sweep
from harmonax.evaluation.mixing import own_batch_excess
from harmonax.evaluation.scores.choice import Judge, choose
from harmonax.tl import sweep

N = 240
QUICK = {"theta": (0.0, 4.0), "sigma": 0.1}


@pytest.fixture
def cells() -> anndata.AnnData:
    """Two types in two batches, the second of them shifted in every feature."""
    gen = np.random.default_rng(0)
    batch, kind = np.repeat([0, 1], N // 2), np.arange(N) % 2
    Z = gen.normal(size=(N, 8)) + 6 * np.where(kind[:, None] == 1, np.arange(8) < 4, np.arange(8) >= 4)
    obs = pd.DataFrame({"batch": np.array(["a", "b"])[batch], "kind": np.array(["T", "B"])[kind]})
    obs.index = [f"c{i}" for i in range(N)]
    Z = (Z + 4 * batch[:, None]).astype(np.float32)
    return anndata.AnnData(X=np.ones((N, 3), np.float32), obs=obs, obsm={"X_pca": Z})


class TestJudge:
    Z = np.random.default_rng(1).normal(size=(300, 5))
    batch = np.repeat([0, 1, 2], 100)

    def test_truths(self):
        apart = self.Z + 50 * self.batch[:, None]
        judge = Judge.of(apart, self.batch, 2000, 0)
        # Batches that are moved as wholes keep their neighbours, mixed or not.
        assert judge.scores(apart) == {"mixing": 0.0, "kept": 1.0, "structure": 1.0, "score": pytest.approx(0.5)}
        assert judge.scores(self.Z)["mixing"] > 0.95
        assert judge.scores(self.Z)["kept"] == 1.0
        # All cells shuffled: perfectly mixed, and about a third of the 33 neighbours of 99 kept by chance.
        shuffled = judge.scores(self.Z[np.random.default_rng(2).permutation(300)])
        assert shuffled["mixing"] > 0.95
        assert shuffled["kept"] == pytest.approx(1 / 3, abs=0.03)
        assert shuffled["structure"] < 0.1
        assert judge.scores(self.Z)["score"] > max(shuffled["score"], judge.scores(apart)["score"])

    def test_width_and_scale_do_not_count(self):
        judge = Judge.of(self.Z, self.batch, 2000, 0)
        wider = np.hstack([self.Z * 7, np.zeros((300, 4))])
        assert judge.scores(wider) == pytest.approx(judge.scores(self.Z), abs=1e-6)

    def test_a_sample_is_the_same_for_every_run(self):
        judge = Judge.of(self.Z, self.batch, 90, 0)
        assert len(judge.rows) == 90
        assert judge.scores(self.Z)["kept"] == 1.0


class TestChoice:
    @staticmethod
    def cells(gain: float, spread: float, n: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        noise = np.random.default_rng(0).normal(size=n)
        noise = spread * (noise - noise.mean()) / noise.std()
        return {"defaults": (np.full(n, 0.8), np.full(n, 0.9)), "other": (0.8 + gain + noise, np.full(n, 0.9))}

    def test_another_run_has_to_be_better_by_more_than_chance(self):
        # A gain of 0.05 with a spread of 0.3, of which one cell in 15 counts: the limit is at 2160 cells.
        for n, chosen in ((300, "defaults"), (1900, "defaults"), (2400, "other")):
            runs = self.cells(0.05, 0.3, n)
            assert choose(runs, list(runs)) == chosen
        assert choose(self.cells(-0.05, 0.0, 900), ["defaults", "other"]) == "defaults"

    def test_what_is_forbidden_is_chosen_only_where_all_is(self):
        runs = self.cells(0.05, 0.3, 300)
        assert choose(runs, ["other"]) == "other"
        assert choose(self.cells(0.2, 0.0, 300), ["defaults"]) == "defaults"
        assert choose(self.cells(0.2, 0.0, 300), []) == "other"

    def test_scores_are_the_means_over_cells(self):
        gen = np.random.default_rng(1)
        Z, batch = gen.normal(size=(300, 5)), np.repeat([0, 1, 2], 100)
        judge = Judge.of(Z + 2 * batch[:, None], batch, 2000, 0)
        after = Z + 0.7 * batch[:, None] + 0.5 * gen.normal(size=Z.shape)
        mixing, structure = (values.mean() for values in judge.by_cell(after))
        excess = own_batch_excess(after, batch, gen, k=15).overall
        # Apart from the few cells that have fewer neighbours of their batch than by chance.
        assert mixing == pytest.approx(1 - excess, abs=0.05)
        assert structure == pytest.approx(judge.scores(after)["structure"])
        distances = [np.linalg.norm(of[:100, None] - of[:100], axis=2) for of in (Z, after)]
        expected = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*distances, strict=True)])
        assert structure == pytest.approx(expected, abs=0.02)
        assert judge.scores(after)["score"] == pytest.approx((mixing + structure) / 2)

    def test_cells_mixed_more_than_by_chance_make_up_for_none(self):
        # Half of the cells are mixed as by chance, the others have no neighbour of another batch.
        gen = np.random.default_rng(0)
        Z, batch = gen.normal(size=(400, 3)), np.repeat([0, 1], 200)
        judge = Judge.of(Z, batch, 2000, 0)
        crowds = np.concatenate([np.arange(200) % 2, np.where(np.arange(200) < 100, 0, 2)])
        assert judge.scores(Z)["mixing"] > judge.scores(Z + 50 * crowds[:, None])["mixing"] + 0.2
        # One batch lies in one place, and each cell of the other alone, nearest to it: no neighbour of the first is of
        # another batch, and none of the second of its own. On average that is chance.
        Z, batch = gen.normal(size=(100, 50)), np.repeat([0, 1], 50)
        judge = Judge.of(Z, batch, 2000, 0)
        star = np.vstack([0.01 * gen.normal(size=(50, 50)), 10 * np.eye(50)])
        assert judge.scores(Z)["mixing"] > 0.9
        assert judge.scores(star)["mixing"] == pytest.approx(0.5, abs=0.15)


class TestSweep:
    def test_chooses_the_best_score_and_keeps_that_run(self, cells):
        found = sweep(cells, "batch", **QUICK)
        # The defaults are always among them.
        assert found.table.index.tolist() == ["theta 2, sigma 0.1", "theta 0, sigma 0.1", "theta 4, sigma 0.1"]
        best, first = found.table["score"].idxmax(), found.table.index[0]
        assert found.chosen == best or found.chosen == first
        assert found.table.loc[best, "score"] - found.table.loc[found.chosen, "score"] < 0.05
        assert found.table.loc[found.table["chosen"]].index.tolist() == [found.chosen]
        np.testing.assert_allclose(found.table["score"], (found.table["mixing"] + found.table["structure"]) / 2)
        assert set(found.table["verdict"]) <= {
            *("trust", "caution", "do_not_trust", "not_needed", "impossible", "unknown"),
        }
        again = hx.harmonize(cells.obsm["X_pca"], cells.obs[["batch"]], found.params, rng=0, progress=False)
        np.testing.assert_array_equal(np.asarray(cells.obsm["X_pca_harmony"], np.float32), again.embedding)
        assert cells.uns["harmonax"]["params"]["theta"] == found.params.theta

    def test_without_ridge_correction_the_batches_stay_apart(self, cells):
        # The score must tell a correction from none.
        found = sweep(cells, "batch", theta=4.0, sigma=(1e-3, 0.1))
        assert found.params.sigma == 0.1

    def test_same_seed_same_result_and_the_input_stays(self, cells):
        other, before = cells.copy(), cells.copy()
        first, second = sweep(cells, "batch", **QUICK), sweep(other, "batch", **QUICK)
        pd.testing.assert_frame_equal(first.table, second.table, check_exact=True)
        np.testing.assert_array_equal(cells.obsm["X_pca_harmony"], other.obsm["X_pca_harmony"])
        np.testing.assert_array_equal(cells.obsm["X_pca"], before.obsm["X_pca"])
        pd.testing.assert_frame_equal(cells.obs, before.obs)
        assert set(cells.obsm) == {"X_pca", "X_pca_harmony"}
        assert set(cells.uns) == {"harmonax"}

    def test_the_record_is_that_of_a_plain_run(self, cells):
        found = sweep(cells, "batch", **QUICK)
        plain = cells.copy()
        hx.pp.harmony_integrate(plain, "batch", max_iter_harmony=50, theta=found.params.theta, n_clusters=8, rng=0)
        assert set(cells.uns["harmonax"]) == {*plain.uns["harmonax"], "sweep"}
        np.testing.assert_array_equal(cells.obsm["X_pca_harmony"], plain.obsm["X_pca_harmony"])
        assert cells.uns["harmonax"]["columns"].keys() == plain.uns["harmonax"]["columns"].keys()
        # The next run is not of the sweep.
        hx.pp.harmony_integrate(cells, "batch", rng=0)
        assert "sweep" not in cells.uns["harmonax"]

    def test_is_written_and_read_back(self, cells, tmp_path):
        found = sweep(cells, "batch", **QUICK)
        cells.write_h5ad(tmp_path / "a.h5ad")
        stored = anndata.read_h5ad(tmp_path / "a.h5ad").uns["harmonax"]["sweep"]
        assert stored["run"].tolist() == found.table.index.tolist()
        assert {"theta", "sigma", "n_clusters", "mixing", "kept", "structure", "score", "verdict", "chosen"} <= set(
            stored
        )
        np.testing.assert_allclose(stored["score"], found.table["score"])
        assert hx.tl.verdict(cells, label_key="kind").code
        drawn = found.pareto(show=False)
        assert [drawn.get_xlabel(), drawn.get_ylabel()] == ["mixing (more is better)", "structure (more is better)"]
        assert found.chosen in str(found)

    def test_several_numbers_of_clusters_have_names_of_their_own(self, cells):
        table = sweep(cells, "batch", theta=2.0, sigma=0.1, n_clusters=(None, 4)).table
        assert table.index.tolist() == ["theta 2, sigma 0.1, 8 clusters", "theta 2, sigma 0.1, 4 clusters"]
        assert table["n_clusters"].tolist() == [8, 4]

    def test_several_columns_labels_and_progress(self, cells):
        cells.obs["lane"] = np.array(["x", "y", "z"])[np.arange(N) // 2 % 3]
        said = []
        found = sweep(cells, ["batch", "lane"], label_key="kind", progress=lambda *what: said.append(what), **QUICK)
        assert [str(name) for name in cells.uns["harmonax"]["batch_keys"]] == ["batch", "lane"]
        assert said == [(name, i, 3) for i, name in enumerate(found.table.index)]

    def test_scib_metrics_where_they_are_asked_for(self, cells):
        pytest.importorskip("scib_metrics")
        table = sweep(cells, "batch", theta=2.0, sigma=0.1, label_key="kind", scib=True).table
        np.testing.assert_allclose(table["total"], 0.4 * table["batch"] + 0.6 * table["bio"])

    def test_refuses_by_name(self, cells):
        with pytest.raises(MissingKeyError, match="obs has no column 'cell_typ'"):
            sweep(cells, "batch", label_key="cell_typ")
        with pytest.raises(InputError, match="theta"):
            sweep(cells, "batch", theta={1, 2})
        with pytest.raises(MissingKeyError, match="X_pcb"):
            sweep(cells, "batch", basis="X_pcb")
        with pytest.raises(InputError, match="max_runs=3"):
            sweep(cells, "batch", theta=(1.0, 3.0, 4.0), sigma=0.1, max_runs=3)
        with pytest.raises(InputError, match="theta"):
            sweep(cells, "batch", theta=())
        with pytest.raises(InputError, match="theta"):
            sweep(cells, "batch", theta=-1.0)
        with pytest.raises(InputError, match="label_key"):
            sweep(cells, "batch", scib=True)
        cells.obs["one"] = "same"
        with pytest.raises(InputError, match="nothing to choose"):
            sweep(cells, "one")
        assert not cells.uns
        assert set(cells.obsm) == {"X_pca"}


class TestAdvice:
    @staticmethod
    def table(**changes) -> pd.DataFrame:
        rows = {"theta": [2.0, 4.0, 0.5], "sigma": [0.1] * 3, "n_clusters": [30] * 3}
        rows |= {"mixing": [0.5, 0.9, 0.3], "kept": [0.9, 0.88, 0.99], "chosen": [True, False, False]}
        return pd.DataFrame(rows | changes).assign(score=lambda t: 0.7 * t["mixing"] + 0.3 * t["kept"])

    def test_says_what_it_brings_and_what_it_costs(self):
        assert "theta 4 would mix this (0.90 in place of 0.50); it costs 2%" in from_sweep(self.table(), more=True)
        assert "theta 0.5 would keep 99% of the neighbours in place of 90%" in from_sweep(self.table(), more=False)

    def test_says_so_where_no_run_does_better(self):
        assert "No run" in from_sweep(self.table(chosen=[False, True, False]), more=True)
        assert "No run" in from_sweep(self.table(chosen=[False, False, True]), more=False)

    def test_a_difference_below_two_hundredths_is_none(self):
        assert "No run" in from_sweep(self.table(mixing=[0.5, 0.51, 0.3]), more=True)
        assert "would mix this" in from_sweep(self.table(mixing=[0.5, 0.53, 0.3]), more=True)

    @pytest.mark.thorough
    def test_helps_when_followed(self, cells):
        # As if the run that mixes least had been chosen: with the advice, batches mix more.
        sweep(cells, "batch", theta=(0.0, 8.0), sigma=(0.02, 0.1))
        table = cells.uns["harmonax"]["sweep"]
        now = table["mixing"].idxmin()
        said = from_sweep(table.assign(chosen=table.index == now), more=True)
        theta, sigma = (re.search(rf"{name} ([\d.]+)", said) for name in ("theta", "sigma"))
        changes = {m[0].split()[0]: float(m[1]) for m in (theta, sigma) if m is not None}
        row = table.loc[now]
        params = {"theta": row["theta"], "sigma": row["sigma"], "n_clusters": int(row["n_clusters"])} | changes
        hx.pp.harmony_integrate(cells, "batch", max_iter_harmony=50, rng=0, **params)
        judge = Judge.of(cells.obsm["X_pca"], (cells.obs["batch"] == "b").to_numpy().astype(int), 2000, 0)
        assert judge.scores(cells.obsm["X_pca_harmony"])["mixing"] > row["mixing"] + 0.02


class TestCommand:
    @pytest.fixture
    def source(self, cells, tmp_path):
        path = tmp_path / "in.h5ad"
        cells.write_h5ad(path)
        return path

    @staticmethod
    def quick(source, out, *more):
        values = ["--batch-key", "batch", "--theta", "0,4", "--sigma", "0.1", "--n-clusters", "8"]
        return cli.run(["sweep", str(source), "-o", str(out), *values, *more])

    def test_writes_the_result_and_the_figure(self, source, tmp_path, capsys):
        out, figure = tmp_path / "out.h5ad", tmp_path / "front.png"
        assert self.quick(source, out, "--figure", str(figure)) == 0
        written = anndata.read_h5ad(out)
        assert written.X.shape == (N, 3)
        stored = written.uns["harmonax"]["sweep"]
        chosen = stored.loc[stored["chosen"], "run"].item()
        assert f"chosen: {chosen}" in capsys.readouterr().out
        assert figure.read_bytes().startswith(b"\x89PNG")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["front.png", "in.h5ad", "out.h5ad"]

    def test_refuses_before_any_work(self, source, tmp_path, capsys):
        assert self.quick(source, source) == 3
        assert self.quick(source, tmp_path / "out.csv") == 3
        assert self.quick(source, tmp_path / "out.h5ad", "--figure", "front.xyz") == 2
        assert self.quick(source, tmp_path / "out.h5ad", "--n-clusters", "2.5") == 2
        assert self.quick(source, tmp_path / "out.h5ad", "--max-runs", "1") == 3
        assert "Traceback" not in capsys.readouterr().err
        assert [p.name for p in tmp_path.iterdir()] == ["in.h5ad"]

    def test_what_stays_and_what_else_goes(self, source, cells, tmp_path):
        out = tmp_path / "out.h5ad"
        cells.obs["depth"] = np.random.default_rng(5).normal(size=N)
        cells.write_h5ad(source)
        assert self.quick(source, out, "--reference", "batch=a", "--protect", "kind", "--covariate", "depth") == 0
        written, first = anndata.read_h5ad(out), np.asarray(cells.obs["batch"] == "a")
        made = sweep(cells, "batch", reference={"batch": ["a"]}, protect="kind", covariates="depth", **QUICK)
        for adata in (written, cells):
            np.testing.assert_array_equal(adata.obsm["X_pca_harmony"][first], adata.obsm["X_pca"][first])
        np.testing.assert_array_equal(written.obsm["X_pca_harmony"], cells.obsm["X_pca_harmony"])
        stored = written.uns["harmonax"]
        assert stored["sweep"]["chosen"].tolist() == made.table["chosen"].tolist()
        assert (stored["protect"], list(stored["covariates"])) == ("kind", ["depth"])
        assert self.quick(source, tmp_path / "b.h5ad", "--reference", "nobody") == 3


class TestOnePage:
    @pytest.mark.thorough
    @pytest.mark.parametrize("swept", first(1, [True, False], later="slow"))
    @pytest.mark.parametrize("theta", [0.0, 60.0])
    def test_never_more_and_less_theta(self, cells, theta, swept):
        # So little ridge that everything is torn, at theta 60; hardly any correction, at theta 0.
        changes = {"alpha": 1e-6 if theta else 0.2, "sigma": 0.1 if theta else 0.03}
        table = sweep(cells, "batch", **QUICK).to_uns()
        hx.pp.harmony_integrate(cells, "batch", theta=theta, max_iter_harmony=50, rng=0, **changes)
        if swept:
            cells.uns["harmonax"]["sweep"] = table
        for labels in (None, "kind"):
            page = str(hx.tl.diagnose(cells, label_key=labels)).lower().replace("\n", " ")
            more = "raise theta" in page or "would mix this" in page
            assert not (more and "lower theta" in page)


def test_mixing_is_judged_within_protected_levels():
    gen = np.random.default_rng(0)
    batch, condition = gen.integers(0, 2, 400), gen.integers(0, 2, 400)
    batch = np.where(gen.random(400) < 0.8, condition, batch)
    # Conditions apart, as they should be, and batches mixed within each; then batches apart within them too.
    right = gen.normal(size=(400, 5)) + 20 * condition[:, None]
    wrong = right + 100 * batch[:, None]
    over_all, within = (Judge.of(right, batch, 1000, 0, groups) for groups in (None, condition))
    assert within.scores(right)["mixing"] > 0.95
    assert over_all.scores(right)["mixing"] < 0.5
    assert within.scores(wrong)["mixing"] < 0.1
    # One level is as none.
    assert Judge.of(right, batch, 1000, 0, np.zeros(400, int)).scores(right) == over_all.scores(right)
