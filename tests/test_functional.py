"""harmonax.functional: what the modules compute, as functions; and the two losses that are new with it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp

jax = pytest.importorskip("jax", reason="pip install 'harmonax[jax]'")
pytest.importorskip("flax", reason="pip install 'harmonax[jax]'")

import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402

from harmonax import functional, losses  # noqa: E402
from harmonax.errors import InputError  # noqa: E402
from harmonax.operators import BatchCorrectionConfig, DifferentiableHarmony  # noqa: E402

N, BATCH, KIND = 42, np.arange(42) % 3, np.arange(42) // 3 % 2
CELLS = np.random.default_rng(0).normal(size=(N, 4)) + 5 * np.eye(4)[KIND] + 0.7 * BATCH[:, None]
CELLS = CELLS.astype(np.float32)
MASK = np.arange(N) != 7
SHARES = np.eye(2)[KIND]


def both(name):
    """Return a loss as the module and as the function, of cells."""
    modules = {
        "mixing": (losses.BatchMixingLoss(5), lambda of: (of, BATCH, MASK), {"n_neighbors": 5}),
        "preservation": (
            losses.NeighborhoodPreservationLoss(5),
            lambda of: (of, CELLS, BATCH, MASK),
            {"n_neighbors": 5},
        ),
        "compactness": (losses.ClusteringCompactnessLoss(), lambda of: (of, SHARES, MASK), {}),
        "lisi_loss": (losses.LISILoss(perplexity=5), lambda of: (of, BATCH, MASK), {"perplexity": 5}),
        "sinkhorn": (losses.SinkhornLoss(), lambda of: (of, BATCH, MASK), {}),
        "mutual_neighbors": (losses.MutualNeighborLoss(5), lambda of: (of, BATCH, MASK), {"n_neighbors": 5}),
    }
    module, arguments, how = modules[name]
    function = getattr(functional, name)
    return (lambda x: module(*arguments(x))), (lambda x: function(*arguments(x), **how))


NAMES = ["mixing", "preservation", "compactness", "lisi_loss", "sinkhorn", "mutual_neighbors"]


@pytest.mark.parametrize("name", NAMES)
def test_a_module_is_its_function(name):
    module, function = both(name)
    moved = jnp.asarray(CELLS[::-1].copy())
    assert float(module(moved)) == float(function(moved)) != 0


@pytest.mark.thorough
def test_harmony_is_the_operator_and_learns_any_strength():
    config = BatchCorrectionConfig(n_clusters=3, n_features=4, n_batches=3, n_iterations=2, n_passes=2)
    op = DifferentiableHarmony(config, rngs=nnx.Rngs(0))
    want = op.apply({"embeddings": CELLS, "batch_labels": BATCH}, {})[0]["corrected_embeddings"]
    found = functional.harmony(CELLS, BATCH, config, seed=op.seed)
    np.testing.assert_array_equal(found["corrected_embeddings"], want)

    @jax.jit
    def slopes(strengths):
        size = lambda s: (functional.harmony(CELLS, BATCH, config, **s)["corrected_embeddings"] ** 2).sum()  # noqa: E731
        return jax.grad(size)(strengths)

    found = slopes({"theta": 2.0, "sigma": 0.3, "ridge": 0.1})
    assert all(np.isfinite(slope) and slope != 0 for slope in found.values())
    with pytest.raises(InputError, match="seed=-1"):
        functional.harmony(CELLS, BATCH, config, seed=-1)


def test_mmd_is_that_of_the_operators_and_says_what_it_cannot_use():
    apart = CELLS + 9 * BATCH[:, None]
    run = jax.jit(lambda x, b, m: functional.mmd(x, b, m))
    assert float(run(apart, BATCH, MASK)) > 0.3 > float(run(CELLS, BATCH * 0, MASK)) == 0
    padded = CELLS.copy()
    padded[7] = np.nan
    assert float(run(padded, BATCH, MASK)) == pytest.approx(float(run(CELLS, BATCH, MASK)), abs=1e-5)
    assert np.isnan(run(CELLS, BATCH + 1, MASK))


@pytest.mark.parametrize("function", ["mixing", "preservation", "sinkhorn", "mutual_neighbors", "mmd"])
def test_one_cell_alone_is_refused(function):
    second = CELLS[:1] if function == "preservation" else BATCH[:1]
    with pytest.raises(InputError, match="at least 2 are needed"):
        getattr(functional, function)(CELLS[:1], second)


def transport(x, y, epsilon):
    """Return the entropic transport cost of squared distances, by alternating updates."""
    C = ((x[:, None] - y[None]) ** 2).sum(axis=2)
    f, g = np.zeros(len(x)), np.zeros(len(y))
    for _ in range(1500):
        f = -epsilon * (logsumexp((g[None] - C) / epsilon, axis=1) - np.log(len(y)))
        g = -epsilon * (logsumexp((f[:, None] - C) / epsilon, axis=0) - np.log(len(x)))
    return f.mean() + g.mean()


def test_sinkhorn_is_the_mean_divergence_of_all_pairs():
    batch = np.repeat([0, 1, 2], [20, 8, 14])
    # Nothing is far out, so that the unit is the mean distance from the mean.
    centred = CELLS - CELLS.mean(axis=0)
    x = centred / np.linalg.norm(centred, axis=1).mean()
    parts = [x[batch == b].astype(float) for b in range(3)]
    pairs = [(a, b) for i, a in enumerate(parts) for b in parts[i + 1 :]]
    want = np.mean([transport(a, b, 0.1) - transport(a, a, 0.1) / 2 - transport(b, b, 0.1) / 2 for a, b in pairs])
    assert float(functional.sinkhorn(CELLS, batch, n_iterations=1500)) == pytest.approx(want, rel=1e-3)


class TestNewLosses:
    @pytest.mark.parametrize("name", ["sinkhorn", "mutual_neighbors"])
    def test_gradients_are_exact_and_scale_and_place_change_nothing(self, name):
        with jax.enable_x64(True):
            how = {"n_iterations": 400} if name == "sinkhorn" else {"n_neighbors": 5, "reference": CELLS}
            loss = jax.jit(jax.value_and_grad(lambda x: getattr(functional, name)(x, BATCH, **how)))
            x, v, h = jnp.asarray(CELLS, float), np.random.default_rng(1).normal(size=CELLS.shape), 1e-5
            value, slope = loss(x)
            difference = (loss(x + h * v)[0] - loss(x - h * v)[0]) / (2 * h)
            assert float((slope * v).sum()) == pytest.approx(float(difference), rel=1e-3)
            assert float(loss(100 * x + 3)[0]) == pytest.approx(float(value), rel=1e-6)
            # So nothing is gained by shrinking.
            assert abs(float((slope * x).sum())) < 1e-8

    @pytest.mark.parametrize("name", ["sinkhorn", "mutual_neighbors"])
    def test_a_correction_wins_and_a_collapse_or_an_outlier_does_not(self, name):
        right = np.random.default_rng(3).normal(size=(N, 4)) + 8 * np.eye(4)[KIND]
        before = right + 9 * BATCH[:, None] * np.eye(4)[3]
        how = {} if name == "sinkhorn" else {"n_neighbors": 5, "reference": right}
        loss = jax.jit(lambda x: getattr(functional, name)(x, BATCH, **how))
        out = np.where(np.arange(N)[:, None] == 0, 1e6, before)
        best = float(loss(jnp.asarray(right, jnp.float32)))
        for cheat in (before, 0 * right, out):
            value = float(loss(jnp.asarray(cheat, jnp.float32)))
            assert value > best

    def test_groups_have_the_same_say(self):
        kind = (np.arange(N) < 6).astype(int)
        x = np.random.default_rng(4).normal(size=(N, 4)) + 8 * np.eye(4)[kind]
        torn = x + 12 * (kind * BATCH)[:, None] * np.eye(4)[3]

        def gain(**how):
            before, after = (functional.mutual_neighbors(at, BATCH, reference=x, **how) for at in (x, torn))
            return float(after - before)

        alone, together = gain(), gain(groups=kind, n_groups=2)
        assert together > 2 * alone > 0
        with pytest.raises(InputError, match="groups need n_groups"):
            functional.mutual_neighbors(x, BATCH, groups=kind)

    def test_one_batch_has_nothing_to_say(self):
        alone = np.zeros(N, int)
        assert float(functional.sinkhorn(CELLS, alone)) == 0
        assert float(functional.mutual_neighbors(CELLS, alone)) == 0
