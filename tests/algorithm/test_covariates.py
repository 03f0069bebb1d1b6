"""Numeric covariates that are removed: against an explicit design matrix, known effects, and every interface."""

from __future__ import annotations

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cells_with_batches

import harmonax
from harmonax.algorithm.regressors import kept_columns, penalties
from harmonax.algorithm.ridge import ridge
from harmonax.cli import run
from harmonax.design import BatchDesign
from harmonax.errors import HarmonaxWarning, InputError, MissingKeyError
from harmonax.files import FileJob, integrate_file
from harmonax.inputs.covariates import Covariates, standardised
from harmonax.params import HarmonyParams
from harmonax.workflow import WorkflowOptions

K = 3


def sums(Z, x, design, R):
    """Return what cells answer: R^T of [1, x] times [Z, x], and the mass, by joint level."""
    joint, whole = np.eye(design.n_joint)[design.joint], np.column_stack([Z, x])
    products = np.concatenate([whole, *(column[:, None] * whole for column in x.T)], axis=1)
    return np.einsum("ij,ik,id->jkd", joint, R, products), np.einsum("ij,ik->jk", joint, R)


@given(
    seed=st.integers(0, 1000),
    levels=st.lists(st.integers(2, 4), min_size=1, max_size=2).map(tuple),
    n_covariates=st.integers(1, 3),
    protected=st.booleans(),
    held=st.booleans(),
    fixed=st.booleans(),
    confounded=st.booleans(),
    method=st.sampled_from(["fast", "original"]),
    threshold=st.sampled_from([None, 0.2]),
)
@settings(max_examples=80)
def test_the_ridge_equals_an_explicit_design_matrix(
    seed, levels, n_covariates, protected, held, fixed, confounded, method, threshold
):
    Z, codes = cells_with_batches(150, 3, (*levels, 3), seed)
    gen = np.random.default_rng(seed)
    R, values = gen.dirichlet(np.full(K, 0.2), size=len(Z)), gen.normal(size=(len(Z), n_covariates))
    if confounded:
        # The ridge's penalty keeps it solvable.
        values[:, 0] = codes[:, 0]
    plain = BatchDesign.from_codes(codes[:, :-1])
    design = plain.keeping({plain.variables[0]: plain.levels[0][:1]}) if held else plain
    design = design.protecting(BatchDesign.from_codes(codes[:, -1], ["condition"])) if protected else design
    stays = design.fixed[design.joint]
    if np.ptp(values[~stays], axis=0).min() == 0:
        return
    names = tuple(f"x{i}" for i in range(n_covariates))
    x, design = standardised(Covariates(names, values), ~stays), replace(design, covariates=names)
    params = HarmonyParams(
        n_clusters=K, ridge="fixed" if fixed else "dynamic", ridge_lambda=0.7, correction_method=method,
        batch_prune_threshold=threshold,
    )  # fmt: skip
    resolved = params.resolve(design)
    found = ridge(design, resolved, *sums(Z, x, design, R))

    # That of the levels alone says which columns there are, and their penalties are its own.
    cell_levels = design.joint_levels[design.joint]
    one_hot = (cell_levels[:, :, None] == np.arange(design.n_levels)).any(axis=1).astype(float)
    O = one_hot.T @ R
    keep, _ = kept_columns(design, O, params.pruning)
    lam = penalties(design, resolved, O, R.sum(axis=0))
    one_hot[stays] = 0.0
    n = design.n_batch_levels
    assert found.W.shape == (design.carried.n_levels + n_covariates, K, 3)
    for k in range(K):
        if found.skipped[k]:
            assert not found.W[:, k].any()
            continue
        columns = keep[:, k]
        part = stays | one_hot[:, :n][:, columns[:n]].any(axis=1)
        X = np.column_stack([np.ones(len(Z)), one_hot[:, columns], x])[part]
        own = 0.07 if fixed else 0.02 * R[:, k].sum()
        root = np.sqrt(R[part, k])[:, None]
        A = np.concatenate([root * X, np.diag(np.sqrt([0.0, *lam[columns, k], *[own] * n_covariates]))])
        b = np.concatenate([root * Z[part], np.zeros((X.shape[1], 3))])
        W = np.linalg.lstsq(A, b, rcond=None)[0]
        want = np.zeros((design.n_levels, 3))
        want[columns] = W[1:-n_covariates]
        np.testing.assert_allclose(found.W0[k], W[0], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found.W[:n, k], want[:n], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found.W[-n_covariates:, k], W[-n_covariates:], rtol=1e-6, atol=1e-6)


def study(seed=0, effect=2.0, n=3000):
    """Return cells of 5 types in 4 batches, with an effect of depth in each type; depth differs between batches."""
    gen = np.random.default_rng(seed)
    kind, batch = gen.integers(0, 5, n), gen.integers(0, 4, n)
    depth = gen.normal(size=n) + (batch % 2 - 0.5)
    direction = gen.normal(size=(5, 20))
    direction *= effect / np.linalg.norm(direction, axis=1, keepdims=True)
    centre = 3 * gen.normal(size=(5, 20))[kind] + 0.7 * gen.normal(size=(4, 20))[batch]
    Z = centre + direction[kind] * depth[:, None] + 0.6 * gen.normal(size=(n, 20))
    return Z, pd.DataFrame({"batch": batch, "depth": 100 + 20 * depth, "kind": kind}), direction


def left(Z, obs, direction):
    """Return how much of the effect of depth is left in each type at equal batch, as a share, and the types apart."""
    shares = []
    for kind, along in enumerate(direction):
        of = (obs["kind"] == kind).to_numpy()
        X = np.column_stack([np.eye(4)[obs["batch"][of]], (obs["depth"][of] - 100) / 20])
        shares.append(np.linalg.lstsq(X, Z[of], rcond=None)[0][-1] @ along / (along @ along))
    centres = pd.DataFrame(Z).groupby(obs["kind"].to_numpy()).mean().to_numpy()
    return float(np.mean(shares)), np.linalg.norm(centres[:, None] - centres, axis=2)


@pytest.mark.parametrize("flavor", ["harmony2", "harmony1"])
def test_a_known_effect_is_removed_and_types_stay_apart(flavor):
    Z, obs, direction = study()
    how = {"batch_key": "batch", "rng": 0, "progress": False, "n_threads": 1, "flavor": flavor}
    before, apart = left(Z, obs, direction)
    plain = left(harmonax.harmonize(Z, obs, **how).embedding, obs, direction)[0]
    result = harmonax.harmonize(Z, obs, covariates="depth", **how)
    after, still_apart = left(result.embedding, obs, direction)
    assert before > 0.95
    assert plain > 0.8
    assert abs(after) < 0.08
    np.testing.assert_allclose(still_apart, apart, rtol=0.1, atol=0.5)
    assert result.slopes.shape == (1, result.n_clusters, 20)
    assert result.ridge.shape == (4, result.n_clusters, 20)
    assert result.record()["covariates"] == ["depth"]
    # Standardised, so that a unit and an origin change nothing.
    scaled = harmonax.harmonize(Z, obs["batch"], covariates=obs["depth"] * 1e-3 - 7, **how | {"batch_key": None})
    np.testing.assert_allclose(scaled.embedding, result.embedding, atol=1e-4)


def test_what_has_no_effect_changes_little():
    Z, obs, _ = study(effect=0.0)
    how = {"rng": 0, "progress": False, "n_threads": 1}
    plain = harmonax.harmonize(Z, obs["batch"], **how).embedding
    noise = np.random.default_rng(1).normal(size=len(Z))
    found = harmonax.harmonize(Z, obs["batch"], covariates=noise, **how).embedding
    assert 0 < np.linalg.norm(plain - found) < 0.1 * np.linalg.norm(plain - Z)


def test_with_a_reference_its_cells_stay_and_the_others_lose_the_effect():
    Z, obs, direction = study()
    result = harmonax.harmonize(
        Z, obs, batch_key="batch", reference=0, covariates=["depth"], protect="kind", rng=0, dtype=float, progress=False
    )
    stays = (obs["batch"] == 0).to_numpy()
    np.testing.assert_array_equal(result.embedding[stays], Z[stays])
    moved = obs[~stays].reset_index(drop=True)
    assert abs(left(result.embedding[~stays], moved, direction)[0]) < 0.1
    assert left(Z[~stays], moved, direction)[0] > 0.95


def test_every_form_of_the_numbers_and_every_place_of_the_cells_has_the_same_answer(tmp_path):
    Z, obs, _ = study(n=400)
    obs["score"] = np.random.default_rng(2).normal(size=400).astype(np.float32)
    how = {
        "rng": 0, "progress": False, "n_clusters": 5, "max_iter_harmony": 2, "dtype": float, "precision": "float64",
        "scratch": tmp_path, "n_threads": 1,
    }  # fmt: skip
    both = ["depth", "score"]
    want = harmonax.harmonize(Z, obs, batch_key="batch", covariates=both, backend="memory", **how)
    assert np.abs(want.embedding - harmonax.harmonize(Z, obs["batch"], **how).embedding).max() > 0.1
    for numbers in (obs[both], {name: obs[name].to_numpy() for name in both}, obs[both].to_numpy()):
        found = harmonax.harmonize(Z, obs["batch"], covariates=numbers, backend="disk", **how)
        np.testing.assert_array_equal(found.embedding, want.embedding)
    rows = type("Rows", (), {"shape": Z.shape, "dtype": Z.dtype, "__getitem__": lambda self, at: Z[at]})()
    plain = harmonax.harmonize(rows, obs["batch"], backend="disk", **how)
    sliced = harmonax.harmonize(rows, obs["batch"], covariates=obs[both], backend="disk", out="lazy", **how)
    np.testing.assert_array_equal(sliced.embedding[:], want.embedding)
    # The hash of the data is that of embedding and labels.
    assert sliced.data_sha256 == plain.data_sha256


def test_a_checkpoint_belongs_to_the_numbers(tmp_path):
    Z, obs, _ = study(n=300)
    how = {"rng": 0, "progress": False, "checkpoint": tmp_path / "rounds", "max_iter_harmony": 2}
    first = harmonax.harmonize(Z, obs["batch"], covariates=obs["depth"], **how)
    again = harmonax.harmonize(Z, obs["batch"], covariates=obs["depth"], **how)
    np.testing.assert_array_equal(first.embedding, again.embedding)
    for other in (None, obs["depth"][::-1].to_numpy()):
        with pytest.raises(InputError, match="other data"):
            harmonax.harmonize(Z, obs["batch"], covariates=other, **how)


def test_what_cannot_be_a_covariate_is_refused():
    Z, obs, _ = study(n=200)
    obs["text"], obs["one"], obs["gaps"] = "a", 3.1, obs["depth"].where(obs["depth"] > 90)
    how = {"rng": 0, "progress": False}
    for wrong, says in (
        ("text", "'text' has dtype"),
        ("one", "'one' has one value in all cells"),
        ("gaps", "'gaps' has NaN or infinite values in"),
        ([], "names no column"),
        (["depth", "depth"], "more than once"),
        ("batch", "batch is a batch variable"),
        (np.arange(199.0), "199 cells but the batch labels have 200"),
        (np.zeros((200, 2, 2)), "allowed are"),
    ):
        with pytest.raises(InputError, match=says):
            harmonax.harmonize(Z, obs, batch_key="batch", covariates=wrong, **how)
    with pytest.raises(MissingKeyError, match="no column 'deep'; did you mean 'depth'"):
        harmonax.harmonize(Z, obs, batch_key="batch", covariates="deep", **how)
    with pytest.raises(InputError, match="the batches are not a table"):
        harmonax.harmonize(Z, obs["batch"].to_numpy(), covariates="depth", **how)
    # One value among the cells that may move explains nothing.
    moves = (obs["batch"] != 0).to_numpy()
    with pytest.raises(InputError, match="all cells that may move"):
        harmonax.harmonize(Z, obs["batch"], reference=0, covariates=np.where(moves, 1.0, obs["depth"]), **how)
    # A number so large that its square is infinite is a number all the same.
    huge = harmonax.harmonize(Z, obs["batch"], covariates=obs["depth"] * 2.0**1000, **how).embedding
    np.testing.assert_array_equal(huge, harmonax.harmonize(Z, obs["batch"], covariates=obs["depth"], **how).embedding)


def test_all_interfaces_have_them(tmp_path):
    Z, obs, _ = study(n=300)
    obs.index = [f"cell{i}" for i in obs.index]
    how = {"rng": 0, "progress": False, "max_iter_harmony": 3}
    want = harmonax.harmonize(Z, obs, batch_key="batch", covariates="depth", dtype=float, **how).embedding
    adata = anndata.AnnData(obs=obs, obsm={"X_pca": Z})
    adata.write_h5ad(tmp_path / "in.h5ad")
    harmonax.pp.harmony_integrate(adata, "batch", rng=0, max_iter_harmony=3, covariates="depth")
    np.testing.assert_array_equal(adata.obsm["X_pca_harmony"], want)
    assert list(adata.uns["harmonax"]["covariates"]) == ["depth"]
    ho = harmonax.run_harmony(
        Z, obs, "batch", verbose=False, max_iter_harmony=3, max_iter_kmeans=200, epsilon_cluster=1e-5,
        epsilon_harmony=1e-4, covariates=["depth"],
    )  # fmt: skip
    np.testing.assert_array_equal(ho.Z_corr, want)
    pd.DataFrame(Z, index=obs.index).to_csv(tmp_path / "pca.csv")
    obs.to_csv(tmp_path / "cells.csv")
    for job in (
        FileJob(str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad"), "batch", covariates="depth"),
        FileJob(
            str(tmp_path / "pca.csv"), str(tmp_path / "out.npy"), "batch", covariates=["depth"],
            metadata=str(tmp_path / "cells.csv"),
        ),
    ):  # fmt: skip
        made = integrate_file(job, HarmonyParams(max_iter_harmony=3), rng=0, dtype=float, progress=False)
        assert made.roles == {"covariates": ["depth"]}
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_allclose(written.obsm["X_pca_harmony"], want, atol=1e-6)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), want, atol=1e-6)
    assert written.uns["harmonax"]["covariates"].tolist() == ["depth"]
    words = [
        "integrate", str(tmp_path / "in.h5ad"), "-o", str(tmp_path / "cli.npy"), "--batch-key", "batch",
        "--covariate", "depth", "--max-iter-harmony", "3", "--quiet",
    ]  # fmt: skip
    assert run(words) == 0
    np.testing.assert_allclose(np.load(tmp_path / "cli.npy"), want, atol=1e-4)
    assert WorkflowOptions(batch_key="batch", covariates="depth").covariates == ("depth",)
    with pytest.raises(InputError, match="covariates are for Harmony"):
        WorkflowOptions(batch_key="batch", corrector="mmd", covariates="depth")


def test_a_model_says_that_it_does_not_know_them():
    Z, obs, _ = study(n=300)
    result = harmonax.harmonize(Z, obs, batch_key="batch", covariates="depth", rng=0, progress=False)
    with pytest.warns(HarmonaxWarning, match="no covariates: what depth do to new cells stays"):
        harmonax.HarmonyModel.from_result(result)
