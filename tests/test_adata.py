"""``adata.uns["harmonax"]`` goes to a file and comes back the same, whatever columns and levels are called."""

from __future__ import annotations

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest

import harmonax
from harmonax import __version__
from harmonax.adata import storable, stored_run
from harmonax.errors import HarmonaxWarning
from harmonax.pp import harmony_integrate

NAMES = ["a/b", "x.y", "__hidden", " ", "Ünïcode 漢"]


@pytest.fixture
def odd(adata):
    """Columns and levels with names that a path in a file cannot have."""
    gen = np.random.default_rng(0)
    for name in NAMES:
        adata.obs[name] = pd.Categorical(gen.choice(["p/q", "", ".", "..", "漢"], adata.n_obs))
    adata.obs["constant"] = "same"
    return adata


def assert_equal(stored, back):
    if isinstance(stored, dict):
        assert set(stored) == set(back)
        for key, value in stored.items():
            assert_equal(value, back[key])
    elif isinstance(stored, np.ndarray):
        assert stored.shape == back.shape
        assert stored.dtype.kind == back.dtype.kind or stored.dtype == object
        np.testing.assert_array_equal(np.asarray(back, stored.dtype), stored)
    else:
        assert stored == back or (np.isnan(stored) and np.isnan(back))
        assert isinstance(back, str) == isinstance(stored, str)


def round_trip(adata, path, kind):
    with warnings.catch_warnings():
        # anndata announces changes of its own formats.
        warnings.simplefilter("ignore")
        getattr(adata, f"write_{kind}")(path)
        return getattr(anndata, f"read_{kind}")(path)


RUNS = {
    "two variables": (["a/b", "x.y"], {"sigma": [0.1, 0.2], "n_clusters": 2, "theta": [1.0, 2.0]}),
    "all names, no pruning, a huge seed": (NAMES, {"batch_prune_threshold": None, "rng": 2**70}),
    "dense": ("batch", {"backend": "dense"}),
    "harmony1": ("batch", {"flavor": "harmony1", "tau": 2}),
    "one batch": ("constant", {}),
}


@pytest.mark.parametrize(
    ("run", "kind"), [*((run, "h5ad") for run in RUNS), ("two variables", "zarr"), ("one batch", "zarr")]
)
def test_round_trip(odd, tmp_path, run, kind):
    if kind == "zarr":
        pytest.importorskip("zarr", reason="zarr is not installed")
    key, kwargs = RUNS[run]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HarmonaxWarning)
        harmony_integrate(odd, key, **{"max_iter_harmony": 2, "rng": 0, "missing": "literal", **kwargs})
    # Such columns cannot themselves be stored; the record of a run with them can.
    odd.obs = odd.obs.drop(columns=NAMES)
    back = round_trip(odd, tmp_path / f"x.{kind}", kind)
    assert_equal(odd.uns["harmonax"], back.uns["harmonax"])
    np.testing.assert_array_equal(back.obsm["X_pca_harmony"], odd.obsm["X_pca_harmony"])


def test_the_record_says_what_was_run_and_how_it_ended(adata):
    harmony_integrate(adata, ["batch", "donor"], rng=4, max_iter_harmony=3, theta=[2, 1])
    run = adata.uns["harmonax"]
    assert (run["basis"], run["adjusted_basis"], run["seed"]) == ("X_pca", "X_pca_harmony", 4)
    assert run["status"] == "max_iterations"
    assert run["versions"]["harmonax"] == __version__
    assert run["params"]["max_iter_harmony"] == 3
    assert list(run["params"]["theta"]) == [2.0, 1.0]
    history = run["history"]
    assert len(history["objective"]) == 1 + len(history["passes"]) == 4
    assert len(history["objective_passes"]) == sum(history["passes"])
    change = (history["objective"][-2] - history["objective"][-1]) / abs(history["objective"][-2])
    assert run["last_change"] == pytest.approx(change)
    table = pd.DataFrame(run["levels"])
    counts = [*adata.obs["batch"].value_counts().loc[list("abc")], *adata.obs["donor"].value_counts().sort_index()]
    assert table["batch_key"].tolist() == ["batch"] * 3 + ["donor"] * 2
    assert table["level"].tolist() == ["a", "b", "c", "d1", "d2"]
    assert table["n_cells"].tolist() == counts


def test_the_cluster_mass_is_the_sum_of_the_assignments(adata):
    result = harmonax.harmonize(adata.obsm["X_pca"], adata.obs["batch"], rng=0)
    R, codes = result.assignments(), adata.obs["batch"].cat.codes.to_numpy()
    of_levels = np.stack([R[codes == level].sum(axis=0) for level in range(3)])
    np.testing.assert_allclose(result.cluster_mass, of_levels, rtol=1e-5, atol=1e-5)


def test_storable_keeps_what_files_keep():
    assert storable({"a": None, 3: {"b": None, "c": 1}}) == {"3": {"c": 1}}
    assert storable(2**63 - 1) == 2**63 - 1
    assert storable(2**63) == str(2**63)
    assert storable(["x", "y"]).dtype == object
    assert storable([1, 2]).dtype.kind == "i"
    assert storable([]).shape == (0,)


@pytest.mark.parametrize("record", ["of another program", np.arange(3), 7, None])
def test_a_record_of_something_else_is_no_run(adata, record):
    adata.uns["harmonax"] = record
    assert stored_run(adata.uns) == {}
    adata.obsm["X_pca_harmony"] = adata.obsm["X_pca"]
    assert harmonax.tl.diagnose(adata, "batch").verdict
