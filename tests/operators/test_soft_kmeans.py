# ruff: noqa: E402 - what needs the extra is imported after it was looked for
"""Soft k-means: the assignments by hand, EM never uphill, and a fit as good as scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from harmonax.errors import InputError, MissingKeyError

for name in ("jax", "flax", "optax"):
    pytest.importorskip(name, reason="needs harmonax[jax]")

import jax
import jax.numpy as jnp
from flax import nnx

from harmonax.operators.soft_kmeans import SoftClusteringConfig, SoftKMeansClustering


def operator(k: int = 4, features: int = 3, seed: int = 0, **options) -> SoftKMeansClustering:
    return SoftKMeansClustering(SoftClusteringConfig(n_clusters=k, n_features=features, **options), rngs=nnx.Rngs(seed))


@pytest.fixture(scope="module")
def blobs():
    gen = np.random.default_rng(0)
    kind = np.repeat(np.arange(4), [40, 30, 20, 10])
    centres = np.array([[0, 0, 0], [6, 0, 0], [0, 6, 0], [0, 0, 6.0]])
    return {"embeddings": (centres[kind] + 0.7 * gen.normal(size=(100, 3))).astype(np.float32)}, kind


def test_assigns_by_the_softmax_of_squared_distances(blobs):
    data, op = blobs[0], operator(temperature=0.7)
    result, state, metadata = op.apply(data, {"a": 1}, "m")
    x, c = data["embeddings"].astype(np.float64), np.asarray(op.centroids[...], np.float64)
    odds = np.exp(-((x[:, None] - c) ** 2).sum(axis=2) / 0.7)
    np.testing.assert_allclose(result["cluster_assignments"], odds / odds.sum(axis=1, keepdims=True), atol=2e-5)
    assert (np.asarray(result["cluster_labels"]) == odds.argmax(axis=1)).all()
    np.testing.assert_array_equal(result["centroids"], op.centroids[...])
    assert set(result) == {"embeddings", "cluster_assignments", "cluster_labels", "centroids"}
    assert (state, metadata) == ({"a": 1}, "m")
    assert set(data) == {"embeddings"}


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-1e3, 1e3))
def test_rows_sum_to_one_wherever_the_data_lie(seed, temperature, place):
    x = np.random.default_rng(seed).normal(size=(20, 3)) + place
    result = operator(temperature=temperature).apply({"embeddings": x}, {}, None)[0]
    np.testing.assert_allclose(np.asarray(result["cluster_assignments"]).sum(axis=1), 1, rtol=1e-5)


class TestFit:
    @pytest.mark.parametrize("far", [0.0, 1000.0])
    def test_finds_the_clusters(self, blobs, far):
        data = {"embeddings": blobs[0]["embeddings"] + np.float32(far)}
        labels = operator().fit(data).apply(data, {}, None)[0]["cluster_labels"]
        assert adjusted_rand_score(blobs[1], labels) == 1

    def test_at_a_low_temperature_is_as_good_as_k_means(self, blobs):
        x = np.random.default_rng(1).normal(size=(300, 3)).astype(np.float32)
        best = KMeans(6, n_init=20, random_state=0).fit(x).inertia_ / 300
        op = operator(6, temperature=1e-3).fit({"embeddings": x}, n_init=10)
        assert best * 0.999 < float(op.loss({"embeddings": x})) < best * 1.05

    def test_more_rounds_never_raise_the_loss(self, blobs):
        losses = [
            float(operator(temperature=3.0).fit(blobs[0], max_iter=n, n_init=1, tol=1e-12).loss(blobs[0]))
            for n in (1, 2, 4, 8)
        ]
        assert (np.diff(losses) <= 1e-5).all()
        assert losses[-1] < losses[0] or losses[0] == pytest.approx(losses[-1])

    def test_ends_where_the_loss_has_no_slope(self, blobs):
        op = operator(temperature=2.0).fit(blobs[0], max_iter=500, tol=1e-9)
        slope = nnx.grad(lambda op: op.loss(blobs[0]))(op)
        assert float(jnp.abs(slope["centroids"][...]).max()) < 1e-2

    def test_a_seed_gives_the_same_bits(self, blobs):
        one, other = (operator().fit(blobs[0], rng=3).centroids[...] for _ in range(2))
        assert (one == other).all()

    def test_padding_does_not_count(self, blobs):
        x = blobs[0]["embeddings"]
        padded = {"embeddings": np.vstack([x, np.full((8, 3), np.nan, np.float32)]), "mask": np.arange(108) < 100}
        op = operator().fit(padded)
        result = op.apply(padded, {}, None)[0]
        assert adjusted_rand_score(blobs[1], result["cluster_labels"][:100]) == 1
        assert (np.asarray(result["cluster_labels"][100:]) == -1).all()
        assert (np.asarray(result["cluster_assignments"][100:]) == 0).all()
        assert float(op.loss(padded)) == pytest.approx(float(op.loss(blobs[0])), rel=1e-5)

    def test_identical_cells_are_no_trouble(self):
        data = {"embeddings": np.ones((9, 3), np.float32)}
        result = operator().fit(data).apply(data, {}, None)[0]
        assert np.isfinite(result["cluster_assignments"]).all()

    def test_refuses_fewer_cells_than_clusters(self):
        with pytest.raises(InputError, match="3 cells for 4 clusters"):
            operator().fit({"embeddings": np.ones((3, 3))})


@pytest.mark.parametrize("learnable", [True, False])
def test_learnable_centroids_really_decides(blobs, learnable):
    op = operator(learnable_centroids=learnable)
    slopes = jax.tree.leaves(nnx.grad(lambda op: op.loss(blobs[0]))(op))
    assert len(slopes) == learnable
    assert all(float(jnp.abs(g).max()) > 0 for g in slopes)
    assert bool(jax.tree.leaves(nnx.state(op, nnx.Param))) is learnable
    before = np.array(op.centroids[...])
    op.fit(blobs[0])
    assert (np.asarray(op.centroids[...]) != before).any()


def test_gradients_equal_finite_differences(blobs):
    with jax.enable_x64(True):
        graph, state = nnx.split(operator(temperature=2.0))
        c = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
        x = blobs[0]["embeddings"].astype(np.float64)

        @jax.jit
        def value(c, x):
            model = nnx.merge(graph, jax.tree.map(lambda _: c, state))
            found = model.apply({"embeddings": x}, {}, None)[0]["cluster_assignments"]
            return (found**3).sum() + model.loss({"embeddings": x})

        gen, slopes = np.random.default_rng(1), jax.jit(jax.grad(value, (0, 1)))(c, x)
        for argument, slope in enumerate(slopes):
            step = gen.normal(size=slope.shape)
            there, back = ([c, x], [c, x])
            there[argument], back[argument] = there[argument] + 1e-6 * step, back[argument] - 1e-6 * step
            assert float((slope * step).sum()) == pytest.approx(float(value(*there) - value(*back)) / 2e-6, rel=1e-4)


def test_jit_equals_eager_does_not_trace_again_and_maps(blobs):
    graph, state = nnx.split(operator())
    traces = []

    @jax.jit
    def run(state, data):
        traces.append(1)
        return nnx.merge(graph, state).apply(data, {}, None)[0]

    eager, jitted = operator().apply(blobs[0], {}, None)[0], run(state, blobs[0])
    for name, value in eager.items():
        np.testing.assert_allclose(jitted[name], value, rtol=1e-4, atol=1e-5)
    run(state, {"embeddings": blobs[0]["embeddings"] + 1})
    assert len(traces) == 1
    many = jnp.stack([blobs[0]["embeddings"], blobs[0]["embeddings"] + 1])

    def assigned(x):
        return nnx.merge(graph, state).apply({"embeddings": x}, {}, None)[0]["cluster_assignments"]

    mapped = jax.vmap(assigned)(many)
    np.testing.assert_allclose(mapped[0], eager["cluster_assignments"], rtol=1e-4, atol=1e-5)


def test_temperature_is_the_width(blobs):
    sharp, soft = (operator(temperature=t).apply(blobs[0], {}, None)[0]["cluster_assignments"] for t in (0.01, 1000.0))
    assert np.asarray(sharp).max(axis=1).mean() > 0.99
    assert np.asarray(soft).max(axis=1).mean() < 0.3


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"embeddings": np.ones((5, 2))}, r"\(cells, 3\)"),
        ({"embeddings": np.full((5, 3), np.inf)}, "infinity"),
        ({"embeddings": np.ones((5, 3)), "mask": np.ones(4)}, r"\(5,\)"),
    ],
)
def test_refuses_data_that_cannot_be_used(data, says):
    with pytest.raises(InputError, match=says):
        operator().apply(data, {}, None)


def test_names_what_is_missing():
    with pytest.raises(MissingKeyError, match="embeddings"):
        operator().apply({}, {}, None)


@pytest.mark.parametrize(
    "wrong", [{"n_clusters": 0}, {"n_features": "a"}, {"temperature": 0}, {"learnable_centroids": 1}]
)
def test_refuses_parameters(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        SoftClusteringConfig(**wrong)
