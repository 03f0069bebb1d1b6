"""Clear errors before any work, from every front; and what looks odd but just works."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import harmonax
from harmonax import HarmonyParams, errors, harmonize, run_harmony
from harmonax.errors import HarmonaxWarning, InputError, MissingKeyError, nearest
from harmonax.inputs.embedding import read_embedding
from harmonax.pp import harmony_integrate


def by_pp(adata, key="batch", **kwargs):
    harmony_integrate(adata, key, rng=0, **kwargs)
    return adata.obsm["X_pca_harmony"]


def by_run_harmony(adata, key="batch", **kwargs):
    return run_harmony(adata.obsm["X_pca"], adata.obs, key, verbose=False, **kwargs).Z_corr


def by_harmonize(adata, key="batch", **kwargs):
    names = {"combine_keys", "missing", "allow_many_levels", "dtype", "backend", "n_threads"} & set(kwargs)
    how = {name: kwargs.pop(name) for name in names}
    columns = adata.obs[[key] if isinstance(key, str) else list(key)]
    return harmonize(adata.obsm["X_pca"], columns, HarmonyParams(**kwargs), rng=0, **how).embedding


FRONTS = [by_pp, by_run_harmony, by_harmonize]
every_front = pytest.mark.parametrize("front", FRONTS)


@pytest.fixture(autouse=True)
def _no_work(request, monkeypatch, caplog):
    """Refusals come before any work: placing the cells is the first of it."""
    caplog.set_level(logging.CRITICAL, "harmonax")
    if "refused" in request.node.name:

        def fail(*args, **kwargs):
            raise AssertionError("work began before the input was checked")

        monkeypatch.setattr("harmonax.engine.run.make_cells", fail)


def refused(front, adata, message, error=InputError, **kwargs):
    before = set(adata.obsm) | set(adata.uns)
    with pytest.raises(error, match=message) as caught:
        front(adata, **kwargs)
    assert isinstance(caught.value, ValueError)
    assert set(adata.obsm) | set(adata.uns) == before
    return caught.value


@pytest.mark.parametrize("front", [by_pp, by_run_harmony])
def test_missing_column_refused(adata, front):
    error = refused(front, adata, r"no column 'bacth'; did you mean 'batch'\?$", MissingKeyError, key="bacth")
    assert isinstance(error, KeyError)


def test_missing_basis_refused(adata):
    refused(by_pp, adata, r"^obsm has no 'X_pac'; did you mean 'X_pca'\?$", MissingKeyError, basis="X_pac")
    del adata.obsm["X_pca"]
    refused(by_pp, adata, "^obsm has no 'X_pca'; there is nothing$", MissingKeyError)


@pytest.mark.parametrize("name", ["", "a/b", 3])
def test_unusable_adjusted_basis_refused(adata, name):
    refused(by_pp, adata, "adjusted_basis=.* must be a name", adjusted_basis=name)


@every_front
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_refused(adata, front, value):
    adata.obsm["X_pca"][[3, 50], [0, 1]] = value
    first = "row 3" if front is by_harmonize else f"cell '{adata.obs_names[3]}'"
    refused(front, adata, rf"NaN or infinite values in 2 cells \(first: {first}\)")


def test_non_finite_values_are_counted_across_slabs():
    Z = np.zeros((150_000, 2), np.float32)
    Z[[70_000, 70_001, 149_999], 1] = np.nan
    with pytest.raises(InputError, match=r"in 3 cells \(first: row 70000\)"):
        read_embedding(Z)


@every_front
def test_missing_labels_refused(adata, front):
    adata.obs.loc[adata.obs_names[[4, 8]], "batch"] = np.nan
    refused(front, adata, r"\['batch'\] has 2 missing values \(first: cell '" + adata.obs_names[4])
    adata.obs["donor"] = adata.obs["donor"].where(np.arange(180) != 6, None)
    refused(front, adata, r"\['donor'\] has 1 missing values", key="donor")


@every_front
def test_missing_labels_as_a_level(adata, front):
    adata.obs.loc[adata.obs_names[:30], "batch"] = np.nan
    assert np.isfinite(front(adata, missing="level")).all()


@every_front
def test_a_single_level_warns_and_returns_the_input(adata, front):
    adata.obs["batch"] = "only"
    with pytest.warns(HarmonaxWarning, match="^batch: every cell has the same batch") as caught:
        result = front(adata)
    assert [w.filename for w in caught] == [__file__]
    np.testing.assert_array_equal(result, adata.obsm["X_pca"])
    assert result is not adata.obsm["X_pca"]
    if front is by_pp:
        assert adata.uns["harmonax"]["status"] == "single_batch"


@every_front
@pytest.mark.parametrize(("n", "message"), [(0, "0 cells; at least 2"), (1, "1 cells; at least 2")])
def test_fewer_than_two_cells_refused(adata, front, n, message):
    refused(front, adata[:n].copy(), message)


@every_front
def test_an_embedding_without_features_refused(adata, front):
    adata.obsm["X_pca"] = np.zeros((180, 0))
    refused(front, adata, "no features")


@every_front
def test_two_cells_are_enough(adata, front):
    pair = adata[[int(np.argmax(adata.obs["batch"] == b)) for b in "ab"]].copy()
    assert np.isfinite(front(pair)).all()


@pytest.mark.parametrize(("front", "name"), [(by_pp, "n_clusters"), (by_run_harmony, "nclust")])
def test_more_clusters_than_cells_refused(adata, front, name):
    refused(front, adata, "n_clusters=181 is more than the 180 cells", **{name: 181})


def test_lengths_that_differ_refused(adata):
    Z, batch = adata.obsm["X_pca"], adata.obs["batch"]
    for labels in (batch[:-1], [*batch.tolist(), "a"], {"batch": batch[:-1]}, adata.obs[["batch"]][:-1]):
        with pytest.raises(InputError, match=r"180 cells but the batch labels have (179|181)"):
            harmonize(Z, labels)


@every_front
@pytest.mark.parametrize("name", ["theta", "ridge_lambda"])
def test_wrong_number_of_values_refused(adata, front, name):
    argument = "lamb" if front is by_run_harmony and name == "ridge_lambda" else name
    message = rf"{name} has 4 values; allowed are 1, one per batch variable \(2\) or one per level .*\(5\)"
    refused(front, adata, message, key=["batch", "donor"], **{argument: [1.0] * 4})


@every_front
def test_wrong_number_of_sigmas_refused(adata, front):
    refused(front, adata, r"sigma has 2 values; allowed are 1 or one per cluster \(6\)", sigma=[0.1, 0.1])


BAD = [
    ("theta", [-1.0, np.nan, np.inf, "two", [1.0, -1.0], [], [[1.0]]]),
    ("sigma", [0.0, -0.1, np.nan, None, [0.1, 0.0]]),
    ("tau", [-1, np.nan, None]),
    ("ridge_lambda", [0.0, -2.0, np.nan, [1.0, 0.0], None]),
    ("alpha", [0.0, -0.2, np.nan, None]),
    ("batch_prune_threshold", [-1e-5, np.nan, "no"]),
    ("block_proportion", [0.0, -0.05, 1.5, np.nan, None]),
    ("n_clusters", [0, -3, 2.5, "ten", True, np.nan]),
    ("max_iter_harmony", [0, -1, 1.5, np.nan, np.inf, None]),
    ("max_iter_clustering", [0, 1.5]),
    ("tol_harmony", ["small", np.nan]),
    ("tol_clustering", ["small", np.inf]),
    ("flavor", ["harmony3", None, 2]),
    ("correction_method", ["quick"]),
    ("precision", ["float16", np.float32]),
    ("ridge", ["none"]),
]


@pytest.mark.parametrize("front", [by_pp, by_harmonize])
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD for value in values])
def test_parameter_out_of_range_refused(adata, front, name, value):
    refused(front, adata, rf"^{name}\b", **{name: value})


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("n_threads", [0, -1, 1.5, "two", True])
def test_threads_out_of_range_refused(adata, front, n_threads):
    refused(front, adata, "^n_threads=", n_threads=n_threads)


@pytest.mark.parametrize("front", FRONTS)
def test_unknown_backend_refused(adata, front):
    refused(front, adata, "^backend='gpu' is not known; allowed are", backend="gpu")


@pytest.mark.parametrize("front", [by_pp, by_harmonize])
@pytest.mark.parametrize("dtype", ["float16", int, "nonsense"])
def test_unknown_dtype_refused(adata, front, dtype):
    refused(front, adata, "^dtype=.* is not known; allowed are float32 and float64", dtype=dtype)


def test_dynamic_ridge_of_harmony1_refused(adata):
    refused(by_pp, adata, "ridge='dynamic' belongs to harmony2", flavor="harmony1", ridge="dynamic")


@pytest.mark.parametrize("rng", [-1, 1.5, "seed", True])
def test_unusable_seed_refused(adata, rng):
    with pytest.raises(InputError, match=r"^rng="):
        harmony_integrate(adata, "batch", rng=rng)


@every_front
def test_a_measurement_or_barcode_as_batch_refused(adata, front):
    adata.obs["depth"] = np.random.default_rng(0).normal(size=180)
    adata.obs["barcode"] = adata.obs_names
    refused(front, adata, "'depth'.*looks like a measurement", key="depth")
    refused(front, adata, "'barcode'.*looks like a cell barcode", key="barcode")


@every_front
def test_a_barcode_as_batch_is_run_if_insisted_on(adata, front):
    adata.obs["barcode"] = adata.obs_names
    assert np.isfinite(front(adata, key="barcode", allow_many_levels=True)).all()


@pytest.mark.parametrize(
    ("Z", "message"),
    [
        (np.zeros(5), r"shape \(5,\)"),
        (np.zeros((5, 2, 2)), r"shape \(5, 2, 2\)"),
        (np.array([["a", "b"]] * 5), "dtype <U1"),
        (np.zeros((5, 2), complex), "dtype complex128"),
        (pd.DataFrame({"x": ["a"] * 5}), "not an array of numbers"),
        ([[1.0], [1.0, 2.0]], "not an array of numbers"),
        (pd.DataFrame({"x": pd.array([1, None], dtype="Int64")}), "NaN or infinite values in 1 cells"),
        (np.full((5, 2), 1e30), "values up to 1.0e[+]30; allowed is up to 1e[+]15"),
        (np.full((5, 2), 1e-30), "no value above 1.0e-30; allowed is from 1e-15 on"),
    ],
)
def test_what_is_no_embedding_refused(Z, message):
    with pytest.raises(InputError, match=message):
        read_embedding(Z)


@pytest.mark.parametrize(
    ("dtype", "read_as"),
    [("int32", "f8"), ("float16", "f4"), (">f4", "f4"), (">f8", "f8"), ("bool", "f8"), (np.longdouble, "f8")],
)
def test_embeddings_of_other_numbers_are_read(dtype, read_as):
    Z = read_embedding(np.eye(3).astype(dtype)).source
    assert Z.dtype == np.dtype(read_as)
    np.testing.assert_array_equal(Z, np.eye(3))


def test_a_float_embedding_is_not_copied(adata):
    assert read_embedding(adata.obsm["X_pca"]).source is adata.obsm["X_pca"]


# What looks odd but just works, in both flavors.

just_works = pytest.mark.parametrize("flavor", ["harmony1", "harmony2"])


def runs(adata, key="batch", **kwargs):
    result = by_pp(adata, key, max_iter_harmony=3, **kwargs)
    assert np.isfinite(result).all()
    assert np.isfinite(adata.uns["harmonax"]["history"]["objective"]).all()
    return result


@just_works
def test_constant_and_repeated_features(adata, flavor):
    adata.obsm["X_pca"] = np.column_stack([adata.obsm["X_pca"], np.full(180, 3.0), np.zeros(180)])
    result = runs(adata, flavor=flavor)
    np.testing.assert_allclose(result[:, 6:], [[3.0, 0.0]] * 180, atol=1e-4)


@just_works
def test_a_constant_batch_column_beside_another(adata, flavor):
    adata.obs["constant"] = 1
    runs(adata, ["batch", "constant"], flavor=flavor)


@just_works
def test_two_columns_that_say_the_same(adata, flavor):
    adata.obs["again"] = adata.obs["batch"].astype(str) + "!"
    runs(adata, ["batch", "again"], flavor=flavor)


@just_works
def test_zero_rows(adata, flavor):
    adata.obsm["X_pca"][:20] = 0.0
    runs(adata, flavor=flavor)


@just_works
def test_an_embedding_of_zeros(adata, flavor):
    adata.obsm["X_pca"][:] = 0.0
    np.testing.assert_array_equal(runs(adata, flavor=flavor), 0.0)


@just_works
def test_one_cell_batches(adata, flavor):
    adata.obs["batch"] = np.where(np.arange(180) < 3, adata.obs_names, "rest")
    runs(adata, flavor=flavor)


@just_works
def test_unused_categories_change_nothing(adata, flavor):
    plain = runs(adata, flavor=flavor)
    adata.obs["batch"] = adata.obs["batch"].cat.add_categories(["unused", "also unused"])
    np.testing.assert_array_equal(runs(adata, flavor=flavor), plain)
    assert list(adata.uns["harmonax"]["levels"]["level"]) == ["a", "b", "c"]


@just_works
@pytest.mark.parametrize("labels", [{"a": 1, "b": "2", "c": 3.5}, {"a": True, "b": "x", "c": ("t", 1)}])
def test_labels_of_mixed_types(adata, flavor, labels):
    adata.obs["batch"] = pd.Series([labels[b] for b in adata.obs["batch"]], index=adata.obs_names, dtype=object)
    runs(adata, flavor=flavor)


# The errors themselves.


def test_the_tree_is_as_drawn():
    assert issubclass(InputError, (errors.HarmonaxError, ValueError))
    assert issubclass(MissingKeyError, InputError)
    assert issubclass(MissingKeyError, KeyError)
    assert issubclass(errors.FileFormatError, InputError)
    assert issubclass(errors.OutputError, OSError)
    assert issubclass(errors.MissingExtraError, ImportError)
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, Exception):
            assert issubclass(kind, (errors.HarmonaxError, UserWarning)), name
            assert name in errors.__doc__


def test_a_missing_key_reads_as_text():
    assert str(MissingKeyError("obs has no column 'x'")) == "obs has no column 'x'"


def test_nearest_looks_past_case_and_lists_what_there_is():
    assert nearest("BATCH", ["batch"]) == "did you mean 'batch'?"
    assert nearest("x", []) == "there is nothing"
    many = [f"column{i}" for i in range(12)]
    assert nearest("zzz", many).endswith("'column9' and 2 more")


def test_importing_loads_neither_scanpy_nor_jax_nor_pyplot():
    code = f"import sys; sys.path[:0] = {sys.path!r}; import harmonax; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "harmonax" in loaded
    assert not {"scanpy", "jax", "matplotlib.pyplot", "torch"} & set(loaded)
    assert harmonax.__version__


def test_a_block_proportion_near_zero_makes_one_block_a_cell():
    assert HarmonyParams(block_proportion=1e-320).n_blocks(50) == 50


@pytest.mark.parametrize("name", ["sigma", "theta", "ridge_lambda"])
def test_values_that_would_overflow_are_refused(name):
    with pytest.raises(InputError, match=rf"{name}=1e[+]300 must be a number .* 1e[+]"):
        HarmonyParams(**{name: 1e300})


def test_any_number_of_threads_is_taken():
    Z = np.random.default_rng(0).normal(size=(60, 3))
    one = harmonize(Z, np.arange(60) % 2, rng=0, n_threads=1).embedding
    np.testing.assert_array_equal(harmonize(Z, np.arange(60) % 2, rng=0, n_threads=10**12).embedding, one)
