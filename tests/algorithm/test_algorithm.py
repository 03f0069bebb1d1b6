"""The method's small parts and its properties, by definition rather than by agreement."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from strategies import cells_with_batches, small_problems

import harmonax
from harmonax.algorithm.convergence import passes_converged, rounds_converged
from harmonax.algorithm.harmony import Harmony
from harmonax.algorithm.penalty import expected, log_penalty
from harmonax.algorithm.schedule import FixedPartition
from harmonax.algorithm.seeding import seed_centroids, unit
from harmonax.cells.dense import DenseCells
from harmonax.design import BatchDesign
from harmonax.params import HarmonyParams
from harmonax.result import History, Status


def definition(flavor, Zn, Y, R, codes, theta, sigma):
    """Evaluate the objective and its terms cell by cell (docs/algorithm.md, "Objective")."""
    n = len(Zn)
    D = 2 * (1 - Zn @ Y.T)
    distance = (R * D).sum()
    entropy = (sigma * np.where(R > 0, R * np.log(np.where(R > 0, R, 1)), 0)).sum()
    diversity = 0.0
    for b in range(codes.max() + 1):
        cells = (codes == b).any(axis=1)
        O, E = R[cells].sum(axis=0), cells.mean() * R.sum(axis=0)
        q = (O + 1) / (E + 1) if flavor == "harmony1" else (O + E + 1) / (2 * E + 1)
        diversity += (sigma * theta[b] * O * np.log(q)).sum()
    c = 2000 / n if flavor == "harmony2" else 1.0
    return c * np.array([distance + entropy + diversity, distance, entropy, diversity])


@pytest.mark.parametrize("sigma", [0.1, tuple(np.linspace(0.05, 0.4, 6))], ids=["one sigma", "vector sigma"])
@pytest.mark.parametrize("levels", [(3,), (3, 2)])
@pytest.mark.parametrize("flavor", ["harmony1", "harmony2"])
def test_the_objective_equals_its_definition(flavor, levels, sigma):
    Z, codes = cells_with_batches(150, 5, levels, seed=0)
    design = BatchDesign.from_codes(codes)
    resolved = HarmonyParams(
        flavor=flavor, n_clusters=6, sigma=sigma, theta=1.5, max_iter_harmony=1, max_iter_clustering=3
    ).resolve(design)
    schedule = FixedPartition(20, np.random.SeedSequence(0))
    cells = DenseCells(Z, design, schedule)
    Y = unit(np.random.default_rng(0).normal(size=(6, 5)))
    fit = Harmony(cells, design, schedule, resolved).run(Y, np.empty(Z.shape))
    global_codes = design.joint_levels[design.joint]
    J = definition(flavor, cells.Zn, fit.assigned.Y, cells.R, global_codes, resolved.theta, resolved.sigma)
    h = fit.history
    np.testing.assert_allclose([h.total[-1], h.distance[-1], h.entropy[-1], h.diversity[-1]], J, rtol=1e-10)


def test_the_penalty_pushes_toward_the_expected_mixture():
    O, E = np.array([[9.0, 1.0]]), np.array([[3.0, 3.0]])
    for flavor, values in {"harmony1": [(4 / 10), (4 / 2)], "harmony2": [(7 / 13), (7 / 5)]}.items():
        got = log_penalty(flavor, O, E, np.array([2.0]))
        np.testing.assert_allclose(got, 2 * np.log([values]))


def test_the_expected_mass_sums_to_the_cluster_mass_per_variable():
    design = BatchDesign.from_codes(np.array([[0, 0], [1, 0], [2, 1], [2, 1]]))
    E = expected(design.level_shares, np.array([2.0, 3.0]))
    np.testing.assert_allclose(E[:3].sum(axis=0), [2, 3])
    np.testing.assert_allclose(E[3:].sum(axis=0), [2, 3])


@pytest.mark.parametrize(
    ("n_cells", "n_clusters"), [(8, 2), (75, 2), (76, 3), (300, 10), (2_990, 100), (3_000, 100), (30_000, 100)]
)
def test_by_default_there_is_a_cluster_for_thirty_cells_up_to_a_hundred(n_cells, n_clusters):
    design = BatchDesign.from_codes(np.arange(n_cells) % 2)
    assert HarmonyParams().resolve(design).n_clusters == n_clusters


def test_a_centroid_moves_to_its_intercept_unless_its_cluster_was_skipped():
    Z, codes = cells_with_batches(200, 5, (4,), seed=1)
    design, schedule = BatchDesign.from_codes(codes), FixedPartition(20, np.random.SeedSequence(0))
    # So high a threshold leaves some clusters with fewer than two batches.
    params = HarmonyParams(n_clusters=8, batch_prune_threshold=0.15, max_iter_harmony=3, tol_harmony=0)
    Y, rounds = unit(np.random.default_rng(0).normal(size=(8, 5))), []
    harmony = Harmony(DenseCells(Z, design, schedule), design, schedule, params.resolve(design))
    harmony.run(Y, np.empty(Z.shape), keep=rounds.append)
    for one, following in itertools.pairwise(rounds):
        before, after, intercept = one.assigned.Y, following.assigned.Y, unit(one.correction.W0)
        skipped = one.correction.skipped
        assert 0 < skipped.sum() < 8
        assert np.abs(intercept - before)[skipped].max() > 0.01
        np.testing.assert_array_equal(after[skipped], before[skipped])
        np.testing.assert_array_equal(after[~skipped], intercept[~skipped])


def test_tau_shrinks_the_theta_of_small_batches():
    design = BatchDesign.from_codes(np.repeat([0, 1], [10, 1000]))
    theta = HarmonyParams(n_clusters=5, theta=2.0, tau=20).resolve(design).theta
    np.testing.assert_allclose(theta, 2 * (1 - np.exp(-((np.array([10, 1000]) / 100) ** 2))))


@pytest.mark.parametrize(
    ("flavor", "objectives", "stops"),
    [
        ("harmony1", [10, 9, 8], False),
        ("harmony1", [8, 8, 8, 8], True),
        ("harmony1", [8, 8, 8, 9], True),  # an increase stops harmony1
        ("harmony1", [10, 9, 8, 7], False),
        ("harmony1", [10, 8, 8, 8], False),  # three passes are compared, not two
        ("harmony2", [8, 8, 8, 8], False),
        ("harmony2", [8, 8, 8, 8, 8], True),
        ("harmony2", [8, 8, 8, 8, 9], False),
        ("harmony2", [-8, -8, -8, -8, -8], True),
    ],
)
def test_when_passes_stop(flavor, objectives, stops):
    assert passes_converged(flavor, objectives, len(objectives), 1e-5) is stops


@pytest.mark.parametrize(
    ("flavor", "previous", "now", "stops"),
    [
        ("harmony1", 10.0, 10.0, True),
        ("harmony1", 10.0, 11.0, True),
        ("harmony1", 10.0, 9.0, False),
        ("harmony2", 10.0, 10.0, True),
        ("harmony2", 10.0, 10.0001, False),  # an increase is not convergence
        ("harmony2", 10.0, 9.9999, True),
        ("harmony2", -10.0, -10.0001, True),
    ],
)
def test_when_rounds_stop(flavor, previous, now, stops):
    assert rounds_converged(flavor, previous, now, 1e-4) is stops


@pytest.mark.parametrize("backend", ["memory", "dense"])
@given(problem=small_problems())
@settings(max_examples=30)
def test_assignments_are_probabilities_and_the_input_is_untouched(backend, problem):
    Z, design, n_clusters, seed = problem
    before = Z.copy()
    Z.flags.writeable = False
    result = harmonax.harmonize(
        Z,
        design,
        HarmonyParams(n_clusters=n_clusters, max_iter_harmony=3, precision="float64"),
        rng=seed,
        backend=backend,
    )
    np.testing.assert_array_equal(Z, before)
    R = result.assignments()
    assert R.shape == (len(Z), n_clusters)
    np.testing.assert_allclose(R.sum(axis=1), 1.0, rtol=1e-9)
    assert R.min() >= 0
    assert np.isfinite(result.embedding).all()
    norms = np.linalg.norm(result.centroids, axis=1)
    assert np.all(np.isclose(norms, 1.0) | (norms == 0))


@given(seed=st.integers(0, 200))
@settings(max_examples=15)
def test_renaming_and_reordering_levels_changes_nothing(seed):
    Z, codes = cells_with_batches(200, 5, (4,), seed)
    names = np.array(["a", "b", "c", "d"])
    params = HarmonyParams(n_clusters=6, precision="float64", max_iter_harmony=3)
    one = harmonax.harmonize(Z, names[codes[:, 0]], params, rng=seed)
    other = harmonax.harmonize(Z, names[::-1][codes[:, 0]], params, rng=seed)
    np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-8)


@given(seed=st.integers(0, 200), scale=st.sampled_from([1e-3, 0.5, 1e4]))
@settings(max_examples=15)
def test_scaling_the_embedding_scales_the_result(seed, scale):
    # Clusters live on unit vectors, and the ridge system is linear in Z.
    Z, codes = cells_with_batches(200, 5, (3,), seed)
    params = HarmonyParams(n_clusters=6, precision="float64", max_iter_harmony=3)
    one = harmonax.harmonize(Z, codes, params, rng=seed).embedding
    np.testing.assert_allclose(harmonax.harmonize(Z * scale, codes, params, rng=seed).embedding, one * scale, rtol=1e-6)


def test_a_rotation_rotates_the_result():
    Z, codes = cells_with_batches(300, 5, (3,), seed=1)
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    params = HarmonyParams(n_clusters=6, precision="float64", max_iter_harmony=3)
    one = harmonax.harmonize(Z, codes, params, rng=1).embedding
    np.testing.assert_allclose(harmonax.harmonize(Z @ Q, codes, params, rng=1).embedding, one @ Q, atol=1e-7)


def test_a_constant_column_changes_nothing():
    Z, codes = cells_with_batches(300, 5, (3,), seed=2)
    params = HarmonyParams(n_clusters=6, precision="float64")
    alone = harmonax.harmonize(Z, codes[:, 0], params, rng=0).embedding
    both = harmonax.harmonize(Z, np.column_stack([codes[:, 0], np.zeros(300, int)]), params, rng=0).embedding
    np.testing.assert_allclose(both, alone, atol=1e-8)


def test_theta_zero_removes_the_penalty_but_not_the_correction():
    Z, codes = cells_with_batches(300, 5, (3,), seed=3)
    result = harmonax.harmonize(Z, codes, HarmonyParams(n_clusters=6, theta=0.0), rng=0)
    assert set(result.history.diversity) == {0.0}
    assert np.abs(result.embedding - Z).max() > 0.1


@pytest.mark.parametrize("alpha", [0.2, 0.01])
def test_a_shift_between_batches_shrinks_as_ridge_predicts(alpha):
    # With balanced batches in every cluster, lambda = alpha E leaves alpha / (1 + alpha) of a shift.
    rng = np.random.default_rng(0)
    types = rng.integers(5, size=2000)
    batch = rng.integers(2, size=2000)
    Z = rng.normal(0, 5, (5, 20))[types] + rng.normal(size=(2000, 20)) + np.where(batch, 1.5, 0.0)[:, None]
    out = harmonax.harmonize(Z, batch, HarmonyParams(alpha=alpha), rng=0).embedding

    def gap(x, t):
        first, second = (x[(types == t) & (batch == b)].mean(axis=0) for b in (0, 1))
        return np.linalg.norm(first - second)

    left = sum(gap(out, t) for t in range(5)) / sum(gap(Z, t) for t in range(5))
    assert left == pytest.approx(alpha / (1 + alpha), abs=0.02)


@pytest.mark.parametrize("flavor", ["harmony1", "harmony2"])
def test_the_status_says_why_it_stopped(flavor):
    Z, codes = cells_with_batches(400, 5, (3,), seed=4)
    short = harmonax.harmonize(Z, codes, HarmonyParams(flavor=flavor, max_iter_harmony=1), rng=0)
    assert short.status is Status.MAX_ITERATIONS
    assert len(short.history.passes) == 1
    assert "max_iter_harmony" in short.summary()
    done = harmonax.harmonize(Z, codes, HarmonyParams(flavor=flavor), rng=0)
    assert done.status is Status.CONVERGED
    assert done.history.last_change < done.params.tol_harmony
    assert len(done.history.rounds) == len(done.history.passes) + 1
    for h in (short.history, done.history):
        assert len(h.total) == len(h.diversity) == sum(h.passes)
        ends = np.cumsum(h.passes) - 1
        np.testing.assert_allclose(h.rounds[1:], np.add(h.distance, h.entropy) + np.array(h.diversity)[ends])


def test_an_empty_history_has_no_change():
    assert np.isnan(History().last_change)


def test_seeding_finds_separate_clusters():
    rng = np.random.default_rng(0)
    centers = unit(rng.normal(size=(8, 30)))
    Z = (centers[rng.integers(8, size=20_000)] + 0.02 * rng.normal(size=(20_000, 30))).astype(np.float32)
    design = BatchDesign.from_codes(np.zeros(len(Z), int))
    from harmonax.cells.memory import MemoryCells

    cells = MemoryCells(Z, design, FixedPartition(20, np.random.SeedSequence(0)))
    Y = seed_centroids(cells, 40, np.random.default_rng(0))
    assert (np.abs(Y @ centers.T).max(axis=0) > 0.99).all()


def test_seeding_takes_three_steps_of_narrow_k_means_from_random_cells():
    Z, codes = cells_with_batches(150, 5, (3,), seed=0)
    cells = DenseCells(Z, BatchDesign.from_codes(codes), FixedPartition(5, np.random.SeedSequence(0)))
    Y = cells.Zn[np.random.default_rng(1).choice(len(Z), 6, replace=False)]
    for _ in range(3):
        R = softmax(-2 * (1 - cells.Zn @ Y.T) / 0.02, axis=1)
        Y = unit(R.T @ cells.Zn)
    np.testing.assert_allclose(seed_centroids(cells, 6, np.random.default_rng(1)), Y, atol=1e-12)


def test_seeding_copes_with_fewer_distinct_points_than_clusters():
    Z = np.repeat([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], 10, axis=0)
    result = harmonax.harmonize(Z, np.arange(30) % 2, HarmonyParams(n_clusters=7), rng=0)
    assert np.isfinite(result.embedding).all()
