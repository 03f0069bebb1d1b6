"""The registry of formats: that one file and one entry make a format, as `harmonax.io.formats` says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harmonax import HarmonyParams, io
from harmonax.errors import FileFormatError, InputError
from harmonax.files.integrate import FileJob, integrate_file
from harmonax.inputs.rows import slabs
from harmonax.io.formats import FORMATS, BareFormat, BareTable


class RawFormat(BareFormat):
    """A toy: two whole numbers, the shape, and then the embedding in float32."""

    named = False

    def read(self, path: Path) -> BareTable:
        shape = np.fromfile(path, "<i8", 2)
        return BareTable(np.fromfile(path, "<f4", offset=16).reshape(shape))

    def write(self, part: Path, table: BareTable, *, compress: bool) -> None:
        with open(part, "wb") as file:
            np.asarray(table.Z.shape, "<i8").tofile(file)
            for _, rows in slabs(table.Z):
                np.asarray(rows, "<f4").tofile(file)


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch) -> RawFormat:
    kind = RawFormat(".raw")
    monkeypatch.setitem(FORMATS, kind.suffix, kind)
    return kind


@pytest.fixture
def meta(adata, tmp_path) -> str:
    adata.obs.to_csv(tmp_path / "meta.csv")
    return str(tmp_path / "meta.csv")


@pytest.mark.parametrize("backend", ["memory", "disk"])
def test_a_new_format_is_read_and_written_by_a_run(raw, adata, meta, tmp_path, backend):
    params, source, output = HarmonyParams(max_iter_harmony=1, n_clusters=3), tmp_path / "in.raw", tmp_path / "out.raw"
    Z = adata.obsm["X_pca"]
    raw.write(source, BareTable(Z), compress=False)
    result = integrate_file(
        FileJob(str(source), str(output), ["batch"], metadata=meta), params, rng=0, backend=backend, progress=False
    )
    read = io.read_source(str(output), ["batch"], metadata=meta)
    assert read.format is raw
    np.testing.assert_array_equal(read.Z, np.asarray(result.embedding))
    assert not np.array_equal(read.Z, Z)


def test_what_is_wrong_with_a_file_of_a_new_format_is_said_in_one_line(raw, meta, tmp_path):
    (tmp_path / "in.raw").write_bytes(b"short")
    with pytest.raises(FileFormatError, match=r"in\.raw is not a readable \.raw file: truncated or corrupt\?"):
        io.read_source(str(tmp_path / "in.raw"), ["batch"], metadata=meta)


def test_an_unknown_ending_is_refused_with_those_that_are_known(raw):
    with pytest.raises(InputError, match=r"allowed are \.h5ad, \.zarr, \.csv\[\.gz\].*\.npy, \.raw$"):
        io.format_of("x.loom")


def test_every_entry_stands_under_its_own_suffix():
    assert all(kind.suffix == suffix for suffix, kind in FORMATS.items())


@pytest.mark.parametrize("suffix", [s for s, kind in FORMATS.items() if isinstance(kind, BareFormat)])
def test_every_bare_format_reads_what_it_wrote(suffix, tmp_path):
    kind = FORMATS[suffix]
    assert isinstance(kind, BareFormat)
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    Z = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    names = pd.Index([f"cell{i}" for i in range(7)]) if kind.named else None
    kind.write(tmp_path / "file", BareTable(Z, names, ["a", "b", "c"]), compress=False)
    read = kind.read(tmp_path / "file")
    np.testing.assert_array_equal(np.asarray(read.Z, np.float32), Z)
    if kind.named:
        assert read.features == ["a", "b", "c"]
        assert read.names is not None
        assert list(read.names) == list(names)
    rows = kind.rows(tmp_path / "file", io.Reading(up_to=0))
    if rows is not None:
        np.testing.assert_array_equal(rows.Z[2:5], Z[2:5])
