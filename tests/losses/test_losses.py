# ruff: noqa: E402 - what needs the extra is imported after it was looked for
"""The losses: what they must be (written out by hand in NumPy), finite differences, and what cannot be cheated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, xlogy
from scipy.stats import binom, spearmanr

from harmonax.errors import InputError

for name in ("jax", "flax", "optax"):
    pytest.importorskip(name, reason="needs harmonax[jax]")

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.extend.core import jaxprs_in_params

from harmonax.losses import (
    BatchMixingLoss,
    ClusteringCompactnessLoss,
    LISILoss,
    NeighborhoodPreservationLoss,
    ShannonDiversityLoss,
    SimpsonDiversityLoss,
    VelocityConsistencyLoss,
)

K = 5


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def squared(x: np.ndarray) -> np.ndarray:
    """Return all squared distances, infinite to itself."""
    d2 = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    np.fill_diagonal(d2, np.inf)
    return d2


def unit(x: np.ndarray) -> np.ndarray:
    x = x - x.mean(axis=0)
    return x / np.sqrt((x**2).sum() / len(x))


def closeness(d2: np.ndarray, k: int, temperature: float) -> np.ndarray:
    near = np.sort(d2)[:k]
    edge = near[-1]
    width = temperature * (edge - near.mean() + 0.01 * edge) + 1e-12
    return 1 / (1 + np.logaddexp(0, (d2 - edge) / width))


def mixing(x: np.ndarray, batch: np.ndarray, k: int, n_batches: int, temperature: float) -> float:
    """BatchMixingLoss as its docstring has it, one cell after the other."""
    d2, present = squared(x), np.unique(batch)
    counts = np.bincount(batch, minlength=n_batches)
    tail = min(0.003 * temperature, 0.5) / (len(present) - 1)
    apart = chance = 0.0
    found = np.zeros(len(x))
    for a in present:
        others = counts - (np.arange(n_batches) == a)
        pi, size = others / others.sum(), min(max(others[a], 1), k)
        for i in np.flatnonzero(batch == a):
            rows = [[j for j in np.argsort(d2[i]) if batch[j] == b and j != i][:k] for b in range(n_batches)]
            near = np.sort(d2[i, np.concatenate(rows).astype(int)])
            edge, spread = near[size - 1], near[size - 1] - near[:size].mean() + 0.01 * near[size - 1]
            out = [(d2[i, r] - edge) / spread for r in rows]
            q = [(1 - tail) * expit(-o / temperature / 0.05) + tail / (1 + np.log1p(np.logaddexp(0, o))) for o in out]
            p = np.array([each.sum() for each in q])
            p /= p.sum()
            found[i] = sum(p[b] * np.log(p[b] / pi[b]) for b in present if p[b])
        if others[a]:
            apart -= np.log(pi[a])
            odds = [binom.pmf(np.arange(size + 1), size, pi[b]) for b in present]
            share = np.arange(size + 1) / size
            entropy = -sum(o @ xlogy(share, share) for o in odds)
            chance += -entropy - sum(xlogy(pi[b], pi[b]) for b in present)
    K = sum(found[batch == a].mean() for a in present if counts[a] > 1)
    return -(apart - K) / max(apart - chance, 0.1 * apart)


def preservation(x: np.ndarray, before: np.ndarray, batch: np.ndarray, k: int, temperature: float) -> float:
    now, then = squared(unit(x)), squared(unit(before))
    apart = batch[:, None] != batch[None]
    now[apart], then[apart] = np.inf, np.inf
    total = 0.0
    for i in range(len(x)):
        most = min(k, (batch == batch[i]).sum() - 1)
        among = sorted({*np.argsort(then[i])[:most], *np.argsort(now[i])[:most]})
        p, q = closeness(then[i, among], k, temperature), closeness(now[i, among], k, temperature)
        p, q = p / p.sum(), q / q.sum()
        total += p @ np.log(p / q)
    return total / len(x)


def compactness(x: np.ndarray, a: np.ndarray, weight: float, least: float) -> float:
    n, k = a.shape
    centres = np.array([a[:, c] @ x / a[:, c].sum() for c in range(k)])
    inner = sum(a[i, c] * np.linalg.norm(x[i] - centres[c]) for i in range(n) for c in range(k)) / n
    pairs = [min(np.linalg.norm(centres[c] - centres[e]), least) for c in range(k) for e in range(c)]
    return inner - weight * np.mean(pairs)


def velocity(x: np.ndarray, v: np.ndarray, future: np.ndarray, dt: float, cosine: float, magnitude: float) -> float:
    p, s = v * dt, future - x
    lengths = np.linalg.norm(p, axis=1), np.linalg.norm(s, axis=1)
    direction = 1 - (p * s).sum(axis=1) / (lengths[0] * lengths[1])
    return cosine * direction.mean() + magnitude * ((lengths[0] - lengths[1]) ** 2).mean() / (lengths[1] ** 2).mean()


def example(n: int = 60, d: int = 3, apart: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three batches of unequal sizes, shifted."""
    gen = np.random.default_rng(seed)
    batch = np.arange(n) % 6 % 4 % 3
    return gen.normal(size=(n, d)) + apart * gen.normal(size=(3, d))[batch], batch


def assignments(n: int = 60, k: int = 4, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(k), n)


def calls() -> dict:
    """Each loss as a function of the one array that it is differentiated in, with that array."""
    x, batch = example()
    gen = np.random.default_rng(5)
    moved, a = x + 0.5 * gen.normal(size=x.shape), assignments()
    v = 10 * gen.normal(size=x.shape)
    return {
        "mixing": (lambda y: BatchMixingLoss(K)(y, batch), x),
        "mixing soft": (lambda y: BatchMixingLoss(K, temperature=3)(y, batch), x),
        "lisi": (lambda y: LISILoss(perplexity=K)(y, batch), x),
        "lisi of types": (lambda y: LISILoss(perplexity=K, mix=False)(y, batch), x),
        "preservation": (lambda y: NeighborhoodPreservationLoss(K)(y, x, batch), moved),
        "preservation of all": (lambda y: NeighborhoodPreservationLoss(K)(y, x), moved),
        "compactness": (lambda y: ClusteringCompactnessLoss(2.0, 1.5)(y, a), x),
        "compactness in assignments": (lambda y: ClusteringCompactnessLoss()(x, nnx.softmax(y)), np.log(a)),
        "compactness, relative": (lambda y: ClusteringCompactnessLoss(relative=True)(y, a), x),
        "velocity": (lambda y: VelocityConsistencyLoss()(x, y, x + gen_step(x)), v),
        "velocity in the state": (lambda y: VelocityConsistencyLoss()(y, v, x + gen_step(x)), x),
        "shannon": (lambda y: ShannonDiversityLoss()(nnx.softmax(y)), np.log(a)),
        "simpson": (lambda y: SimpsonDiversityLoss()(nnx.softmax(y)), np.log(a)),
    }


def gen_step(x: np.ndarray) -> np.ndarray:
    return np.random.default_rng(6).normal(size=x.shape)


CALLS = list(calls())


class TestTruth:
    @pytest.mark.parametrize("temperature", [0.3, 1.0])
    @pytest.mark.parametrize("k", [1, 4, 12, 100])
    def test_mixing_is_what_its_docstring_says(self, x64, k, temperature):
        x, batch = example()
        expected = mixing(x, batch, min(k, 59), 3, temperature)
        assert expected < -0.1
        assert float(BatchMixingLoss(k, 3, temperature)(x, batch)) == pytest.approx(expected, rel=1e-9)

    def test_mixing_where_a_batch_is_absent_and_one_has_a_single_cell(self, x64):
        x, batch = example()
        batch = np.where(batch == 1, 3, 0)
        batch[0] = 4
        assert float(BatchMixingLoss(K, 6)(x, batch)) == pytest.approx(mixing(x, batch, K, 6, 1.0), rel=1e-9)

    @pytest.mark.parametrize("k", [1, 5, 30])
    def test_preservation_is_what_its_docstring_says(self, x64, k):
        x, batch = example()
        moved = x + np.random.default_rng(1).normal(size=x.shape)
        for labels, own in ((batch, batch), (None, np.zeros(60, int))):
            expected = preservation(moved, x, own, k, 0.3)
            assert expected > 1e-3
            got = NeighborhoodPreservationLoss(k)(moved, x, labels)
            assert float(got) == pytest.approx(expected, rel=1e-8)

    def test_lisi_is_the_index_of_the_evaluation(self, x64):
        for module in ("sklearn", "scib_metrics"):
            pytest.importorskip(module, reason="needs harmonax[workflow]")
        from harmonax.evaluation.lisi import lisi

        x, batch = example(200, 5)
        expected = lisi(x, batch, perplexity=15)
        loss = LISILoss(perplexity=15)
        np.testing.assert_allclose(np.asarray(loss.index(x, batch)), expected, rtol=1e-3)
        assert float(loss(x, batch)) == pytest.approx(-(expected.mean() - 1) / 2, rel=1e-3)
        assert float(LISILoss(perplexity=15, mix=False)(x, batch)) == pytest.approx(-float(loss(x, batch)))

    def test_compactness_velocity_and_diversity(self, x64):
        x, _ = example()
        gen = np.random.default_rng(2)
        a, v, future = assignments(), gen.normal(size=x.shape), x + gen.normal(size=x.shape)
        got = ClusteringCompactnessLoss(2.0, 1.5)(x, a)
        assert float(got) == pytest.approx(compactness(x, a, 2.0, 1.5), rel=1e-9)
        got = ClusteringCompactnessLoss(relative=True)(7 * x, a)
        assert float(got) == pytest.approx(compactness(unit(x), a, 1.0, 1.0), rel=1e-9)
        got = VelocityConsistencyLoss(0.3, 2.0, 0.5)(x, v, future)
        assert float(got) == pytest.approx(velocity(x, v, future, 0.3, 2.0, 0.5), rel=1e-9)
        assert float(ShannonDiversityLoss()(a)) == pytest.approx(-(a * np.log(a)).sum(axis=1).mean(), rel=1e-9)
        assert float(SimpsonDiversityLoss()(a)) == pytest.approx((a**2).sum(axis=1).mean(), rel=1e-9)

    @pytest.mark.parametrize("name", CALLS)
    def test_gradient_equals_finite_differences(self, x64, name):
        call, at = calls()[name]
        # One program for values and gradients: compiling takes nearly all the time.
        both = jax.jit(jax.value_and_grad(call))
        gradient, gen = np.asarray(both(jnp.asarray(at))[1]), np.random.default_rng(3)
        for _ in range(3):
            way, h = gen.normal(size=at.shape), 1e-6
            slope = (float(both(at + h * way)[0]) - float(both(at - h * way)[0])) / (2 * h)
            assert abs(slope) > 1e-5
            assert (gradient * way).sum() == pytest.approx(slope, rel=1e-4)


class TestAnyUse:
    @pytest.mark.parametrize("name", CALLS)
    def test_jit_and_vmap_give_what_a_plain_call_gives(self, name):
        call, at = calls()[name]
        at = jnp.asarray(at, jnp.float32)
        plain = float(call(at))
        assert float(jax.jit(call)(at)) == pytest.approx(plain, rel=1e-4, abs=1e-6)
        assert np.asarray(jax.jit(jax.vmap(call))(jnp.stack([at, at]))) == pytest.approx(plain, rel=1e-4, abs=1e-6)

    @pytest.mark.thorough
    def test_cells_that_the_mask_leaves_out_count_for_nothing_whatever_they_hold(self):
        x, batch = example()
        mask = np.arange(80) < 60
        padded, codes = np.full((80, 3), np.nan, np.float32), np.full(80, 99)
        padded[:60], codes[:60] = x, batch
        a = np.full((80, 4), np.nan)
        a[:60] = assignments()
        moved = (2 * x + np.sin(x)).astype(np.float32)
        for short, long in [
            (lambda y: BatchMixingLoss(K)(y, batch), lambda y: BatchMixingLoss(K)(y, codes, mask)),
            (lambda y: LISILoss(perplexity=K)(y, batch), lambda y: LISILoss(perplexity=K)(y, codes, mask)),
            (
                lambda y: NeighborhoodPreservationLoss(K)(y, moved, batch),
                lambda y: NeighborhoodPreservationLoss(K)(y, np.pad(moved, ((0, 20), (0, 0))), codes, mask),
            ),
            (
                lambda y: NeighborhoodPreservationLoss(K)(y, moved),
                lambda y: NeighborhoodPreservationLoss(K)(y, np.pad(moved, ((0, 20), (0, 0))), None, mask),
            ),
            (lambda y: ClusteringCompactnessLoss()(y, a[:60]), lambda y: ClusteringCompactnessLoss()(y, a, mask)),
            (
                lambda y: VelocityConsistencyLoss()(y, 2 * y, moved),
                lambda y: VelocityConsistencyLoss()(y, 2 * y, np.pad(moved, ((0, 20), (0, 0))), mask),
            ),
        ]:
            want, slope = jax.jit(jax.value_and_grad(short))(jnp.asarray(x, jnp.float32))
            # Also outside traced code, where what cannot be used is refused.
            got, padded_slope = long(jnp.asarray(padded)), jax.jit(jax.grad(long))(jnp.asarray(padded))
            assert float(got) == pytest.approx(float(want), rel=1e-4)
            np.testing.assert_allclose(padded_slope[:60], slope, rtol=2e-2, atol=1e-5)
            assert not np.asarray(padded_slope[60:]).any()
        for loss in (ShannonDiversityLoss(), SimpsonDiversityLoss()):
            assert float(loss(a, mask)) == pytest.approx(float(loss(a[:60])), rel=1e-5)

    def test_they_are_modules_that_nnx_transforms_take(self):
        x, batch = example()
        loss = BatchMixingLoss(K, rngs=nnx.Rngs(0))
        value = nnx.jit(lambda loss, x: loss(x, batch))(loss, jnp.asarray(x))
        assert float(value) == pytest.approx(float(loss(x, batch)), rel=1e-4)
        for made in (LISILoss, NeighborhoodPreservationLoss, ClusteringCompactnessLoss, VelocityConsistencyLoss):
            made(rngs=nnx.Rngs(0))
        ShannonDiversityLoss(rngs=nnx.Rngs(0)), SimpsonDiversityLoss(rngs=nnx.Rngs(0))

    @pytest.mark.parametrize("name", CALLS)
    def test_a_gradient_is_finite_on_duplicated_and_on_collapsed_cells(self, name):
        call, at = calls()[name]
        both = jax.jit(jax.value_and_grad(call))
        for same in (np.repeat(at[::2], 2, axis=0), np.zeros_like(at)):
            value, slope = both(jnp.asarray(same, jnp.float32))
            assert np.isfinite(value)
            assert np.isfinite(slope).all()


def knn_entropy(x: np.ndarray, batch: np.ndarray, k: int = 15) -> float:
    """Return the mean batch entropy of the k nearest other cells, over ln of the number of batches."""
    near = np.argsort(squared(np.asarray(x, float)), axis=1)[:, :k]
    p = np.stack([(batch[near] == b).mean(axis=1) for b in np.unique(batch)], axis=1)
    return float(-xlogy(p, p).sum(axis=1).mean() / np.log(p.shape[1]))


class TestFaithful:
    """What the loss says of embeddings is what counted neighbours say."""

    def test_it_ranks_nine_real_embeddings_as_counted_neighbours_do(self, data_dir):
        anndata = pytest.importorskip("anndata")
        import harmonax

        counted, said = [], []
        for name in ("cell_lines_small", "pbmc_stim", "pancreas_3prot"):
            if not (data_dir / f"{name}.h5ad").exists():
                pytest.skip(f"no {name}.h5ad in {data_dir}")
            adata = anndata.read_h5ad(data_dir / f"{name}.h5ad")
            rows = np.sort(np.random.default_rng(0).permutation(adata.n_obs)[:300])
            Z = np.asarray(adata.obsm["X_pca"][rows, :20], np.float32)
            batch = np.unique(adata.obs["batch"].iloc[rows].astype(str), return_inverse=True)[1]
            means = np.stack([Z[batch == b].mean(axis=0) for b in range(batch.max() + 1)])
            harmony = harmonax.harmonize(Z, batch, rng=0, progress=False).embedding
            for embedding in (Z, harmony, Z - means[batch]):
                counted.append(knn_entropy(embedding, batch))
                said.append(-float(BatchMixingLoss(15, 3)(embedding, batch)))
        assert spearmanr(said, counted)[0] >= 0.95

    @pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
    def test_chance_is_minus_one_and_apart_is_zero_with_a_gradient_whatever_the_sizes(self, share):
        gen = np.random.default_rng(0)
        x = gen.normal(size=(1000, 8)).astype(np.float32)
        batch = np.zeros(1000, int)
        batch[gen.permutation(1000)[: round(1000 * share)]] = 1
        loss = BatchMixingLoss(15, 2)
        assert float(loss(x, batch)) == pytest.approx(-1, abs=0.05)
        both = jax.jit(jax.value_and_grad(loss))
        for far in (6, 100):
            value, slope = both(jnp.asarray(x + far * batch[:, None]), batch)
            assert abs(float(value)) < 0.02
            assert float(jnp.abs(slope).max()) > 0

    def test_many_batches_apart_are_zero_too(self):
        gen = np.random.default_rng(0)
        batch = np.arange(600) % 12
        x = gen.normal(size=(600, 8)) + 12 * gen.normal(size=(12, 8))[batch]
        assert abs(float(BatchMixingLoss(15, 12)(x, batch))) < 0.02
        assert float(BatchMixingLoss(15, 12)(gen.normal(size=(600, 8)), batch)) == pytest.approx(-1, abs=0.05)

    @pytest.mark.parametrize("far", [1e4, 1e8, 1e15])
    def test_a_cell_far_out_changes_nothing_for_the_others(self, far):
        gen, batch = np.random.default_rng(0), np.arange(200) % 2
        apart = (gen.normal(size=(200, 8)) + 6 * batch[:, None]).astype(np.float32)
        mixed = gen.normal(size=(200, 8)).astype(np.float32)
        loss, keep = BatchMixingLoss(15, 2), NeighborhoodPreservationLoss()
        for x in (apart, mixed):
            moved = x.copy()
            moved[0] = far
            assert float(loss(moved, batch)) == pytest.approx(float(loss(x, batch)), abs=0.03)
            assert float(keep(moved, x, batch)) < 0.3

    def test_cells_at_one_place_are_not_mixed(self):
        gen, batch = np.random.default_rng(0), np.arange(200) % 2
        kind = np.arange(200) // 2 % 3
        loss, keep, index = BatchMixingLoss(15, 2), NeighborhoodPreservationLoss(), LISILoss(2)
        x = (gen.normal(size=(200, 8)) + 5 * np.eye(8)[kind]).astype(np.float32)
        noise = float(keep(gen.normal(size=x.shape), x, batch))
        anywhere = np.eye(8)[gen.integers(4, size=200)]
        for collapsed in (np.zeros((200, 8)), np.full((200, 8), 7.0), 5 * np.eye(8)[kind], anywhere):
            assert float(loss(collapsed, batch)) > -0.02
            assert float(index(collapsed, batch)) > -0.02
            assert float(keep(collapsed, x, batch)) > noise
        # Two or three cells at one place still have a neighbourhood.
        pairs = np.repeat(x[:100], 2, axis=0)
        assert float(loss(pairs, gen.permutation(batch))) < -0.8

    @pytest.mark.thorough
    def test_minimised_it_mixes_and_negated_it_does_not(self):
        batch = np.arange(120) % 2
        cells = jnp.asarray(np.random.default_rng(0).normal(size=(120, 4)) + 1.5 * batch[:, None], jnp.float32)
        loss = BatchMixingLoss(15, 2)
        assert float(loss(features=cells, batch_ids=batch)) == float(loss(cells, batch))

        def trained(sign):
            move, rule = jnp.zeros((2, 4)), optax.adam(0.05)
            state = rule.init(move)
            step = jax.jit(jax.grad(lambda move: sign * loss(cells - move[batch], batch)))
            for _ in range(60):
                update, state = rule.update(step(move), state)
                move = optax.apply_updates(move, update)
            return float(loss(cells - move[batch], batch))

        assert trained(1) < -0.95
        assert trained(-1) > -0.2


class TestTraced:
    """Traced code cannot raise: what cannot be used gives NaN, in the value and in the gradient."""

    def test_labels_out_of_range_and_values_that_are_not_finite_poison(self):
        x, batch = example()
        x, bad = jnp.asarray(x, jnp.float32), jnp.asarray(x, jnp.float32).at[3, 1].set(jnp.nan)
        kept = jnp.arange(60) != 5
        wrong = jnp.asarray(batch).at[5].set(7)
        keep = NeighborhoodPreservationLoss(K)
        for loss in (BatchMixingLoss(K), LISILoss(perplexity=K), lambda y, b, m: keep(y, x, b, m)):
            run = jax.jit(jax.value_and_grad(loss))
            everybody = jnp.ones(60, bool)
            assert np.isfinite(run(x, jnp.asarray(batch), everybody)[0])
            assert np.isfinite(run(x, wrong, kept)[0])
            unlabelled = wrong.at[5].set(-1)
            for value, slope in (run(bad, jnp.asarray(batch), everybody), run(x, unlabelled, everybody)):
                assert np.isnan(value)
                assert np.isnan(slope).any()
        assert np.isnan(jax.jit(BatchMixingLoss(K))(x, wrong))
        for loss in (ShannonDiversityLoss(), SimpsonDiversityLoss()):
            assert np.isnan(jax.jit(loss)(jnp.asarray([[0.5, jnp.nan]])))
        shares = jnp.asarray(assignments())
        for relative in (False, True):
            compact = jax.jit(ClusteringCompactnessLoss(relative=relative))
            assert np.isnan(compact(bad, shares))
            assert np.isnan(compact(x, shares.at[2, 0].set(jnp.nan)))
        agree = jax.jit(VelocityConsistencyLoss())
        for three in ((bad, x, x), (x, bad, x), (x, x, bad)):
            assert np.isnan(agree(*three))


class TestMixing:
    def test_scaling_and_translating_change_nothing(self):
        x, batch = example()
        x = x.astype(np.float32)
        for loss in (
            lambda y: BatchMixingLoss(K)(y, batch),
            lambda y: LISILoss(perplexity=K)(y, batch),
            lambda y: NeighborhoodPreservationLoss(K)(y, x**3, batch),
            lambda y: NeighborhoodPreservationLoss(K)(x**3, y, batch),
        ):
            for other in (0.01 * x, 1e-15 * x, 1e15 * x, x + 100, 100 * x - 7):
                assert float(loss(other)) == pytest.approx(float(loss(x)), rel=1e-3)

    def test_the_gradient_does_not_change_the_scale(self, x64):
        x, batch = example()
        for loss in (BatchMixingLoss(K), LISILoss(perplexity=K)):
            slope = jax.jit(jax.grad(loss))(jnp.asarray(x), batch)
            assert abs((slope * x).sum()) < 1e-9 * jnp.abs(slope * x).sum()
            assert np.abs(slope.sum(axis=0)).max() < 1e-9

    def test_it_depends_on_n_neighbors(self):
        # Batches alternate in small clumps: apart among few neighbours, mixed among many.
        gen = np.random.default_rng(0)
        clump = np.repeat(np.arange(40), 10)
        x = gen.normal(size=(400, 2)) * 0.05 + gen.normal(size=(40, 2))[clump]
        few, many = (float(BatchMixingLoss(k, 2)(x, clump % 2)) for k in (5, 60))
        assert few > -0.5
        assert many < -0.8

    @pytest.mark.parametrize("d", [2, 10, 50])
    def test_a_perfect_mixture_scores_the_same_whatever_the_sizes(self, d):
        gen = np.random.default_rng(0)
        x = gen.normal(size=(2000, d))
        even, uneven = gen.random(2000) < 0.5, gen.random(2000) < 0.1
        loss = BatchMixingLoss(15, 2)
        scores = [float(loss(x, batch.astype(int))) for batch in (even, uneven)]
        assert scores[0] < -0.97
        assert scores[1] == pytest.approx(scores[0], abs=0.02)
        # Uneven batches that lie apart are not excused.
        assert float(loss(x + 10 * uneven[:, None], uneven.astype(int))) > -0.1

    @pytest.mark.parametrize("d", [2, 50])
    def test_it_rises_with_the_distance_of_batches(self, d):
        gen = np.random.default_rng(1)
        batch = np.arange(500) % 2
        x, way = gen.normal(size=(500, d)), gen.normal(size=d)
        scores = [float(BatchMixingLoss(15, 2)(x + s * batch[:, None] * way, batch)) for s in (0, 0.5, 1, 2, 4, 20)]
        assert scores == sorted(scores)
        assert scores[0] < -0.97
        assert scores[-1] > -0.05

    def test_temperature_towards_zero_counts_neighbours(self, x64):
        gen = np.random.default_rng(2)
        x, batch = gen.normal(size=(300, 3)), np.arange(300) % 2
        x[:, 0] += 1.5 * batch
        nearest = np.argsort(squared(x), axis=1)[:, :15]
        share = batch[nearest].mean(axis=1)
        share = np.stack([share, 1 - share], axis=1)
        counted = (share * np.log(np.where(share > 0, share, 1))).sum(axis=1).mean()
        seen = np.arange(16) / 15
        chance = -2 * binom.pmf(np.arange(16), 15, 0.5) @ xlogy(seen, seen)
        assert float(BatchMixingLoss(15, 2, 1e-3)(x, batch)) == pytest.approx(counted / chance, abs=0.02)

    @pytest.mark.thorough
    @pytest.mark.parametrize(
        ("d", "apart", "optimizer"), [(2, 10, "sgd"), (2, 10, "adam"), (50, 100, "sgd"), (50, 1000, "adam")]
    )
    def test_descent_on_the_embedding_alone_mixes_separated_batches(self, d, apart, optimizer):
        gen = np.random.default_rng(3)
        batch = np.arange(120) % 2
        x = gen.normal(size=(120, d))
        x[:, 0] += apart * batch
        x = jnp.asarray(x, jnp.float32)
        rule = optax.sgd(2000.0 * apart) if optimizer == "sgd" else optax.adam(apart / 50)
        loss = BatchMixingLoss(15, 2)
        assert own_share(x, batch) == 1

        @jax.jit
        def step(x, state):
            updates, state = rule.update(jax.grad(loss)(x, batch), state)
            return optax.apply_updates(x, updates), state

        state = rule.init(x)
        for _ in range(300):
            x, state = step(x, state)
        assert float(loss(x, batch)) < -0.9
        assert own_share(x, batch) < 0.75

    def test_one_batch_is_zero_with_no_gradient(self):
        x, _ = example()
        for loss in (BatchMixingLoss(K), BatchMixingLoss(K, 1), LISILoss(perplexity=K), LISILoss(1, K)):
            value, slope = jax.jit(jax.value_and_grad(loss))(jnp.asarray(x), np.zeros(60, int))
            assert float(value) == 0
            assert not np.asarray(slope).any()
        # One more cell does not make two batches.
        value, slope = jax.jit(jax.value_and_grad(BatchMixingLoss(K)))(jnp.asarray(x), np.arange(60) // 59)
        assert float(value) == 0
        assert not np.asarray(slope).any()
        with pytest.raises(InputError, match="cell"):
            BatchMixingLoss()(x[:1], [0])

    def test_no_array_of_all_pairs_is_made(self):
        x, batch = jnp.zeros((5000, 20)), jnp.zeros(5000, int)
        for loss in (
            lambda y: BatchMixingLoss()(y, batch),
            lambda y: NeighborhoodPreservationLoss()(y, x, batch),
            lambda y: LISILoss()(y, batch),
        ):
            largest = max(sizes(jax.make_jaxpr(jax.grad(loss))(x).jaxpr))
            assert largest <= 1 << 22


def own_share(x, batch: np.ndarray) -> float:
    nearest = np.argsort(squared(np.asarray(x, float)), axis=1)[:, :15]
    return float((batch[nearest] == batch[:, None]).mean())


def sizes(jaxpr):
    """Give the number of elements of every value in a program and the programs inside it."""
    for equation in jaxpr.eqns:
        for value in equation.outvars:
            yield int(np.prod(getattr(value.aval, "shape", ())))
        for inner in jaxprs_in_params(equation.params):
            yield from sizes(inner)


class TestCollapse:
    def test_preservation_is_zero_only_where_neighbours_are_kept(self):
        x, batch = example(120)
        x = x.astype(np.float32)
        loss = NeighborhoodPreservationLoss(10)
        # Batches move freely against each other.
        assert abs(float(loss(x + 50 * batch[:, None], x, batch))) < 1e-3
        assert float(loss(x + 50 * batch[:, None], x)) > 0.05
        gen = np.random.default_rng(1)
        noise = [float(loss(x + s * gen.normal(size=x.shape), x, batch)) for s in (0.1, 0.5, 2.0)]
        assert 0 < noise[0] < noise[1] < noise[2]
        for destroyed in (gen.permutation(x), 0 * x, x * [1, 0, 0]):
            assert float(loss(destroyed, x, batch)) > 0.1

    @pytest.mark.thorough
    def test_it_stops_descent_on_mixing_from_destroying_the_batches(self):
        x, batch = example(120, apart=5.0)
        start = jnp.asarray(x, jnp.float32)
        mix, keep = BatchMixingLoss(10, temperature=20), NeighborhoodPreservationLoss(10)

        def descend(weight):
            rule = optax.adam(0.05)

            @jax.jit
            def step(y, state):
                slope = jax.grad(lambda y: mix(y, batch) + weight * keep(y, start, batch))(y)
                updates, state = rule.update(slope, state)
                return optax.apply_updates(y, updates), state

            y, state = start, rule.init(start)
            for _ in range(400):
                y, state = step(y, state)
            return float(mix(y, batch)), float(keep(y, start, batch))

        alone, together = descend(0.0), descend(1.0)
        assert together[1] < 0.25 * alone[1]
        assert together[0] < -0.8

    def test_types_that_fall_together_raise_the_index_of_types(self):
        x, kind = example(150, apart=10.0)
        loss = LISILoss(perplexity=10, mix=False)
        assert float(loss(x, kind)) < 0.05
        assert float(loss(np.random.default_rng(0).normal(size=x.shape), kind)) > 0.5


# Few shapes, since each is compiled.
SHAPES = st.sampled_from([(1, 1), (1, 6), (8, 1), (3, 2), (8, 5)])
rows = arrays(np.float64, SHAPES, elements=st.floats(0, 1, width=32))


class TestDiversity:
    @settings(max_examples=60)
    @given(raw=rows)
    def test_bounds(self, raw):
        a = (raw + 1e-3 * (raw.sum(axis=1, keepdims=True) == 0)) / np.maximum(raw.sum(axis=1, keepdims=True), 1e-30)
        a = np.where(raw.sum(axis=1, keepdims=True) > 1e-20, a, 1 / raw.shape[1])
        k = raw.shape[1]
        shannon, simpson = float(ShannonDiversityLoss()(a)), float(SimpsonDiversityLoss()(a))
        assert -1e-6 <= shannon <= np.log(k) + 1e-5
        assert 1 / k - 1e-5 <= simpson <= 1 + 1e-5
        # Jensen: the mean of -ln sum p^2 is at most the mean Shannon entropy.
        assert -np.log(simpson) <= shannon + 1e-4

    @pytest.mark.parametrize("k", [1, 2, 7])
    def test_extremes_are_reached_and_have_a_gradient(self, k):
        hard, even = jnp.eye(k), jnp.full((3, k), 1 / k)
        assert float(ShannonDiversityLoss()(hard)) == 0
        assert float(ShannonDiversityLoss()(even)) == pytest.approx(np.log(k), rel=1e-6)
        assert float(SimpsonDiversityLoss()(hard)) == 1
        assert float(SimpsonDiversityLoss()(even)) == pytest.approx(1 / k, rel=1e-6)
        assert np.isfinite(jax.grad(ShannonDiversityLoss())(hard)).all()


class TestVelocity:
    def test_rest_agrees_with_rest_only(self):
        x, still = jnp.ones((2, 3)), jnp.zeros((2, 3))
        loss = VelocityConsistencyLoss(magnitude_weight=0.0)
        assert float(loss(x, still, x)) == 0
        assert float(loss(x, still, x + 1)) == 1
        assert np.isfinite(jax.grad(lambda v: VelocityConsistencyLoss()(x, v, x))(still)).all()

    def test_length_is_judged_where_direction_is_right(self):
        x, v = jnp.zeros((4, 2)), jnp.ones((4, 2))
        assert float(VelocityConsistencyLoss(dt=2.0)(x, v, x + v)) == pytest.approx(1)


class TestRefusals:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda x, b: BatchMixingLoss(0), "n_neighbors=0"),
            (lambda x, b: BatchMixingLoss(1.5), "whole number"),
            (lambda x, b: BatchMixingLoss(temperature=0), "temperature=0"),
            (lambda x, b: LISILoss(perplexity=float("nan")), "perplexity=nan"),
            (lambda x, b: VelocityConsistencyLoss(dt=0), "dt=0"),
            (lambda x, b: ClusteringCompactnessLoss(separation_weight=-1), "separation_weight=-1"),
            (lambda x, b: BatchMixingLoss()(x[0], b), r"shape \(3,\)"),
            (lambda x, b: BatchMixingLoss()(x, b[:-1]), r"shape \(59,\)"),
            (lambda x, b: BatchMixingLoss()(x, b * 1.0), "dtype float"),
            (lambda x, b: BatchMixingLoss()(x, b.astype(str)), "dtype <U21; allowed are integers"),
            (lambda x, b: BatchMixingLoss()(x.astype(str), b), "embeddings has dtype <U"),
            (lambda x, b: BatchMixingLoss(n_batches=2)(x, b), "allowed are 0 to 1"),
            (lambda x, b: BatchMixingLoss()(x, b - 1), "first: -1 in row 0"),
            (lambda x, b: BatchMixingLoss()(np.where(x == x[7, 1], np.nan, x), b), "1 cells .first: row 7"),
            (lambda x, b: BatchMixingLoss()(x, b, np.zeros(60, bool)), "every cell"),
            (lambda x, b: BatchMixingLoss()(x, b, np.ones(3, bool)), r"mask has shape \(3,\)"),
            (lambda x, b: LISILoss()(x, b), "needs more than 89 cells, but there are 60"),
            (lambda x, b: NeighborhoodPreservationLoss()(x, x[1:]), "59 rows, embeddings 60"),
            (lambda x, b: ClusteringCompactnessLoss()(x, np.ones((60, 2))), "60 rows that are not shares"),
            (lambda x, b: ClusteringCompactnessLoss()(x, np.ones((59, 1))), "59 rows"),
            (lambda x, b: ShannonDiversityLoss()(np.array([[1.5, -0.5]])), "not shares"),
            (lambda x, b: VelocityConsistencyLoss()(x, x[:, 1:], x), r"velocity has shape \(60, 2\)"),
        ],
    )
    def test_what_cannot_be_used_is_named(self, call, message):
        x, batch = example()
        with pytest.raises(InputError, match=message):
            call(x, batch)

    def test_shapes_are_checked_under_jit_too(self):
        x, batch = example()
        with pytest.raises(InputError, match=r"shape \(59,\)"):
            jax.jit(BatchMixingLoss(K))(x, batch[1:])


@pytest.mark.slow
def test_mixing_with_gradient_at_20000_cells_stays_under_one_gib():
    import json

    script = Path(__file__).resolve().parents[2] / "benchmarks" / "losses.py"
    done = subprocess.run([sys.executable, script, "--job", "mixing"], capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout)
    assert measured["peak"] < 2**30
