"""The dry run: sizes as the files tell them, a line for each step that there will be, and nothing done or written."""

from __future__ import annotations

import gzip
import importlib
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from click.testing import CliRunner
from test_workflow_inputs import save

from harmonax.cli.workflow import run_workflow
from harmonax.datasets import simulate
from harmonax.errors import FileFormatError, InputError, MissingKeyError
from harmonax.workflow import STEPS, WorkflowOptions, forecast, inputs
from harmonax.workflow.extent import Extent, extent

# Its one function has its name.
MODULE = importlib.import_module("harmonax.workflow.forecast")
EVERY = ["load", *STEPS, "figures", "report", "write"]


@pytest.fixture(scope="module")
def counts() -> ad.AnnData:
    return simulate(120, 0)


@pytest.fixture(scope="module")
def file(counts, tmp_path_factory) -> Path:
    return save(counts, tmp_path_factory.mktemp("forecast") / "counts.h5ad")


def test_sizes_of_every_kind_of_file(counts, file, tmp_path):
    size = Extent(120, 2000, counts.X.nnz)
    assert extent([str(file)]) == size
    dense = ad.AnnData(counts.X.toarray(), obs=counts.obs, layers={"umi": counts.X})
    path = str(save(dense, tmp_path / "dense.h5ad"))
    assert extent([path]) == Extent(120, 2000, 240_000)
    assert extent([path], "umi") == size
    with pytest.raises(MissingKeyError, match="has no 'umis'"):
        extent([path], "umis")
    pytest.importorskip("zarr")
    assert extent([str(save(counts, tmp_path / "counts.zarr"))]) == size


def test_several_files_have_the_cells_of_all_and_the_genes_of_the_smallest(counts, file, tmp_path):
    other = save(counts[:20, :500].copy(), tmp_path / "other.h5ad")
    assert extent([str(file), str(other)]) == Extent(140, 500, counts.X.nnz + counts[:20, :500].X.nnz)


def test_files_of_10x(tmp_path):
    import h5py

    folder = tmp_path / "10x"
    folder.mkdir()
    with gzip.open(folder / "matrix.mtx.gz", "wt") as out:
        out.write("%%MatrixMarket matrix coordinate integer general\n%\n50 7 3\n1 1 1\n2 2 1\n50 7 4\n")
    assert extent([str(folder)]) == Extent(7, 50, 3)
    with h5py.File(tmp_path / "m.h5", "w") as out:
        out["matrix/shape"], out["matrix/data"] = np.array([50, 7]), np.arange(3)
    assert extent([str(tmp_path / "m.h5")]) == Extent(7, 50, 3)
    (tmp_path / "broken.h5ad").write_bytes(b"no")
    with pytest.raises(FileFormatError):
        extent([str(tmp_path / "broken.h5ad")])
    with pytest.raises(InputError, match="no such file"):
        extent([str(tmp_path / "missing.h5ad")])


def test_a_line_for_each_step_and_those_that_will_not_be_done_take_nothing(file):
    found = {step.step: step for step in forecast(str(file))}
    assert list(found) == EVERY
    assert all(step.seconds >= 0 and step.peak_memory_bytes > 0 for step in found.values())
    options = WorkflowOptions(skip=("umap", "evaluate"), start_from="pca", max_memory=1000)
    found = {step.step: step for step in forecast(str(file), options)}
    idle = {"qc", "normalise", "hvg", "pca", "umap", "evaluate", "markers"}
    assert {name for name, step in found.items() if step.note} == idle
    assert all(found[name].seconds == 0 for name in idle)


def test_more_cells_take_longer_and_more_threads_less(monkeypatch):
    def took(cells: int, threads: int, **options: Any) -> Any:
        monkeypatch.setattr(MODULE, "extent", lambda *_: Extent(cells, 2000, 900 * cells))
        return forecast("x", WorkflowOptions(n_threads=threads, **options))

    few, many, threads = took(20_000, 1), took(200_000, 1), took(200_000, 4)
    for one, other, divided in zip(few, many, threads, strict=True):
        assert one.cpu_seconds <= other.cpu_seconds == divided.cpu_seconds
        assert divided.seconds <= other.seconds
        assert one.peak_memory_bytes < other.peak_memory_bytes
    assert sum(s.seconds for s in took(20_000, 1, n_comps=20, resolutions=1)) < sum(s.seconds for s in few)


def test_beyond_memory_the_expression_takes_what_there_is_room_for(monkeypatch):
    def peak(beyond: bool) -> float:
        monkeypatch.setattr(MODULE, "extent", lambda *_: Extent(10**6, 2000, 9 * 10**8, beyond))
        return max(step.peak_memory_bytes for step in forecast("x", WorkflowOptions(max_memory="1G")))

    assert peak(False) > 16 * 9e8
    assert peak(True) < 10 * 2**30


def test_the_command_prints_the_steps_and_writes_nothing(file, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "read", None)
    before = sorted(tmp_path.rglob("*")), file.stat().st_mtime_ns, file.read_bytes()
    out = tmp_path / "out"
    result = CliRunner().invoke(run_workflow, [str(file), "-o", str(out), "--batch-key", "batch", "--dry-run"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == EVERY
    assert "120 cells x 2,000 genes" in lines[0]
    assert lines[-1].startswith("in all")
    assert (sorted(tmp_path.rglob("*")), file.stat().st_mtime_ns, file.read_bytes()) == before
