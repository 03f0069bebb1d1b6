# ruff: noqa: E402 - what needs the extra is imported after it was looked for
"""MMD: the estimator against sums over pairs and known distributions; the correction against what it must achieve."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import anndata
import numpy as np
import pandas as pd
import pytest
from corrections import VARIANTS, judged, tutorial, two_batches
from scipy.spatial.distance import pdist

from harmonax.errors import FileFormatError, HarmonaxWarning, InputError, MissingKeyError

for name in ("jax", "flax", "optax"):
    pytest.importorskip(name, reason="needs harmonax[jax]")

import jax
import jax.numpy as jnp
from flax import nnx

from harmonax.operators.latent.discrepancy import (
    WIDTHS,
    batch_discrepancy,
    composition_weights,
    fourier_features,
    median_distance,
    standardised,
)
from harmonax.operators.latent.mmd import DifferentiableMMDBatchCorrection, MMDBatchCorrectionConfig
from harmonax.pp import mmd_integrate

pytestmark = pytest.mark.thorough


def operator(n_genes: int = 8, seed: int = 0, **options) -> DifferentiableMMDBatchCorrection:
    sizes = {"n_genes": n_genes, "hidden_dim": 16, "latent_dim": 4, "n_batches": 2} | options
    return DifferentiableMMDBatchCorrection(MMDBatchCorrectionConfig(**sizes), rngs=nnx.Rngs(seed))


@nnx.jit
def applied(op, data):
    """What an operator writes, compiled: each operation on its own takes longer to compile."""
    return op.apply(data, {}, None)[0]


@pytest.fixture(scope="module")
def fitted():
    op = operator()
    op.fit(two_batches(), steps=300, learning_rate=3e-3)
    return op


discrepancy = jax.jit(batch_discrepancy, static_argnums=2)
weights_of = jax.jit(composition_weights, static_argnums=2)


@partial(jax.jit, static_argnames="n")
def features(x, key=0, n=500):
    points = standardised(jnp.asarray(x))
    frequencies = jax.random.normal(jax.random.key(key), (points.shape[1], n))
    return fourier_features(points, frequencies, median_distance(points))


class TestDiscrepancy:
    def test_features_estimate_the_mean_of_gaussian_kernels(self):
        x = np.random.default_rng(0).normal(size=(40, 3))
        d2 = ((x[:, None] - x[None]) ** 2).sum(axis=2)
        exact = np.mean([np.exp(-d2 / (2 * (1.5 * h) ** 2)) for h in WIDTHS], axis=0)
        phi = fourier_features(jnp.asarray(x), jax.random.normal(jax.random.key(0), (3, 50_000)), 1.5)
        np.testing.assert_allclose(phi @ phi.T, exact, atol=0.02)
        np.testing.assert_allclose((phi**2).sum(axis=1), 1, rtol=1e-5)

    @pytest.mark.parametrize("weighted", [False, True])
    def test_is_the_sum_over_pairs_of_cells(self, weighted):
        gen = np.random.default_rng(1)
        labels = np.array([0] * 9 + [1] * 4 + [2] * 7 + [4])
        phi = np.array(features(gen.normal(size=(21, 3)), n=50), np.float64)
        w = gen.uniform(0.5, 2, 21) if weighted else np.ones(21)
        k, found = phi @ phi.T, []
        for a, b in ((0, 1), (0, 2), (1, 2)):  # 4 has one cell, 3 none
            value = 0.0
            for own in (a, b):
                i = np.flatnonzero(labels == own)
                pairs = np.outer(w[i], w[i]) * (1 - np.eye(len(i)))
                value += (pairs * k[np.ix_(i, i)]).sum() / pairs.sum()
            i, j = np.flatnonzero(labels == a), np.flatnonzero(labels == b)
            pairs = np.outer(w[i], w[j])
            found.append(value - 2 * (pairs * k[np.ix_(i, j)]).sum() / pairs.sum())
        value = discrepancy(jnp.asarray(phi, jnp.float32), jnp.asarray(labels), 5, jnp.asarray(w))
        assert float(value) == pytest.approx(np.mean(found), abs=1e-6)

    @pytest.mark.parametrize("sizes", [(150, 150), (270, 30), (150, 100, 50)])
    def test_of_one_distribution_is_zero_within_noise(self, sizes):
        labels = np.repeat(np.arange(len(sizes)), sizes)
        gen = np.random.default_rng(2)
        drawn = [features(gen.normal(size=(300, 5)), key=i) for i in range(40)]
        values = [float(discrepancy(phi, labels, len(sizes))) for phi in drawn]
        noise = np.std(values) / np.sqrt(40)
        assert abs(np.mean(values)) < 4 * noise
        assert min(values) < 0 < max(values)
        assert noise < 2e-3

    def test_batches_that_alternate_by_row_are_all_seen_in_samples(self):
        gen = np.random.default_rng(8)
        labels = np.arange(2048) % 2
        x = (gen.normal(size=(2048, 4)) * np.where(labels, 5.0, 1.0)[:, None]).astype(np.float32)
        assert float(median_distance(jnp.asarray(x))) == pytest.approx(np.median(pdist(x)), rel=0.2)
        kind = gen.random(2048) < np.where(labels, 0.3, 0.7)
        x = (gen.normal(size=(2048, 4)) + 8 * kind[:, None]).astype(np.float32)
        w = np.asarray(weights_of(jnp.asarray(x), jnp.asarray(labels), 2, jnp.ones(2048)))
        for b in (0, 1):
            assert w[(labels == b) & kind].sum() == pytest.approx(512, rel=0.12)

    @pytest.mark.parametrize("sizes", [(150, 150), (270, 30), (150, 100, 50)])
    def test_grows_with_the_shift(self, sizes):
        labels = np.repeat(np.arange(len(sizes)), sizes)
        x = np.random.default_rng(3).normal(size=(300, 5))
        shifted = [features(x + s * labels[:, None]) for s in (0, 0.5, 1, 2, 4)]
        values = [float(discrepancy(phi, labels, len(sizes))) for phi in shifted]
        assert (np.diff(values) > 0.02).all()

    def test_of_a_batch_that_differs_in_spread_alone_is_seen(self):
        labels = np.repeat([0, 1], 150)
        x = np.random.default_rng(4).normal(size=(300, 5)) * np.where(labels, 3.0, 1.0)[:, None]
        assert discrepancy(features(x), labels, 2) > 0.05

    def test_does_not_change_with_scale_or_place_of_the_points(self):
        labels = np.repeat([0, 1], 30)
        x = np.random.default_rng(5).normal(size=(60, 3)) + labels[:, None]
        one, other = (float(discrepancy(features(v), labels, 2)) for v in (x, 0.01 * x + 7))
        assert one == pytest.approx(other, rel=1e-3)

    def test_has_no_gradient_toward_collapse(self):
        labels = np.repeat([0, 1], 30)
        x = jnp.asarray(np.random.default_rng(5).normal(size=(60, 3)) + labels[:, None])
        slope = jax.jit(jax.grad(lambda s: batch_discrepancy(features(s * x), labels, 2)))(1.0)
        assert abs(float(slope)) < 1e-4

    def test_padding_does_not_count(self):
        x = np.random.default_rng(6).normal(size=(40, 3)).astype(np.float32)
        mask = np.ones(40)
        longer, wider = np.vstack([x, 99 * np.ones((9, 3), np.float32)]), np.append(mask, np.zeros(9))
        point, padded = standardised(x, jnp.asarray(mask)), standardised(longer, jnp.asarray(wider))
        np.testing.assert_allclose(padded[:40], point, rtol=1e-5, atol=1e-6)
        assert median_distance(padded, wider) == pytest.approx(float(median_distance(point)), rel=1e-5)

    def test_composition_weights_undo_other_proportions_and_nothing_else(self):
        gen = np.random.default_rng(7)
        labels = np.repeat([0, 1], 100)
        kind = np.concatenate([np.arange(100) < 70, np.arange(100) < 30]).astype(int)
        x = gen.normal(size=(200, 4)) + 8 * kind[:, None]
        w = np.asarray(weights_of(jnp.asarray(x), jnp.asarray(labels), 2, jnp.ones(200)))
        for b in (0, 1):
            assert w[labels == b].sum() == pytest.approx(100, rel=1e-4)
            assert w[(labels == b) & (kind == 1)].sum() == pytest.approx(50, abs=6)
        far = jnp.asarray(x + 900 * labels[:, None])
        apart = np.asarray(weights_of(far, jnp.asarray(labels), 2, jnp.ones(200)))
        for b in (0, 1):
            assert np.ptp(apart[labels == b]) < 0.5


class TestOperator:
    def test_writes_what_it_promises_and_changes_nothing_that_it_read(self, fitted):
        data = two_batches()
        before = {name: value.copy() for name, value in data.items()}
        result, state, metadata = fitted.apply(data, {"a": 1}, "m")
        assert set(result) == set(data) | {"corrected_expression", "latent", "mmd_loss", "reconstruction_loss"}
        assert result["corrected_expression"].shape == (60, 8)
        assert result["latent"].shape == (60, 4)
        assert (state, metadata) == ({"a": 1}, "m")
        assert set(data) == set(before)
        assert all((data[name] == before[name]).all() for name in data)

    def test_untrained_corrects_nothing(self):
        data = two_batches()
        assert (operator().apply(data, {}, None)[0]["corrected_expression"] == data["expression"]).all()

    def test_training_takes_the_shift_and_keeps_what_it_cannot_explain(self, fitted):
        data = two_batches()
        corrected = np.asarray(applied(fitted, data)["corrected_expression"])
        labels = data["batch_labels"]
        gap = lambda x: np.abs(x[labels == 0].mean(axis=0) - x[labels == 1].mean(axis=0)).mean()  # noqa: E731
        assert gap(corrected) < 0.35 * gap(data["expression"])
        move = corrected - data["expression"]
        assert move[labels == 1].std(axis=0).mean() < 0.5

    @pytest.mark.parametrize("jitted", [False, True])
    def test_one_batch_is_left_to_the_last_bit(self, fitted, jitted):
        data = two_batches()
        data["batch_labels"] = np.ones_like(data["batch_labels"])
        graph, state = nnx.split(fitted)
        run = lambda state, data: nnx.merge(graph, state).apply(data, {}, None)[0]  # noqa: E731
        result = (jax.jit(run) if jitted else run)(state, data)
        assert (np.asarray(result["corrected_expression"]) == data["expression"]).all()
        assert float(result["mmd_loss"]) == 0

    def test_a_named_target_stays_and_the_other_batch_comes_to_it(self, fitted):
        data = two_batches()
        named = operator(target=1)
        nnx.update(named, nnx.state(fitted))
        corrected = np.asarray(applied(named, data)["corrected_expression"])
        own = data["batch_labels"] == 1
        assert (corrected[own] == data["expression"][own]).all()
        assert (corrected[~own] - data["expression"][~own]).mean() > 1

    def test_a_saved_model_encodes_and_corrects_new_cells(self, fitted, tmp_path):
        fitted.save(tmp_path / "mmd.h5")
        loaded, new = type(fitted).load(tmp_path / "mmd.h5"), two_batches(seed=9)
        assert loaded.config == fitted.config
        want, got = applied(fitted, new), applied(loaded, new)
        np.testing.assert_array_equal(got["corrected_expression"], want["corrected_expression"])
        # Their batch need not be known, nor need there be more than one of them.
        alone = loaded.encode({"expression": new["expression"][:1]})
        np.testing.assert_allclose(alone, want["latent"][:1], rtol=1e-4, atol=1e-5)
        assert loaded.apply({name: values[:1] for name, values in new.items()}, {}, None)[0]["mmd_loss"] == 0
        (tmp_path / "mmd.h5").write_bytes(b"no model")
        with pytest.raises(FileFormatError):
            type(fitted).load(tmp_path / "mmd.h5")

    def test_minibatches_of_one_cell_are_refused(self):
        with pytest.raises(InputError, match="raise batch_size to at least 2"):
            operator().fit(two_batches(), steps=1, batch_size=1)

    def test_jit_equals_eager_and_does_not_trace_again(self, fitted):
        graph, state = nnx.split(fitted)
        traces = []

        @jax.jit
        def run(state, data):
            traces.append(1)
            return nnx.merge(graph, state).apply(data, {}, None)[0]

        data = two_batches()
        eager, jitted = fitted.apply(data, {}, None)[0], run(state, data)
        for name, value in eager.items():
            np.testing.assert_allclose(jitted[name], value, rtol=1e-4, atol=1e-5)
        run(state, two_batches(seed=3))
        assert len(traces) == 1

    def test_vmap_equals_a_loop(self, fitted):
        many = [two_batches(seed=s) for s in range(3)]
        stacked = {name: jnp.stack([d[name] for d in many]) for name in many[0]}
        graph, state = nnx.split(fitted)
        run = lambda data: nnx.merge(graph, state).apply(data, {}, None)[0]["corrected_expression"]  # noqa: E731
        alone = jax.jit(run)
        together = jax.jit(jax.vmap(run))(stacked)
        np.testing.assert_allclose(together, jnp.stack([alone(d) for d in many]), rtol=1e-4, atol=1e-5)

    def test_gradients_reach_every_parameter_and_are_finite(self, fitted):
        slopes = nnx.jit(nnx.grad(lambda op, data: op.loss(data)))(fitted, two_batches())
        leaves = jax.tree.leaves(slopes)
        assert len(leaves) == 10
        assert all(bool(jnp.isfinite(g).all()) and float(jnp.abs(g).max()) > 0 for g in leaves)

    def test_gradients_equal_finite_differences(self):
        with jax.enable_x64(True):
            data = two_batches(30)
            data["expression"] = data["expression"].astype(np.float64)
            graph, params, rest = nnx.split(operator(), nnx.Param, ...)
            # Away from codes of zero, where nothing is corrected.
            flat, back = jax.flatten_util.ravel_pytree(jax.tree.map(lambda x: x.astype(jnp.float64), params))
            flat = flat + 0.1 * jnp.asarray(np.random.default_rng(1).normal(size=len(flat)))

            def value(v):
                result = nnx.merge(graph, back(v), rest).apply(data, {}, None)[0]
                return result["reconstruction_loss"] + (result["corrected_expression"] ** 2).mean()

            both = jax.jit(jax.value_and_grad(value))
            slope, gen = both(flat)[1], np.random.default_rng(0)
            for _ in range(5):
                step = jnp.asarray(gen.normal(size=len(flat)))
                measured = (both(flat + 1e-6 * step)[0] - both(flat - 1e-6 * step)[0]) / 2e-6
                assert float(slope @ step) == pytest.approx(float(measured), rel=1e-4)

    def test_padding_changes_nothing(self, fitted):
        data = two_batches()
        padded = {name: np.concatenate([value, value[:7]]) for name, value in data.items()}
        padded["expression"][60:] = np.nan
        padded["mask"] = np.arange(67) < 60
        result, alone = (applied(fitted, d) for d in (padded, data))
        for name in ("corrected_expression", "latent"):
            np.testing.assert_allclose(result[name][:60], alone[name], rtol=1e-4, atol=1e-5)
        for name in ("mmd_loss", "reconstruction_loss"):
            assert float(result[name]) == pytest.approx(float(alone[name]), abs=1e-5)

    def test_a_seed_gives_the_same_bits_and_another_does_not(self):
        data, found = two_batches(), []
        for seed in (0, 0, 1):
            op = operator(seed=seed)
            op.fit(data, steps=20, rng=seed)
            found.append(np.asarray(applied(op, data)["corrected_expression"]))
        assert (found[0] == found[1]).all()
        assert (found[0] != found[2]).any()

    def test_takes_labels_of_any_number_of_batches_where_none_was_said(self):
        data = two_batches()
        data["batch_labels"] = np.arange(60) % 5
        assert applied(operator(n_batches=None), data)["latent"].shape == (60, 4)


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"expression": np.full((60, 8), np.nan)}, "NaN"),
            ({"expression": np.ones((60, 7))}, r"\(cells, 8\)"),
            ({"expression": np.ones(60)}, r"\(cells, 8\)"),
            ({"batch_labels": np.full(60, 7)}, "0 to 1"),
            ({"batch_labels": np.full(60, -1)}, "0 to 1"),
            ({"batch_labels": np.zeros(59, int)}, r"\(60,\)"),
            ({"batch_labels": np.zeros(60)}, "whole numbers"),
            ({"mask": np.ones(3, bool)}, r"\(60,\)"),
        ],
    )
    def test_data_that_cannot_be_used(self, fitted, change, says):
        with pytest.raises(InputError, match=says):
            fitted.apply(two_batches() | change, {}, None)

    def test_missing_data(self, fitted):
        with pytest.raises(MissingKeyError, match="batch_labels"):
            fitted.apply({"expression": two_batches()["expression"]}, {}, None)

    def test_wrong_shapes_also_inside_jit(self, fitted):
        graph, state = nnx.split(fitted)
        with pytest.raises(InputError, match="8"):
            jax.jit(lambda data: nnx.merge(graph, state).apply(data, {}, None)[0])(
                {"expression": jnp.ones((60, 7)), "batch_labels": jnp.zeros(60, int)}
            )

    @pytest.mark.parametrize(
        "wrong",
        [
            {"n_genes": 0},
            {"hidden_dim": 1.5},
            {"latent_dim": True},
            {"n_batches": 0},
            {"target": 2},
            {"target": "best"},
            {"kernel_bandwidth": 0},
            {"kernel_bandwidth": float("nan")},
            {"mmd_weight": -1},
            {"gene_dropout": 1.0},
            {"latent_noise": float("inf")},
        ],
    )
    def test_parameters(self, wrong):
        with pytest.raises(InputError, match=next(iter(wrong))):
            MMDBatchCorrectionConfig(**({"n_batches": 2} | wrong))


def test_defaults_are_those_that_users_know():
    config = MMDBatchCorrectionConfig()
    assert (config.n_genes, config.hidden_dim, config.latent_dim, config.kernel_bandwidth) == (2000, 128, 64, 1.0)


def corrects_the_tutorial(data_dir, make, variant, seed, steps):
    data, kind = tutorial(data_dir, variant)
    op = make(seed)
    history = op.fit(data, steps=steps, rng=seed).history
    assert all(np.isfinite(values).all() for values in history.values())
    corrected = np.asarray(applied(op, data)["corrected_expression"])
    mixing, ari, kept = judged(data["expression"], corrected, data["batch_labels"], kind)
    assert mixing >= 0.9
    assert ari >= 0.95
    assert 0.7 <= kept <= 1.3


def of_tutorial(seed):
    return DifferentiableMMDBatchCorrection(MMDBatchCorrectionConfig(n_genes=30, n_batches=2), rngs=nnx.Rngs(seed))


def test_corrects_the_tutorial(data_dir):
    # The hardest; docs/tutorials/three-corrections.md shows the same of the others, and is run where slow tests are.
    corrects_the_tutorial(data_dir, of_tutorial, "unbalanced", seed=0, steps=500)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("variant", VARIANTS)
def test_corrects_the_tutorial_for_2000_steps(data_dir, variant, seed):
    corrects_the_tutorial(data_dir, of_tutorial, variant, seed, steps=2000)


@pytest.fixture
def cells():
    data = two_batches()
    obs = pd.DataFrame({"batch": np.where(data["batch_labels"] == 0, "a", "b")}, index=[f"c{i}" for i in range(60)])
    return anndata.AnnData(data["expression"], obs=obs)


class TestFront:
    quick: ClassVar[dict[str, int]] = {"latent_dim": 4, "hidden_dim": 16, "steps": 10, "rng": 0}

    def test_writes_latent_corrected_expression_and_how(self, cells, tmp_path):
        mmd_integrate(cells, "batch", corrected="X_fixed", target="b", **self.quick)
        assert cells.obsm["X_mmd"].shape == (60, 4)
        assert cells.obsm["X_fixed"].shape == (60, 8)
        own = (cells.obs["batch"] == "b").to_numpy()
        assert (cells.obsm["X_fixed"].to_numpy()[own] == cells.X[own]).all()
        cells.write_h5ad(tmp_path / "cells.h5ad")
        record = anndata.read_h5ad(tmp_path / "cells.h5ad").uns["harmonax_mmd"]
        assert record["status"] == "completed"
        assert record["seed"] == 0
        assert record["history"]["total"].shape == (10,)

    def test_uses_variable_genes_and_sparse_layers(self, cells):
        from scipy import sparse

        cells.var["highly_variable"] = np.arange(8) < 5
        cells.layers["log"] = sparse.csr_matrix(cells.X)
        mmd_integrate(cells, "batch", layer="log", corrected="X_fixed", **self.quick)
        assert list(cells.obsm["X_fixed"].columns) == [str(i) for i in range(5)]

    def test_one_batch_warns_and_stays(self, cells):
        cells.obs["batch"] = "a"
        with pytest.warns(HarmonaxWarning, match="one batch only"):
            mmd_integrate(cells, "batch", corrected="X_fixed", **self.quick)
        assert (cells.obsm["X_fixed"].to_numpy() == cells.X).all()

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"key": "bacth"}, "batch"),
            ({"layer": "log"}, "layers has no 'log'"),
            ({"mask_var": "hvg"}, "var has no column"),
            ({"target": "c"}, "no batch 'c'"),
            ({"adjusted_basis": "a/b"}, "slash"),
        ],
    )
    def test_refuses_what_is_not_there(self, cells, options, says):
        with pytest.raises(InputError, match=says):
            mmd_integrate(cells, **({"key": "batch"} | options))

    def test_refuses_counts_and_nan(self, cells):
        cells.layers["counts"] = np.ones((60, 8))
        with pytest.raises(InputError, match="normalise"):
            mmd_integrate(cells, "batch", layer="counts")
        cells.X[3, 2] = np.nan
        with pytest.raises(InputError, match="NaN"):
            mmd_integrate(cells, "batch")


def test_labels_out_of_range_poison_in_traced_code():
    operator = DifferentiableMMDBatchCorrection(
        MMDBatchCorrectionConfig(n_genes=6, hidden_dim=8, latent_dim=2, n_batches=3), rngs=nnx.Rngs(0)
    )
    cells = jax.random.normal(jax.random.key(0), (40, 6))
    run = jax.jit(
        lambda x, b: operator.apply({"expression": x, "batch_labels": b}, {}, None)[0]["corrected_expression"]
    )
    assert jnp.isfinite(run(cells, jnp.arange(40) % 3)).all()
    assert jnp.isnan(run(cells, jnp.arange(40) % 4)).all()
    with pytest.raises(InputError, match="batch_labels has dtype <U1"):
        operator.apply({"expression": cells, "batch_labels": np.repeat("a", 40)}, {}, None)
