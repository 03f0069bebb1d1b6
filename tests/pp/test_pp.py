"""`harmonax.pp.harmony_integrate`: scanpy's signature, harmonypy's spellings, AnnData in all its forms."""

from __future__ import annotations

import inspect
import logging

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from harmonax import HarmonyParams, harmonize
from harmonax.errors import HarmonaxWarning, InputError
from harmonax.pp import harmony_integrate

SHORT = {"max_iter_harmony": 2, "rng": 0}


@pytest.fixture(autouse=True)
def _silent(caplog):
    # What stopped early says so; here only where a test asks.
    caplog.set_level(logging.CRITICAL, "harmonax")


def corrected(adata, key="batch", **kwargs):
    copy = adata.copy()
    harmony_integrate(copy, key, **kwargs)
    return copy.obsm["X_pca_harmony"]


def run_params(adata, **kwargs):
    harmony_integrate(adata, "batch", **{**SHORT, **kwargs})
    return adata.uns["harmonax"]["params"]


def test_signature_is_the_documented_one():
    documented = dict(
        basis="X_pca",
        adjusted_basis="X_pca_harmony",
        dtype=np.float64,
        flavor="harmony2",
        n_clusters=None,
        max_iter_harmony=10,
        max_iter_clustering=200,
        tol_harmony=1e-4,
        tol_clustering=1e-5,
        sigma=0.1,
        theta=2.0,
        tau=0,
        ridge_lambda=1.0,
        alpha=0.2,
        batch_prune_threshold=1e-5,
        correction_method="fast",
        block_proportion=0.05,
        rng=None,
    )
    parameters = inspect.signature(harmony_integrate).parameters
    assert list(parameters)[:2] == ["adata", "key"]
    assert list(parameters)[2 : 2 + len(documented)] == list(documented)
    assert {name: parameters[name].default for name in documented} == documented


def test_defaults_are_those_of_harmonize_but_for_the_rounds(adata):
    harmony_integrate(adata, "batch", rng=3)
    same = harmonize(
        adata.obsm["X_pca"], adata.obs["batch"], HarmonyParams(max_iter_harmony=10), rng=3, dtype="float64"
    )
    np.testing.assert_array_equal(adata.obsm["X_pca_harmony"], same.embedding)


def test_batches_come_together_and_groups_stay_apart(adata):
    harmony_integrate(adata, "batch", max_iter_harmony=50, rng=0)
    before, after = adata.obsm["X_pca"], adata.obsm["X_pca_harmony"]
    group = adata.obs["group"].to_numpy()

    def spread(Z):
        means = [Z[(group == g) & (adata.obs["batch"] == b)].mean(axis=0) for g in "TB" for b in "abc"]
        return np.ptp(np.reshape(means, (2, 3, -1)), axis=1).max()

    assert spread(after) < 0.5 * spread(before)
    assert after[group == "T", 0].min() > after[group == "B", 0].max()


def test_input_is_untouched_and_dtype_is_that_of_the_result(adata):
    before = adata.obsm["X_pca"].copy()
    assert corrected(adata, **SHORT).dtype == np.float64
    assert corrected(adata, dtype="float32", **SHORT).dtype == np.float32
    np.testing.assert_array_equal(adata.obsm["X_pca"], before)
    # dtype rounds the same answer; precision changes the arithmetic.
    np.testing.assert_array_equal(corrected(adata, dtype="float32", **SHORT), corrected(adata, **SHORT).astype("f4"))
    assert not np.array_equal(corrected(adata, precision="float64", **SHORT), corrected(adata, **SHORT))


def test_one_seed_gives_the_same_bits_whatever_the_threads(adata):
    one = corrected(adata, rng=5, n_threads=1)
    np.testing.assert_array_equal(one, corrected(adata, rng=5, n_threads=3))
    np.testing.assert_array_equal(one, corrected(adata, rng=np.int64(5)))
    assert not np.array_equal(one, corrected(adata, rng=6))


def test_a_generator_is_advanced_and_the_seed_kept(adata):
    gen = np.random.default_rng(1)
    first = corrected(adata, rng=gen, **{"max_iter_harmony": 1})
    harmony_integrate(adata, "batch", rng=gen, max_iter_harmony=1)
    assert not np.array_equal(first, adata.obsm["X_pca_harmony"])
    again = corrected(adata, rng=adata.uns["harmonax"]["seed"], max_iter_harmony=1)
    np.testing.assert_array_equal(again, adata.obsm["X_pca_harmony"])


def test_runs_under_several_names_coexist(adata):
    adata.obsm["X_other"] = adata.obsm["X_pca"][:, :4]
    harmony_integrate(adata, "batch", **SHORT)
    harmony_integrate(adata, "donor", basis="X_other", adjusted_basis="X_mine", **SHORT)
    assert adata.obsm["X_pca_harmony"].shape == (180, 6)
    assert adata.obsm["X_mine"].shape == (180, 4)
    run = adata.uns["harmonax"]
    assert (run["basis"], run["adjusted_basis"]) == ("X_other", "X_mine")
    assert list(run["batch_keys"]) == ["donor"]


@pytest.mark.parametrize("keys", [["batch", "donor"], ("batch", "donor"), pd.Index(["batch", "donor"])])
def test_several_keys_are_separate_variables_unless_combined(adata, keys):
    harmony_integrate(adata, keys, theta=[2, 1], **SHORT)
    assert list(adata.uns["harmonax"]["levels"]["level"]) == ["a", "b", "c", "d1", "d2"]
    harmony_integrate(adata, keys, combine_keys=True, **SHORT)
    assert list(adata.uns["harmonax"]["batch_keys"]) == ["batch+donor"]
    assert len(adata.uns["harmonax"]["levels"]["level"]) == 6


def test_theta_zero_removes_the_penalty_not_the_ridge_step(adata):
    moved = np.abs(corrected(adata, theta=0, **SHORT) - adata.obsm["X_pca"]).max(axis=1)
    assert (moved > 1e-3).mean() > 0.9


SPELLINGS = [
    ("nclust", 4, "n_clusters", 4),
    ("block_size", 0.2, "block_proportion", 0.2),
    ("max_iter_kmeans", 2, "max_iter_clustering", 2),
    ("epsilon_cluster", 0.5, "tol_clustering", 0.5),
    ("epsilon_harmony", 0.5, "tol_harmony", 0.5),
    ("batch_prop_cutoff", 0.3, "batch_prune_threshold", 0.3),
    ("lamb", [2.0], "ridge_lambda", [2.0]),
    ("ncores", 2, "n_threads", 2),
    ("random_state", 9, "rng", 9),
]


@pytest.mark.parametrize(("theirs", "value", "ours", "same"), SPELLINGS)
def test_harmonypy_spellings_mean_ours(adata, theirs, value, ours, same):
    base = {"max_iter_harmony": 3} if ours == "rng" else {"max_iter_harmony": 3, "rng": 1}
    by_their_name = corrected(adata, **base, **{theirs: value})
    np.testing.assert_array_equal(by_their_name, corrected(adata, **base, **{ours: same}))
    if ours not in ("n_threads", "rng"):
        assert not np.array_equal(by_their_name, corrected(adata, **base)), "the value changes nothing: a weak test"
    with pytest.raises(InputError, match=f"'{theirs}' and '{ours}' are two names"):
        corrected(adata, **{**base, theirs: value, ours: same})


@pytest.mark.parametrize(
    ("kwargs", "ridge"),
    [
        ({}, "dynamic"),
        ({"lamb": None}, "dynamic"),
        ({"lamb": -1}, "dynamic"),
        ({"lamb": 1.0}, "fixed"),
        ({"lamb": [1.0]}, "fixed"),
        ({"ridge_lambda": 1.0}, "dynamic"),
        ({"ridge_lambda": 2.0}, "fixed"),
        ({"ridge": "fixed"}, "fixed"),
        ({"flavor": "harmony1"}, "fixed"),
        ({"flavor": "harmony1", "lamb": None}, "fixed"),
    ],
)
def test_a_given_lambda_means_a_fixed_ridge(adata, kwargs, ridge):
    assert run_params(adata, **kwargs)["ridge"] == ridge


@pytest.mark.parametrize(
    ("kwargs", "idle"),
    [
        ({"flavor": "harmony1", "alpha": 0.5}, "alpha"),
        ({"flavor": "harmony1", "batch_prune_threshold": None}, "batch_prune_threshold"),
        ({"lamb": 1.0, "alpha": 0.5}, "alpha"),
        ({"ridge": "dynamic", "ridge_lambda": 3.0}, "ridge_lambda"),
    ],
)
def test_a_parameter_without_effect_warns_at_the_callers_line(adata, kwargs, idle):
    with pytest.warns(HarmonaxWarning, match=f"^{idle} has no effect") as caught:
        run_params(adata, **kwargs)
    assert [w.filename for w in caught] == [__file__]


def test_what_both_flavors_use_does_not_warn(adata):
    run_params(adata, flavor="harmony1", tau=3, theta=1, ridge_lambda=2, alpha=0.2, batch_prune_threshold=1e-5)
    run_params(adata, tau=3, theta=1, alpha=0.5, batch_prune_threshold=None)


@pytest.mark.parametrize(("flavor", "values"), [("harmony2", (4, 1e-2, 1e-3)), ("harmony1", (200, 1e-4, 1e-5))])
def test_none_means_the_reference_programs_value_as_in_scanpy(adata, flavor, values):
    names = ("max_iter_clustering", "tol_harmony", "tol_clustering")
    params = run_params(adata, flavor=flavor, **dict.fromkeys(names))
    assert tuple(params[name] for name in names) == values


def test_theta_none_is_harmonypys_default(adata):
    assert run_params(adata, theta=None)["theta"] == 2.0


def test_unknown_keyword_names_the_nearest(adata):
    with pytest.raises(TypeError, match=r"harmony_integrate\(\).*'max_iter_harmny'; did you mean 'max_iter_harmony'"):
        harmony_integrate(adata, "batch", max_iter_harmny=3)
    with pytest.raises(TypeError, match="did you mean 'epsilon_harmony'"):
        harmony_integrate(adata, "batch", epsilon_harmon=3)
    assert "X_pca_harmony" not in adata.obsm


def test_a_view_becomes_its_own(adata):
    view = adata[adata.obs["group"] == "T"]
    same = view.copy()
    with pytest.warns(anndata.ImplicitModificationWarning):
        harmony_integrate(view, "batch", **SHORT)
    harmony_integrate(same, "batch", **SHORT)
    assert not view.is_view
    assert "X_pca_harmony" not in adata.obsm
    assert "harmonax" not in adata.uns
    np.testing.assert_array_equal(view.obsm["X_pca_harmony"], same.obsm["X_pca_harmony"])


def with_counts(adata):
    return anndata.AnnData(np.ones((adata.n_obs, 3), np.float32), obs=adata.obs, obsm=dict(adata.obsm))


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_backed_files(adata, tmp_path, mode):
    with_counts(adata).write_h5ad(tmp_path / "x.h5ad")
    backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed=mode)
    harmony_integrate(backed, "batch", **SHORT)
    assert backed.isbacked
    np.testing.assert_array_equal(backed.obsm["X_pca_harmony"], corrected(adata, **SHORT))
    backed.file.close()


def test_a_view_of_a_file_is_refused_before_any_work(adata, tmp_path):
    with_counts(adata).write_h5ad(tmp_path / "x.h5ad")
    backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    with pytest.raises(InputError, match="to_memory"):
        harmony_integrate(backed[:50], "batch")
    backed.file.close()


@pytest.mark.parametrize(
    "form",
    [
        lambda Z, names: pd.DataFrame(Z, index=names, columns=[f"PC{i}" for i in range(Z.shape[1])]),
        lambda Z, names: pd.DataFrame(Z, index=names, columns=list("uvwxyz")).astype("Float32"),
        lambda Z, names: sparse.csr_matrix(Z),
        lambda Z, names: np.asfortranarray(Z),
    ],
    ids=["frame", "nullable", "sparse", "fortran"],
)
def test_an_embedding_in_any_form_gives_an_array(adata, form):
    plain = corrected(adata, **SHORT)
    adata.obsm["X_pca"] = form(adata.obsm["X_pca"], adata.obs_names)
    result = corrected(adata, **SHORT)
    assert type(result) is np.ndarray
    np.testing.assert_array_equal(result, plain)


def test_progress_is_called_after_every_pass(adata):
    seen = []
    harmony_integrate(adata, "batch", progress=lambda *step: seen.append(step), **SHORT)
    history = adata.uns["harmonax"]["history"]
    assert [step[2] for step in seen] == list(history["objective_passes"])
    assert [step[0] for step in seen] == list(np.repeat([1, 2], history["passes"]))


def test_arrays_instead_of_an_anndata_are_sent_elsewhere():
    with pytest.raises(InputError, match=r"ndarray, not an AnnData.*harmonax\.harmonize"):
        harmony_integrate(np.zeros((5, 2)), "batch")
