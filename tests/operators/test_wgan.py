# ruff: noqa: E402 - what needs the extra is imported after it was looked for
"""WGAN: the critic against sums by hand and a known distance; the correction against what it must achieve."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from corrections import VARIANTS, judged, tutorial, two_batches

from harmonax.errors import HarmonaxWarning, InputError

for name in ("jax", "flax", "optax"):
    pytest.importorskip(name, reason="needs harmonax[jax]")

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from harmonax.operators.latent.critic import Critic
from harmonax.operators.latent.wgan import DifferentiableWGANBatchCorrection, WGANBatchCorrectionConfig
from harmonax.pp import wgan_integrate

pytestmark = pytest.mark.thorough


def operator(n_genes: int = 8, seed: int = 0, **options) -> DifferentiableWGANBatchCorrection:
    sizes = {"n_genes": n_genes, "hidden_dim": 16, "latent_dim": 4, "n_batches": 2, "discriminator_hidden_dim": 16}
    return DifferentiableWGANBatchCorrection(WGANBatchCorrectionConfig(**(sizes | options)), rngs=nnx.Rngs(seed))


@nnx.jit
def applied(op, data):
    """What an operator writes, compiled: each operation on its own takes longer to compile."""
    return op.apply(data, {}, None)[0]


@pytest.fixture(scope="module")
def fitted():
    op = operator()
    op.fit(two_batches(), steps=300, learning_rate=3e-3)
    return op


class TestCritic:
    def test_distance_is_that_of_means_by_hand(self):
        gen = np.random.default_rng(0)
        critic = Critic(3, 8, 4, rngs=nnx.Rngs(0))
        x, w = gen.normal(size=(20, 3)).astype(np.float32), gen.uniform(0.2, 2, 20).astype(np.float32)
        labels = np.array([0] * 9 + [1] * 4 + [3] * 7)  # of batch 2 there is none
        scores = np.asarray(critic(jnp.asarray(x)))
        mean = {b: np.average(scores[labels == b], axis=0, weights=w[labels == b]) for b in (0, 1, 3)}
        expected = np.mean([mean[b][b] - np.mean([mean[o][b] for o in mean if o != b]) for b in mean])
        value = jax.jit(critic.distance)(jnp.asarray(x), jnp.asarray(labels), jnp.asarray(w))
        assert float(value) == pytest.approx(expected, rel=1e-4, abs=1e-6)

    def test_distance_of_one_batch_is_zero(self):
        critic = Critic(3, 8, 2, rngs=nnx.Rngs(0))
        assert float(critic.distance(jnp.ones((5, 3)), jnp.ones(5, int), jnp.ones(5))) == 0

    def test_steepness_of_a_linear_critic_is_known(self):
        critic = Critic(2, 4, 1, rngs=nnx.Rngs(0))
        # Positive throughout, so that the critic is 3 x_0 + const where x_0 > 0.
        critic.first.kernel[...] = jnp.zeros((2, 4)).at[0, 0].set(1.0)
        critic.second.kernel[...] = jnp.eye(4)
        critic.last.kernel[...] = jnp.full((4, 1), 3.0)
        x = 1 + jax.random.uniform(jax.random.key(0), (9, 2))
        value = jax.jit(critic.steepness)(x, jnp.zeros(9, int), jnp.ones(9), jax.random.key(1))
        assert float(value) == pytest.approx(4.0, rel=1e-4)

    def test_trained_it_finds_the_wasserstein_distance(self):
        x = jax.random.normal(jax.random.key(0), (400, 2))
        labels = jnp.arange(400) % 2
        x = x + 1.5 * labels[:, None] * jnp.array([1.0, 0.0])
        critic, ones = Critic(2, 32, 2, rngs=nnx.Rngs(0)), jnp.ones(400)
        graph, params = nnx.split(critic)
        rule = optax.adam(2e-3)

        def loss(params, key):
            model = nnx.merge(graph, params)
            return 10 * model.steepness(x, labels, ones, key) - model.distance(x, labels, ones)

        @jax.jit
        def train(params):
            def step(carry, key):
                slope = jax.grad(loss)(carry[0], key)
                change, state = rule.update(slope, carry[1])
                return (optax.apply_updates(carry[0], change), state), None

            return jax.lax.scan(step, (params, rule.init(params)), jax.random.split(jax.random.key(2), 800))[0][0]

        found = float(jax.jit(nnx.merge(graph, train(params)).distance)(x, labels, ones))
        # Shifted copies lie as far apart as the shift; the penalty lets the slope exceed 1 by a little.
        assert found == pytest.approx(1.5, rel=0.15)


class TestOperator:
    def test_writes_what_it_promises_and_changes_nothing_that_it_read(self, fitted):
        data = two_batches()
        before = {name: value.copy() for name, value in data.items()}
        result, state, metadata = fitted.apply(data, {"a": 1}, "m")
        new = {"corrected_expression", "latent", "discriminator_scores", "generator_loss", "discriminator_loss"}
        assert set(result) == set(data) | new
        assert result["corrected_expression"].shape == (60, 8)
        assert result["latent"].shape == (60, 4)
        assert result["discriminator_scores"].shape == (60,)
        assert result["generator_loss"].shape == result["discriminator_loss"].shape == ()
        assert (state, metadata) == ({"a": 1}, "m")
        assert set(data) == set(before)
        assert all((data[name] == before[name]).all() for name in data)

    def test_untrained_corrects_nothing(self):
        data = two_batches()
        assert (operator().apply(data, {}, None)[0]["corrected_expression"] == data["expression"]).all()

    def test_training_takes_the_shift_and_does_not_collapse(self, fitted):
        data = two_batches()
        result = applied(fitted, data)
        labels, corrected = data["batch_labels"], np.asarray(result["corrected_expression"])
        gap = lambda x: np.abs(x[labels == 0].mean(axis=0) - x[labels == 1].mean(axis=0)).mean()  # noqa: E731
        assert gap(corrected) < 0.35 * gap(data["expression"])
        assert np.asarray(result["latent"]).std(axis=0).max() > 0.1

    @pytest.mark.parametrize("jitted", [False, True])
    def test_one_batch_is_left_to_the_last_bit(self, fitted, jitted):
        data = two_batches()
        data["batch_labels"] = np.ones_like(data["batch_labels"])
        graph, state = nnx.split(fitted)
        run = lambda state, data: nnx.merge(graph, state).apply(data, {}, None)[0]  # noqa: E731
        result = (jax.jit(run) if jitted else run)(state, data)
        assert (np.asarray(result["corrected_expression"]) == data["expression"]).all()

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
            np.testing.assert_allclose(jitted[name], value, rtol=1e-3, atol=1e-4)
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

    def test_the_two_pull_against_each_other(self, fitted):
        """The generator lowers the distance that the critics raise: opposite signs, once, and not reversed twice."""
        data = two_batches()
        of = lambda group: nnx.jit(nnx.grad(lambda op: op.loss(data, group)))(fitted)  # noqa: E731
        generator, critics = of("generator"), of("discriminator")
        theirs = lambda slopes, part: [  # noqa: E731
            float(jnp.abs(g).max()) for path, g in jax.tree.leaves_with_path(slopes) if (part in str(path[0]))
        ]
        assert max(theirs(critics, "autoencoder")) == 0
        assert min(theirs(critics, "critics")) >= 0
        assert max(theirs(critics, "critics")) > 0
        assert min(theirs(generator, "autoencoder")) > 0
        assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves((generator, critics)))
        up = nnx.jit(lambda op: op.training_losses(data))(fitted)
        down = nnx.jit(lambda op: op.training_losses(data, None, "discriminator"))(fitted)
        for view in ("latent", "expression"):
            assert float(up[f"{view}_distance"]) == pytest.approx(-float(down[f"{view}_critic"]), rel=1e-4, abs=1e-6)

    def test_gradients_equal_finite_differences(self):
        with jax.enable_x64(True):
            data = two_batches(30)
            data["expression"] = data["expression"].astype(np.float64)
            op = operator(adversarial_weight=0.0)
            graph, params, rest = nnx.split(op, nnx.Param, ...)
            # Away from codes of zero, where nothing is corrected.
            flat, back = jax.flatten_util.ravel_pytree(jax.tree.map(lambda x: x.astype(jnp.float64), params))
            flat = flat + 0.1 * jnp.asarray(np.random.default_rng(1).normal(size=len(flat)))

            def value(v):
                result = nnx.merge(graph, back(v), rest).apply(data, {}, None)[0]
                return result["generator_loss"] + (result["corrected_expression"] ** 2).mean()

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
        for name in ("corrected_expression", "latent", "discriminator_scores"):
            np.testing.assert_allclose(result[name][:60], alone[name], rtol=1e-3, atol=1e-4)
        assert float(result["generator_loss"]) == pytest.approx(float(alone["generator_loss"]), rel=1e-3)
        assert np.isfinite(result["discriminator_loss"])

    def test_a_seed_gives_the_same_bits_and_another_does_not(self):
        data, found = two_batches(), []
        for seed in (0, 0, 1):
            op = operator(seed=seed)
            op.fit(data, steps=10, rng=seed)
            found.append(np.asarray(applied(op, data)["corrected_expression"]))
        assert (found[0] == found[1]).all()
        assert (found[0] != found[2]).any()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"expression": np.full((60, 8), np.nan)}, "NaN"),
        ({"expression": np.ones((60, 7))}, r"\(cells, 8\)"),
        ({"batch_labels": np.full(60, 7)}, "0 to 1"),
        ({"batch_labels": np.zeros(59, int)}, r"\(60,\)"),
    ],
)
def test_refuses_data_that_cannot_be_used(fitted, change, says):
    with pytest.raises(InputError, match=says):
        fitted.apply(two_batches() | change, {}, None)


@pytest.mark.parametrize(
    "wrong", [{"discriminator_hidden_dim": 0}, {"adversarial_weight": -1}, {"gradient_penalty": float("nan")}]
)
def test_refuses_parameters(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        WGANBatchCorrectionConfig(**wrong)


def test_defaults_are_those_that_users_know():
    config = WGANBatchCorrectionConfig()
    assert (config.n_genes, config.hidden_dim, config.latent_dim) == (2000, 128, 64)
    assert config.discriminator_hidden_dim == 64


def corrects_the_tutorial(data_dir, variant, seed, steps):
    data, kind = tutorial(data_dir, variant)
    op = DifferentiableWGANBatchCorrection(WGANBatchCorrectionConfig(n_genes=30, n_batches=2), rngs=nnx.Rngs(seed))
    history = op.fit(data, steps=steps, rng=seed).history
    assert all(np.isfinite(values).all() for values in history.values())
    corrected = np.asarray(applied(op, data)["corrected_expression"])
    mixing, ari, kept = judged(data["expression"], corrected, data["batch_labels"], kind)
    assert mixing >= 0.9
    assert ari >= 0.95
    assert 0.7 <= kept <= 1.3


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_corrects_the_tutorial(data_dir, variant):
    corrects_the_tutorial(data_dir, variant, seed=0, steps=700)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("variant", VARIANTS)
def test_corrects_the_tutorial_for_2000_steps(data_dir, variant, seed):
    corrects_the_tutorial(data_dir, variant, seed, steps=2000)


def test_the_front_writes_latent_corrected_expression_and_how():
    data = two_batches()
    obs = pd.DataFrame({"batch": np.where(data["batch_labels"] == 0, "a", "b")}, index=[f"c{i}" for i in range(60)])
    adata = anndata.AnnData(data["expression"], obs=obs)
    quick = {"latent_dim": 4, "hidden_dim": 16, "steps": 10, "rng": 0, "corrected": "X_fixed"}
    wgan_integrate(adata, "batch", **quick)
    assert adata.obsm["X_wgan"].shape == (60, 4)
    assert adata.obsm["X_fixed"].shape == (60, 8)
    assert adata.uns["harmonax_wgan"]["history"]["latent_critic"].shape == (10,)
    adata.obs["batch"] = "a"
    with pytest.warns(HarmonaxWarning, match="one batch only"):
        wgan_integrate(adata, "batch", **quick)
    assert (adata.obsm["X_fixed"].to_numpy() == adata.X).all()
