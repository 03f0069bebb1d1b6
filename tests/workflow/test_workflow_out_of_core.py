"""Expression beyond memory: the same cells, genes and components as in memory, from files that nobody reads whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from click.testing import CliRunner
from test_workflow_inputs import save

from harmonax.cli.workflow import run_workflow
from harmonax.datasets import simulate
from harmonax.errors import HarmonaxWarning, InputError, MissingExtraError
from harmonax.workflow import Done, inputs, run, run_files
from harmonax.workflow import out_of_core as beyond
from harmonax.workflow.outputs import RESULT

pytestmark = pytest.mark.thorough

pytest.importorskip("scanpy")
pytest.importorskip("igraph")
pytest.importorskip("umap")
da = pytest.importorskip("dask.array", reason="dask.array is not installed")

# Thresholds that some cells and genes are on the other side of.
THRESHOLDS: dict[str, Any] = {"min_genes": 522, "max_pct_mt": 1.18, "min_cells": 60}
CHOICE: dict[str, Any] = {"n_top_genes": 300, "n_comps": 15, **THRESHOLDS}
QUICK: dict[str, Any] = {
    **CHOICE,
    "skip": ("check", "umap", "umap_uncorrected", "evaluate", "diagnose"),
    "resolutions": 0.5,
}
BEYOND = "the expression is beyond memory"


@pytest.fixture(scope="module")
def counts() -> ad.AnnData:
    """2000 cells of three batches, interleaved, so that every piece has cells of all of them."""
    gen = np.random.default_rng(5)
    adata = simulate(2000, gen)[gen.permutation(2000)].copy()
    names = adata.var_names.to_list()
    names[:10] = [f"MT-{i}" for i in range(10)]
    adata.var_names = names
    return adata


@pytest.fixture(scope="module")
def file(counts, tmp_path_factory) -> Path:
    return save(counts, tmp_path_factory.mktemp("beyond") / "counts.h5ad")


@pytest.fixture(scope="module")
def in_memory(counts) -> ad.AnnData:
    return run(counts, "batch", **QUICK)


def steps(adata: ad.AnnData) -> dict[str, tuple[str, str]]:
    """Return the status of each step, and what is said about it."""
    table = adata.uns["harmonax_workflow"]["steps"]
    return {row.step: (row.status, row.note) for row in table.itertuples()}


def lazy(adata: ad.AnnData, make: Callable[[Any], Any] = sp.csr_matrix, rows: int = 700) -> ad.AnnData:
    """Return the data with X as a Dask array of pieces."""
    dense = da.from_array(adata.X.toarray(), chunks=(rows, 500))
    X = dense if make is np.asarray else dense.rechunk({1: -1}).map_blocks(make)
    return ad.AnnData(X, obs=adata.obs.copy(), var=adata.var.copy())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_agrees(made: ad.AnnData, expected: ad.AnnData, *, components: float = 1e-3) -> None:
    """The same cells, genes and record; components up to what float32 leaves open."""
    assert list(made.obs_names) == list(expected.obs_names)
    assert list(made.var_names) == list(expected.var_names)
    assert (made.var["highly_variable"] == expected.var["highly_variable"]).all()
    for name in ("n_genes_by_counts", "total_counts", "pct_counts_mt"):
        np.testing.assert_allclose(made.obs[name], expected.obs[name], rtol=1e-5)
    for name in ("n_cells_by_counts", "mean_counts", "pct_dropout_by_counts", "means", "dispersions"):
        np.testing.assert_allclose(made.var[name], expected.var[name], rtol=1e-5)
    pairs = ((made.obsm["X_pca"], expected.obsm["X_pca"]), (made.varm["PCs"], expected.varm["PCs"]))
    for one, other in pairs:
        error = np.abs(one - other).max(axis=0) / np.abs(other).max(axis=0)
        assert one.dtype == other.dtype
        assert error.max() < components
    for name in ("variance", "variance_ratio"):
        np.testing.assert_allclose(made.uns["pca"][name], expected.uns["pca"][name], rtol=1e-4)
    assert made.uns["harmonax_workflow"]["genes"] == expected.uns["harmonax_workflow"]["genes"]
    assert made.uns["harmonax_workflow"]["cells"].equals(expected.uns["harmonax_workflow"]["cells"])


def assert_beyond(made: ad.AnnData) -> None:
    """What there is, what there is not, and what is said about it."""
    assert made.X is None
    assert made.raw is None
    assert not [name for name in made.layers if name is not None]
    told = steps(made)
    assert "stays beyond memory" in told["load"][1]
    assert "dask" in told["load"][1]
    assert [told[name][0] for name in ("qc", "normalise", "hvg", "pca", "harmony", "leiden")] == ["done"] * 6
    assert told["markers"] == ("skipped", BEYOND)


# ---- agreement with the ordinary run -----------------------------------------------------------------------------


def test_a_backed_file_gives_what_memory_gives(file, in_memory, monkeypatch):
    monkeypatch.setattr(beyond, "_FEWEST_ROWS", 700)
    monkeypatch.setattr(beyond, "_ROOM", 1)
    before = digest(file)
    made = run(ad.read_h5ad(file, backed="r"), "batch", **QUICK)
    assert "3 pieces of up to 700 cells" in steps(made)["load"][1]
    assert_beyond(made)
    assert_agrees(made, in_memory)
    # Of cells and genes that quality control really took.
    assert made.n_obs < 2000
    assert made.n_vars < 2000
    assert digest(file) == before


@pytest.mark.parametrize("make", [sp.csc_matrix, np.asarray])
def test_a_dask_array_gives_what_memory_gives(counts, in_memory, make):
    given = lazy(counts, make)
    X = given.X
    made = run(given, "batch", **QUICK)
    assert_beyond(made)
    assert_agrees(made, in_memory)
    assert given.X is X
    assert not given.obsm
    assert not given.uns
    assert list(given.obs) == list(counts.obs)


def test_the_command_line(file, in_memory, tmp_path):
    before = digest(file)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in CHOICE.items()]
    options += ["--batch-key=batch", "--resolutions=0.5", f"--skip={','.join(QUICK['skip'])}", "--max-memory=1M"]
    result = CliRunner().invoke(run_workflow, [str(file), "-o", str(tmp_path / "out"), *options])
    assert result.exit_code == 0, result.output
    made = ad.read_h5ad(tmp_path / "out" / RESULT)
    assert_beyond(made)
    assert_agrees(made, in_memory)
    assert digest(file) == before
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert "stays beyond memory" in record["steps"][0]["note"]
    assert "of 2,000 cells" in record["steps"][1]["note"]
    assert record["options"]["max_memory"] == 2**20
    assert (tmp_path / "out" / "report.html").exists()


def test_counts_in_a_layer_of_a_zarr_store(counts, in_memory, tmp_path):
    pytest.importorskip("zarr")
    other = ad.AnnData(
        sp.csr_matrix(np.log1p(counts.X)), obs=counts.obs.copy(), var=counts.var.copy(), layers={"umi": counts.X}
    )
    path = save(other, tmp_path / "counts.zarr")
    made = run_files(
        str(path), tmp_path / "out", "batch", counts_layer="umi", max_memory="1M", recompute="normalise", **QUICK
    )
    assert_beyond(made)
    assert_agrees(made, in_memory)


def test_dense_counts_in_a_file(counts, in_memory, tmp_path):
    dense = ad.AnnData(counts.X.toarray(), obs=counts.obs.copy(), var=counts.var.copy())
    path = save(dense, tmp_path / "dense.h5ad")
    made = run_files(str(path), tmp_path / "out", "batch", max_memory="1M", **QUICK)
    assert_beyond(made)
    assert_agrees(made, in_memory)


def test_several_files_are_joined(counts, file, in_memory, tmp_path):
    kept = counts.obs["batch"] == counts.obs["batch"].iloc[0]
    paths = [save(counts[rows].copy(), tmp_path / f"{name}.h5ad") for name, rows in (("a", kept), ("b", ~kept))]
    options = {**QUICK, "max_memory": "1M"}
    made = run_files(list(map(str, paths)), tmp_path / "out", "batch", **options)
    assert_beyond(made)
    expected = in_memory[made.obs_names]
    np.testing.assert_allclose(np.abs(made.obsm["X_pca"]), np.abs(expected.obsm["X_pca"]), atol=2e-3)


def test_a_backed_view_and_its_layers(counts, in_memory, tmp_path):
    twice = ad.AnnData(counts.X, obs=counts.obs.copy(), var=counts.var.copy(), layers={"other": counts.X * 2})
    path = save(twice, tmp_path / "twice.h5ad")
    backed = ad.read_h5ad(path, backed="r")
    made = run(backed[::-1], "batch", **QUICK)
    assert_beyond(made)
    assert list(made.obs_names) == list(in_memory.obs_names[::-1])
    np.testing.assert_allclose(made.obsm["X_pca"], in_memory.obsm["X_pca"][::-1], atol=2e-2)
    assert "other" in backed.layers


def test_counts_in_raw(counts, in_memory, tmp_path):
    normalised = ad.AnnData(sp.csr_matrix(np.log1p(counts.X)), obs=counts.obs.copy(), var=counts.var.copy())
    normalised.raw = counts
    path = save(normalised, tmp_path / "raw.h5ad")
    backed = ad.read_h5ad(path, backed="r")
    made = run(backed, "batch", counts_layer="raw", recompute="normalise", **QUICK)
    assert_beyond(made)
    assert_agrees(made, in_memory)


# ---- when ----------------------------------------------------------------------------------------------------------


def test_room_enough_is_the_ordinary_run(file, in_memory, tmp_path):
    made = run_files(str(file), tmp_path / "out", "batch", max_memory="1G", **QUICK)
    assert made.X is not None
    np.testing.assert_array_equal(made.obsm["X_pca"], in_memory.obsm["X_pca"])


def test_the_estimate_is_made_of_what_the_file_holds(counts, file):
    X = counts.X
    stored = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
    assert beyond.size(str(file)) == stored + 2 * 8 * X.nnz


def test_a_pca_that_is_there_is_kept_and_the_expression_let_go(in_memory, tmp_path):
    both = in_memory.copy()
    for name in ("X_pca_harmony",):
        del both.obsm[name]
    path = save(both, tmp_path / "with_pca.h5ad")
    made = run_files(str(path), tmp_path / "out", "batch", max_memory=1, recompute="leiden", **QUICK)
    assert steps(made)["pca"][0] == "kept"
    assert made.X is None
    np.testing.assert_array_equal(made.obsm["X_pca"], in_memory.obsm["X_pca"])


def test_an_interrupted_run_is_taken_up(file, in_memory, tmp_path):
    def stop(done: Done) -> None:
        if done.step == "harmony":
            raise KeyboardInterrupt

    options = {**QUICK, "max_memory": "1M"}
    with pytest.raises(KeyboardInterrupt):
        run_files(str(file), tmp_path / "out", "batch", progress=stop, **options)
    seen: list[Done] = []
    made = run_files(str(file), tmp_path / "out", "batch", progress=seen.append, **options)
    assert {done.step for done in seen if done.resumed} == {"qc", "hvg", "pca", "harmony"}
    assert_agrees(made, in_memory)
    assert made.X is None


# ---- refusals ------------------------------------------------------------------------------------------------------


def refused(message: str, adata: ad.AnnData, **options: Any) -> None:
    with pytest.raises(InputError, match=message):
        run(adata, "batch", **{**QUICK, **options})


def test_no_counts_is_said_as_usual(counts):
    few = counts[:60].copy()
    few.X = sp.csr_matrix(np.log1p(few.X) / 3)
    with pytest.raises(InputError) as usual:
        run(few, "batch", **QUICK)
    with pytest.raises(InputError) as this:
        run(lazy(few), "batch", **QUICK)
    assert str(this.value) == str(usual.value)


@pytest.mark.parametrize(("value", "says"), [(-1.0, "negative"), (np.nan, "NaN or infinity")])
def test_broken_values_in_any_piece_are_found(counts, value, says):
    few = counts[:60].copy()
    few.X.data[-1] = value
    refused(says, lazy(few, rows=7))


def test_what_needs_all_counts_at_once(counts):
    refused("needs all counts in memory", lazy(counts[:60].copy()), hvg_flavor="seurat_v3")


def test_columns_first_and_other_formats(counts, tmp_path):
    few = counts[:60].copy()
    few.X = sp.csc_matrix(few.X)
    path = save(few, tmp_path / "columns.h5ad")
    with pytest.raises(InputError, match=r"X is stored by genes \(CSC\)"):
        run_files(str(path), tmp_path / "out", "batch", max_memory="1K", **QUICK)
    (tmp_path / "matrix.mtx").write_text("")
    with pytest.raises(InputError, match=r"for \.h5ad and \.zarr"):
        inputs.read_inputs([str(tmp_path)], room=1)
    assert not (tmp_path / "out").exists()


def test_without_dask_the_extra_is_named(file, monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "dask", None)
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(MissingExtraError, match=r"harmonax\[dask\]"):
        run_files(str(file), tmp_path / "out", "batch", max_memory="1M", **QUICK)


def test_genes_and_markers_are_left_out_with_a_warning(counts):
    with pytest.warns(HarmonaxWarning, match="genes are left out: the expression is beyond memory"):
        run(lazy(counts[:300].copy()), "batch", genes=(counts.var_names[50],), **{**QUICK, "min_cells": 1})
