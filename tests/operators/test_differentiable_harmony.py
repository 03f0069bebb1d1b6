"""`DifferentiableHarmony`: the engine's answer, gradients against finite differences, and what JAX users rely on."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sampling import first
from strategies import cells_with_batches

import harmonax
from harmonax.algorithm.harmony import Harmony
from harmonax.algorithm.schedule import FixedPartition
from harmonax.cells.dense import DenseCells
from harmonax.design import BatchDesign
from harmonax.errors import InputError, NotConvergedError

jax = pytest.importorskip("jax", reason="JAX is an extra")
pytest.importorskip("flax", reason="Flax is an extra")

import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402

from harmonax.operators import BatchCorrectionConfig, DifferentiableHarmony  # noqa: E402
from harmonax.operators.harmony.correction import corrected as compiled_correction  # noqa: E402

FLAVORS = ["harmony1", "harmony2"]
LEVELS = [(3,), (3, 2), (4, 3, 2)]
GRADIENT = Path(__file__).resolve().parents[2] / "benchmarks" / "gradient.py"


def problem(n=240, d=6, levels=(3,), seed=0, dtype=np.float32, **changes):
    """Return an operator and its data."""
    Z, codes = cells_with_batches(n, d, levels, seed)
    defaults = {"n_clusters": 8, "n_features": d, "n_batches": levels, "n_iterations": 4}
    op = DifferentiableHarmony(BatchCorrectionConfig(**{**defaults, **changes}), rngs=nnx.Rngs(seed))
    return op, {"embeddings": jnp.asarray(Z, dtype), "batch_labels": jnp.asarray(codes)}


def engine(op, data, Y=None):
    """Run the dense reference for as many rounds and passes as the operator, from its own centroids or from Y."""
    params = op.harmony_params().replace(precision="float64")
    Z = np.asarray(data["embeddings"], np.float64)
    design = BatchDesign.from_codes(np.asarray(data["batch_labels"]))
    resolved = params.resolve(design)
    schedule_seed, centroid_seed = np.random.SeedSequence(op.seed).spawn(2)
    schedule = FixedPartition(params.n_blocks(len(Z)), schedule_seed)
    cells, out = DenseCells(Z, design, schedule), np.empty(Z.shape)
    if Y is None:
        from harmonax.algorithm.seeding import seed_centroids

        Y = seed_centroids(cells, resolved.n_clusters, np.random.default_rng(centroid_seed))
    fit = Harmony(cells, design, schedule, resolved).run(Y, out)
    return out, cells.R, fit


@pytest.fixture
def no_stop(monkeypatch):
    """Switch the engine's early stops off: with tolerance 0 harmony1 still stops where its objective rises."""
    for name in ("passes_converged", "rounds_converged"):
        monkeypatch.setattr(f"harmonax.algorithm.harmony.{name}", lambda *_: False)


def relative(got, want):
    return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


OTHERS = {
    "defaults": {},
    "no pruning": {"batch_prune_threshold": None},
    "fixed ridge": {"ridge": "fixed", "ridge_lambda": 0.5},
    "theta and lambda per level": {"theta": (1.0, 2.0, 0.5), "ridge": "fixed", "ridge_lambda": (0.3, 1.0, 2.0)},
    "tau": {"tau": 15.0},
    "sigma per cluster": {"sigma": tuple(np.linspace(0.05, 0.3, 8))},
    "temperature": {"temperature": 2.5, "alpha": 0.4},
    "theta 0": {"theta": 0.0},
    "many small blocks": {"block_proportion": 0.01},
    "much pruning": {"batch_prune_threshold": 0.05},
    "harmony1": {"flavor": "harmony1", "tau": 15.0, "theta": (1.0, 2.0, 0.5), "ridge_lambda": (0.3, 1.0, 2.0)},
}


@pytest.mark.usefixtures("no_stop")
class TestForward:
    # Each design to the last digits; in float32 the one that has the most to round.
    @pytest.mark.parametrize(("levels", "x64"), [*((levels, True) for levels in LEVELS), (LEVELS[-1], False)], ids=str)
    @pytest.mark.parametrize("flavor", FLAVORS)
    def test_equals_the_engine(self, flavor, levels, x64):
        with jax.enable_x64(x64):
            op, data = problem(
                600, 8, levels, n_clusters=12, flavor=flavor, n_iterations=10, dtype=float if x64 else np.float32
            )
            result, _, _ = op.apply(data, {}, None)
            Z, R, fit = engine(op, data)
            assert fit.history.passes == [4] * 10
            assert relative(Z, np.asarray(data["embeddings"])) > 0.01  # it moved
            bound = 1e-9 if x64 else 1e-4
            assert result["corrected_embeddings"].dtype == (np.float64 if x64 else np.float32)
            assert relative(result["corrected_embeddings"], Z) < bound
            assert relative(result["cluster_assignments"], R) < bound

    @pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
    def test_equals_the_engine_with_other_parameters(self, changes):
        with jax.enable_x64(True):
            op, data = problem(dtype=float, **changes)
            result, _, _ = op.apply(data, {}, None)
            Z, R, _ = engine(op, data)
            assert relative(result["corrected_embeddings"], Z) < 1e-9
            assert relative(result["cluster_assignments"], R) < 1e-9

    @pytest.mark.parametrize(
        ("x64", "ridge_lambda", "bound"), first(1, [(True, 1e-3, 1e-9), (False, 10.0, 1e-4), (False, 1e-9, 1)], names=3)
    )
    def test_nested_variables_with_a_fixed_ridge(self, x64, ridge_lambda, bound):
        # Donors within plates: only lambda makes the system definite, and float32 tables lose what is below rounding.
        with jax.enable_x64(x64):
            changes = {"ridge": "fixed", "ridge_lambda": ridge_lambda, "n_clusters": 5}
            op, data = problem(n=3000, levels=(4, 2), dtype=float if x64 else np.float32, **changes)
            data["batch_labels"] = data["batch_labels"].at[:, 1].set(data["batch_labels"][:, 0] // 2)
            corrected = op.apply(data, {})[0]["corrected_embeddings"]
            assert jnp.isfinite(corrected).all()
            assert relative(corrected, engine(op, data)[0]) < bound

    def test_given_centroids_are_used(self):
        with jax.enable_x64(True):
            op, data = problem(dtype=float)
            Y = np.random.default_rng(0).normal(size=(8, 6))
            Y /= np.linalg.norm(Y, axis=1, keepdims=True)
            result, _, _ = op.apply({**data, "centroids": Y}, {}, None)
            assert relative(result["corrected_embeddings"], engine(op, data, Y)[0]) < 1e-9

    def test_learned_strengths_reach_the_engine(self):
        with jax.enable_x64(True):
            op, data = problem(dtype=float, theta=(1.0, 0.5), levels=(3, 2))
            op.log_theta[...] += jnp.array([0.3, -0.2])
            op.log_sigma[...] += 0.5
            op.log_ridge[...] -= 0.4
            assert np.allclose(op.harmony_params().theta, [np.exp(0.3), 0.5 * np.exp(-0.2)])
            assert relative(op.apply(data, {})[0]["corrected_embeddings"], engine(op, data)[0]) < 1e-9

    def test_a_large_sample_is_seeded_like_the_engine(self):
        op, data = problem(n=11_000, n_iterations=1)
        assert relative(op.apply(data, {})[0]["corrected_embeddings"], engine(op, data)[0]) < 1e-4


def test_the_public_engine_gives_the_same_for_the_same_seed():
    op, data = problem()
    result = harmonax.harmonize(
        np.asarray(data["embeddings"]), np.asarray(data["batch_labels"]), op.harmony_params(), rng=op.seed
    )
    assert relative(op.apply(data, {})[0]["corrected_embeddings"], result.embedding) < 1e-4


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("flavor", "strengths", "converges"),
    [
        ("harmony1", {"sigma": 0.1, "alpha": 0.2}, True),
        ("harmony2", {"sigma": 0.1, "alpha": 0.2}, True),
        # Wide clusters and a weak ridge move on for long: both run all rounds, each with as many passes as it needs.
        ("harmony2", {"sigma": 0.25, "alpha": 0.05}, False),
    ],
)
def test_early_stop_stops_where_the_engine_does(flavor, strengths, converges):
    with jax.enable_x64(True):
        stops = {"n_iterations": 60, "n_passes": 50, "early_stop": True}
        op, data = problem(flavor=flavor, dtype=float, levels=(3, 2), **strengths, **stops)
        result, _, _ = op.apply(data, {}, None)
        Z, _, fit = engine(op, data)
        assert 1 < max(fit.history.passes) < 50
        assert (len(fit.history.passes) < 60) == converges
        # An objective that rises to the end stops changing where rounding has it, a round earlier or later.
        rises = fit.history.last_change < 1e-12
        assert abs(int(result["n_rounds"]) - len(fit.history.passes)) <= rises
        assert bool(result["converged"]) == converges
        assert relative(result["corrected_embeddings"], Z) < 1e-9


def weighted(op, data, seed=0):
    """Return a loss of (embedding, parameters) that every cell, feature and cluster enters with its own weight."""
    graph, _ = nnx.split(op)
    rng = np.random.default_rng(seed)
    on_cells = rng.normal(size=data["embeddings"].shape)
    on_clusters = rng.normal(size=(len(on_cells), op.config.n_clusters))

    def loss(Z, parameters):
        result = nnx.merge(graph, parameters).apply({**data, "embeddings": Z}, {}, None)[0]
        corrected, R = result["corrected_embeddings"], result["cluster_assignments"]
        return (corrected * on_cells).sum() + (R * on_clusters).sum()

    return loss, nnx.split(op)[1]


def check_against_differences(op, data, names):
    """Compare the gradient in a random direction with central differences."""
    loss, parameters = weighted(op, data)
    # One program for values and gradients: compiling takes nearly all the time.
    both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    by_cell, by_parameter = both(data["embeddings"], parameters)[1]
    rng, h = np.random.default_rng(1), 1e-5

    def compare(at, gradient, shape):
        direction = rng.normal(size=shape)
        difference = (at(h * direction) - at(-h * direction)) / (2 * h)
        assert abs(float(difference)) > 1e-3  # there is something to compare
        np.testing.assert_allclose((gradient * direction).sum(), difference, rtol=1e-4)

    Z = data["embeddings"]
    compare(lambda step: both(Z + step, parameters)[0], by_cell, Z.shape)
    for name in names:

        def at(step, name=name):
            moved = jax.tree.map(lambda x: x, parameters)
            moved[name] = moved[name].replace(moved[name][...] + step)
            return both(Z, moved)[0]

        compare(at, by_parameter[name][...], parameters[name][...].shape)


STRENGTHS = ["log_theta", "log_sigma", "log_ridge"]


class TestGradient:
    @pytest.mark.parametrize("levels", [(3,), (4, 3, 2)], ids=str)
    @pytest.mark.parametrize("flavor", first(1, ["harmony2", "harmony1"]))
    def test_equals_finite_differences(self, flavor, levels):
        with jax.enable_x64(True):
            op, data = problem(150, 5, levels, flavor=flavor, dtype=float, sigma=0.3, learnable_centroids=True)
            op.seed_from(data)
            check_against_differences(op, data, [*STRENGTHS, "centroids"])

    @pytest.mark.thorough
    @pytest.mark.parametrize("changes", [{}, {"n_iterations": 1, "sigma": 0.1}, {"flavor": "harmony1"}], ids=str)
    def test_goes_through_the_seeding(self, changes):
        # By default the first centroids come from the cells; in a run of one round they matter most.
        with jax.enable_x64(True):
            op, data = problem(150, 5, dtype=float, **changes)
            check_against_differences(op, data, STRENGTHS)

    def test_of_a_fixed_ridge_per_level_and_vector_sigma(self):
        with jax.enable_x64(True):
            changes = {"ridge": "fixed", "ridge_lambda": (0.5, 1.0, 2.0), "sigma": tuple(np.linspace(0.2, 0.4, 8))}
            op, data = problem(150, 5, dtype=float, tau=5.0, theta=(1.0, 2.0, 3.0), **changes)
            data["centroids"] = data["embeddings"][:8]
            check_against_differences(op, data, STRENGTHS)

    @pytest.mark.thorough
    def test_of_grouped_rounds(self):
        # 13 rounds: 4 groups of 3, and one more.
        with jax.enable_x64(True):
            op, data = problem(60, 4, dtype=float, n_clusters=3, n_iterations=13, sigma=0.5)
            data["centroids"] = data["embeddings"][:3]
            check_against_differences(op, data, STRENGTHS)

    @pytest.mark.thorough
    @pytest.mark.parametrize("flavor", first(1, ["harmony2", "harmony1"], later="slow"))
    def test_at_the_fixed_point(self, flavor):
        with jax.enable_x64(True):
            changes = {"flavor": flavor, "n_iterations": 150, "differentiation": "implicit", "sigma": 0.3}
            op, data = problem(100, 4, (3, 2), dtype=float, n_clusters=4, **changes)
            assert float(op.apply(data, {})[0]["fixed_point_change"]) < 1e-9
            check_against_differences(op, data, STRENGTHS)

    @pytest.mark.thorough
    def test_with_padding_is_that_without(self):
        with jax.enable_x64(True):
            op, data = problem(100, 4, dtype=float, n_clusters=4)
            Y = np.random.default_rng(0).normal(size=(4, 4))
            padded = {
                "embeddings": jnp.concatenate([data["embeddings"], jnp.full((30, 4), jnp.nan)]),
                "batch_labels": jnp.concatenate([data["batch_labels"], jnp.full((30, 1), -1)]),
                "mask": jnp.arange(130) < 100,
                "centroids": Y,
            }

            def loss(op, data, Z):
                return jnp.square(op.apply({**data, "embeddings": Z}, {}, None)[0]["corrected_embeddings"][:100]).sum()

            plain = nnx.jit(nnx.grad(loss))(op, {**data, "centroids": Y}, data["embeddings"])
            masked, gradient = nnx.jit(nnx.grad(loss, argnums=(0, 2)))(op, padded, padded["embeddings"])
            for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(masked), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-8)
            assert not gradient[100:].any()
            assert jnp.isfinite(gradient).all()

    def test_is_finite_where_cells_are_zero_and_batches_absent_or_pruned(self):
        op, data = problem(levels=(5, 3), batch_prune_threshold=0.02)
        Z = data["embeddings"].at[:3].set(0.0)
        labels = jnp.where(data["batch_labels"] == 1, 0, data["batch_labels"])
        loss, parameters = weighted(op, {**data, "batch_labels": labels})
        for leaf in jax.tree.leaves(jax.jit(jax.grad(loss, argnums=(0, 1)))(Z, parameters)):
            assert jnp.isfinite(leaf).all()


def newcomer(key):
    """The first example that a newcomer makes up: three batches of cells, and nothing but a shift between them."""
    shift_key, cell_key = jax.random.split(jax.random.key(key))
    batch = jnp.repeat(jnp.arange(3), jnp.array([70, 70, 60]), total_repeat_length=200)
    cells = jax.random.normal(cell_key, (200, 50)) + 2.0 * jax.random.normal(shift_key, (3, 50))[batch]
    return cells, batch, np.zeros(200, int)


def second(variant):
    def read(data_dir):
        stored = np.load(data_dir / "tutorial_b.npz")
        return (jnp.asarray(stored[f"{variant}_{name}"]) for name in ("X", "batch", "type"))

    return read


EXAMPLES = {f"key {key}": (lambda data_dir, key=key: newcomer(key)) for key in (42, 3)}
EXAMPLES |= {variant: second(variant) for variant in ("balanced", "separate", "unbalanced")}


@nnx.jit
def learn(op, data, loss):
    """Return the loss of what is corrected, that, and the gradient: one program for all examples of one shape."""

    def unmixed(op):
        corrected = op.apply(data, {}, None)[0]["corrected_embeddings"]
        return loss(corrected, data["batch_labels"]), corrected

    return nnx.value_and_grad(unmixed, has_aux=True)(op)


@pytest.mark.parametrize("read", first(1, EXAMPLES.values()), ids=EXAMPLES)
def test_a_first_example_works_as_it_stands(read, data_dir):
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    from harmonax.evaluation.entropy import chance_entropy, neighbourhood_entropy
    from harmonax.losses import BatchMixingLoss

    cells, batch, kind = read(data_dir)
    n_batches, kind = int(batch.max()) + 1, np.asarray(kind)
    sizes = {"n_clusters": 20, "n_features": cells.shape[1], "n_batches": n_batches, "n_iterations": 10}
    op = DifferentiableHarmony(BatchCorrectionConfig(temperature=1.0, **sizes), rngs=nnx.Rngs(42))
    data = {"embeddings": cells, "batch_labels": batch}
    (_, corrected), gradient = learn(op, data, BatchMixingLoss(15, n_batches))
    for leaf in jax.tree.leaves(gradient):
        assert jnp.isfinite(leaf).all()
        assert float(jnp.abs(leaf).max()) > 0
    np.testing.assert_allclose(op.apply(data, {}, None)[0]["corrected_embeddings"], corrected, atol=1e-3)

    def between(cells):
        # Within types: batches that hold other types would differ in their means without any batch effect.
        cells, codes = np.asarray(cells), np.asarray(batch)
        means = [[cells[(codes == b) & (kind == t)].mean(axis=0) for b in range(n_batches)] for t in np.unique(kind)]
        return float(np.var(means, axis=1).sum())

    assert between(corrected) < 0.1 * between(cells)
    chance = chance_entropy(np.asarray(corrected), np.asarray(batch), np.random.default_rng(0), groups=kind)
    mixing = neighbourhood_entropy(np.asarray(corrected), np.asarray(batch)) / chance
    assert mixing >= 0.95
    if kind.any():
        found = KMeans(2, n_init=10, random_state=0).fit_predict(corrected)
        assert adjusted_rand_score(kind, found) == 1
    # At equal parameters it is the engine.
    engine = harmonax.harmonize(np.asarray(cells), np.asarray(batch), op.harmony_params(), rng=op.seed, progress=False)
    assert relative(corrected, engine.embedding) < 1e-3


def another(seed):
    """A first example like those, of other sizes: shifts of scale 1 to 3, types in blocks of features or anywhere."""
    gen = np.random.default_rng(seed)
    n, d, n_batches = int(gen.choice([150, 300, 500])), int(gen.choice([10, 20, 50])), int(gen.choice([2, 3, 4]))
    n_types, n_clusters, scale = int(gen.choice([1, 2, 3])), int(gen.choice([5, 10, 20])), gen.uniform(1, 3)
    sizes = gen.dirichlet(np.full(n_batches, 5.0)) * 0.7 + 0.3 / n_batches
    batch, kind = np.sort(gen.choice(n_batches, n, p=sizes)), gen.integers(0, n_types, n)
    blocks = 5.0 * (np.arange(d) * n_types // d == np.arange(n_types)[:, None])
    centres = blocks if gen.random() < 0.5 else 3 * gen.normal(size=(n_types, d))
    cells = gen.normal(size=(n, d)) + centres[kind] * (n_types > 1) + scale * gen.normal(size=(n_batches, d))[batch]
    return cells, batch, kind, n_clusters


def judged(cells, corrected, batch, kind):
    """Return mixing as a share of chance within types, and what is left of the variance of the batches' means there."""
    from harmonax.evaluation.entropy import chance_entropy, neighbourhood_entropy

    def between(Z):
        groups = [[Z[(batch == b) & (kind == t)].mean(axis=0) for b in np.unique(batch)] for t in np.unique(kind)]
        return float(np.var(groups, axis=1).sum())

    chance = chance_entropy(corrected, batch, np.random.default_rng(0), groups=kind)
    return neighbourhood_entropy(corrected, batch) / chance, between(corrected) / between(cells)


@pytest.mark.parametrize("seed", range(10))
def test_other_first_examples_work_too(seed):
    # By the engine, whose answer is the operator's: it compiles nothing for ten shapes.
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    cells, batch, kind, n_clusters = another(seed)
    op = DifferentiableHarmony(
        BatchCorrectionConfig(n_clusters=n_clusters, n_features=cells.shape[1], n_batches=int(batch.max()) + 1),
        rngs=nnx.Rngs(seed),
    )
    corrected = harmonax.harmonize(
        cells, batch, op.harmony_params(), rng=op.seed, progress=False, dtype=float
    ).embedding
    mixing, left = judged(cells, corrected, batch, kind)
    assert mixing >= 0.95
    assert left < 0.1
    if kind.any():
        found = KMeans(len(np.unique(kind)), n_init=10, random_state=0).fit_predict(corrected)
        assert adjusted_rand_score(kind, found) == 1


@pytest.mark.parametrize("key", [42, 3, 4])
def test_the_variance_of_all_means_at_once_falls_as_far_as_it_can(key):
    # It is taken over batches and features, and so counts what all batches have in common: with three batches and
    # random shifts a third of it, on average, stays where the batches' means are made equal exactly.
    cells, batch, _ = map(np.asarray, newcomer(key))
    config = BatchCorrectionConfig(n_clusters=20, n_features=50, n_batches=3)
    op = DifferentiableHarmony(config, rngs=nnx.Rngs(42))
    corrected = harmonax.harmonize(cells, batch, op.harmony_params(), rng=op.seed, progress=False).embedding
    means = lambda Z: np.stack([Z[batch == b].mean(axis=0) for b in range(3)])  # noqa: E731
    equal = cells - means(cells)[batch] + cells.mean(axis=0)
    whole = np.var(means(cells))
    assert np.var(means(corrected)) / whole == pytest.approx(np.var(means(equal)) / whole, abs=0.005)
    assert np.var(means(corrected), axis=0).sum() < 0.01 * np.var(means(cells), axis=0).sum()


def test_a_fixed_point_is_refused_where_there_is_none():
    op, data = problem(differentiation="implicit", n_iterations=2)
    with pytest.raises(NotConvergedError, match=r"after 2 rounds another one moves .* raise n_iterations"):
        op.apply(data, {}, None)
    with pytest.raises(NotConvergedError):
        jax.grad(lambda Z: op.apply({**data, "embeddings": Z}, {})[0]["corrected_embeddings"].sum())(data["embeddings"])


def small(**changes):
    """Return the smallest operator there is to differentiate, its cells and their labels."""
    sizes = {"n_clusters": 3, "n_features": 4, "n_batches": 2, "n_iterations": 2, "n_passes": 2}
    labels = jnp.arange(60) % 2
    cells = jnp.asarray(np.random.default_rng(0).normal(size=(60, 4)) + np.arange(60)[:, None] % 2)
    return DifferentiableHarmony(BatchCorrectionConfig(**sizes | changes), rngs=nnx.Rngs(0)), cells, labels


@pytest.mark.thorough
@pytest.mark.parametrize("solver", first(1, ["gmres", "fixed_point"], later="slow"))
def test_implicit_second_derivatives_mix_both_modes(solver):
    with jax.enable_x64(True):
        op, cells, labels = small(differentiation="implicit", n_iterations=150, sigma=1.0, linear_solver=solver)
        graph, strengths, rest = nnx.split(op, nnx.Param, ...)
        weight = np.random.default_rng(1).normal(size=cells.shape)

        def loss(step):
            moved = nnx.merge(graph, jax.tree.map(lambda x: x + step, strengths), rest)
            return (
                moved.apply({"embeddings": cells, "batch_labels": labels}, {})[0]["corrected_embeddings"] * weight
            ).sum()

        slopes = jax.jit(lambda step: (jax.grad(loss)(step), jax.jacfwd(loss)(step)))
        both, h = slopes(0.0), 1e-4
        assert float(both[0]) == pytest.approx(float(both[1]), rel=1e-8)
        second = float(jax.jit(jax.jacfwd(jax.grad(loss)))(0.0))
        assert second == pytest.approx(float(slopes(h)[0] - slopes(-h)[0]) / (2 * h), rel=1e-4)
        assert op.linear_residual({"embeddings": cells, "batch_labels": labels}) < 1e-9


class TestTraced:
    """Traced code cannot raise: what cannot be used makes results and gradients NaN."""

    def test_labels_out_of_range_and_nan_poison(self):
        op, cells, labels = small()

        @jax.jit
        def run(cells, labels, mask):
            def size(cells):
                found = op.apply({"embeddings": cells, "batch_labels": labels, "mask": mask}, {}, None)[0]
                return (found["corrected_embeddings"] ** 2).sum(), found["cluster_assignments"]

            return jax.value_and_grad(size, has_aux=True)(cells)

        everybody, bad = jnp.ones(60, int), cells.at[7, 2].set(jnp.nan)
        (value, _), slope = run(cells, labels, everybody)
        assert jnp.isfinite(value)
        assert jnp.isfinite(slope).all()
        assert jnp.isfinite(run(cells, labels.at[7].set(9), everybody.at[7].set(0))[0][0])
        for wrong in ((cells, labels.at[7].set(2)), (cells, labels.at[7].set(-1)), (bad, labels)):
            (value, R), slope = run(*wrong, everybody)
            assert jnp.isnan(value)
            assert jnp.isnan(R).all()
            assert jnp.isnan(slope).any()

    def test_early_stop_says_that_it_has_no_gradient(self):
        op, cells, labels = small(early_stop=True)
        total = lambda Z: op.apply({"embeddings": Z, "batch_labels": labels}, {})[0]["corrected_embeddings"].sum()  # noqa: E731
        for gradient in (jax.grad(total), jax.jit(jax.grad(total))):
            with pytest.raises(InputError, match=r"early_stop has no gradient.*early_stop=False"):
                gradient(cells)

    @pytest.mark.thorough
    def test_shard_map_takes_it_as_it_stands(self):
        op, cells, labels = small()
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("cells",))
        here = jax.sharding.PartitionSpec("cells")
        correct = lambda Z, b: op.apply({"features": Z, "batch_ids": b}, {})[0]["corrected_embeddings"]  # noqa: E731
        sharded = jax.jit(jax.shard_map(correct, mesh=mesh, in_specs=(here, here), out_specs=here))
        np.testing.assert_allclose(sharded(cells, labels), correct(cells, labels), atol=1e-5)
        assert jnp.isfinite(jax.grad(lambda Z: (sharded(Z, labels) ** 2).sum())(cells)).all()


ONE_BATCH = [("harmony2", 1e-5, (2, 4)), ("harmony2", None, 3), ("harmony2", 1e-5, 1), ("harmony1", None, 3)]


class TestOneBatch:
    @pytest.mark.parametrize(
        ("flavor", "prune", "n_batches"),
        first(1, ONE_BATCH, names=3),
    )
    def test_is_an_exact_no_op(self, flavor, prune, n_batches):
        n_variables = np.size(n_batches)
        op, data = problem(flavor=flavor, n_batches=n_batches, batch_prune_threshold=prune)
        data["batch_labels"] = jnp.zeros((240, n_variables), int) + (0 if n_batches == 1 else 1)

        def total(Z):
            result, _, _ = op.apply({**data, "embeddings": Z}, {}, None)
            return result["corrected_embeddings"].sum(), result

        (_, result), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(data["embeddings"])
        np.testing.assert_array_equal(result["corrected_embeddings"], data["embeddings"])
        np.testing.assert_allclose(result["cluster_assignments"].sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_array_equal(gradient, 1.0)


class TestMask:
    def test_padding_influences_nothing_and_comes_back_as_it_was(self):
        op, data = problem()
        gen = np.random.default_rng(5)
        Z = jnp.asarray(gen.normal(size=(300, 6)) * 100, jnp.float32).at[:240].set(data["embeddings"])
        labels = jnp.asarray(gen.integers(3, size=(300, 1))).at[:240].set(data["batch_labels"])
        Y = data["embeddings"][:8]
        plain, _, _ = op.apply({**data, "centroids": Y}, {}, None)
        padded, _, _ = op.apply(
            {"embeddings": Z, "batch_labels": labels, "mask": jnp.arange(300) < 240, "centroids": Y}, {}, None
        )
        for key in ("corrected_embeddings", "cluster_assignments"):
            np.testing.assert_allclose(padded[key][:240], plain[key], atol=2e-5)
        np.testing.assert_array_equal(padded["corrected_embeddings"][240:], Z[240:])
        assert not padded["cluster_assignments"][240:].any()

    def test_masked_cells_do_not_become_centroids(self):
        # All but one in ten are padding, far from the others.
        op, data = problem(n=400, n_iterations=1)
        mask = jnp.arange(400) % 10 == 0
        far = jnp.where(mask[:, None], data["embeddings"], 1e4)
        one, _, _ = op.apply({**data, "mask": mask}, {}, None)
        other, _, _ = op.apply({**data, "embeddings": far, "mask": mask}, {}, None)
        np.testing.assert_array_equal(one["cluster_assignments"], other["cluster_assignments"])


class TestTransformations:
    def test_jit_equals_eager_and_neither_retraces(self):
        # A weak ridge would carry the last bits further than this test allows.
        op, data = problem(levels=(3, 2), n_clusters=7, sigma=0.25, alpha=0.05)
        graph, parameters = nnx.split(op)
        traces = []

        @jax.jit
        def apply(parameters, data):
            traces.append(1)
            return nnx.merge(graph, parameters).apply(data, {}, None)[0]

        eager, _, _ = op.apply(data, {}, None)
        compiled = compiled_correction._cache_size()
        for changed in (
            data,
            {**data, "embeddings": data["embeddings"] + 1, "batch_labels": data["batch_labels"][::-1]},
        ):
            jitted, plain = apply(parameters, changed), op.apply(changed, {}, None)[0]
            for key in plain:
                # In float32, and fused in another way.
                np.testing.assert_allclose(jitted[key], plain[key], rtol=1e-4, atol=5e-5)
        op.log_theta[...] += 0.1
        op.apply(data, {}, None)
        other = dataclasses.replace(op.config, theta=0.5, sigma=(0.2,) * 7, alpha=0.3, temperature=2.0)
        DifferentiableHarmony(other, rngs=nnx.Rngs(0)).apply(data, {}, None)
        assert len(traces) == 1
        assert compiled_correction._cache_size() == compiled
        assert set(eager) == {"embeddings", "batch_labels", "corrected_embeddings", "cluster_assignments"}

    def test_vmap_over_strengths_equals_one_at_a_time(self):
        op, data = problem()
        graph, parameters, rest = nnx.split(op, nnx.Param, ...)
        steps = jnp.array([-0.5, 0.0, 0.7])

        def corrected(step):
            moved = jax.tree.map(lambda x: x + step, parameters)
            return nnx.merge(graph, moved, rest).apply(data, {}, None)[0]["corrected_embeddings"]

        together, alone = jax.jit(jax.vmap(corrected))(steps), jax.jit(corrected)
        for step, one in zip(steps, together, strict=True):
            np.testing.assert_allclose(one, alone(step), atol=1e-4)
        assert relative(together[0], np.asarray(together[2])) > 1e-3

    def test_nnx_grad_and_a_descent_step(self):
        op, data = problem(sigma=0.5)

        def loss(op, data):
            corrected = op.apply(data, {}, None)[0]["corrected_embeddings"]
            own = jax.nn.one_hot(data["batch_labels"][:, 0], 3)
            means = own.T @ corrected / own.sum(axis=0)[:, None]
            return means.var(axis=0).sum()

        both = nnx.jit(nnx.value_and_grad(loss))
        before, gradient = both(op, data)
        graph, parameters, rest = nnx.split(op, nnx.Param, ...)
        smaller = jax.tree.map(lambda p, g: p - 0.1 * jnp.sign(g), parameters, gradient)
        assert both(nnx.merge(graph, smaller, rest), data)[0] < before

    def test_data_state_and_metadata_are_left_alone(self):
        op, data = problem()
        data["other"], state, metadata = "kept", {"a": 1}, object()
        before = dict(data)
        result, same_state, same_metadata = op.apply(data, state, metadata)
        assert list(data) == list(before)
        assert all(data[key] is before[key] for key in before)
        assert result["other"] == "kept"
        assert same_state is state
        assert same_metadata is metadata


class TestStrengths:
    def test_begin_exactly_at_the_configuration_and_stay_positive(self):
        op, _ = problem(theta=1.7, sigma=0.13, alpha=0.31)
        assert [float(v) for v in (op.theta, op.sigma, op.ridge)] == [float(np.float32(v)) for v in (1.7, 0.13, 0.31)]
        op.log_sigma[...] -= 30.0
        assert op.sigma > 0

    def test_only_what_is_learned_is_a_parameter(self):
        op, _ = problem(learn=("sigma",))
        assert set(nnx.state(op, nnx.Param)) == {"log_sigma"}
        assert op.theta == 2.0
        both, _ = problem(learn="theta", learnable_centroids=True)
        assert set(nnx.state(both, nnx.Param)) == {"log_theta", "centroids"}

    def test_centroids_are_seeded_from_data_on_request(self):
        op, data = problem(learnable_centroids=True)
        fresh, _ = problem()
        op.seed_from(data)
        a, b = (o.apply(data, {})[0]["corrected_embeddings"] for o in (op, fresh))
        np.testing.assert_allclose(a, b, atol=1e-4)
        with pytest.raises(InputError, match="learnable_centroids=True"):
            fresh.seed_from(data)


WRONG_DATA = {
    "NaN": ({"embeddings": np.full((240, 6), np.nan)}, r"NaN or infinite values in 240 cells \(first: row 0\)"),
    "features": ({"embeddings": np.zeros((240, 5))}, r"shape \(240, 5\).*n_features=6"),
    "flat": ({"embeddings": np.zeros(240)}, "shape"),
    "cells": ({"embeddings": np.zeros((4, 6)), "batch_labels": np.zeros(4, int)}, "4 cells; at least n_clusters=8"),
    "label": ({"batch_labels": np.full(240, 7)}, r"has 7 \(first: row 0\); allowed are 0 to 2"),
    "negative label": ({"batch_labels": np.full(240, -1)}, "has -1"),
    "label count": ({"batch_labels": np.zeros(239, int)}, r"shape \(239,\); allowed is \(240, 1\) or \(240,\)"),
    "variables": ({"batch_labels": np.zeros((240, 2), int)}, r"shape \(240, 2\)"),
    "label text": ({"batch_labels": np.repeat("a", 240)}, "has dtype <U1; allowed are integers"),
    "label dtype": ({"batch_labels": np.zeros(240)}, "allowed are integers"),
    "mask": ({"mask": np.ones(240)}, r"allowed is bool \(240,\)"),
    "empty mask": ({"mask": np.zeros(240, bool)}, "leaves 0 cells"),
    "centroids": ({"centroids": np.zeros((3, 6))}, r"allowed is \(n_clusters, n_features\) = \(8, 6\)"),
    "NaN centroids": ({"centroids": np.full((8, 6), np.nan)}, "NaN"),
}


class TestSeed:
    """The seed is part of the state: an operator restored from a state is the same."""

    def test_a_restored_operator_is_the_same(self):
        op, cells, labels = small()
        other = DifferentiableHarmony(op.config, rngs=nnx.Rngs(7))
        data = {"embeddings": cells, "batch_labels": labels}
        correct = lambda op: op.apply(data, {}, None)[0]["corrected_embeddings"]  # noqa: E731
        right = correct(op)
        assert other.seed != op.seed
        assert relative(correct(other), right) > 1e-4
        nnx.update(other, nnx.state(op))
        # Traced code cannot draw another schedule than that of the seed it knows: not silently.
        assert jnp.isnan(nnx.jit(correct)(other)).all()
        assert other.seed == op.seed
        np.testing.assert_array_equal(correct(other), right)
        np.testing.assert_allclose(nnx.jit(correct)(other), right, atol=1e-5)
        merged = nnx.merge(*nnx.split(op))
        np.testing.assert_array_equal(correct(merged), right)

    def test_an_operator_made_in_traced_code_says_what_it_needs(self):
        op, cells, labels = small()
        made = nnx.jit(lambda: DifferentiableHarmony(op.config, rngs=nnx.Rngs(0)))()
        with pytest.raises(InputError, match="made in traced code; read its `seed`"):
            nnx.jit(lambda op: op.apply({"embeddings": cells, "batch_labels": labels}, {})[0])(made)
        assert made.seed == op.seed

    def test_a_seed_that_an_optimiser_changed_is_refused(self):
        op, cells, labels = small()
        op.seed_halves[...] += 0.5
        with pytest.raises(InputError, match=r"optimise nnx\.Param only"):
            op.apply({"embeddings": cells, "batch_labels": labels}, {})


class TestErrors:
    @pytest.mark.parametrize(("wrong", "message"), WRONG_DATA.values(), ids=WRONG_DATA)
    def test_what_cannot_be_used_is_named(self, wrong, message):
        op, data = problem()
        with pytest.raises(InputError, match=message):
            op.apply({**data, **wrong}, {}, None)

    def test_missing_entries_are_named(self):
        op, data = problem()
        with pytest.raises(InputError, match="data has no 'batch_labels'; it has 'embeddings'"):
            op.apply({"embeddings": data["embeddings"]}, {}, None)

    def test_shapes_are_checked_inside_jit_too(self):
        op, data = problem()
        with pytest.raises(InputError, match="shape"):
            jax.jit(lambda Z: op.apply({**data, "embeddings": Z}, {})[0]["corrected_embeddings"])(jnp.zeros((240, 5)))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"n_batches": None}, "n_batches is required"),
            ({"n_batches": 0}, "n_batches=0"),
            ({"n_batches": ()}, "empty"),
            ({"n_clusters": 0}, "n_clusters"),
            ({"n_features": 2.5}, "n_features"),
            ({"sigma": 0.0}, "sigma"),
            ({"sigma": (0.1, 0.2)}, "sigma has 2 values"),
            ({"theta": (1.0, 2.0)}, "theta has 2 values"),
            ({"temperature": 0.0}, "temperature"),
            ({"n_iterations": 0}, "max_iter_harmony|n_iterations"),
            ({"learn": ("alpha",)}, "learn has 'alpha'"),
            ({"differentiation": "both"}, "differentiation"),
            ({"linear_solver": "lu"}, "linear_solver"),
            ({"flavor": "harmony3"}, "flavor"),
            ({"early_stop": True, "differentiation": "implicit"}, "early_stop has no gradient"),
        ],
    )
    def test_configurations_are_validated(self, changes, message):
        with pytest.raises(InputError, match=message):
            BatchCorrectionConfig(**{"n_batches": 3, **changes})

    def test_a_configuration_is_frozen(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            BatchCorrectionConfig(n_batches=3).theta = 1.0


@pytest.mark.slow
def test_memory_of_the_gradient_does_not_grow_with_iterations():
    found = {}
    for iterations in (10, 100):
        job = {"cells": 4000, "features": 20, "clusters": 40, "batches": [3], "iterations": iterations}
        job |= {"flavor": "harmony2", "repeats": 1, "what": "gradient"}
        done = subprocess.run([sys.executable, GRADIENT, json.dumps(job)], capture_output=True, text=True, check=True)
        found[iterations] = json.loads(done.stdout)["temporaries"]
        assert "Constant folding" not in done.stderr
    # N x K x iterations in float32 would be 61 MiB at 100.
    assert found[100] < min(2 * found[10], 30)
