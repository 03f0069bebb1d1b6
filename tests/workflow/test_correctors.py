"""The workflow with every corrector, and that one function and one entry make a corrector, as `pp.correctors` says."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any

import anndata as ad
import numpy as np
import pytest

from harmonax import cli
from harmonax.datasets import simulate
from harmonax.errors import InputError, MissingExtraError
from harmonax.pp.correctors import CORRECTORS, Corrector, corrector_of
from harmonax.report.parts import parts_of
from harmonax.report.points import choose_maps, correction
from harmonax.workflow import WorkflowOptions, run, run_files

pytest.importorskip("scanpy", reason="the workflow needs scanpy")
pytest.importorskip("igraph", reason="the workflow needs igraph")
pytest.importorskip("umap", reason="the workflow needs umap-learn")

QUICK: dict[str, Any] = {
    "skip": ("check", "umap", "umap_uncorrected", "markers"),
    **{"min_genes": 5, "n_top_genes": 60, "n_comps": 8, "resolutions": 0.5, "progress": False},
}


@pytest.fixture(scope="module")
def counts() -> ad.AnnData:
    adata = simulate(200, np.random.default_rng(3))
    return adata[:, :400].copy()


# Trained for a few steps, a correction is over-corrected, and says so.
@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:(mmd|wgan). :harmonax.errors.HarmonaxWarning")
@pytest.mark.parametrize("name", CORRECTORS)
def test_every_corrector_goes_from_counts_to_files(counts, tmp_path, monkeypatch, name):
    corrector = CORRECTORS[name]
    if corrector.modules:
        pytest.importorskip("optax", reason=f"{name} needs the extra {corrector.extra}")
        quick = functools.partial(corrector.integrate, steps=5, latent_dim=4, hidden_dim=8, batch_size=32)
        few = functools.wraps(corrector.integrate)(quick)
        monkeypatch.setitem(CORRECTORS, name, replace(corrector, integrate=few))
    pytest.importorskip("scib_metrics", reason="the scores need scib-metrics")
    counts.write_h5ad(tmp_path / "in.h5ad")
    made = run_files(str(tmp_path / "in.h5ad"), tmp_path / "out", "batch", corrector=name, **QUICK)

    key = corrector.adjusted_basis
    assert made.obsm[key].shape[0] == made.n_obs
    assert np.isfinite(made.obsm[key]).all()
    assert made.uns["neighbors"]["params"]["use_rep"] == key
    assert list(made.uns["harmonax_evaluation"]["embeddings"]) == ["X_pca", key]
    assert made.uns["harmonax_diagnosis"]["adjusted_basis"] == key
    assert ("harmonax" in made.uns) == (name == "harmony")
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["correction"]["corrector"] == record["options"]["corrector"] == name
    assert record["correction"]["adjusted_basis"] == key
    parts = parts_of(tmp_path / "out" / "integrated.h5ad")
    assert correction(parts)[1].name == name
    assert [shown.key for shown in choose_maps(parts)] == ["X_pca", key]
    assert key in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def centre(adata: ad.AnnData, key: list[str], *, basis: str = "X_pca", adjusted_basis: str = "X_centred") -> None:
    """Move every batch's mean to nought: a toy."""
    Z, batch = np.array(adata.obsm[basis]), adata.obs[key[0]].to_numpy()
    for level in np.unique(batch):
        Z[batch == level] -= Z[batch == level].mean(axis=0)
    adata.obsm[adjusted_basis] = Z
    adata.uns["harmonax_centre"] = {"adjusted_basis": adjusted_basis, "batch_keys": np.array(key, object)}


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Corrector:
    made = Corrector("centre", centre, "X_centred", "embedding", "harmonax_centre", lambda record: "means moved")
    monkeypatch.setitem(CORRECTORS, made.name, made)
    return made


def test_a_new_corrector_runs_and_is_kept_where_it_is_there(toy, counts):
    skip = {**QUICK, "skip": (*QUICK["skip"], "evaluate", "diagnose")}
    made = run(counts, "batch", corrector="centre", **skip)
    steps = made.uns["harmonax_workflow"]["steps"].set_index("step")
    assert steps.loc["harmony", "note"] == "means moved"
    assert made.uns["neighbors"]["params"]["use_rep"] == "X_centred"
    again = run(made, "batch", corrector="centre", **skip).uns["harmonax_workflow"]["steps"].set_index("step")
    assert again.loc["harmony", "status"] == again.loc["neighbors", "status"] == "kept"
    other = run(made, "batch", **skip)
    assert other.uns["neighbors"]["params"]["use_rep"] == "X_pca_harmony"


def test_an_unknown_corrector_is_refused_with_those_there_are(tmp_path, capsys):
    with pytest.raises(InputError, match=r"corrector='mnd' is not known; allowed are 'harmony', 'mmd', 'wgan'"):
        WorkflowOptions(corrector="mnd")
    with pytest.raises(InputError, match="takes no parameters of Harmony"):
        WorkflowOptions(corrector="mmd").replace(theta=1)
    with pytest.raises(InputError, match="has no such model"):
        WorkflowOptions(corrector="mmd", save_model=True)
    given = ["run", "in.h5ad", "-o", str(tmp_path / "out"), "--batch-key", "batch", "--corrector", "mnd"]
    assert cli.run(given) == 3
    assert "corrector='mnd' is not known" in capsys.readouterr().err


def test_a_missing_package_is_named_before_any_work(counts, tmp_path, monkeypatch):
    monkeypatch.setitem(CORRECTORS, "mmd", replace(corrector_of("mmd"), modules=("a_missing_jax",)))
    seen: list[Any] = []
    with pytest.raises(MissingExtraError, match=r"pip install 'harmonax\[jax\]'"):
        run(counts, "batch", corrector="mmd", **{**QUICK, "progress": seen.append})
    assert not seen


def test_tune_is_told_what_stays(counts, monkeypatch):
    seen = {}

    def stop(adata, key, **given):
        seen.update(given)
        raise InputError("seen")

    monkeypatch.setattr("harmonax.tl.sweep", stop)
    counts.obs["sex"] = np.where(np.arange(counts.n_obs) % 2, "m", "f")
    roles = {"reference": str(counts.obs["batch"].iloc[0]), "protect": "sex", "covariates": "total_counts"}
    with pytest.raises(InputError, match="seen"):
        run(counts, "batch", tune=True, **roles, **QUICK)
    asked = {"reference": {"batch": [roles["reference"]]}, "protect": ("sex",), "covariates": ("total_counts",)}
    assert asked.items() <= seen.items()


@pytest.mark.thorough
def test_tune_corrects_with_what_the_sweep_chooses(counts, tmp_path):
    few = QUICK | {"skip": (*QUICK["skip"], "evaluate", "diagnose")}
    counts.write_h5ad(tmp_path / "in.h5ad")
    made = run_files(str(tmp_path / "in.h5ad"), tmp_path / "out", "batch", tune=True, **few)
    sweep = made.uns["harmonax"]["sweep"]
    chosen = sweep[sweep["chosen"].astype(bool)].iloc[0]
    # The defaults stay where no other run is better by more than chance.
    assert chosen.name in (sweep.index[0], sweep["score"].idxmax())
    params = made.uns["harmonax"]["params"]
    assert (params["theta"], params["sigma"]) == (chosen["theta"], chosen["sigma"])
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["options"]["tune"] is True
    assert ad.read_h5ad(tmp_path / "out" / "integrated.h5ad").uns["harmonax"]["sweep"].shape == sweep.shape
    with pytest.raises(InputError, match="tune"):
        WorkflowOptions(corrector="mmd", tune=True)
