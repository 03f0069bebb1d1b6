"""Too little corrected, too much, or right: cases whose answer is known."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from sampling import first

import harmonax as hx
from harmonax import tl
from harmonax.errors import InputError, MissingKeyError
from harmonax.evaluation.after.diagnose import Diagnosis
from harmonax.evaluation.after.measured import Measured
from harmonax.evaluation.after.null import calibrate
from harmonax.evaluation.after.rules import judge
from harmonax.evaluation.after.states import linked_batches, one_batch_states
from harmonax.evaluation.after.structure import movement, neighbours_kept
from harmonax.evaluation.findings import to_table
from harmonax.evaluation.neighbours import nearest_cells, own_batch_neighbours, share_kept
from harmonax.evaluation.verdict import overall


def codes(diagnosis: Diagnosis) -> set[str]:
    return {finding.code for finding in diagnosis.findings}


def blobs(counts: dict[tuple[str, str], int], shift: float = 4.0, seed: int = 0) -> anndata.AnnData:
    """Return cells of (batch, type): types 12 apart along their own axis, batches shifted along one more."""
    gen = np.random.default_rng(seed)
    batches, types = sorted({b for b, _ in counts}), sorted({t for _, t in counts})
    rows = [(b, t) for (b, t), n in counts.items() for _ in range(n)]
    Z = gen.normal(size=(len(rows), 10))
    for i, (b, t) in enumerate(rows):
        Z[i, types.index(t)] += 12
        Z[i, 9] += shift * batches.index(b)
    obs = pd.DataFrame(rows, columns=["batch", "cell_type"], index=[f"cell{i}" for i in range(len(rows))])
    X = np.zeros((len(rows), len(types) + 1))
    for g, name in enumerate(types):
        X[:, g] = gen.poisson(np.where(obs["cell_type"] == name, 5.0, 0.2))
    X[:, -1] = 50
    var = pd.DataFrame(index=[f"marker of {name}" for name in types] + ["everywhere"])
    return anndata.AnnData(X=X, obs=obs, var=var, obsm={"X_pca": Z})


@pytest.fixture
def mixed() -> anndata.AnnData:
    """Two batches with the same three types and a shift, taken away exactly."""
    adata = blobs({(b, t): 120 for b in "ab" for t in "TBM"})
    Z = adata.obsm["X_pca"].copy()
    Z[:, 9] -= 4.0 * (adata.obs["batch"] == "b")
    adata.obsm["X_pca_harmony"] = Z
    return adata


class TestNeighbours:
    def test_nearest_cells_are_those_of_all_distances(self):
        Z = np.random.default_rng(0).normal(size=(80, 3))
        distance = np.linalg.norm(Z[:, None] - Z, axis=2)
        np.fill_diagonal(distance, np.inf)
        np.testing.assert_array_equal(nearest_cells(Z, 5), np.argsort(distance, axis=1)[:, :5])
        np.testing.assert_array_equal(nearest_cells(Z, 5, np.array([7])), np.argsort(distance, axis=1)[7:8, :5])

    def test_no_cell_is_its_own_neighbour_even_among_copies(self):
        near = nearest_cells(np.zeros((10, 2)), 4)
        assert near.shape == (10, 4)
        assert not (near == np.arange(10)[:, None]).any()

    def test_own_batch_neighbours_stay_in_the_batch_and_are_at_most_a_third_of_it(self):
        gen = np.random.default_rng(0)
        batch = np.array([0] * 30 + [1] * 9 + [2] * 2)
        near = own_batch_neighbours(gen.normal(size=(41, 3)), batch, 5)
        assert (near[:30] >= 0).all()
        assert ((near[30:39] >= 0).sum(axis=1) == 3).all()
        assert (near[39:] == -1).all()
        for cell, found in enumerate(near):
            assert (batch[found[found >= 0]] == batch[cell]).all()

    def test_share_kept_is_the_overlap_of_sets(self):
        gen = np.random.default_rng(0)
        before, after = (np.array([gen.permutation(30)[:8] for _ in range(20)]) for _ in range(2))
        sets = [len(set(a) & set(b)) / 8 for a, b in zip(before.tolist(), after.tolist(), strict=True)]
        np.testing.assert_allclose(share_kept(before, after), sets)

    def test_places_that_a_small_batch_cannot_fill_are_not_kept(self):
        few = np.array([[1, -1], [-1, -1]])
        np.testing.assert_array_equal(share_kept(few, few), [1, np.nan])


@pytest.mark.parametrize(
    ("diagnosis", "code"), [("over_corrected", "do_not_trust"), ("under_corrected", "do_not_trust"), ("fine", "trust")]
)
def test_what_a_diagnosis_means_for_trust(diagnosis, code):
    told = {"verdict": diagnosis, "summary": "", "findings": to_table([])}
    assert overall({"harmonax_diagnosis": told}).code == code


class TestMeasures:
    def test_a_move_of_whole_batches_keeps_every_neighbour_and_is_no_movement_apart(self):
        gen = np.random.default_rng(0)
        Z, batch = gen.normal(size=(90, 4)), np.repeat([0, 1, 2], 30)
        after = Z + gen.normal(size=(3, 4))[batch]
        assert neighbours_kept(Z, after, batch).min() == 1
        np.testing.assert_allclose(movement(Z, after, batch), 0, atol=1e-12)

    def test_chance_neighbours_are_kept_as_often_as_chance(self):
        gen = np.random.default_rng(0)
        Z, batch = gen.normal(size=(600, 10)), np.repeat([0, 1], 300)
        kept = neighbours_kept(Z, gen.normal(size=(600, 10)), batch)
        assert kept.mean() == pytest.approx(15 / 299, abs=0.01)

    def test_movement_is_in_units_of_the_batches_spread(self):
        Z = np.array([[-1.0, 0], [1, 0], [0, -1], [0, 1]] * 5)
        after = Z.copy()
        after[0] += [3, 0]
        np.testing.assert_allclose(movement(Z, after, np.zeros(20, int))[:2], [3, 0])

    def test_the_null_of_a_method_that_does_nothing_is_perfect_and_of_noise_is_not(self):
        gen = np.random.default_rng(0)
        Z, batch = gen.normal(size=(300, 5)), np.repeat([0, 1], [200, 100])
        still = calibrate(Z, batch, ["large", "small"], lambda Z, half: Z, gen)
        assert (still.batch, still.n_cells, still.neighbours_kept, still.movement) == ("large", 200, 1.0, 0.0)
        noisy = calibrate(Z, batch, ["large", "small"], lambda Z, half: Z + gen.normal(size=Z.shape), gen)
        assert noisy.neighbours_kept < 0.7
        assert noisy.movement == pytest.approx(1, abs=0.2)
        assert calibrate(Z[:50], batch[:50], ["large"], lambda Z, half: Z, gen) is None

    def test_linked_batches(self):
        batch = np.repeat([0, 1, 2, 3], 20)
        assert linked_batches(np.full(80, ""), batch) == (0, 0)
        assert linked_batches(np.repeat(["A", "A", "B", ""], 20), batch) == (3, 2)

    def test_a_state_of_one_batch_is_judged_by_its_labelled_neighbours_elsewhere(self):
        adata = blobs({("a", "T"): 100, ("b", "T"): 100, ("a", "U"): 40})
        Z, labels = adata.obsm["X_pca"], adata.obs["cell_type"].to_numpy(str)
        batch = (adata.obs["batch"] == "b").to_numpy(int)
        apart = one_batch_states(Z, labels, batch, ["a", "b"], nearest_cells(Z, 30))
        assert apart[["state", "batch", "n_cells", "verdict"]].values.tolist() == [["U", "a", 40, "kept apart"]]
        # U is laid on the other batch's T.
        onto = Z.copy()
        onto[labels == "U"] += Z[(labels == "T") & (batch == 1)].mean(axis=0) - Z[labels == "U"].mean(axis=0)
        merged = one_batch_states(Z, labels, batch, ["a", "b"], nearest_cells(onto, 30))
        assert merged["verdict"].tolist() == ["merged"]
        assert merged["merged_share"].iloc[0] > 0.5


LEFT = [("kang_donors", ["batch", "donor"]), ("onek1k_subset", ["batch"])]


class TestVerdicts:
    def test_a_shift_taken_away_exactly_is_fine(self, mixed):
        d = tl.diagnose(mixed, "batch", label_key="cell_type")
        assert d.verdict == "fine"
        assert d.numbers["neighbours_kept"] == 1
        assert d.numbers["excess_before"] > 0.7
        assert abs(d.numbers["excess_after"]) < 0.05
        assert d.null is None, "how the embedding was corrected is not known"

    def test_doing_nothing_is_too_little(self, mixed):
        mixed.obsm["X_pca_harmony"] = mixed.obsm["X_pca"]
        assert tl.diagnose(mixed, "batch").verdict == "under_corrected"

    def test_noise_is_too_much(self, mixed):
        mixed.obsm["X_pca_harmony"] += np.random.default_rng(5).normal(scale=3, size=mixed.obsm["X_pca"].shape)
        d = tl.diagnose(mixed, "batch")
        assert d.verdict == "over_corrected"
        assert "Correct less" in next(f.advice for f in d.findings if f.code == "neighbours_kept")

    def test_types_laid_on_each_other_lose_their_markers(self, mixed):
        markers = {t: [f"marker of {t}"] for t in "TBM"}
        fine = tl.diagnose(mixed, "batch", label_key="cell_type", markers=markers)
        assert "markers_kept" in codes(fine)
        Z = mixed.obsm["X_pca_harmony"]
        # The axes of B and T.
        Z[:, [0, 2]] = np.random.default_rng(5).normal(size=(mixed.n_obs, 2))
        lost = tl.diagnose(mixed, "batch", label_key="cell_type", markers=markers)
        assert lost.verdict in ("caution", "over_corrected")
        rows = lost.markers[lost.markers["after"] < lost.markers["before"] - 0.05]
        assert {"T", "B"} <= set(rows["cell_type"])
        assert "markers_lost" in codes(lost)

    def test_a_random_split_needs_no_correction_and_its_distortion_is_stated(self, data_dir):
        adata = anndata.read_h5ad(data_dir / "onek1k_subset.h5ad")
        adata = adata[adata.obs["batch"] == adata.obs["batch"].value_counts().index[0]].copy()
        adata.obs["batch"] = np.random.default_rng(1).choice(["x", "y"], adata.n_obs)
        hx.pp.harmony_integrate(adata, "batch", rng=0)
        d = tl.diagnose(adata)
        assert d.verdict == "not_needed"
        assert "%" in d.summary
        assert 0.9 < d.numbers["neighbours_kept"] < 1

    @pytest.mark.thorough
    @pytest.mark.parametrize(
        ("theta", "verdict"), [(0.5, "fine"), (2.0, "fine"), (20.0, "over_corrected")], ids=["0.5", "2", "20"]
    )
    @pytest.mark.parametrize(("label_key", "seed"), first(1, [("cell_type", 1), (None, 0)], names=2, later="slow"))
    def test_mild_batches(self, data_dir, theta, verdict, label_key, seed):
        adata = anndata.read_h5ad(data_dir / "onek1k_subset.h5ad")
        hx.pp.harmony_integrate(adata, "batch", theta=theta, rng=seed)
        d = tl.diagnose(adata, label_key=label_key, rng=seed)
        assert d.verdict == verdict, str(d)
        assert d.null is not None
        assert theta == 20 or d.null.neighbours_kept > 0.95

    @pytest.mark.thorough
    @pytest.mark.parametrize(
        ("name", "cell_type", "verdict"),
        [
            ("onek1k_subset", "monoc", "merged"),
            ("onek1k_subset", "bmem", "merged"),
            ("kang_fullgenes", "B cells", "unknown"),
            ("pancreas_3prot", "ductal", "kept apart"),
        ],
    )
    def test_a_type_of_one_batch_is_kept_apart_or_flagged(self, data_dir, name, cell_type, verdict):
        adata = anndata.read_h5ad(data_dir / f"{name}.h5ad")
        own = adata.obs["cell_type"] == cell_type
        home = adata.obs["batch"][own].value_counts().index[0]
        adata = adata[~own | (adata.obs["batch"] == home)].copy()
        hx.pp.harmony_integrate(adata, "batch", rng=0)
        d = tl.diagnose(adata, label_key="cell_type")
        rows = d.one_batch_states.set_index("state")
        assert rows.loc[cell_type, ["batch", "verdict"]].tolist() == [home, verdict]
        assert ("one_batch_state_merged" in codes(d)) == (verdict == "merged")
        assert ("one_batch_state_unknown" in codes(d)) == (verdict == "unknown"), "most cells of stim have no label"
        assert verdict != "merged" or d.verdict == "caution"

    @pytest.mark.thorough
    def test_batch_confounded_with_type_is_impossible(self, data_dir):
        adata = anndata.read_h5ad(data_dir / "cell_lines.h5ad")
        hx.pp.harmony_integrate(adata, "batch", rng=0)
        assert tl.diagnose(adata, label_key="cell_type").verdict == "fine", "the mixture links the pure lines"
        pure = adata[adata.obs["batch"] != "half"].copy()
        hx.pp.harmony_integrate(pure, "batch", rng=0)
        assert tl.diagnose(pure, label_key="cell_type").verdict == "impossible"

    @pytest.mark.thorough
    def test_labels_of_one_batch_only_confound_nothing(self, data_dir):
        adata = anndata.read_h5ad(data_dir / "pbmc_sorted.h5ad")
        hx.pp.harmony_integrate(adata, "batch", rng=0)
        assert tl.diagnose(adata, label_key="cell_type").verdict == "caution"

    def test_one_batch(self, mixed):
        mixed.obs["batch"] = "only"
        d = tl.diagnose(mixed, "batch")
        assert (d.verdict, d.summary) == ("not_needed", "There is one batch only: nothing was corrected.")

    @pytest.mark.thorough
    @pytest.mark.parametrize(("name", "keys"), first(1, LEFT, names=2, later="slow"))
    def test_an_embedding_left_as_it_was_is_too_little_also_where_the_effect_is_mild(self, data_dir, name, keys):
        adata = anndata.read_h5ad(data_dir / f"{name}.h5ad")
        adata.obsm["X_same"] = adata.obsm["X_pca"].copy()
        d = tl.diagnose(adata, keys, label_key="cell_type", adjusted_basis="X_same")
        assert d.verdict == "under_corrected"

    def test_every_batch_variable_is_looked_at(self):
        adata = blobs({("a", "T"): 300, ("b", "T"): 300}, shift=30)
        adata.obs["donor"] = np.tile([f"d{i}" for i in range(30)], 20)
        adata.obsm["X_same"] = adata.obsm["X_pca"]
        d = tl.diagnose(adata, ["donor", "batch"], adjusted_basis="X_same")
        assert d.verdict == "under_corrected"
        assert d.mixing.set_index("batch_key")["needed"].to_dict() == {"donor": False, "batch": True}

    def test_small_batches_are_judged_all_together(self):
        adata = blobs({(f"b{i:02}", "T"): 20 for i in range(20)}, shift=1)
        adata.obsm["X_noise"] = np.random.default_rng(5).normal(size=adata.obsm["X_pca"].shape)
        assert tl.diagnose(adata, "batch", adjusted_basis="X_noise").verdict == "over_corrected"

    def test_where_nothing_can_be_measured_it_says_so(self):
        adata = blobs({(f"b{i:02}", "T"): 2 for i in range(30)}, shift=9)
        Z = adata.obsm["X_pca"].copy()
        Z[:, 9] = np.random.default_rng(5).normal(size=60)
        adata.obsm["X_new"] = Z
        d = tl.diagnose(adata, "batch", adjusted_basis="X_new")
        assert d.verdict != "fine"
        assert d.verdict == "not_needed" or "not_measured" in codes(d)

    def test_one_batch_apart_among_many_needs_correction(self):
        adata = blobs({(f"b{i:02}", "T"): 60 for i in range(10)} | {("z", "T"): 30}, shift=0)
        Z = adata.obsm["X_pca"].copy()
        adata.obsm["X_pca_harmony"] = Z.copy()
        Z[adata.obs["batch"] == "z", 9] += 20
        adata.obsm["X_pca"] = Z
        assert tl.check(adata, "batch").verdict == "needed"
        assert tl.diagnose(adata, "batch").verdict == "fine"
        adata.obsm["X_pca_harmony"] = Z
        assert tl.diagnose(adata, "batch").verdict == "under_corrected"

    def test_labels_that_name_mixed_batches_make_nothing_impossible(self):
        adata = blobs({("a", "T"): 150, ("b", "T"): 150}, shift=0)
        adata.obs["named"] = "T of " + adata.obs["batch"].astype(str)
        adata.obsm["X_pca_harmony"] = adata.obsm["X_pca"]
        assert tl.check(adata, "batch", label_key="named").verdict == "not_needed"
        assert tl.diagnose(adata, "batch", label_key="named").verdict == "not_needed"

    def test_how_the_run_ended_is_told_but_does_not_judge_where(self):
        empty = pd.DataFrame({"neighbours_kept": [], "n_cells": [], "movement": [], "verdict": [], "batch": []})
        empty["batch_offset"] = []
        numbers = {"neighbours_kept": 0.95, "excess_before": 0.5, "excess_after": 0.0}
        mixing = pd.DataFrame(
            {"batch_key": ["batch"], "before": [0.5], "after": [0.0], "chance": [0.01], "needed": [True]}
        )
        mixing[["levels_apart_before", "levels_apart_after"]] = 0
        known = dict(groups=empty, states=empty, batches=empty, markers=pd.DataFrame(), n_labelled=2, n_linked=1)
        run = dict(status="max_iterations", last_change=0.1, hvg_per_batch=False)
        verdict, _, findings = judge(Measured(numbers, mixing, None, n_levels=2, **known, **run))
        assert verdict == "fine"
        advice = next(f.advice for f in findings if f.code == "not_converged")
        assert "max_iter_harmony" in advice
        assert "batch_key" in advice


class TestOverall:
    def test_trust_without_cell_types_is_qualified(self, mixed):
        tl.check(mixed, "batch")
        tl.diagnose(mixed, "batch")
        assert overall(mixed.uns).headline.endswith("as far as can be told without cell types.")
        tl.diagnose(mixed, "batch", label_key="cell_type")
        assert overall(mixed.uns).headline == "This correction can be trusted."

    def test_a_condition_that_is_the_batch_overrules_and_speaks_alone(self, mixed):
        mixed.obs["treatment"] = mixed.obs["batch"]
        check = tl.check(mixed, "batch", label_key="cell_type", condition_key="treatment")
        tl.diagnose(mixed, "batch", label_key="cell_type")
        made = overall(mixed.uns)
        assert (made.code, made.summary) == ("impossible", check.summary)

    def test_findings_of_the_same_kind_are_all_told(self, mixed):
        for key in ("one", "two"):
            mixed.obs[key] = ["small"] * 20 + ["large"] * 700
        tl.check(mixed, ["one", "two"])
        assert sum(finding.code == "tiny_batches" for finding in overall(mixed.uns).findings) == 2


class TestAnnData:
    def test_what_is_written(self, mixed, tmp_path):
        hx.pp.harmony_integrate(mixed, "batch", rng=0)
        before = mixed.obsm["X_pca"].copy()
        d = tl.diagnose(mixed, label_key="cell_type", markers={"T": ["marker of T"]})
        np.testing.assert_array_equal(mixed.obsm["X_pca"], before)
        np.testing.assert_array_equal(mixed.obs["harmonax_neighbors_kept"], d.kept)
        mixed.write_h5ad(tmp_path / "out.h5ad")
        back = Diagnosis.from_uns(anndata.read_h5ad(tmp_path / "out.h5ad").uns["harmonax_diagnosis"])
        assert str(back) == str(d)
        assert back.numbers == d.numbers
        assert back.null == d.null
        pd.testing.assert_frame_equal(back.groups, d.groups, check_dtype=False)

    def test_the_same_seed_gives_the_same_answer(self, mixed):
        hx.pp.harmony_integrate(mixed, "batch", rng=0)
        one, two = (tl.diagnose(mixed, max_cells=300, rng=3) for _ in range(2))
        assert one.numbers == two.numbers
        assert one.null == two.null

    def test_a_sample_is_taken_of_many_cells_and_said(self, mixed):
        d = tl.diagnose(mixed, "batch", max_cells=300)
        assert np.isfinite(d.kept).sum() == 300
        assert (d.about["n_cells"], d.about["n_used"]) == (720, 300)
        assert np.isfinite(d.moved).all()

    def test_another_methods_embedding_with_its_own_correction(self, mixed):
        mixed.obsm["X_other"] = mixed.obsm.pop("X_pca_harmony")
        d = tl.diagnose(mixed, "batch", adjusted_basis="X_other", correct=lambda Z, batch: Z)
        assert d.null is not None
        assert d.null.neighbours_kept == 1

    def test_several_batch_columns(self, mixed):
        mixed.obs["chip"] = np.random.default_rng(0).choice(["1", "2"], mixed.n_obs)
        hx.pp.harmony_integrate(mixed, ["batch", "chip"], theta=[2, 1], rng=0)
        d = tl.diagnose(mixed)
        assert sorted(d.batches["batch"]) == ["a|1", "a|2", "b|1", "b|2"]

    def test_bad_input(self, mixed):
        with pytest.raises(InputError, match="batch_key"):
            tl.diagnose(mixed)
        with pytest.raises(MissingKeyError, match="did you mean 'cell_type'"):
            tl.diagnose(mixed, "batch", label_key="celltype")
        with pytest.raises(InputError, match="label_key"):
            tl.diagnose(mixed, "batch", markers={"T": ["marker of T"]})
        with pytest.raises(MissingKeyError, match="no cell type 'Q'"):
            tl.diagnose(mixed, "batch", label_key="cell_type", markers={"Q": ["marker of T"]})
        with pytest.raises(MissingKeyError, match="did you mean 'marker of T'"):
            tl.diagnose(mixed, "batch", label_key="cell_type", markers={"T": ["marker-of-T"]})
        del mixed.obsm["X_pca_harmony"]
        with pytest.raises(MissingKeyError, match="harmony_integrate first"):
            tl.diagnose(mixed, "batch")
