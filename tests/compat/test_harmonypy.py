"""`run_harmony`: harmonypy's signature, orientation and result attributes (those of 2.1.0, as it was seen to run)."""

from __future__ import annotations

import inspect
import logging
import runpy
import sys

import numpy as np
import pandas as pd
import pytest

from harmonax import run_harmony
from harmonax.algorithm.seeding import unit
from harmonax.errors import HarmonaxWarning, InputError


@pytest.fixture(autouse=True)
def _silent(caplog):
    caplog.set_level(logging.CRITICAL, "harmonax")


@pytest.fixture
def Z(adata):
    return np.asarray(adata.obsm["X_pca"], np.float64)


@pytest.fixture
def meta(adata):
    return adata.obs


def test_signature_is_harmonypys():
    documented = dict(
        theta=None,
        lamb=None,
        sigma=0.1,
        nclust=None,
        tau=0,
        block_size=0.05,
        max_iter_harmony=10,
        max_iter_kmeans=4,
        epsilon_cluster=1e-3,
        epsilon_harmony=1e-2,
        alpha=0.2,
        batch_prop_cutoff=1e-5,
        verbose=True,
        random_state=0,
        ncores=0,
    )
    parameters = inspect.signature(run_harmony).parameters
    assert list(parameters)[: 3 + len(documented)] == ["data_mat", "meta_data", "vars_use", *documented]
    assert {name: parameters[name].default for name in documented} == documented
    later = list(parameters.values())[3 + len(documented) :]
    assert all(p.kind is p.KEYWORD_ONLY for p in later)


def test_attributes_are_shaped_as_in_harmonypy_2(Z, meta):
    ho = run_harmony(Z, meta, ["batch"], max_iter_harmony=3, epsilon_harmony=0.0)
    assert ho.K == 6
    assert ho.Z_corr.shape == ho.Z_orig.shape == ho.Z_cos.shape == (180, 6)
    assert ho.R.shape == (180, 6)
    assert ho.Y.shape == (6, ho.K)
    assert {a.dtype for a in (ho.Z_corr, ho.Z_orig, ho.Z_cos, ho.R, ho.Y)} == {np.dtype("float64")}
    assert ho.result() is ho.Z_corr
    assert ho.kmeans_rounds == [4, 4, 4]
    assert len(ho.objective_harmony) == 4
    assert len(ho.objective_kmeans) == 13
    # Both begin with J_0; a round's entry is its last pass.
    assert ho.objective_kmeans[::4] == ho.objective_harmony
    assert all(type(v) is float for v in ho.objective_kmeans)
    np.testing.assert_array_equal(ho.Z_orig, Z)
    np.testing.assert_allclose(ho.Z_cos, unit(ho.Z_corr))
    np.testing.assert_allclose(np.linalg.norm(ho.Y, axis=0), 1.0)
    np.testing.assert_allclose(ho.R.sum(axis=1), 1.0, atol=1e-5)
    assert ho.R is ho.R
    assert "K=6: max_iterations after 3 rounds" in repr(ho)


def test_R_and_Y_are_those_of_the_last_correction(Z, meta):
    """In harmonypy 2.1.0, Z_corr = Z - R W and Y = unit(W_0), with W from its own R: so here."""
    ho = run_harmony(Z, meta, "batch", max_iter_harmony=3, precision="float64", batch_prop_cutoff=None)
    codes = meta["batch"].cat.codes.to_numpy()
    counts = np.bincount(codes)
    W0, correction = np.empty((ho.K, 6)), np.zeros_like(Z)
    X = np.column_stack([np.ones(len(Z)), np.eye(3)[codes]])
    for k, r in enumerate(ho.R.T):
        lam = np.concatenate([[0.0], 0.2 * counts / len(Z) * r.sum()])
        W = np.linalg.solve(X.T @ (r[:, None] * X) + np.diag(lam), X.T @ (r[:, None] * Z))
        W0[k] = W[0]
        correction += r[:, None] * W[1 + codes]
    np.testing.assert_allclose(ho.Z_corr, Z - correction, atol=1e-9)
    np.testing.assert_allclose(ho.Y, unit(W0).T, atol=1e-9)


@pytest.mark.parametrize(
    "form",
    [
        lambda Z, names: Z.T,
        lambda Z, names: pd.DataFrame(Z, index=names),
        lambda Z, names: pd.DataFrame(Z, index=names).T,
        lambda Z, names: Z.tolist(),
        lambda Z, names: Z.T.tolist(),
    ],
    ids=["transposed", "frame", "frame transposed", "list", "list transposed"],
)
def test_data_in_either_orientation(Z, meta, form):
    plain = run_harmony(Z, meta, "batch")
    other = run_harmony(form(Z, meta.index), meta, "batch")
    np.testing.assert_array_equal(other.Z_corr, plain.Z_corr)
    assert type(other.Z_corr) is np.ndarray
    np.testing.assert_array_equal(other.Z_orig, Z)


def test_a_square_is_cells_by_features(Z, meta):
    ho = run_harmony(Z[:6], meta[:6].assign(batch=list("aabbab")), "batch")
    np.testing.assert_array_equal(ho.Z_orig, Z[:6])


@pytest.mark.parametrize("form", [dict, lambda m: {k: list(v) for k, v in m.items()}, lambda m: m.to_dict("series")])
def test_meta_data_may_be_a_dictionary(Z, meta, form):
    one, two = (run_harmony(Z, m, ["batch", "donor"]) for m in (meta, form(meta)))
    np.testing.assert_array_equal(one.Z_corr, two.Z_corr)


@pytest.mark.parametrize("theta", [1.5, [1.5, 1.5], np.full(5, 1.5)])
@pytest.mark.parametrize("lamb", [2.0, [2.0, 2.0], [2.0] * 5])
@pytest.mark.parametrize("sigma", [0.15, [0.15] * 4])
def test_theta_lamb_and_sigma_as_number_or_list(Z, meta, theta, lamb, sigma):
    kwargs = {"nclust": 4, "max_iter_harmony": 1}
    one = run_harmony(Z, meta, ["batch", "donor"], theta=1.5, lamb=2.0, sigma=0.15, **kwargs)
    two = run_harmony(Z, meta, ["batch", "donor"], theta=theta, lamb=lamb, sigma=sigma, **kwargs)
    np.testing.assert_array_equal(one.Z_corr, two.Z_corr)
    assert two.details.params.ridge == "fixed"


def test_lamb_none_and_minus_one_are_dynamic(Z, meta):
    for lamb in (None, -1):
        assert run_harmony(Z, meta, "batch", lamb=lamb).details.params.ridge == "dynamic"


def test_every_parameter_arrives(Z, meta):
    ho = run_harmony(
        *(Z, meta, "batch", 1.0, 3.0, 0.2, 5, 4, 0.1, 7, 6, 1e-6, 1e-7, 0.2, 1e-3, False, 11, 1), precision="float64"
    )
    params = ho.details.params
    assert (params.theta, params.ridge_lambda, params.sigma, params.n_clusters) == (1.0, 3.0, 0.2, 5)
    assert (params.tau, params.block_proportion) == (4.0, 0.1)
    assert (params.max_iter_harmony, params.max_iter_clustering) == (7, 6)
    assert (params.tol_clustering, params.tol_harmony) == (1e-6, 1e-7)
    assert (params.alpha, params.batch_prune_threshold, params.precision) == (0.2, 1e-3, "float64")
    assert ho.details.seed == 11
    assert ho.details.backend["n_threads"] == 1


def test_threads_and_progress_under_either_name_but_not_both(Z, meta):
    assert run_harmony(Z, meta, "batch", n_threads=2).details.backend["n_threads"] == 2
    with pytest.raises(InputError, match="'ncores' and 'n_threads' are two names"):
        run_harmony(Z, meta, "batch", n_threads=2, ncores=3)
    seen = []
    run_harmony(Z, meta, "batch", progress=lambda *step: seen.append(step))
    assert seen


def test_verbose_decides_what_is_logged(Z, meta, caplog):
    caplog.set_level(logging.INFO, "harmonax")
    run_harmony(Z, meta, "batch")
    assert [r.levelname for r in caplog.records] == ["INFO"]
    run_harmony(Z, meta, "batch", max_iter_harmony=1, verbose=False)
    assert len(caplog.records) == 1


def test_one_batch_comes_back_unchanged(Z, meta):
    with pytest.warns(HarmonaxWarning, match="same batch"):
        ho = run_harmony(Z, meta.assign(batch="only"), "batch")
    np.testing.assert_array_equal(ho.Z_corr, Z)
    assert (ho.K, ho.R.shape, ho.Y.shape) == (0, (180, 0), (6, 0))
    assert ho.objective_harmony == ho.objective_kmeans == ho.kmeans_rounds == []


def test_missing_column_is_a_value_error_that_names_it(Z, meta):
    with pytest.raises(ValueError, match=r"meta_data has no column 'bacth'; did you mean 'batch'\?"):
        run_harmony(Z, meta, ["bacth"])


def test_neither_side_being_the_cells_is_refused(Z, meta):
    with pytest.raises(InputError, match=r"shape \(179, 6\) but meta_data has 180 cells"):
        run_harmony(Z[:-1], meta, "batch")
    with pytest.raises(InputError, match=r"shape \(180,\)"):
        run_harmony(Z[:, 0], meta, "batch")


def test_the_same_cells_in_another_order_are_refused(Z, meta):
    frame = pd.DataFrame(Z, index=meta.index)
    with pytest.raises(InputError, match="different order"):
        run_harmony(frame.iloc[::-1], meta, "batch")
    with pytest.raises(InputError, match="different order"):
        run_harmony(frame.iloc[::-1].T, meta, "batch")
    # Other names, or none, are matched by place as in harmonypy.
    run_harmony(frame.reset_index(drop=True), meta, "batch")


def test_meta_data_must_be_a_table(Z, meta):
    with pytest.raises(InputError, match="meta_data is a ndarray"):
        run_harmony(Z, meta["batch"].to_numpy(), "batch")


@pytest.mark.parametrize("name", ["cell_lines_small", "pbmc_3500"])
def test_a_harmonypy_users_script(data_dir, name, monkeypatch, capsys):
    script = data_dir.parent / "design" / "scripts" / "harmonypy_user.py"
    if not script.is_file():
        pytest.skip(f"no {script}")
    monkeypatch.setattr(sys, "argv", [str(script), str(data_dir / f"{name}.h5ad")])
    runpy.run_path(str(script), run_name="__main__")
    assert "no column 'chemistry'" in capsys.readouterr().out
