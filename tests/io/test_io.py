"""Files: what is read and what is not, what is written, and that it is whole or absent."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata.io import write_elem

import harmonax
from harmonax import HarmonyParams, io
from harmonax.errors import FileFormatError, InputError, MissingExtraError, MissingKeyError, OutputError
from harmonax.files.integrate import FileJob, integrate_file
from harmonax.io import staging
from harmonax.io.annotated import nullable_strings, quiet
from harmonax.io.convert import _Copy

PARAMS = HarmonyParams(max_iter_harmony=2, n_clusters=4)
HOW = {"rng": 0, "backend": "dense", "progress": False}
ANNOTATED = (".h5ad", ".zarr")
BARE = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".npy")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the flushing, which takes most of the time; one test looks at it by itself."""
    monkeypatch.setattr(staging.os, "fsync", lambda handle: None)


@pytest.fixture
def full(adata: anndata.AnnData) -> anndata.AnnData:
    """The small AnnData with everything an AnnData may hold."""
    gen = np.random.default_rng(1)
    n = adata.n_obs
    X = sp.random(n, 40, 0.3, format="csr", random_state=2, dtype=np.float32)
    var = pd.DataFrame({"chromosome": pd.Categorical(["1", "2"] * 20)}, index=[f"gene{i}" for i in range(40)])
    out = anndata.AnnData(X, obs=adata.obs.copy(), var=var, obsm={"X_pca": adata.obsm["X_pca"]})
    out.obs["note"] = [f"text {i}" for i in range(n)]
    out.obs["age"] = pd.array([30, None] * (n // 2), dtype="Int64")
    out.obs["weight"] = gen.random(n)
    out.layers["dense"], out.layers["csc"] = gen.random((n, 40)), X.tocsc()
    out.obsm["frame"] = pd.DataFrame({"u": np.arange(float(n)), "v": 1.0}, index=out.obs_names)
    out.obsp["graph"] = sp.eye(n, format="csr")
    out.varm["loadings"] = gen.random((40, 3))
    out.raw = out.copy()
    out.uns["nested"] = {"names": np.array(["x", "y"], object), "deep": {"values": np.arange(9.0)}, "flag": True}
    return out


def save(adata: anndata.AnnData, path: Path, **how: object) -> Path:
    with quiet():
        (adata.write_h5ad if path.suffix == ".h5ad" else adata.write_zarr)(path, **how)
    return path


def load(path: Path) -> anndata.AnnData:
    with quiet():
        return (anndata.read_h5ad if path.suffix == ".h5ad" else anndata.read_zarr)(path)


def integrate(source: Path, output: Path, keys: tuple[str, ...] = ("batch",), **more: object) -> harmonax.HarmonyResult:
    return integrate_file(FileJob(str(source), str(output), keys, **more), PARAMS, **HOW)  # type: ignore[arg-type]


def expected(adata: anndata.AnnData) -> np.ndarray:
    return harmonax.harmonize(adata.obsm["X_pca"], adata.obs[["batch"]], PARAMS, **HOW).embedding


def left_in(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def assert_same(a: object, b: object) -> None:
    """Compare elements of AnnData objects, whichever file they come from."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()  # type: ignore[attr-defined]
        for name in a:
            assert_same(a[name], b[name])  # type: ignore[index]
    elif isinstance(a, pd.DataFrame):
        # zarr and h5ad give text in different pandas types.
        pd.testing.assert_frame_equal(a, b, check_dtype=False, check_index_type=False, check_column_type=False)  # type: ignore[arg-type]
    elif sp.issparse(a):
        assert type(a) is type(b)
        assert a.dtype == b.dtype  # type: ignore[attr-defined]
        assert (a != b).nnz == 0  # type: ignore[attr-defined]
    else:
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


# ---- AnnData files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ANNOTATED)
@pytest.mark.parametrize("kind", ANNOTATED)
def test_annotated_to_annotated_keeps_all(full, tmp_path, monkeypatch, kind, target):
    # So that what is small here is copied as big arrays are.
    monkeypatch.setattr("harmonax.io.convert._BLOCK", 2000)
    source, output = save(full, tmp_path / f"in{kind}"), tmp_path / f"out{target}"
    before = load(source)
    integrate(source, output)
    after = load(output)
    np.testing.assert_array_equal(after.obsm.pop("X_pca_harmony"), expected(full))
    assert after.uns.pop("harmonax")["status"] == "max_iterations"
    for name in ("obs", "var", "X"):
        assert_same(getattr(before, name), getattr(after, name))
    for name in ("obsm", "varm", "obsp", "layers", "uns"):
        assert_same(dict(getattr(before, name)), dict(getattr(after, name)))
    assert_same(before.raw.X, after.raw.X)
    assert_same(before.raw.var, after.raw.var)
    assert left_in(tmp_path) == sorted([source.name, output.name, f"{output.name}.run.json"])


def test_conversion_copies_big_arrays_in_blocks(full, tmp_path, monkeypatch):
    monkeypatch.setattr("harmonax.io.convert._BLOCK", 2000)
    whole = []
    monkeypatch.setattr(_Copy, "whole", lambda self, element, target, name: whole.append(element.name))
    with quiet(), h5py.File(save(full, tmp_path / "in.h5ad")) as file, h5py.File(tmp_path / "out", "w") as target:
        _Copy(tmp_path / "in.h5ad", io.H5AD, io.ZARR).group(file, target)
    assert not {"/X", "/raw/X", "/layers/dense", "/layers/csc", "/obsm/X_pca"} & set(whole)
    assert {"/obs", "/var", "/uns/nested/names"} <= set(whole)


@pytest.mark.parametrize("kind", ANNOTATED)
def test_only_what_is_needed_is_read(full, tmp_path, kind):
    """All but the embedding, the batch column and the names is made unreadable; the run does not notice."""
    source = save(full, tmp_path / f"in{kind}", **({"compression": "gzip"} if kind == ".h5ad" else {}))
    poisoned = ["X/data", "layers/dense", "raw/X/data", "obs/weight", "varm/loadings"]
    if kind == ".h5ad":
        with h5py.File(source) as file:
            places = [file[name].id.get_chunk_info(0) for name in poisoned]
        with open(source, "r+b") as raw:
            for place in places:
                raw.seek(place.byte_offset)
                raw.write(b"\xff" * place.size)
    else:
        for name in poisoned:
            for chunk in (source / name).rglob("*"):
                if chunk.is_file() and chunk.name not in (".zarray", ".zattrs", "zarr.json"):
                    chunk.write_bytes(b"\xff" * 20)
    # Anything at all that these say: the point is that they cannot be read.
    with pytest.raises(Exception):  # noqa: B017
        load(source)
    integrate(source, tmp_path / f"out{kind}")
    read = io.read_source(str(tmp_path / f"out{kind}"), ["batch"], basis="X_pca_harmony")
    np.testing.assert_array_equal(read.Z, expected(full))
    assert list(read.table.columns) == ["batch"]


def test_a_huge_x_costs_nothing(full, tmp_path):
    """72 GB of X, of which nothing is stored."""
    del full.raw, full.layers["dense"], full.layers["csc"]
    source = save(full, tmp_path / "in.h5ad")
    with h5py.File(source, "r+") as file:
        del file["X"]
        huge = file.create_dataset("X", (full.n_obs, 10**8), np.float32, chunks=(1, 10**6))
        huge.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    integrate(source, tmp_path / "out.h5ad")
    with h5py.File(tmp_path / "out.h5ad") as file:
        assert file["X"].shape == (full.n_obs, 10**8)


def test_older_categories_are_read(adata, tmp_path):
    """anndata 0.7 kept the categories of obs beside the columns."""
    source = save(adata, tmp_path / "in.h5ad")
    with h5py.File(source, "r+") as file:
        obs = file["obs"]
        codes, categories = obs["batch/codes"][:], obs["batch/categories"].asstr()[:]
        del obs["batch"]
        obs.attrs["encoding-version"] = "0.1.0"
        obs["batch"] = codes
        obs["__categories/batch"] = categories
        obs["batch"].attrs["categories"] = obs["__categories/batch"].ref
        for column in ("donor", "group"):
            del obs[column]
        obs.attrs["column-order"] = np.array(["batch"], dtype=object)
    with quiet():
        read = io.read_source(str(source), ["batch"])
    assert read.table["batch"].tolist() == adata.obs["batch"].tolist()
    assert read.table.index.tolist() == adata.obs_names.tolist()


@pytest.mark.parametrize("kind", ANNOTATED)
def test_text_columns_missing_labels_and_frames(full, tmp_path, kind):
    full.obs["batch"] = full.obs["batch"].astype(object)
    source = save(full, tmp_path / f"in{kind}")
    assert set(io.read_source(str(source), ["batch", "age"]).table["batch"]) == {"a", "b", "c"}
    read = io.read_source(str(source), ["age"], basis="frame")
    assert read.features == ["u", "v"]
    assert int(read.table["age"].isna().sum()) == full.n_obs // 2
    with pytest.raises(InputError, match=r"90 missing values \(first: cell 'cell\d+'\).*missing='level'"):
        integrate(source, tmp_path / "out.npy", ("age",))


def test_zarr_store_that_is_written_to_shows_what_was_added(adata, tmp_path):
    """Consolidated metadata of the input would hide it; either way of opening the store must see it."""
    import zarr

    integrate(save(adata, tmp_path / "in.zarr"), tmp_path / "out.zarr")
    with quiet():
        assert "X_pca_harmony" in zarr.open_consolidated(str(tmp_path / "out.zarr"))["obsm"]
        assert "X_pca_harmony" in zarr.open_group(str(tmp_path / "out.zarr"), mode="r")["obsm"]


def test_a_second_run_replaces_the_first_in_the_file(adata, tmp_path):
    integrate(save(adata, tmp_path / "in.h5ad"), tmp_path / "one.h5ad")
    other = PARAMS.replace(theta=0)
    job = FileJob(
        str(tmp_path / "one.h5ad"), str(tmp_path / "two.h5ad"), ["batch"], run_json=str(tmp_path / "two.json")
    )
    result = integrate_file(job, other, **HOW)
    again = load(tmp_path / "two.h5ad")
    np.testing.assert_array_equal(again.obsm["X_pca_harmony"], result.embedding)
    assert again.uns["harmonax"]["params"]["theta"] == 0


def test_copy_of_a_read_only_store_can_be_written(adata, tmp_path):
    source = save(adata, tmp_path / "in.zarr")
    for directory, _, names in os.walk(source):
        for name in names:
            os.chmod(os.path.join(directory, name), 0o444)
        os.chmod(directory, 0o555)
    try:
        integrate(source, tmp_path / "out.zarr")
        assert os.stat(tmp_path / "out.zarr").st_mode & 0o200
    finally:
        for directory, _, _ in os.walk(source):
            os.chmod(directory, 0o755)


# ---- bare embeddings --------------------------------------------------------------------------------------------


def write_table(frame: pd.DataFrame, path: Path, *, index: bool = True) -> Path:
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=index)
    else:
        frame.to_csv(path, sep="\t" if ".tsv" in path.name else ",", index=index)
    return path


@pytest.mark.parametrize("kind", BARE)
def test_bare_in_and_out(adata, tmp_path, kind):
    if kind == ".parquet":
        pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    Z, source, output = adata.obsm["X_pca"], tmp_path / f"in{kind}", tmp_path / f"out{kind}"
    frame = pd.DataFrame(Z, index=adata.obs_names, columns=[f"PC{i}" for i in range(Z.shape[1])])
    np.save(source, Z) if kind == ".npy" else write_table(frame, source)
    meta = write_table(adata.obs, tmp_path / "meta.tsv.gz")
    result = integrate(source, output, metadata=str(meta))
    np.testing.assert_allclose(result.embedding, expected(adata), rtol=0, atol=1e-5)
    back = io.read_source(str(output), ["batch"], metadata=str(meta))
    np.testing.assert_array_equal(back.Z.astype(np.float32), result.embedding)
    if kind != ".npy":
        assert back.features == list(frame.columns)
        assert back.table.index.tolist() == adata.obs_names.tolist()
        assert back.notes == ()


@pytest.mark.parametrize("target", BARE)
def test_annotated_to_the_embedding_alone(adata, tmp_path, target):
    if target == ".parquet":
        pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    result = integrate(save(adata, tmp_path / "in.h5ad"), tmp_path / f"out{target}")
    back = io.read_source(
        str(tmp_path / f"out{target}"), ["batch"], metadata=str(write_table(adata.obs, tmp_path / "m.csv"))
    )
    np.testing.assert_array_equal(back.Z.astype(np.float32), result.embedding)
    assert target == ".npy" or back.features[:2] == ["X_pca_harmony_1", "X_pca_harmony_2"]


@pytest.mark.parametrize("target", ANNOTATED)
def test_bare_to_annotated(adata, tmp_path, target):
    np.save(tmp_path / "in.npy", adata.obsm["X_pca"])
    meta = write_table(adata.obs, tmp_path / "meta.csv")
    integrate(tmp_path / "in.npy", tmp_path / f"out{target}", metadata=str(meta))
    made = load(tmp_path / f"out{target}")
    np.testing.assert_array_equal(made.obsm["X_pca"], adata.obsm["X_pca"])
    np.testing.assert_array_equal(made.obsm["X_pca_harmony"], expected(adata))
    assert made.obs["batch"].tolist() == adata.obs["batch"].tolist()
    assert made.obs_names.tolist() == adata.obs_names.tolist()


def bare(adata: anndata.AnnData, directory: Path) -> tuple[Path, pd.DataFrame]:
    frame = pd.DataFrame(adata.obsm["X_pca"], index=adata.obs_names, columns=[f"PC{i}" for i in range(6)])
    return write_table(frame, directory / "in.csv"), adata.obs[["batch"]]


def test_cells_are_joined_by_name(adata, tmp_path):
    source, labels = bare(adata, tmp_path)
    others = pd.DataFrame({"batch": ["z", "z"]}, index=["spare1", "spare2"])
    shuffled = pd.concat([labels.astype(object), others]).sample(frac=1, random_state=3)
    read = io.read_source(str(source), ["batch"], metadata=str(write_table(shuffled, tmp_path / "m.csv")))
    assert read.table["batch"].tolist() == labels["batch"].tolist()
    assert "2 rows belong to no cell" in read.notes[0]


def test_cells_without_a_row_are_refused(adata, tmp_path):
    source, labels = bare(adata, tmp_path)
    meta = write_table(labels.iloc[3:], tmp_path / "m.csv")
    with pytest.raises(InputError, match=f"3 of the 180 cells .*\\(first: '{adata.obs_names[0]}'\\)"):
        io.read_source(str(source), ["batch"], metadata=str(meta))


def test_a_metadata_table_whose_first_column_is_not_the_names_is_refused(adata, tmp_path):
    """Taking the rows to be in order might give every cell another's batch."""
    source, labels = bare(adata, tmp_path)
    meta = write_table(labels.assign(donor="d")[["donor", "batch"]], tmp_path / "m.csv", index=False)
    with pytest.raises(InputError, match=r"180 of the 180 cells .* there the names look like 'd'"):
        io.read_source(str(source), ["batch"], metadata=str(meta))


def test_names_that_occur_twice_are_refused(adata, tmp_path):
    source, labels = bare(adata, tmp_path)
    twice = pd.concat([labels, labels.iloc[:1]])
    with pytest.raises(InputError, match=f"'{adata.obs_names[0]}' occurs more than once"):
        io.read_source(str(source), ["batch"], metadata=str(write_table(twice, tmp_path / "m.csv")))


def test_without_names_rows_are_taken_in_order_and_must_agree_in_number(adata, tmp_path):
    source, labels = bare(adata, tmp_path)
    read = io.read_source(str(source), ["batch"], metadata=str(write_table(labels, tmp_path / "m.csv", index=False)))
    assert read.table["batch"].tolist() == labels["batch"].tolist()
    assert "same order" in read.notes[0]
    short = write_table(labels.iloc[:-1], tmp_path / "short.csv", index=False)
    with pytest.raises(InputError, match=r"has 180 cells but .* has 179 rows"):
        io.read_source(str(source), ["batch"], metadata=str(short))


def test_row_numbers_are_no_feature(adata, tmp_path):
    """pandas and R number the rows that nobody named."""
    frame = pd.DataFrame(adata.obsm["X_pca"].astype(np.float64))
    meta = write_table(adata.obs[["batch"]], tmp_path / "m.csv", index=False)
    for start in (0, 1):
        path = write_table(frame.set_axis(frame.index + start), tmp_path / f"{start}.csv")
        read = io.read_source(str(path), ["batch"], metadata=str(meta))
        np.testing.assert_array_equal(read.Z, frame.to_numpy())
        assert not read.named


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0.5,1.5,2\n0.1,0.2,0.3\n", "begins with numbers"),
        ("cell1,1.5,2\ncell2,0.2,0.3\n", "begins with numbers"),
        ("cell;PC1\nc1;2\nc2;3\n", "no features"),
        ("cell,PC1,type\nc1,2,1.5\nc2,3,B\n", r"column 'type' does not hold numbers only \(first: 'B'\)"),
        ("cell,PC1\nc1,2,3,4\nc2,1\n", "more fields than the first"),
        ("cell,PC1\nc1,2\nc2,1,3,4\n", "truncated or corrupt"),
        ("", "truncated or corrupt"),
    ],
)
def test_bad_text_embeddings(tmp_path, text, says):
    (tmp_path / "in.csv").write_text(text)
    (tmp_path / "m.csv").write_text("batch\na\nb\n")
    with pytest.raises(InputError, match=says):
        integrate(tmp_path / "in.csv", tmp_path / "out.csv", metadata=str(tmp_path / "m.csv"))


def test_counted_columns_are_a_header(adata, tmp_path):
    frame = pd.DataFrame(adata.obsm["X_pca"])
    path = write_table(frame, tmp_path / "in.csv", index=False)
    meta = write_table(adata.obs[["batch"]], tmp_path / "m.csv", index=False)
    assert io.read_source(str(path), ["batch"], metadata=str(meta)).Z.shape == frame.shape


def test_gzipped_text_is_the_same_each_time(adata, tmp_path):
    source = save(adata, tmp_path / "in.h5ad")
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        integrate(source, tmp_path / name / "out.csv.gz")
        written.append((tmp_path / name / "out.csv.gz").read_bytes())
    assert written[0] == written[1]
    # The time of writing has its place in the header.
    assert written[0][4:8] == bytes(4)


# ---- what cannot be read ----------------------------------------------------------------------------------------


def test_missing_names_come_with_the_nearest(adata, tmp_path):
    source = save(adata, tmp_path / "in.h5ad")
    with pytest.raises(MissingKeyError, match="obs has no column 'bacth'; did you mean 'batch'"):
        io.read_source(str(source), ["bacth"])
    with pytest.raises(MissingKeyError, match="obsm has no basis 'X_pac'; did you mean 'X_pca'"):
        io.read_source(str(source), ["batch"], basis="X_pac")
    with pytest.raises(InputError, match="no such file"):
        io.read_source(str(tmp_path / "none.h5ad"), ["batch"])
    with pytest.raises(InputError, match=r"allowed are \.h5ad, \.zarr"):
        io.read_source(str(tmp_path / "in.loom"), ["batch"])
    with pytest.raises(InputError, match="bare embedding: name the table"):
        io.read_source(str(tmp_path / "in.csv"), ["batch"])
    with pytest.raises(InputError, match="has its own obs"):
        io.read_source(str(source), ["batch"], metadata="m.csv")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.999])
def test_truncated_h5ad(full, tmp_path, share):
    source = save(full, tmp_path / "in.h5ad")
    os.truncate(source, int(share * source.stat().st_size))
    with pytest.raises(
        FileFormatError, match=r"in\.h5ad is not a readable \.h5ad file: truncated or corrupt"
    ) as caught:
        integrate(source, tmp_path / "out.h5ad")
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path) == ["in.h5ad"]


def test_damage_anywhere_is_one_error_or_none(full, tmp_path):
    """Random damage must never give anything but an InputError (or go unnoticed where nothing of ours was hit)."""
    source = save(full, tmp_path / "in.h5ad", compression="gzip")
    good, gen, seen = source.read_bytes(), np.random.default_rng(4), 0
    for _ in range(60):
        bad = bytearray(good)
        at = int(gen.integers(0, len(bad) - 64))
        bad[at : at + 64] = gen.bytes(64)
        source.write_bytes(bad)
        try:
            io.read_source(str(source), ["batch", "donor"])
        except InputError:
            seen += 1
    assert seen


@pytest.mark.parametrize("name", ["in.csv.gz", "in.parquet", "in.npy"])
def test_truncated_tables(adata, tmp_path, name):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    frame = pd.DataFrame(adata.obsm["X_pca"], index=adata.obs_names, columns=[f"PC{i}" for i in range(6)])
    np.save(tmp_path / name, frame.to_numpy()) if name.endswith(".npy") else write_table(frame, tmp_path / name)
    os.truncate(tmp_path / name, (tmp_path / name).stat().st_size // 2)
    meta = write_table(adata.obs, tmp_path / "m.csv")
    with pytest.raises(FileFormatError, match="truncated or corrupt"):
        io.read_source(str(tmp_path / name), ["batch"], metadata=str(meta))


def test_pickles_are_not_opened(tmp_path):
    np.save(tmp_path / "in.npy", np.array([{}, {}], object), allow_pickle=True)
    (tmp_path / "m.csv").write_text("batch\na\nb\n")
    with pytest.raises(FileFormatError, match="allow_pickle"):
        io.read_source(str(tmp_path / "in.npy"), ["batch"], metadata=str(tmp_path / "m.csv"))


def test_other_files_under_our_names(adata, tmp_path):
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["matrix"] = np.eye(3)
    (tmp_path / "text.h5ad").write_text("hello " * 1000)
    (tmp_path / "dir.h5ad").mkdir()
    (tmp_path / "dir.zarr").mkdir()
    (tmp_path / "file.zarr").write_text("hello")
    for name, says in {
        "other.h5ad": "no 'obs'",
        "text.h5ad": "truncated or corrupt",
        "dir.h5ad": "is a directory",
        "dir.zarr": "truncated or corrupt",
        "file.zarr": "not a Zarr directory",
    }.items():
        with pytest.raises(FileFormatError, match=says):
            io.read_source(str(tmp_path / name), ["batch"])


def test_damaged_zarr_chunk(adata, tmp_path):
    source = save(adata, tmp_path / "in.zarr")
    for chunk in (source / "obsm" / "X_pca").rglob("*"):
        if chunk.is_file() and chunk.name not in (".zarray", ".zattrs", "zarr.json"):
            chunk.write_bytes(b"\xff" * 20)
    with pytest.raises(FileFormatError, match="truncated or corrupt"):
        io.read_source(str(source), ["batch"])


def test_damaged_x_is_noticed_by_a_conversion_and_leaves_nothing(full, tmp_path):
    source = save(full, tmp_path / "in.h5ad", compression="gzip")
    with h5py.File(source) as file:
        place = file["X/data"].id.get_chunk_info(0)
    with open(source, "r+b") as raw:
        raw.seek(place.byte_offset)
        raw.write(b"\xff" * place.size)
    with pytest.raises(FileFormatError, match=r"in\.h5ad is not a readable"):
        integrate(source, tmp_path / "out.zarr")
    assert left_in(tmp_path) == ["in.h5ad"]


def test_parts_that_do_not_fit(adata, tmp_path):
    source = save(adata, tmp_path / "in.h5ad")
    with h5py.File(source, "r+") as file:
        write_elem(file["obsm"], "X_pca", adata.obsm["X_pca"][:-1])
    with pytest.raises(FileFormatError, match="has 179 rows but obs has 180"):
        io.read_source(str(source), ["batch"])


def test_nan_is_named_by_its_cell(adata, tmp_path):
    adata.obsm["X_pca"][7, 2] = np.nan
    with pytest.raises(InputError, match=f"in 1 cells \\(first: cell '{adata.obs_names[7]}'\\)"):
        integrate(save(adata, tmp_path / "in.h5ad"), tmp_path / "out.h5ad")


def test_missing_extra(adata, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'harmonax\[parquet\]'"):
        integrate(save(adata, tmp_path / "in.h5ad"), tmp_path / "out.parquet")


# ---- where a result may go --------------------------------------------------------------------------------------


@pytest.fixture
def no_reading(monkeypatch):
    """Fail where a test gets as far as reading: these errors come before any work."""
    monkeypatch.setattr(io, "read_source", lambda *a, **k: pytest.fail("something was read"))


@pytest.mark.usefixtures("no_reading")
def test_the_input_is_never_written_over(adata, tmp_path, monkeypatch):
    source = save(adata, tmp_path / "in.h5ad")
    (tmp_path / "sub").mkdir()
    (tmp_path / "soft.h5ad").symlink_to(source)
    os.link(source, tmp_path / "hard.h5ad")
    monkeypatch.chdir(tmp_path / "sub")
    content = source.read_bytes()
    for name in (
        source,
        Path("../in.h5ad"),
        tmp_path / "sub/../in.h5ad",
        tmp_path / "soft.h5ad",
        tmp_path / "hard.h5ad",
    ):
        with pytest.raises(OutputError, match="is the input"):
            integrate(source, name, overwrite=True)
    meta = write_table(adata.obs, tmp_path / "meta.csv")
    with pytest.raises(OutputError, match=r"is the input .*meta.csv"):
        integrate(tmp_path / "in.npy", meta, metadata=str(meta), overwrite=True)
    with pytest.raises(OutputError, match="is the input"):
        integrate(source, tmp_path / "out.h5ad", run_json=str(source), overwrite=True)
    with pytest.raises(OutputError, match="is the input"):
        integrate(source, tmp_path / "out.h5ad", run_json=str(tmp_path / "out.h5ad"))
    assert source.read_bytes() == content


@pytest.mark.usefixtures("no_reading")
def test_places_that_cannot_be_written_are_refused_before_any_work(adata, tmp_path):
    source = save(adata, tmp_path / "in.zarr")
    for output, says in {
        tmp_path / "none" / "out.h5ad": "there is no directory",
        source / "out.h5ad": "lies inside the input",
        tmp_path / "out.loom": "allowed are",
    }.items():
        with pytest.raises((OutputError, InputError), match=says):
            integrate(source, output)
    with pytest.raises(OutputError, match="contains the input"):
        staging.check_destination(tmp_path, inputs=[source], overwrite=True)
    with pytest.raises(InputError, match="without a slash"):
        integrate(source, tmp_path / "out.h5ad", adjusted_basis="a/b")


@pytest.mark.usefixtures("no_reading")
@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc, where nobody can make a file")
def test_unwritable_directory(adata, tmp_path):
    with pytest.raises(OutputError, match="cannot write in the directory /proc"):
        integrate(save(adata, tmp_path / "in.h5ad"), Path("/proc/out.h5ad"))


@pytest.mark.usefixtures("no_reading")
def test_what_is_there_stays_unless_told(adata, tmp_path):
    source = save(adata, tmp_path / "in.h5ad")
    (tmp_path / "out.csv").write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        integrate(source, tmp_path / "out.csv")
    (tmp_path / "new.csv.run.json").write_text("precious")
    with pytest.raises(OutputError, match=r"run.json exists already.*--run-json"):
        integrate(source, tmp_path / "new.csv")
    (tmp_path / "dir.zarr").mkdir()
    (tmp_path / "dir.zarr" / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match="not a Zarr store"):
        integrate(source, tmp_path / "dir.zarr", overwrite=True, run_json=str(tmp_path / "r.json"))
    assert (tmp_path / "dir.zarr" / "thesis.tex").read_text() == "precious"
    assert (tmp_path / "out.csv").read_text() == (tmp_path / "new.csv.run.json").read_text() == "precious"


@pytest.mark.parametrize("kind", [".csv", ".h5ad", ".zarr"])
def test_overwrite_replaces(adata, tmp_path, kind):
    source, output = save(adata, tmp_path / "in.h5ad"), tmp_path / f"out{kind}"
    integrate(source, output)
    adata.obsm["X_pca"] = adata.obsm["X_pca"] * 2
    result = integrate(save(adata, tmp_path / "in2.h5ad"), output, overwrite=True)
    meta = write_table(adata.obs, tmp_path / "m.csv")
    how = {"metadata": str(meta)} if kind == ".csv" else {"basis": "X_pca_harmony"}
    np.testing.assert_allclose(io.read_source(str(output), ["batch"], **how).Z, result.embedding, rtol=1e-6)
    assert left_in(tmp_path) == sorted(["in.h5ad", "in2.h5ad", "m.csv", output.name, f"{output.name}.run.json"])


def test_every_output_has_a_record_of_its_own(adata, tmp_path, caplog):
    source = save(adata, tmp_path / "in.h5ad")
    for name in ("one.csv", "two.csv", "one.csv"):
        integrate(source, tmp_path / name, overwrite=True)
    assert "is replaced" not in caplog.text
    assert left_in(tmp_path) == ["in.h5ad", "one.csv", "one.csv.run.json", "two.csv", "two.csv.run.json"]
    assert json.loads((tmp_path / "two.csv.run.json").read_text())["output"]["path"] == str(tmp_path / "two.csv")


def test_a_record_that_is_replaced_is_told_when_it_is(adata, tmp_path, caplog, monkeypatch):
    source, record = save(adata, tmp_path / "in.h5ad"), tmp_path / "r.json"
    integrate(source, tmp_path / "one.csv", run_json=str(record))
    before = record.read_bytes()
    with pytest.raises(InputError):
        integrate(source, tmp_path / "two.csv", keys=("none",), run_json=str(record))
    assert "is replaced" not in caplog.text
    assert record.read_bytes() == before
    integrate(source, tmp_path / "two.csv", run_json=str(record))
    assert f"r.json, the record of {tmp_path / 'one.csv'}, is replaced by that of {tmp_path / 'two.csv'}" in caplog.text
    assert json.loads(record.read_text())["output"]["path"] == str(tmp_path / "two.csv")


def test_a_link_is_followed(adata, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out.h5ad").symlink_to(tmp_path / "real" / "out.h5ad")
    integrate(save(adata, tmp_path / "in.h5ad"), tmp_path / "out.h5ad")
    assert (tmp_path / "out.h5ad").is_symlink()
    assert left_in(tmp_path / "real") == ["out.h5ad"]


# ---- whole or nothing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "stop"),
    [
        (".h5ad", KeyboardInterrupt),
        (".csv", KeyboardInterrupt),
        (".npy", RuntimeError),
        (".h5ad", SystemExit),
    ],
)
def test_whatever_stops_a_run_leaves_nothing(adata, tmp_path, monkeypatch, target, stop):
    source = save(adata, tmp_path / "in.h5ad")

    def fail(*_: object) -> None:
        raise stop

    # The last step: by then both parts lie complete beside their places.
    monkeypatch.setattr("harmonax.io.staging._flush", fail)
    with pytest.raises(stop):
        integrate(source, tmp_path / f"out{target}")
    assert left_in(tmp_path) == ["in.h5ad"]


@pytest.mark.parametrize("kind", [".h5ad", ".zarr"])
def test_a_failed_overwrite_leaves_the_old(adata, tmp_path, monkeypatch, kind):
    source, output = save(adata, tmp_path / "in.h5ad"), tmp_path / f"out{kind}"
    integrate(source, output)
    old, record = load(output), (tmp_path / f"{output.name}.run.json").read_bytes()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("harmonax.io.staging._flush", fail)
    with pytest.raises(OutputError, match="could not be written: Input/output error"):
        integrate(source, output, overwrite=True)
    assert_same(dict(old.obsm), dict(load(output).obsm))
    assert (tmp_path / f"{output.name}.run.json").read_bytes() == record
    assert left_in(tmp_path) == sorted(["in.h5ad", output.name, f"{output.name}.run.json"])


def test_record_and_result_come_together(adata, tmp_path, monkeypatch):
    """Where the second cannot be put in its place, the first does not stay."""
    real, moved = os.replace, []

    def replace(source: str, target: str) -> None:
        if moved:
            raise OSError(errno.EIO, "Input/output error")
        moved.append(target)
        real(source, target)

    monkeypatch.setattr(staging.os, "replace", replace)
    with pytest.raises(OutputError):
        integrate(save(adata, tmp_path / "in.h5ad"), tmp_path / "out.h5ad")
    assert moved
    assert left_in(tmp_path) == ["in.h5ad"]


def test_no_room_is_seen_before_any_work(adata, tmp_path, monkeypatch):
    source = save(adata, tmp_path / "in.h5ad")
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    monkeypatch.setattr("harmonax.files.harmonize", lambda *a, **k: pytest.fail("work was done"))
    with pytest.raises(OutputError, match=r"out.h5ad: 1 MiB are needed, but only 1 bytes are free"):
        integrate(source, tmp_path / "out.h5ad")


def test_files_are_flushed_before_they_are_moved(adata, tmp_path, monkeypatch):
    source, events = save(adata, tmp_path / "in.h5ad"), []
    replace = os.replace
    monkeypatch.setattr(staging.os, "fsync", lambda handle: events.append("fsync"))
    monkeypatch.setattr(staging.os, "replace", lambda a, b: (events.append("move"), replace(a, b)))
    integrate(source, tmp_path / "out.h5ad")
    # Both files, each move, and the directory after each.
    assert events == ["fsync", "fsync", "move", "fsync", "move", "fsync"]


# ---- the record -------------------------------------------------------------------------------------------------


def test_record(adata, tmp_path):
    source = save(adata, tmp_path / "in.h5ad")
    result = integrate(source, tmp_path / "out.h5ad", ("batch", "donor"))
    record = json.loads(
        (tmp_path / "out.h5ad.run.json").read_text(), parse_constant=lambda c: pytest.fail(f"{c} is not JSON")
    )
    assert record["seed"] == 0
    assert record["params"]["max_iter_harmony"] == 2
    assert record["batch_keys"] == ["batch", "donor"]
    assert record["status"] == "max_iterations"
    assert record["history"] == json.loads(json.dumps(result.history.to_dict()))
    assert record["input"]["path"] == str(source)
    assert record["input"]["bytes"] == source.stat().st_size
    assert record["input"]["shape"] == [180, 6]
    assert record["columns"] == {"combine_keys": False, "missing": "error", "allow_many_levels": False}
    assert {"harmonax", "numpy", "anndata", "h5py"} <= record["versions"].keys()
    assert set(record["seconds"]) == {"read", "harmonize", "write", "cpu"}
    assert record["peak_memory_bytes"] is None or record["peak_memory_bytes"] > 1e6


def test_hash_is_of_the_data_and_not_of_the_file(adata):
    def hashed(Z: np.ndarray, labels: np.ndarray) -> str:
        return harmonax.inputs.values.data_hash(
            Z, harmonax.inputs.columns.design_from_table(pd.DataFrame({"batch": labels}), "batch")
        )

    Z, labels = adata.obsm["X_pca"], adata.obs["batch"].to_numpy().astype(object)
    same = hashed(np.asfortranarray(Z), labels.copy())
    assert same == hashed(Z, labels)
    other, swapped = Z.copy(), labels.copy()
    other[0, 0] += 1e-3
    swapped[[0, np.flatnonzero(labels != labels[0])[0]]] = swapped[[np.flatnonzero(labels != labels[0])[0], 0]]
    assert len({same, hashed(other, labels), hashed(Z, swapped), hashed(Z.astype(np.float64), labels)}) == 4


def test_one_batch_gives_the_input_and_a_record_without_nan(adata, tmp_path):
    adata.obs["one"] = "x"
    with pytest.warns(harmonax.errors.HarmonaxWarning, match="every cell has the same batch"):
        integrate(save(adata, tmp_path / "in.h5ad"), tmp_path / "out.h5ad", ("one",))
    np.testing.assert_array_equal(load(tmp_path / "out.h5ad").obsm["X_pca_harmony"], adata.obsm["X_pca"])
    record = json.loads(
        (tmp_path / "out.h5ad.run.json").read_text(), parse_constant=lambda c: pytest.fail(f"{c} is not JSON")
    )
    assert record["last_change"] is None


def test_names_that_may_be_missing(adata, tmp_path):
    # anndata 0.13 writes them as a group of values and a mask; from disk they are counted, not read.
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as root, nullable_strings():
        del root["obs/_index"]
        write_elem(root["obs"], "_index", pd.array(adata.obs_names, dtype="string"))
        assert isinstance(root["obs/_index"], h5py.Group)
    job = FileJob(str(tmp_path / "a.h5ad"), str(tmp_path / "b.h5ad"), ["batch"])
    integrate_file(job, rng=0, progress=False, backend="disk")
    with h5py.File(tmp_path / "b.h5ad") as root:
        assert root["obsm/X_pca_harmony"].shape == (180, 6)
