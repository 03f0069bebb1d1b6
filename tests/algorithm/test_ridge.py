"""Ridge coefficients against the definition: an explicit design matrix and a least-squares solve per cluster."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cells_with_batches

from harmonax.algorithm.regressors import kept_levels
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


def test_large_tables_are_solved_in_chunks_alike(monkeypatch):
    import harmonax.algorithm.ridge as module

    Z, _, R, design = problem(9, (5, 3, 2))
    resolved = HarmonyParams(n_clusters=5).resolve(design)
    whole = ridge(design, resolved, *sums(Z, design, R))
    monkeypatch.setattr(module, "_CHUNK", 1)
    np.testing.assert_allclose(ridge(design, resolved, *sums(Z, design, R)).W, whole.W, rtol=1e-10, atol=1e-12)
