"""Sparse matrices with a wrong number in them: an error that names the file, from every front; never a crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import harmonax
from harmonax import cli, io
from harmonax.errors import FileFormatError, InputError
from harmonax.inputs.sparse import check_stored, intact

N, GENES = 90, 12
PLACES = ("indices", "indptr")


def counts() -> sp.csr_matrix:
    return sp.csr_matrix(np.random.default_rng(0).poisson(0.7, (N, GENES)).astype(np.float32))


def damaged(arrays: dict[str, np.ndarray], place: str, at: int, value: int) -> dict[str, np.ndarray]:
    changed = arrays[place].astype(np.int64)
    changed[at % len(changed)] = value
    return arrays | {place: changed}


@given(
    kind=st.sampled_from([sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array]),
    place=st.sampled_from(PLACES),
    at=st.integers(0, 10**6),
    value=st.integers(-(2**33), 2**41) | st.integers(-2, 2 * N),
)
def test_memory_and_file_agree_with_what_every_index_says(kind, place, at, value):
    X = kind(counts())
    arrays = damaged({name: getattr(X, name) for name in ("data", "indices", "indptr")}, place, at, value)
    outer, inner = X.shape if X.format == "csr" else X.shape[::-1]
    starts, inside = arrays["indptr"], arrays["indices"]
    good = starts[0] == 0 and starts[-1] == len(inside) and (np.diff(starts) >= 0).all()
    good = bool(good and inside.min() >= 0 and inside.max() < inner)

    def accepted(check) -> bool:
        try:
            check()
        except FileFormatError:
            return False
        return True

    assert accepted(lambda: check_stored(arrays, outer, inner, "X")) == good
    broken = X.copy()
    broken.data, broken.indices, broken.indptr = arrays["data"], inside, starts
    # Values beyond the last row's end are never looked at.
    assert accepted(lambda: intact(broken)) == good or starts[-1] < len(inside)
    assert broken.indices is inside


def test_arrays_of_other_lengths_and_kinds():
    X = counts()
    arrays = {name: getattr(X, name) for name in ("data", "indices", "indptr")}
    check_stored(arrays, N, GENES, "X")
    for change in (
        {"data": X.data[:-1]},
        {"indptr": X.indptr[:-1]},
        {"indptr": X.indptr.astype(float)},
        {"indices": X.indices.astype(float)},
        {"indices": X.indices[:, None]},
    ):
        with pytest.raises(FileFormatError, match="X is a damaged sparse matrix"):
            check_stored(arrays | change, N, GENES, "X")


@pytest.fixture
def files(tmp_path) -> Path:
    """Write the same counts as rows and as columns, and as Cell Ranger does; each with one wrong index."""
    gen = np.random.default_rng(1)
    obs = pd.DataFrame({"batch": np.repeat(["a", "b", "c"], N // 3)}, index=[f"c{i}" for i in range(N)])
    obsm = {"X_pca": gen.normal(size=(N, 4)).astype(np.float32)}
    var = pd.DataFrame(index=[f"g{i}" for i in range(GENES)])
    for name, X in (("rows", counts()), ("columns", counts().tocsc())):
        anndata.AnnData(X, obs=obs, var=var, obsm=obsm).write_h5ad(tmp_path / f"{name}.h5ad")
        with h5py.File(tmp_path / f"{name}.h5ad", "r+") as file:
            file["X/indices"][5] = 10**6
    with h5py.File(tmp_path / "cells.h5", "w") as file:
        group, X = file.create_group("matrix"), counts().T.tocsc()
        names = [f"g{i}".encode() for i in range(GENES)]
        tables = {"data": X.data.astype(int), "indptr": X.indptr, "shape": np.array(X.shape)}
        tables |= {"indices": damaged({"indices": X.indices}, "indices", 5, 2**40)["indices"]}
        tables |= {"barcodes": np.array([f"c{i}".encode() for i in range(N)])}
        features = {"id": names, "name": names, "feature_type": [b"Gene Expression"] * GENES, "genome": [b"x"] * GENES}
        for name, table in (tables | {f"features/{name}": np.array(text) for name, text in features.items()}).items():
            group[name] = table
    return tmp_path


WORKFLOW = pytest.mark.skipif(not __import__("importlib").util.find_spec("scanpy"), reason="needs harmonax[workflow]")
RUN = ("run", "--batch-key", "batch", "--from-counts", "--n-comps", "3", "--min-genes", "1", "--min-cells", "1")


@WORKFLOW
@pytest.mark.parametrize("name", ["rows.h5ad", "columns.h5ad", "cells.h5"])
@pytest.mark.parametrize("room", [(), ("--max-memory", "1K")], ids=["memory", "beyond"])
def test_a_run(files, name, room, capsys):
    if room and name == "cells.h5":
        pytest.skip("these are read whole")
    assert cli.run([RUN[0], str(files / name), "-o", str(files / "out"), *RUN[1:], *room]) == 3
    said = capsys.readouterr().err
    assert name in said
    assert "by genes (CSC)" in said or "damaged" in said or "corrupt" in said
    assert not (files / "out").exists()


@WORKFLOW
@pytest.mark.parametrize("name", ["rows.h5ad", "columns.h5ad"])
def test_a_report(files, name, capsys):
    arguments = ["report", str(files / name), "-o", str(files / "report.html"), "--genes", "g1,g3"]
    assert cli.run(arguments) == 3
    assert f"{name} is a damaged sparse matrix" in capsys.readouterr().err
    assert not (files / "report.html").exists()


@pytest.mark.parametrize("name", ["rows.h5ad", "columns.h5ad"])
def test_mapped_cells(files, name, capsys):
    var = pd.DataFrame(index=[f"g{i}" for i in range(GENES)])
    reference = anndata.AnnData(counts(), obs={"batch": np.repeat(["a", "b"], N // 2)}, var=var)
    reference.obsm["X_pca"] = np.asarray(counts().todense())[:, :3]
    reference.varm["PCs"] = np.eye(GENES, 3)
    harmonax.pp.harmony_integrate(reference, "batch", save_model=str(files / "model.h5"), rng=0)
    arguments = ["map", str(files / name), "--model", str(files / "model.h5"), "-o", str(files / "m.h5ad")]
    assert cli.run([*arguments, "--batch-key", "batch"]) == 3
    assert f"{name} is a damaged sparse matrix" in capsys.readouterr().err


def test_an_embedding_in_memory_is_not_followed():
    X = counts()
    X.indices[3] = 10**6
    with pytest.raises(InputError, match="damaged sparse matrix"):
        harmonax.harmonize(X, np.arange(N) % 2)


def test_reading_pieces_of_a_good_file_gives_what_is_there(tmp_path):
    for name, X in (("rows", counts()), ("columns", counts().tocsc())):
        anndata.AnnData(X).write_h5ad(tmp_path / f"{name}.h5ad")
        stored, _, _ = io.read_expression(tmp_path / f"{name}.h5ad", io.H5AD, [])
        for rows in (slice(3, 11), np.array([1, 5, 80])):
            np.testing.assert_array_equal(stored[rows].toarray(), X.toarray()[rows])


MUTATED = """
import sys, numpy as np
from harmonax import cli
source, out, seed = sys.argv[1:]
whole = open(source, "rb").read()
gen = np.random.default_rng(int(seed))
codes = set()
for i in range(25):
    data = bytearray(whole)
    data[gen.integers(len(data))] ^= 1 << gen.integers(8)
    open(out + "/t.h5", "wb").write(data)
    open(out + "/u.h5", "wb").write(whole)
    codes.add(cli.run(["run", out + "/t.h5", out + "/u.h5", "-o", f"{out}/o{i}", "--quiet", "--min-genes", "1",
        "--skip", "check,umap,evaluate,diagnose,markers", "--from-counts", "--n-comps", "3", "--min-cells", "1"]))
print(sorted(codes))
"""


@WORKFLOW
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_of_a_cell_ranger_file_never_end_the_process(files, seed):
    with h5py.File(files / "cells.h5", "r+") as file:
        indices = file["matrix/indices"][:]
        indices[5] = 0
        file["matrix/indices"][...] = indices
    work = [sys.executable, "-c", MUTATED, files / "cells.h5", files, str(seed)]
    done = subprocess.run(work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(eval(done.stdout)) <= {0, 3}, done.stderr[-2000:]
