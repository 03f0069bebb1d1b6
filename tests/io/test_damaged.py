"""Damage that the fuzzer found HDF5 and others to hang on, to crash on or to misread: refused, with the file's name."""

from __future__ import annotations

import os
import subprocess
import sys

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse

from harmonax.errors import FileFormatError
from harmonax.files import FileJob, integrate_file
from harmonax.io.annotated import quiet
from harmonax.io.formats import NPY, check_links, reading
from harmonax.report.parts import parts_of
from harmonax.workflow.inputs import read


@pytest.fixture
def path(tmp_path):
    """A small .h5ad file; its attributes and names are text in heaps."""
    anndata.AnnData(np.eye(3), uns={"note": "by hand"}).write_h5ad(tmp_path / "in.h5ad")
    check_links(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


@pytest.mark.parametrize("size", [0, 103, 2**40])
def test_a_heap_whose_free_part_claims_another_size(path, size):
    data = bytearray(path.read_bytes())
    first = data.index(b"GCOL\x01") + 16
    # The first object becomes the free part.
    data[first : first + 16] = bytes(8) + size.to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=r"in\.h5ad is damaged: the text at byte \d+ cannot be read"):
        check_links(path)


def test_values_of_variable_length_of_an_unknown_kind(path):
    data = path.read_bytes()
    text = b"\x19\x01\x01\x00\x10\x00\x00\x00"
    assert text in data
    path.write_bytes(data.replace(text, b"\x19\x06\x00\x00\x10\x00\x00\x00"))
    with pytest.raises(
        FileFormatError, match=r"in\.h5ad is damaged: the type of /\S*, or of its attributes, is unknown"
    ):
        check_links(path)


def test_texts_beside_much_data_are_still_found(tmp_path):
    path = tmp_path / "large.h5"
    with h5py.File(path, "w") as file:
        file["before"] = np.frombuffer(b"GCOL\x01\0\0\0" * 400_000, "u1")
        file.create_dataset("chunks", data=np.random.default_rng(0).random(400_000), chunks=(1000,))
        file["names"] = ["a", "bc", "def"]
    check_links(path)
    data = bytearray(path.read_bytes())
    first = data.rindex(b"GCOL\x01") + 16
    data[first : first + 16] = bytes(16)
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match="damaged"):
        check_links(path)


@pytest.mark.parametrize("version", [2, 3])
def test_more_texts_than_an_array_has_place_for(version, tmp_path):
    zarr = pytest.importorskip("zarr")
    path = tmp_path / "in.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=version)
    names = group.create_array("names", shape=(2,), chunks=(2,), dtype=str, compressors=None)
    names[:] = np.array(["a", "bc"])
    check_links(path)
    (chunk,) = (file for file in path.rglob("*") if file.is_file() and b"bc" in file.read_bytes())
    data = bytearray(chunk.read_bytes())
    assert data[:4] == bytes([2, 0, 0, 0])
    data[3] = 0x80
    chunk.write_bytes(data)
    os.utime(path, (0, 0))
    with pytest.raises(FileFormatError, match="is damaged: it claims more texts than its array has place for"):
        check_links(path)


def test_a_size_that_no_machine_has(tmp_path):
    (tmp_path / "in.npy").touch()
    with (
        pytest.raises(FileFormatError, match=r"in\.npy takes more memory to read than there is: truncated or corrupt"),
        reading(tmp_path / "in.npy", NPY),
    ):
        raise MemoryError


def test_the_command_line_ends_on_such_a_file(path):
    data = bytearray(path.read_bytes())
    first = data.index(b"GCOL\x01") + 16
    data[first : first + 16] = bytes(16)
    path.write_bytes(data)
    words = ["integrate", str(path), "-o", str(path.with_name("out.h5ad")), "--batch-key", "batch"]
    command = [sys.executable, "-c", "from harmonax.cli import main; main()", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3
    assert "is damaged" in done.stderr


@pytest.mark.parametrize("n_rows", [2, 10**13])
def test_a_page_of_an_embedding_with_other_rows_than_there_are_cells(n_rows, path):
    with h5py.File(path, "r+") as file:
        data = file.create_dataset("obsm/X_pca", (n_rows, 2), "f4", chunks=(2, 2))
        data.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    with pytest.raises(FileFormatError, match=rf"in\.h5ad: obsm\['X_pca'\] has {n_rows} rows but obs has 3"):
        parts_of(path)
    # What is read as a whole says so of the file, too.
    says = r"in\.h5ad takes more memory to read than there is" if n_rows > 2 else r"in\.h5ad is not readable"
    with pytest.raises(FileFormatError, match=says):
        read(str(path))


@pytest.mark.parametrize("place", ["X/data", "obsm/Z", "layers/dense"])
@pytest.mark.parametrize("version", [2, 3])
def test_an_array_whose_metadata_have_no_shape(place, version, tmp_path):
    zarr = pytest.importorskip("zarr", minversion="3")
    Z = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    X = scipy.sparse.csr_matrix(np.eye(40, dtype=np.float32))
    adata = anndata.AnnData(X, obs={"batch": np.repeat(["a", "b"], 20)}, obsm={"X_pca": Z, "Z": Z})
    adata.layers["dense"] = X.toarray()
    with quiet(), anndata.settings.override(zarr_write_format=version):
        adata.write_zarr(store := tmp_path / "in.zarr")
        zarr.consolidate_metadata(store)
    about = store / place / (".zarray" if version == 2 else "zarr.json")
    about.write_text(about.read_text().replace('"shape"', '"shapg"', 1))
    job = FileJob(store, tmp_path / "out.h5ad", ["batch"])
    with pytest.raises(FileFormatError, match=r"in\.zarr is not a readable \.zarr file|is not an array"):
        integrate_file(job, rng=0)
    assert [path.name for path in tmp_path.iterdir()] == ["in.zarr"]
