"""The workflow: what it makes, what it keeps, what it refuses, and that an interrupted run ends as any other."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from test_workflow_inputs import save, write_10x_folder

import harmonax
from harmonax.cli.terminal import messages
from harmonax.cli.workflow import run_workflow
from harmonax.datasets import simulate
from harmonax.errors import HarmonaxWarning, InputError, MissingKeyError, OutputError
from harmonax.io.annotated import quiet
from harmonax.workflow import STEPS, Done, WorkflowOptions, embed, run, run_files
from harmonax.workflow.options import STARTS
from harmonax.workflow.outputs import FIGURES, NAMES, RESULT
from harmonax.workflow.resume import FOLDER, digest
from harmonax.workflow.state import State

pytest.importorskip("scanpy")
pytest.importorskip("igraph")
pytest.importorskip("umap")

# Scores and diagnosis have tests of their own; what needs them here says so.
QUICK: dict[str, Any] = {"skip": ("evaluate", "diagnose"), "n_top_genes": 300, "n_comps": 15}
QUICKEST: dict[str, Any] = {**QUICK, "skip": ("evaluate", "diagnose", "check", "umap", "umap_uncorrected", "markers")}
posix = pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")


@pytest.fixture(scope="module")
def counts() -> ad.AnnData:
    """300 cells of three batches, 2000 genes, ten of them called mitochondrial."""
    adata = simulate(300, np.random.default_rng(5))
    names = adata.var_names.to_list()
    names[:10] = [f"MT-{i}" for i in range(10)]
    adata.var_names = names
    return adata


@pytest.fixture(scope="module")
def result(counts: ad.AnnData) -> ad.AnnData:
    return run(counts, "batch", **QUICK)


def steps(adata: ad.AnnData) -> dict[str, str]:
    """Return the status of each step."""
    table = adata.uns["harmonax_workflow"]["steps"]
    return dict(zip(table["step"], table["status"], strict=True))


def note(adata: ad.AnnData, step: str) -> str:
    table = adata.uns["harmonax_workflow"]["steps"].set_index("step")
    return str(table.loc[step, "note"])


def same(a: Any, b: Any) -> bool:
    """Return whether two arrays, tables, sparse matrices or dictionaries hold the same bits."""
    if isinstance(a, dict):
        return set(a) == set(b) and all(same(a[k], b[k]) for k in a)
    if sp.issparse(a):
        return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("data", "indices", "indptr"))
    if isinstance(a, pd.DataFrame):
        # Text comes back from a file as another type of text.
        rows = list(a.index) == list(b.index) and list(a.columns) == list(b.columns)
        return rows and all(same(a[name].to_numpy(), b[name].to_numpy()) for name in a.columns)
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.tobytes() == b.tobytes() if a.dtype.kind in "fiu" else np.array_equal(a, b)


def assert_same(a: ad.AnnData, b: ad.AnnData) -> None:
    """Everything but the times of the run."""
    assert same(a.X, b.X)
    assert same(a.obs, b.obs)
    assert same(a.var, b.var)
    for part in ("obsm", "varm", "obsp"):
        one, two = getattr(a, part), getattr(b, part)
        assert set(one) == set(two)
        for key in one:
            assert same(one[key], two[key]), (part, key)
    assert same(a.layers["counts"], b.layers["counts"])
    assert set(a.uns) == set(b.uns)
    for key in set(a.uns) - {"harmonax_workflow", "harmonax_evaluation"}:
        assert same(a.uns[key], b.uns[key]), key


# ---- what it makes ----------------------------------------------------------------------------------------------


def test_everything_is_made(counts, result):
    n = result.n_obs
    assert {k: v.shape for k, v in result.obsm.items()} == {
        "X_pca": (n, 15),
        "X_pca_harmony": (n, 15),
        "X_umap": (n, 2),
        "X_umap_uncorrected": (n, 2),
    }
    assert {"leiden", "leiden_0.3", "leiden_0.5", "leiden_0.8"} <= set(result.obs)
    assert (result.obs["leiden"] == result.obs["leiden_0.5"]).all()
    assert set(result.obsp) == {"distances", "connectivities"}
    assert result.uns["neighbors"]["params"]["use_rep"] == "X_pca_harmony"
    assert result.uns["rank_genes_groups"]["params"]["method"] == "wilcoxon"
    assert result.var["highly_variable"].sum() == 300
    assert result.uns["harmonax"]["status"] == "converged"
    assert result.uns["harmonax_check"]["verdict"] in ("needed", "not_needed", "impossible")
    status = steps(result)
    assert list(status) == ["load", *STEPS]
    assert {name for name, s in status.items() if s == "skipped"} == {"evaluate", "diagnose"}
    assert (result.uns["harmonax_workflow"]["steps"]["seconds"] >= 0).all()
    assert json.loads(result.uns["harmonax_workflow"]["options"])["n_comps"] == 15


def test_counts_and_normalised_values_by_hand(counts, result):
    kept = counts[result.obs_names, result.var_names]
    raw = kept.X.toarray()
    np.testing.assert_array_equal(result.layers["counts"].toarray(), raw)
    expected = np.log1p(raw / raw.sum(axis=1, keepdims=True) * 1e4)
    np.testing.assert_allclose(result.X.toarray(), expected, rtol=1e-5)


def test_the_steps_are_scanpys_own(counts, result):
    import scanpy as sc

    mine = result.copy()
    for part in ("obsm", "varm", "obsp"):
        getattr(mine, part).clear()
    mine.obs["batch"] = mine.obs["batch"].astype("category")
    sc.pp.pca(mine, n_comps=15, mask_var="highly_variable", random_state=0)
    # Its solver stops early: see test_components.
    np.testing.assert_allclose(mine.obsm["X_pca"], result.obsm["X_pca"], atol=1e-3)
    np.testing.assert_allclose(mine.uns["pca"]["variance"], result.uns["pca"]["variance"], rtol=1e-4)
    assert dict(mine.uns["pca"]["params"]) == dict(result.uns["pca"]["params"])
    mine.obsm["X_pca"] = result.obsm["X_pca"]
    sc.pp.neighbors(mine, use_rep="X_pca", random_state=0)
    sc.tl.umap(mine, random_state=0)
    np.testing.assert_array_equal(mine.obsm["X_umap"], result.obsm["X_umap_uncorrected"])
    with quiet():
        sc.pp.highly_variable_genes(mine, n_top_genes=300, batch_key="batch")
    assert (mine.var["highly_variable"] == result.var["highly_variable"]).all()


def test_a_terminal_sees_what_is_being_done(counts, capsys):
    run(counts, "batch", progress=True, **QUICKEST)
    err = capsys.readouterr().err
    assert "\r[4/13] pca ...\x1b[K\r\x1b[K" in err
    assert "harmony [" in err
    assert err.endswith("\r\x1b[K")


def test_the_input_is_untouched(counts):
    before = counts.copy()
    run(counts, "batch", **QUICKEST)
    assert same(before.X, counts.X)
    assert same(before.obs, counts.obs)
    assert same(before.var, counts.var)
    assert not counts.obsm
    assert not counts.uns
    assert not [name for name in counts.layers if name is not None]


@pytest.mark.thorough
def test_the_same_seed_gives_the_same_bits_and_a_file_the_same_as_memory(counts, result, tmp_path):
    path = save(counts, tmp_path / "in.h5ad")
    seen: list[Done] = []
    again = run_files(path, tmp_path / "out", "batch", progress=seen.append, **QUICK)
    assert_same(again, result)
    assert [done.step for done in seen] == ["load", *STEPS, "figures", "report", "write"]
    assert_same(ad.read_h5ad(tmp_path / "out" / RESULT), result)


# ---- quality control --------------------------------------------------------------------------------------------


def test_quality_control_by_hand(counts):
    X = counts.X.toarray()
    genes, mito = (X > 0).sum(axis=1), X[:, :10].sum(axis=1) / X.sum(axis=1) * 100
    low, share = int(np.quantile(genes, 0.1)), float(np.quantile(mito, 0.9))
    kept = (genes >= low) & (mito <= share)
    got = run(counts, "batch", min_genes=low, max_pct_mt=share, min_cells=40, **QUICKEST)
    assert list(got.obs_names) == list(counts.obs_names[kept])
    assert list(got.var_names) == list(counts.var_names[(X[kept] > 0).sum(axis=0) >= 40])
    np.testing.assert_array_equal(got.obs["n_genes_by_counts"], genes[kept])
    np.testing.assert_allclose(got.obs["pct_counts_mt"], mito[kept], rtol=1e-5)
    record = got.uns["harmonax_workflow"]
    assert record["genes"] == {"n_genes_before": counts.n_vars, "n_genes_after": got.n_vars}
    table = record["cells"].set_index("level")
    for level in counts.obs["batch"].cat.categories:
        own = (counts.obs["batch"] == level).to_numpy()
        assert table.loc[level, "n_before"] == own.sum()
        assert table.loc[level, "n_after"] == (own & kept).sum()


def test_a_type_that_quality_control_takes_out_of_a_batch_is_told(counts):
    poor = counts.copy()
    taken = ((poor.obs["batch"] == "10x v2") & (poor.obs["cell_type"] == "CD4 naive")).to_numpy()
    poor.X = poor.X.multiply(np.where(taken, 0, 1)[:, None]).tocsr()
    got = run(poor, "batch", label_key="cell_type", **QUICKEST)
    table = got.uns["harmonax_workflow"]["types"].set_index(["level", "type"])
    assert table.loc[("10x v2", "CD4 naive"), ["n_before", "n_after"]].tolist() == [taken.sum(), 0]
    assert taken.sum() >= 10
    found = harmonax.tl.verdict(got, "batch", label_key="cell_type")
    assert f"CD4 naive in 10x v2 ({taken.sum()} of {taken.sum()})" in next(
        finding.message for finding in found.findings if finding.code == "types_gone"
    )
    assert found.code not in ("trust", "not_needed")


@pytest.mark.parametrize(
    ("prefix", "option", "says"),
    [
        ("mt-", None, "10 mitochondrial genes (mt-)"),
        ("Mt_", None, "no mitochondrial genes"),
        ("Mt_", "Mt_", "10 mitochondrial genes (Mt_)"),
    ],
)
def test_mitochondrial_genes(counts, prefix, option, says):
    other = counts.copy()
    other.var_names = [name.replace("MT-", prefix) for name in other.var_names]
    got = run(other, "batch", mt_prefix=option, **QUICKEST)
    assert says in note(got, "qc")
    assert ("pct_counts_mt" in got.obs) == ("no mito" not in says)


def test_mitochondrial_genes_of_a_symbol_column(counts):
    other = counts.copy()
    other.var["gene_symbols"] = other.var_names.to_numpy()
    other.var_names = [f"ENSG{i}" for i in range(other.n_vars)]
    assert "10 mitochondrial genes" in note(run(other, "batch", **QUICKEST), "qc")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"min_genes": 100_000}, r"leaves 0 of 300 cells \(out by min_genes=100000: 300, max_pct_mt=20: "),
        ({"max_pct_mt": 0}, r"max_pct_mt=0: "),
        ({"min_cells": 1000}, r"leaves 0 of 2,000 genes \(min_cells=1000\)"),
    ],
)
def test_a_threshold_that_leaves_nothing_is_named(counts, given, says):
    with pytest.raises(InputError, match=says):
        run(counts, "batch", **given, **QUICKEST)


def test_a_batch_that_is_lost_is_named(counts):
    other = counts.copy()
    small = np.flatnonzero(other.obs["batch"] == "inDrop")
    X = other.X.tolil()
    X[small, 50:] = 0
    other.X = X.tocsr()
    with pytest.warns(HarmonaxWarning, match="removed all cells of 1 batches: 'inDrop'"):
        run(other, "batch", **QUICKEST)


# ---- what is kept -----------------------------------------------------------------------------------------------


def test_a_finished_file_is_kept_whole(result):
    again = run(result, "batch", **QUICK)
    assert_same(again, result)
    status = steps(again)
    assert {name for name in STEPS if status[name] != "kept"} == {"evaluate", "diagnose"}


def test_what_follows_from_a_step_done_again_is_done_again(result):
    again = run(result, "batch", recompute="harmony", **QUICK)
    status = steps(again)
    assert {name for name in STEPS if status[name] == "done"} == {"harmony", "neighbors", "umap", "leiden", "markers"}
    assert_same(again, result)


def test_all_can_be_done_again(result):
    status = steps(run(result, "batch", recompute="all", **QUICKEST))
    assert status["qc"] == status["normalise"] == status["hvg"] == status["pca"] == status["harmony"] == "done"


def test_a_given_pca_is_kept_with_its_cells(counts):
    given = counts.copy()
    given.obsm["X_pca"] = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    got = run(given, "batch", start_from="pca", skip=QUICKEST["skip"])
    status = steps(got)
    assert (status["qc"], status["normalise"], status["hvg"], status["pca"]) == ("skipped", "done", "skipped", "kept")
    np.testing.assert_array_equal(got.obsm["X_pca"], given.obsm["X_pca"])
    assert "start_from='pca'" in note(got, "qc")
    assert "X_pca" in note(got, "pca")
    # Untold, a run starts from the counts, and says what became of the other's.
    anew = run(given, "batch", **QUICKEST)
    assert steps(anew)["qc"] == steps(anew)["pca"] == "done"
    assert anew.obsm["X_pca"].shape[1] == 15
    assert "in place of the input's; start_from='pca' (--start-from) uses it" in note(anew, "pca")
    with pytest.raises(InputError, match="recompute='pca' would make anew"):
        run(given, "batch", start_from="pca", recompute="pca")


def test_a_correction_of_other_batches_is_not_kept(result):
    other = result.copy()
    other.obs["half"] = np.where(np.arange(other.n_obs) % 2, "a", "b")
    assert steps(run(other, "half", **QUICKEST))["pca"] == "done", "the genes are chosen within other batches"
    got = run(other, "half", start_from="pca", **QUICKEST)
    assert steps(got)["harmony"] == "done"
    assert steps(got)["pca"] == "kept"
    assert list(got.uns["harmonax"]["batch_keys"]) == ["half"]
    # What was made from the former correction and is not made anew is dropped.
    assert "X_umap" not in got.obsm
    assert "rank_genes_groups" not in got.uns
    assert "X_umap_uncorrected" in got.obsm


def test_a_check_with_other_labels_is_not_kept(result):
    options = {**QUICKEST, "skip": ("evaluate", "diagnose", "umap", "umap_uncorrected", "markers")}
    assert steps(run(result, "batch", **options))["check"] == "kept"
    labelled = run(result, "batch", label_key="cell_type", **options)
    assert steps(labelled)["check"] == "done"
    assert "cell_type" in set(labelled.uns["harmonax_check"]["associations"]["second"])
    assert steps(run(labelled, "batch", label_key="cell_type", **options))["check"] == "kept"


def test_other_resolutions_are_made(result):
    got = run(result, "batch", resolutions=(0.2, 1.5), **QUICK)
    assert steps(got)["leiden"] == "done"
    assert steps(got)["markers"] == "done"
    assert steps(got)["umap"] == "kept"
    assert "leiden_1.5" in got.obs


def test_log_normalised_values_do_where_genes_or_pca_are_there(result):
    bare = result.copy()
    del bare.layers["counts"]
    assert steps(run(bare, "batch", **QUICK))["pca"] == "kept"
    del bare.obsm["X_pca"]
    got = run(bare, "batch", **QUICK)
    assert steps(got)["qc"] == "skipped"
    assert steps(got)["normalise"] == steps(got)["hvg"] == "kept"
    assert steps(got)["pca"] == steps(got)["markers"] == "done"
    np.testing.assert_array_equal(got.obsm["X_pca"], result.obsm["X_pca"])


def test_a_result_is_kept_from_a_file_too(result, tmp_path):
    again = run_files(save(result, tmp_path / "in.h5ad"), tmp_path / "out", "batch", **QUICK)
    assert {steps(again)[name] for name in STEPS} == {"kept", "skipped"}
    assert_same(again, result)


def _other_counts(a: ad.AnnData) -> None:
    a.layers["counts"].data[0] += 1


def _other_pca(a: ad.AnnData) -> None:
    a.obsm["X_pca"] = a.obsm["X_pca"][:, ::-1].copy()


def _other_labels(a: ad.AnnData) -> None:
    a.obs["batch"] = a.obs["batch"].to_numpy()[::-1]


def _other_clusters(a: ad.AnnData) -> None:
    a.obs["leiden_0.3"] = a.obs["leiden_0.8"]


def _no_record(a: ad.AnnData) -> None:
    del a.uns["harmonax_workflow"]


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:.*is replaced by the run's own clusters")
@pytest.mark.parametrize(
    ("change", "first"),
    [
        (_other_counts, "qc"),
        (_other_labels, "qc"),
        (_no_record, "qc"),
        (lambda a: a.obs.pop("leiden_0.5"), "leiden"),
        (_other_clusters, "leiden"),
        (_other_pca, "pca"),
        (lambda a: a.obsm.pop("X_pca_harmony"), "harmony"),
        (lambda a: a.uns.pop("rank_genes_groups"), "markers"),
    ],
)
def test_what_is_not_as_the_run_left_it_is_made_anew(result, change, first):
    got = run(changed(result, change), "batch", **QUICKEST | {"skip": ("evaluate", "diagnose", "check", "umap")})
    done = [name for name in STEPS if steps(got)[name] == "done"]
    assert done[0] == first
    assert done[-1] == "markers"


def test_settings_other_than_the_recorded_ones_make_anew(result):
    def first(**options: Any) -> str | None:
        table = steps(run(result, "batch", **{**QUICKEST, **options}))
        return next((name for name in STEPS if table[name] == "done"), None)

    assert first() is None
    assert first(min_genes=201) == "qc"
    assert first(n_comps=14) == "pca"
    assert first(sigma=0.2) == "harmony"
    assert first(n_neighbors=14) == "neighbors"


def test_a_correction_of_another_program_is_used_where_it_is_told(adata):
    own = adata.copy()
    with pytest.raises(MissingKeyError, match=r"start_from='harmony' needs obsm\['X_pca_harmony'\], and the input"):
        run(own, "batch", start_from="harmony", **QUICKEST)
    own.obsm["X_pca_harmony"] = own.obsm["X_pca"] + np.float32(1)
    got = run(own, "batch", start_from="harmony", **QUICKEST)
    assert (steps(got)["harmony"], steps(got)["neighbors"]) == ("kept", "done")
    np.testing.assert_array_equal(got.obsm["X_pca_harmony"], own.obsm["X_pca_harmony"])
    untold = run(own, "batch", **QUICKEST)
    assert steps(untold)["harmony"] == "done"
    # What was used once as told is no result of ours.
    assert steps(run(got, "batch", **QUICKEST))["harmony"] == "done"


def test_the_command_starts_where_python_does():
    choice = next(option.type for option in run_workflow.params if option.name == "start_from")
    assert tuple(choice.choices) == STARTS


def test_a_hash_is_that_of_the_values():
    da = pytest.importorskip("dask.array")
    rng = np.random.default_rng(0)
    X = sp.random(60, 7, 0.3, "csr", np.float32, random_state=rng)
    pieces = da.from_array(X.toarray(), chunks=(9, 3)).rechunk({1: -1}).map_blocks(sp.csr_matrix)
    assert digest(X) == digest(X.tocsc()) == digest(pieces)
    assert digest(X.toarray()) == digest(da.from_array(X.toarray(), chunks=(11, 2)))
    assert (
        digest(pd.Series(["a", "b"]))
        == digest(pd.Series(["a", "b"], dtype="category"))
        != digest(pd.Series(["a", "c"]))
    )
    other = X.copy()
    other.indices = (other.indices + 1) % 7
    assert len({digest(m) for m in (X, X * 2, X[::-1], X[:, ::-1], other, None)}) == 6


def test_an_embedding_alone_does(adata):
    got = run(adata, "batch", skip=QUICK["skip"])
    assert note(got, "pca") == "the input's obsm['X_pca'] (there are no raw counts)"
    assert steps(got)["markers"] == "skipped"
    assert steps(got)["leiden"] == "done"
    assert got.shape == (adata.n_obs, 0)


# ---- what it is given -------------------------------------------------------------------------------------------


def changed(counts: ad.AnnData, change: Callable[[ad.AnnData], Any]) -> ad.AnnData:
    other = counts.copy()
    change(other)
    return other


def _log(a: ad.AnnData) -> None:
    a.X = np.log1p(a.X)


def _negative(a: ad.AnnData) -> None:
    a.X = a.X.toarray() - 1


def _nan(a: ad.AnnData) -> None:
    X = a.X.toarray()
    X[3, 3] = np.nan
    a.X = X


def _gap(a: ad.AnnData) -> None:
    a.obs["batch"] = a.obs["batch"].astype(object).mask(np.arange(a.n_obs) < 4, None)


def _barcodes(a: ad.AnnData) -> None:
    a.obs["batch"] = a.obs_names.to_numpy()


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        (
            _log,
            {},
            r"raw counts are needed, but X has values that are not whole numbers.*layers\['counts'\].*--counts-layer",
        ),
        (_negative, {}, "X has negative values: it looks scaled"),
        (_nan, {}, "X has NaN or infinity"),
        (_gap, {}, "4 missing values.*missing='level'"),
        (_barcodes, {}, "looks like a cell barcode"),
        (lambda a: None, {"batch_key": "Bacth"}, "did you mean 'batch'"),
        (lambda a: None, {"label_key": "celltype"}, "no label column 'celltype'; did you mean 'cell_type'"),
        (lambda a: None, {"label_key": "batch"}, "'batch' is a batch column"),
        (lambda a: None, {"compare": "X_scVI"}, "no 'X_scVI' to compare"),
        (lambda a: None, {"counts_layer": "umi"}, "layers has no 'umi'"),
        (lambda a: None, {"theta": [1, 2]}, "theta has 2 values"),
        (lambda a: None, {"n_clusters": 1000}, "n_clusters=1000 is more than the 300 cells"),
    ],
)
def test_bad_data_are_refused_with_what_to_do(counts, change, options, says):
    given = {"batch_key": "batch", **QUICKEST, **options}
    with pytest.raises(InputError, match=says):
        run(changed(counts, change), **given)


def test_missing_labels_as_a_level(counts):
    got = run(changed(counts, _gap), "batch", missing="level", **QUICKEST)
    assert set(got.obs["batch"].cat.categories) == {*counts.obs["batch"].cat.categories, "missing"}


def test_one_batch_is_copied_with_a_word(counts):
    other = changed(counts, lambda a: a.obs.__setitem__("batch", "only"))
    with pytest.warns(HarmonaxWarning, match="one batch|same batch|single"):
        got = run(other, "batch", **QUICK)
    np.testing.assert_array_equal(got.obsm["X_pca"], got.obsm["X_pca_harmony"])
    assert "one batch only" in note(got, "harmony")
    assert got.uns["harmonax_check"]["verdict"] == "one_batch"


def test_batches_of_one_cell_have_no_say_in_the_genes(counts):
    labels = counts.obs["batch"].astype(object).to_numpy(copy=True)
    labels[:3] = ["x", "y", "z"]
    got = run(changed(counts, lambda a: a.obs.__setitem__("batch", labels)), "batch", **QUICKEST)
    assert "3 batches of under 10 cells have no say" in note(got, "hvg")
    assert got.var["highly_variable"].sum() == 300
    few = np.arange(300).astype(str)
    got = run(changed(counts, lambda a: a.obs.__setitem__("batch", few)), "batch", allow_many_levels=True, **QUICKEST)
    assert "every batch is tiny" in note(got, "hvg")


def test_several_batch_columns_numbers_and_dense_integers(counts):
    def change(a: ad.AnnData) -> None:
        a.obs["plate"] = np.arange(a.n_obs) % 2
        a.X = a.X.toarray().astype(int)

    got = run(changed(counts, change), ["batch", "plate"], theta=[2, 1], **QUICKEST)
    assert list(got.uns["harmonax"]["batch_keys"]) == ["batch", "plate"]
    assert list(got.obs["plate"].cat.categories) == ["0", "1"]
    assert "within 6 batches" in note(got, "hvg")
    assert set(got.uns["harmonax_workflow"]["cells"]["batch_key"]) == {"batch", "plate"}


def test_repeated_cell_names_are_made_unique(counts):
    def change(a: ad.AnnData) -> None:
        a.obs_names = ["twice", "twice", *a.obs_names[2:]]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = changed(counts, change)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Observation names are not unique")
        with pytest.warns(HarmonaxWarning, match="1 cell names occur twice"):
            got = run(other, "batch", **QUICKEST)
    assert got.obs_names.is_unique


def test_fewer_genes_than_asked_for(counts):
    few = counts[:, 10:60].copy()
    got = run(few, "batch", min_genes=0, **QUICKEST | {"n_top_genes": 2000, "n_comps": 100})
    assert got.var["highly_variable"].all()
    assert "n_comps=100 is more than the data have" in note(got, "pca")


def test_counts_in_another_layer(counts, result):
    def change(a: ad.AnnData) -> None:
        a.layers["umi"] = a.X.copy()
        _negative(a)

    got = run(changed(counts, change), "batch", counts_layer="umi", **QUICKEST)
    assert same(got.obsm["X_pca_harmony"], result.obsm["X_pca_harmony"])


# ---- files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores made up, of which a metric has a name twice and another is missing."""

    def evaluate(adata: ad.AnnData, batch_key: list[str], embeddings: list[str], **how: Any) -> None:
        rows = [
            (name, "batch", metric, kind, value + i / 10, np.nan, np.nan)
            for i, name in enumerate(embeddings)
            for metric, kind, value in (
                ("iLISI", "batch", 0.1),
                ("iLISI", "label-free", 0.2),
                ("kBET", "batch", np.nan),
            )
        ]
        columns = ["embedding", "batch_key", "metric", "kind", "value", "low", "high"]
        table = pd.DataFrame(rows, columns=columns, index=[str(i) for i in range(len(rows))])
        record = {"scores": table, "n_cells": adata.n_obs, "n_used": adata.n_obs, "label_key": "", "seed": 0}
        record |= {"batch_keys": np.array(batch_key, object), "embeddings": np.array(embeddings, object)}
        adata.uns["harmonax_evaluation"] = record | {"notes": np.array([]), "versions": {}, "baseline": "X_pca"}

    monkeypatch.setattr(importlib.import_module("harmonax.tl.evaluate"), "evaluate", evaluate)


def test_every_file_is_made(counts, scored, tmp_path):
    inputs = write_10x_folder(ids(counts), tmp_path / "sample")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("stays")
    other = write_10x_folder(ids(counts[:100]), tmp_path / "other")
    options = {**QUICK, "skip": ("diagnose",)}
    made = run_files([str(inputs), str(other)], tmp_path / "out", command="harmonax run", **options)
    out = tmp_path / "out"
    found = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert found == {*NAMES, "mine.txt"}
    assert list(made.obs["batch"].cat.categories) == ["other", "sample"]

    record = json.loads((out / "run.json").read_text())
    assert [step["step"] for step in record["steps"]][-3:] == ["figures", "report", "write"]
    assert all(step["peak_memory_bytes"] > 1e6 for step in record["steps"] if step["status"] == "done")
    assert record["inputs"][0]["path"] == str(inputs)
    assert record["inputs"][0]["files"] == 3
    assert record["options"]["harmony"]["theta"] == 2
    assert record["output"]["files"] == sorted(NAMES)
    assert record["verdicts"]["check"]["verdict"]

    table = pd.read_csv(out / "metrics.tsv", sep="\t")
    assert list(table["embedding"].unique()) == ["X_pca", "X_pca_harmony"]
    section = json.loads((out / "harmonax_mqc.json").read_text())
    corrected = next(name for name in section["data"] if name.endswith(": X_pca_harmony"))
    assert section["data"][corrected] == {"verdict": "unknown", "iLISI": 0.2, "iLISI, label-free": 0.3}
    assert list(section["headers"]) == ["verdict", "iLISI", "iLISI, label-free"]
    assert section["plot_type"] == "table"
    versions = (out / "versions.yml").read_text()
    assert versions.startswith('"harmonax":\n    ')
    assert "\n    scanpy: 1." in versions
    for name in FIGURES:
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert "<html" in (out / "report.html").read_text()[:200].lower()


def test_rows_for_multiqc_are_of_this_run_and_of_no_other(tmp_path):
    from harmonax.workflow.summaries import run_name

    folders = [tmp_path / part / "run" / "results" for part in "ab"]
    names = [run_name(SimpleNamespace(folder=folder)) for folder in folders]
    assert all(name.startswith("run-results [") for name in names)
    assert len(set(names)) == 2
    assert names == [run_name(SimpleNamespace(folder=folder)) for folder in folders]
    # Of a name with a slash, MultiQC keeps only what follows.
    assert "/" not in "".join(names)


def test_measures_before_and_after_quality_control_are_kept_by_batch(counts):
    made = run(counts, "batch", **{**QUICKEST, "min_genes": 20})
    seen = made.uns["harmonax_workflow"]["quality"]
    cells = made.uns["harmonax_workflow"]["cells"].set_index("level")
    genes = seen[seen["measure"] == "n_genes_by_counts"].set_index(["level", "when"])
    for level in cells.index:
        assert genes.loc[(level, "before"), "n_cells"] == cells.loc[level, "n_before"]
        kept = made.obs.loc[made.obs["batch"].astype(str) == level, "n_genes_by_counts"]
        assert genes.loc[(level, "after"), "q50"] == kept.median()
        assert genes.loc[(level, "after"), "q05"] >= 20


def ids(adata: ad.AnnData) -> ad.AnnData:
    with_ids = adata.copy()
    with_ids.var["gene_ids"] = [f"ID{i}" for i in range(adata.n_vars)]
    return with_ids


@pytest.mark.thorough
def test_a_finished_run_is_not_written_over_unasked(counts, tmp_path):
    path = save(counts, tmp_path / "in.h5ad")
    run_files(path, tmp_path / "out", "batch", **QUICKEST)
    before = (tmp_path / "out" / RESULT).read_bytes()
    (tmp_path / "out" / FIGURES[0]).write_text("of an earlier run")
    with pytest.raises(OutputError, match="exists already; choose another folder, or pass --overwrite"):
        run_files(path, tmp_path / "out", "batch", **QUICKEST)
    assert (tmp_path / "out" / RESULT).read_bytes() == before
    run_files(path, tmp_path / "out", "batch", overwrite=True, **QUICKEST, theta=1)
    assert ad.read_h5ad(tmp_path / "out" / RESULT).uns["harmonax"]["params"]["theta"] == 1
    assert not (tmp_path / "out" / FIGURES[0]).exists()
    assert not (tmp_path / "out" / FOLDER).exists()


def test_the_input_is_not_written_over(counts, tmp_path):
    path = save(counts, tmp_path / RESULT)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="is the input"):
        run_files(path, tmp_path, "batch", overwrite=True, **QUICKEST)
    folder = write_10x_folder(ids(counts), tmp_path / "sample")
    with pytest.raises(OutputError, match="lies inside the input"):
        run_files(folder, folder, "batch", **QUICKEST)
    assert path.read_bytes() == before
    assert not (tmp_path / FOLDER).exists()


def test_bad_input_leaves_nothing_behind(counts, tmp_path):
    path = save(counts, tmp_path / "in.h5ad")
    with pytest.raises(MissingKeyError):
        run_files(path, tmp_path / "out", "nothing", **QUICKEST)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="name at least one column"):
        run_files(path, tmp_path / "out", **QUICKEST)
    with pytest.raises(InputError, match="needs several files"):
        run_files(path, tmp_path / "out", batch_from="file", **QUICKEST)


def test_what_no_file_can_hold_is_told_before_the_work(counts, tmp_path):
    other = changed(counts, lambda a: a.uns.__setitem__("odd", object()))
    assert run(other, "batch", **QUICKEST).n_obs
    seen: list[Done] = []
    with pytest.raises(InputError, match=r"no \.h5ad file can"):
        run(other, "batch", out=tmp_path / "out", progress=seen.append, **QUICKEST)
    assert [done.step for done in seen] == ["load"]
    assert not (tmp_path / "out").exists()


# ---- interrupted ------------------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """Stands for Ctrl-C."""


def stop_after(step: str, seen: list[Done]) -> Callable[[Done], None]:
    def hook(done: Done) -> None:
        seen.append(done)
        if done.step == step:
            raise Interrupted

    return hook


@pytest.mark.thorough
def test_interrupted_after_every_step_it_ends_the_same(counts, result, tmp_path):
    done_anew: list[str] = []
    path = save(counts, tmp_path / "in.h5ad")
    for step in [name for name in ("load", *STEPS, "figures", "report", "write") if name not in QUICK["skip"]]:
        seen: list[Done] = []
        with pytest.raises(Interrupted):
            run_files(path, tmp_path / "out", "batch", progress=stop_after(step, seen), **QUICK)
        done_anew += [d.step for d in seen if d.status == "done" and not d.resumed]
        assert not (tmp_path / "out" / RESULT).exists()
    made = run_files(path, tmp_path / "out", "batch", **QUICK)
    assert_same(made, result)
    assert_same(ad.read_h5ad(tmp_path / "out" / RESULT), result)
    # Every step was done once, but for those that cost less than keeping their results.
    once = set(STEPS) - {"normalise", *QUICK["skip"]}
    assert all(done_anew.count(step) == 1 for step in once), done_anew
    assert json.loads((tmp_path / "out" / "run.json").read_text())["resumed"] == [s for s in STEPS if s in once]
    assert not (tmp_path / "out" / FOLDER).exists()


@pytest.mark.thorough
def test_other_options_do_again_what_they_change(counts, tmp_path):
    path = save(counts, tmp_path / "in.h5ad")

    def resumed(**options: Any) -> list[str]:
        seen: list[Done] = []
        with pytest.raises(Interrupted):
            run_files(path, tmp_path / "out", "batch", progress=stop_after("leiden", seen), **{**QUICKEST, **options})
        return [done.step for done in seen if done.resumed]

    assert resumed() == []
    assert resumed() == ["qc", "hvg", "pca", "harmony", "neighbors", "leiden"]
    assert resumed(theta=1) == ["qc", "hvg", "pca"]
    assert resumed(theta=1, resolutions=(1,)) == ["qc", "hvg", "pca", "harmony", "neighbors"]
    assert resumed(theta=1, min_genes=201) == []
    os.utime(path, (1, 1))
    assert resumed(theta=1, min_genes=201) == []


def test_a_damaged_checkpoint_is_made_again(counts, tmp_path):
    path = save(counts, tmp_path / "in.h5ad")
    with pytest.raises(Interrupted):
        run_files(path, tmp_path / "out", "batch", progress=stop_after("harmony", []), **QUICKEST)
    damaged = next((tmp_path / "out" / FOLDER).glob("*-pca.h5"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    seen: list[Done] = []
    run_files(path, tmp_path / "out", "batch", progress=seen.append, **QUICKEST)
    assert [d.step for d in seen if d.resumed] == ["qc", "hvg", "harmony"]


def test_in_memory_too_with_out(counts, tmp_path):
    with pytest.raises(Interrupted):
        run(counts, "batch", out=tmp_path / "out", progress=stop_after("pca", []), **QUICKEST)
    seen: list[Done] = []
    run(counts, "batch", out=tmp_path / "out", progress=seen.append, **QUICKEST)
    assert [d.step for d in seen if d.resumed] == ["qc", "hvg", "pca"]


SLEEPING = f"""
import sys, time
OPTIONS = {QUICKEST}
from harmonax.workflow import run_files
def hook(done):
    if done.step == "harmony":
        print("there", flush=True)
        time.sleep(60)
run_files(sys.argv[1], sys.argv[2], "batch", progress=hook, **OPTIONS)
"""


@pytest.mark.thorough
@posix
def test_killed_it_is_taken_up_by_one_at_a_time(counts, tmp_path):
    path = save(counts, tmp_path / "in.h5ad")
    command = [sys.executable, "-W", "ignore", "-c", SLEEPING, str(path), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        with pytest.raises(OutputError, match="another run is at work"):
            run_files(path, tmp_path / "out", "batch", **QUICKEST)
        process.kill()
    seen: list[Done] = []
    made = run_files(path, tmp_path / "out", "batch", progress=seen.append, **QUICKEST)
    assert "harmony" in [d.step for d in seen if d.resumed]
    assert_same(made, run(counts, "batch", **QUICKEST))


# ---- command line -----------------------------------------------------------------------------------------------


def call(*arguments: str) -> None:
    run_workflow.main(list(arguments), standalone_mode=False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What reached the workflow, which is not run."""
    seen: dict[str, Any] = {}

    def take(paths: Any, out: str, **given: Any) -> ad.AnnData:
        seen.update(given, paths=paths, out=out)
        return ad.AnnData(uns={"harmonax": {"status": "max_iterations", "advice": "more"}})

    monkeypatch.setattr("harmonax.workflow.run_files", take)
    return seen


def test_defaults_of_the_command_are_those_of_python(asked):
    call("in.h5ad", "-o", "out", "--batch-key", "batch")
    assert asked["options"] == WorkflowOptions(batch_key="batch")
    assert asked["paths"] == ("in.h5ad",)
    assert asked["batch_from"] is None


OPTIONS = {
    "--max-memory 4G": {"max_memory": 4 << 30},
    "--save-model": {"save_model": True},
    "--corrector mmd": {"corrector": "mmd"},
    "--reference lab=a,lab=b": {"reference": ("lab=a", "lab=b")},
    "--protect t": {"protect": ("t",)},
    "--covariate depth,age": {"covariates": ("depth", "age")},
    "--label-key t": {"label_key": "t"},
    "--condition-key t": {"condition_key": "t"},
    "--decimals": {"decimals": True},
    "--feature-type antibodies": {"feature_type": "antibodies"},
    "--min-genes 5": {"min_genes": 5},
    "--max-genes 500": {"max_genes": 500},
    "--min-cells 5": {"min_cells": 5},
    "--max-pct-mt 7.5": {"max_pct_mt": 7.5},
    "--mt-prefix mito": {"mt_prefix": "mito"},
    "--counts-layer umi": {"counts_layer": "umi"},
    "--target-sum 1e6": {"target_sum": 1e6},
    "--n-top-genes 7": {"n_top_genes": 7},
    "--hvg-flavor cell_ranger": {"hvg_flavor": "cell_ranger"},
    "--n-comps 7": {"n_comps": 7},
    "--theta 3": {"theta": 3.0},
    "--ridge-lambda 1": {"ridge_lambda": 1.0, "ridge": "fixed"},
    "--combine-keys": {"combine_keys": True},
    "--missing level": {"missing": "level"},
    "--allow-many-levels": {"allow_many_levels": True},
    "--backend dense": {"backend": "dense"},
    "--threads 2": {"n_threads": 2},
    "--n-neighbors 7": {"n_neighbors": 7},
    "--min-dist 0.1": {"min_dist": 0.1},
    "--resolutions 1,2": {"resolutions": (1.0, 2.0)},
    "--resolutions 1": {"resolutions": (1.0,)},
    "--n-marker-genes 7": {"n_marker_genes": 7},
    "--compare X_scVI,X_b": {"compare": ("X_scVI", "X_b")},
    "--recompute pca --recompute umap": {"recompute": ("pca", "umap")},
    "--from-counts": {"start_from": "counts"},
    "--start-from pca": {"start_from": "pca"},
    "--skip qc,umap": {"skip": ("qc", "umap")},
    "--color-by batch,sex": {"color_by": ("batch", "sex")},
    "--genes MS4A1,CD79A": {"genes": ("MS4A1", "CD79A")},
    "--seed 7": {"seed": 7},
    "--tune": {"tune": True},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_reach_the_workflow(asked, option):
    call("in.h5ad", "-o", "out", "--batch-key", "a,b", *option.split())
    assert asked["options"] == WorkflowOptions(batch_key=("a", "b")).replace(**OPTIONS[option])


def test_every_option_has_a_place_on_the_command_line():
    import dataclasses

    given = {name for values in OPTIONS.values() for name in values}
    fields = {field.name for field in dataclasses.fields(WorkflowOptions)}
    assert fields - given == {"batch_key", "harmony", "markers"}


def test_marker_genes_come_from_a_file(asked, tmp_path):
    (tmp_path / "markers.toml").write_text('"B cells" = ["MS4A1", "CD79A"]\n')
    call("in.h5ad", "-o", "out", "--batch-key", "batch", "--markers", str(tmp_path / "markers.toml"))
    assert asked["options"].markers == {"B cells": ("MS4A1", "CD79A")}
    assert asked["also_read"] == [str(tmp_path / "markers.toml")]


def test_a_config_holds_options_and_the_command_line_wins(asked, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text('batch-key = ["a"]\noutput = "there"\nresolutions = [0.1, 0.2]\nmin-genes = 3\ntheta = 1\n')
    call("in.h5ad", "--config", str(config), "--min-genes", "4")
    assert asked["out"] == "there"
    assert asked["also_read"] == [str(config)]
    expected = WorkflowOptions(batch_key="a", resolutions=(0.1, 0.2), min_genes=4).replace(theta=1.0)
    assert asked["options"] == expected


def test_strict_is_an_exit_code(asked):
    from harmonax.errors import NotConvergedError

    with pytest.raises(NotConvergedError, match="--strict: more"):
        call("in.h5ad", "-o", "out", "--batch-key", "batch", "--strict")


def test_every_step_is_a_line_on_stderr_and_quiet_is_quiet(counts, tmp_path, capsys):
    path = save(counts, tmp_path / "in.h5ad")
    arguments = [str(path), "-o", str(tmp_path / "out"), "--batch-key", "batch", "--n-comps", "15", "--overwrite"]
    arguments += ["--skip", "evaluate,diagnose,check,umap,umap_uncorrected,markers"]
    call(*arguments)
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("harmonax: harmony: converged")]
    assert [line.split(":")[1].strip() for line in lines] == ["load", *STEPS, "figures", "report", "write"]
    assert "Warning" not in err
    call(*arguments, "--quiet")
    assert capsys.readouterr() == ("", "")


@pytest.mark.thorough
@posix
def test_sigterm_leaves_what_the_next_call_takes_up(counts, tmp_path):
    path = save(counts, tmp_path / "in.h5ad")
    code = SLEEPING.replace("run_files(sys", "from harmonax.cli.terminal import signals\nwith signals(): run_files(sys")
    command = [sys.executable, "-W", "ignore", "-c", code, str(path), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(600) == 128 + signal.SIGTERM
    assert {p.name for p in (tmp_path / "out").iterdir()} == {FOLDER}


# ---- real data --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kang_fullgenes", "pbmc_sorted"])
def test_real_counts_to_a_verdict(data_dir, tmp_path, name):
    adata = ad.read_h5ad(data_dir / f"{name}.h5ad")
    del adata.obsm["X_pca"]
    with messages(quiet=True, verbose=False):
        got = run(adata, "batch", out=tmp_path, label_key="cell_type")
    assert_judged(got)
    assert {p.name for p in tmp_path.iterdir()} == {Path(n).parts[0] for n in NAMES}


@pytest.mark.slow
def test_real_counts_from_a_folder_for_each_batch(data_dir, tmp_path):
    adata = ad.read_h5ad(data_dir / "pbmc_sorted.h5ad")
    batches = list(adata.obs["batch"].cat.categories)
    folders = [str(write_10x_folder(ids(adata[adata.obs["batch"] == b]), tmp_path / b)) for b in batches]
    got = run_files(folders, tmp_path / "out")
    assert list(got.obs["batch"].cat.categories) == batches
    assert_judged(got)


def assert_judged(got: ad.AnnData) -> None:
    assert {steps(got)[name] for name in STEPS} == {"done"}
    assert got.uns["harmonax_diagnosis"]["verdict"] in ("fine", "caution")
    scores = got.uns["harmonax_evaluation"]["scores"].set_index(["embedding", "kind", "metric"])["value"]
    assert scores["X_pca_harmony", "label-free", "iLISI"] > scores["X_pca", "label-free", "iLISI"] + 0.3


# ---- what a reviewer found -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["batch_key", "label_key", "condition_key"])
def test_a_column_with_a_part_in_the_run_is_never_written_over(counts, role):
    adata = counts.copy()
    adata.obs["leiden"] = adata.obs["batch"].to_numpy()
    asked = {"batch_key": "batch"} | {role: "leiden"}
    with pytest.raises(InputError, match="where the run writes its own"):
        run(adata, **asked)


def test_an_option_of_a_result_that_is_there_has_it_made_anew(result):
    plan = result.uns["harmonax_workflow"]["options"]
    assert json.loads(plan)["harmony"]["theta"] != 7
    again = run(result, "batch", theta=7, **QUICK)
    status = again.uns["harmonax_workflow"]["steps"].set_index("step")["status"]
    assert (status["pca"], status["harmony"], status["umap"]) == ("kept", "done", "done")
    assert again.uns["harmonax"]["params"]["theta"] == 7


def test_the_seed_of_the_options_counts(counts):
    made = run(counts, "batch", options=WorkflowOptions(seed=5), skip=("evaluate", "diagnose"))
    assert made.uns["harmonax"]["seed"] == 5


def test_a_result_with_its_model_takes_new_counts(counts, result, tmp_path):
    how = {**QUICKEST, "save_model": True}
    made = run(counts, "batch", **how)
    np.testing.assert_array_equal(made.obsm["X_pca_harmony"], result.obsm["X_pca_harmony"])
    made.write_h5ad(tmp_path / "ref.h5ad")
    query = counts[made.obs_names].copy()
    harmonax.tl.map_query(query, made, "batch", labels="leiden")
    moved = np.linalg.norm(made.obsm["X_pca_harmony"] - made.obsm["X_pca"], axis=1)
    off = np.linalg.norm(query.obsm["X_pca_harmony"] - made.obsm["X_pca_harmony"], axis=1)
    assert np.median(off) < 0.05 * np.median(moved)
    assert (
        query.obs["leiden_nearest"].astype(str).to_numpy() == made.obs["leiden"].astype(str).to_numpy()
    ).mean() > 0.9
    # The same from the file.
    again = counts[made.obs_names].copy()
    harmonax.tl.map_query(again, tmp_path / "ref.h5ad", "batch", labels="leiden")
    pd.testing.assert_frame_equal(again.obs, query.obs)
    # A result without a model has the correction made again.
    assert "harmonax_model" in run(result, "batch", **how).uns


def test_other_counts_are_not_written_over(counts):
    adata = counts.copy()
    adata.layers["spliced"] = adata.X.copy()
    adata.layers["counts"] = adata.X * 2
    with pytest.raises(InputError, match="rename that layer"):
        run(adata, "batch", counts_layer="spliced")


def test_markers_need_cell_types_before_any_work(counts):
    with pytest.raises(InputError, match="label_key"):
        run(counts, "batch", markers={"T": ["gene"]})


def test_a_gene_for_the_maps_that_is_not_there_is_told_before_any_work(counts):
    with pytest.raises(MissingKeyError, match="for the maps"):
        run(counts, "batch", genes=["no such gene"])


def test_folders_made_for_a_run_that_fails_go_again(counts, tmp_path):
    with pytest.raises(InputError, match="min_genes"):
        run(counts, "batch", min_genes=10**6, out=tmp_path / "a" / "b" / "c")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # half a minute of compilation by Numba
def test_neighbours_of_more_cells_than_are_compared_with_each_other():
    # Above 8,192 cells scanpy goes to pynndescent, whose version must be one that it can read.
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(9000)])
    adata = ad.AnnData(obs=obs, obsm={"X_pca_harmony": rng.normal(size=(9000, 5)).astype(np.float32)})
    embed.neighbors(State(adata, WorkflowOptions(n_neighbors=5)))
    assert adata.obsp["distances"].shape == (9000, 9000)
