"""Ridge coefficients against the definition: an explicit design matrix and a least-squares solve per cluster."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cells_with_batches

from harmonax.algorithm.regressors import Anchor, kept_levels
from harmonax.algorithm.ridge import ridge
from harmonax.design import BatchDesign
from harmonax.params import HarmonyParams


def truth(Z, codes, R, k, lam, keep):
    """Solve cluster k with one-hot columns by least squares (docs/algorithm.md, "Ridge correction of cluster k")."""
    columns = [codes[:, [f]] == np.arange(codes[:, f].max() + 1) for f in range(codes.shape[1])]
    one_hot = np.concatenate(columns, axis=1)[:, keep].astype(float)
    cells = one_hot.any(axis=1)
    X = np.column_stack([np.ones(cells.sum()), one_hot[cells]])
    root = np.sqrt(R[cells, k])[:, None]
    A = np.concatenate([root * X, np.diag(np.sqrt(np.concatenate([[0.0], lam[keep]])))])
    b = np.concatenate([root * Z[cells], np.zeros((X.shape[1], Z.shape[1]))])
    W = np.linalg.lstsq(A, b, rcond=None)[0]
    full = np.zeros((len(keep), Z.shape[1]))
    full[keep] = W[1:]
    return W[0], full


def sums(Z, design, R):
    joint = np.eye(design.n_joint)[design.joint]
    return np.einsum("ij,ik,id->jkd", joint, R, Z), np.einsum("ij,ik->jk", joint, R)


def problem(seed, levels, n_cells=200, n_clusters=5):
    Z, codes = cells_with_batches(n_cells, 4, levels, seed)
    rng = np.random.default_rng(seed)
    R = rng.dirichlet(np.full(n_clusters, 0.2), size=n_cells)
    return Z, codes, R, BatchDesign.from_codes(codes)


@given(
    seed=st.integers(0, 1000),
    levels=st.lists(st.integers(2, 5), min_size=1, max_size=3).map(tuple),
    threshold=st.sampled_from([None, 1e-5, 0.1, 0.2]),
    fixed=st.booleans(),
    method=st.sampled_from(["fast", "original"]),
)
@settings(max_examples=80)
def test_equals_the_definition(seed, levels, threshold, fixed, method):
    Z, codes, R, design = problem(seed, levels)
    params = HarmonyParams(
        n_clusters=5,
        batch_prune_threshold=threshold,
        ridge="fixed" if fixed else "dynamic",
        ridge_lambda=0.7,
        correction_method=method,
    )
    got = ridge(design, params.resolve(design), *sums(Z, design, R))
    O = design.fold(sums(Z, design, R)[1])
    keep, skipped = kept_levels(design, O, threshold)
    for k in range(5):
        if skipped[k]:
            assert got.skipped[k]
            np.testing.assert_array_equal(got.W[:, k], 0.0)
            continue
        lam = np.full(design.n_levels, 0.7) if fixed else 0.2 * design.level_shares * R[:, k].sum()
        W0, W = truth(Z, codes, R, k, lam, keep[:, k])
        np.testing.assert_allclose(got.W0[k], W0, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(got.W[:, k], W, rtol=1e-8, atol=1e-8)


def test_pruning_keeps_what_the_definition_says():
    Z, _, R, design = problem(3, (4, 3))
    O = design.fold(sums(Z, design, R)[1])
    keep, skipped = kept_levels(design, O, 0.2)
    for k in range(5):
        expected = np.zeros(design.n_levels, bool)
        for lo, hi in ((0, 4), (4, 7)):
            ok = O[lo:hi, k] / design.level_counts[lo:hi] > 0.2
            expected[lo:hi] = ok & (ok.sum() > 1)
        np.testing.assert_array_equal(keep[:, k], expected)
        assert skipped[k] == (not expected.any())
    assert 0 < keep.sum() < keep.size


@pytest.mark.parametrize("lam", [1e-12, 1e-6, 1.0, 1e6])
def test_one_variable_does_not_cancel(lam):
    Z, codes, R, design = problem(5, (3,))
    params = HarmonyParams(n_clusters=5, ridge="fixed", ridge_lambda=lam, batch_prune_threshold=None)
    got = ridge(design, params.resolve(design), *sums(Z + 1e3, design, R))
    W0, W = truth(Z + 1e3, codes, R, 0, np.full(3, lam), np.ones(3, bool))
    np.testing.assert_allclose(got.W0[0][None] + got.W[:, 0], W0 + W, rtol=1e-7)


def test_nested_variables_with_a_tiny_penalty_fall_back_and_say_so():
    # The second variable repeats the first: without a penalty the system has no unique solution.
    rng = np.random.default_rng(0)
    first = rng.integers(4, size=300)
    design = BatchDesign.from_codes(np.column_stack([first, first]))
    Z, R = rng.normal(size=(300, 3)), rng.dirichlet(np.ones(5), size=300)
    params = HarmonyParams(n_clusters=5, ridge="fixed", ridge_lambda=1e-16, batch_prune_threshold=None)
    got = ridge(design, params.resolve(design), *sums(Z, design, R))
    assert got.singular.all()
    assert np.isfinite(got.W).all()
    # What is removed is still what one variable alone would remove.
    alone = BatchDesign.from_codes(first)
    params = HarmonyParams(n_clusters=5, ridge="fixed", ridge_lambda=1e-9, batch_prune_threshold=None)
    expected = ridge(alone, params.resolve(alone), *sums(Z, alone, R))
    fitted = got.W0[None] + got.W[:4] + got.W[4:]
    np.testing.assert_allclose(fitted, expected.W0[None] + expected.W, atol=1e-6)


def test_nested_variables_with_the_default_penalty_are_solved():
    rng = np.random.default_rng(0)
    donor = rng.integers(6, size=300)
    codes = np.column_stack([donor, donor // 2])
    design = BatchDesign.from_codes(codes)
    Z, R = rng.normal(size=(300, 3)), rng.dirichlet(np.ones(5), size=300)
    got = ridge(design, HarmonyParams(n_clusters=5).resolve(design), *sums(Z, design, R))
    assert not got.singular.any()
    lam = 0.2 * design.level_shares * R[:, 2].sum()
    _, W = truth(Z, codes, R, 2, lam, np.ones(9, bool))
    np.testing.assert_allclose(got.W[:, 2], W, atol=1e-9)


def test_an_empty_cluster_is_skipped_in_both_flavors():
    Z, _, R, design = problem(1, (3,))
    R[:, 2] = 0.0
    for flavor in ("harmony1", "harmony2"):
        got = ridge(design, HarmonyParams(flavor=flavor, n_clusters=5).resolve(design), *sums(Z, design, R))
        assert got.skipped.tolist() == [False, False, True, False, False]
        assert np.isfinite(got.W).all()
        assert not got.W[:, 2].any()


@pytest.mark.parametrize("levels", [(40, 3, 2), (3, 40), (6, 5, 4, 3)])
def test_the_bits_do_not_depend_on_threads(levels):
    Z, _, R, design = problem(9, levels, n_cells=400, n_clusters=37)
    resolved = HarmonyParams(n_clusters=37).resolve(design)
    one, three, many = (ridge(design, resolved, *sums(Z, design, R), n_threads=n) for n in (1, 3, 64))
    for found, expected in zip((*three, *many), (*one, *one), strict=True):
        np.testing.assert_array_equal(found, expected)
    exact = HarmonyParams(n_clusters=37, correction_method="original").resolve(design)
    np.testing.assert_allclose(one.W, ridge(design, exact, *sums(Z, design, R)).W, rtol=1e-9, atol=1e-9)


def test_an_anchor_pulls_on_the_intercept_alone():
    """The anchor is a joint level without levels: cells of X = [1, 0, ...] with these sums."""
    Z, _, R, design = problem(2, (4, 3), n_cells=300)
    anchor = Anchor(np.full(5, 50.0), np.random.default_rng(0).normal(size=(5, 4)))
    S, O = sums(Z, design, R)
    for levels in (design, BatchDesign.from_codes(design.joint_levels[design.joint, 0])):
        S, O = sums(Z, levels, R)
        fast, exact = (
            ridge(levels, HarmonyParams(n_clusters=5, correction_method=how).resolve(levels), S, O, anchor)
            for how in ("fast", "original")
        )
        np.testing.assert_allclose(fast.W, exact.W, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(fast.W0, exact.W0, rtol=1e-9, atol=1e-9)
        # Without a level, X^T diag(R) X and the right-hand side get what the anchor adds: W0 of the normal equations.
        k = 1
        lam = 0.2 * levels.level_shares * R[:, k].sum()
        X = np.column_stack([np.ones(300), *(levels.joint_levels[levels.joint][:, f][:, None] == np.arange(a, b)
            for f, (a, b) in enumerate(zip(levels.offsets, levels.offsets[1:], strict=False)))])  # fmt: skip
        A = X.T @ (R[:, [k]] * X) + np.diag(np.concatenate([[50.0], lam]))
        right = X.T @ (R[:, [k]] * Z)
        right[0] += anchor.moment[k]
        np.testing.assert_allclose(fast.W0[k], np.linalg.solve(A, right)[0], rtol=1e-9, atol=1e-9)
