"""Files whose content lies elsewhere or within itself: refused with the place, never followed without end."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from sampling import first

import harmonax
from harmonax import cli, io
from harmonax.errors import FileFormatError
from harmonax.io.annotated import quiet
from harmonax.mapping import HarmonyModel


@pytest.fixture
def source(adata, tmp_path) -> Path:
    adata.write_h5ad(tmp_path / "in.h5ad")
    adata.write_h5ad(tmp_path / "other.h5ad")
    return tmp_path / "in.h5ad"


def a_hard_link_to_itself(file: h5py.File) -> None:
    file["uns/me"] = file["uns"]


def a_circle_of_two(file: h5py.File) -> None:
    inner = file.create_group("uns/a/b")
    inner["c"] = file["uns/a"]


def a_soft_link_to_all(file: h5py.File) -> None:
    file["uns/all"] = h5py.SoftLink("/")


def a_soft_link_to_nothing(file: h5py.File) -> None:
    file["uns/none"] = h5py.SoftLink("/nothing")


def a_link_into_another(file: h5py.File) -> None:
    file["uns/outside"] = h5py.ExternalLink("other.h5ad", "/obs")


def an_embedding_of_another(file: h5py.File) -> None:
    del file["obsm/X_pca"]
    file["obsm/X_pca"] = h5py.ExternalLink("other.h5ad", "/obsm/X_pca")


def virtual(file: h5py.File) -> None:
    shape = file["obsm/X_pca"].shape
    attributes = dict(file["obsm/X_pca"].attrs)
    layout = h5py.VirtualLayout(shape, "f4")
    layout[:] = h5py.VirtualSource("not there.h5ad", "obsm/X_pca", shape)
    del file["obsm/X_pca"]
    file["obsm"].create_virtual_dataset("X_pca", layout, fillvalue=1).attrs.update(attributes)


def external(file: h5py.File) -> None:
    file["uns"].create_dataset("raw", (4,), "f4", external=[(b"/etc/passwd", 0, 16)])


def a_thousand_deep(file: h5py.File) -> None:
    group = file["uns"]
    for _ in range(300):
        group = group.create_group("g")


def doubled_forty_times(file: h5py.File) -> None:
    group = file["uns"]
    for _ in range(40):
        group["a"] = inner = group.create_group("b")
        group = inner


@pytest.mark.thorough
@pytest.mark.parametrize(
    "change",
    [
        a_hard_link_to_itself,
        a_circle_of_two,
        a_soft_link_to_all,
        a_soft_link_to_nothing,
        a_link_into_another,
        an_embedding_of_another,
        virtual,
        external,
        a_thousand_deep,
        doubled_forty_times,
    ],
    ids=lambda change: change.__name__,
)
@pytest.mark.parametrize("target", ["out.h5ad", "out.zarr", "out.npy"])
def test_refused_in_every_direction(source, tmp_path, capsys, change, target):
    with h5py.File(source, "r+") as file:
        change(file)
    assert cli.run(["integrate", str(source), "-o", str(tmp_path / target), "--batch-key", "batch"]) == 3
    said = capsys.readouterr().err
    assert f"{source}: /" in said
    assert "write it anew with anndata" in said
    assert not (tmp_path / target).exists()


def test_links_within_are_followed(source, tmp_path):
    with h5py.File(source, "r+") as file:
        file["obsm/X_same"] = file["obsm/X_pca"]
        file["obsm/X_soft"] = h5py.SoftLink("/obsm/X_pca")
        file["uns/of_obs"] = h5py.SoftLink("/obsm")
    for target in ("out.h5ad", "out.zarr"):
        harmonax.files.integrate.integrate_file(
            harmonax.files.integrate.FileJob(
                str(source), str(tmp_path / target), ["batch"], run_json=str(tmp_path / f"{target}.json")
            ),
            rng=0,
        )
        made = io.read_parts(tmp_path / target, bases=("X_pca", "X_same", "X_soft"))
        np.testing.assert_array_equal(made.obsm["X_same"], made.obsm["X_pca"])
        np.testing.assert_array_equal(made.obsm["X_soft"], made.obsm["X_pca"])


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
@pytest.mark.parametrize("kind", ["file outside", "folder outside", "circle", "pipe"])
def test_a_store_holds_plain_files_only(adata, tmp_path, capsys, kind):
    pytest.importorskip("zarr")
    with quiet():
        adata.write_zarr(store := tmp_path / "in.zarr")
    strange = store / "uns" / "strange"
    (tmp_path / "secret").write_text("not yours")
    {
        "file outside": lambda: strange.symlink_to(tmp_path / "secret"),
        "folder outside": lambda: strange.symlink_to("/etc"),
        "circle": lambda: strange.symlink_to(store),
        "pipe": lambda: os.mkfifo(strange),
    }[kind]()
    assert cli.run(["integrate", str(store), "-o", str(tmp_path / "out.zarr"), "--batch-key", "batch"]) == 3
    assert "strange is a link, a pipe or a device" in capsys.readouterr().err
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("target", first(1, [".zarr", ".h5ad", ".npy"], later="slow"))
@pytest.mark.parametrize("content", ["", "[]", '{"zarr_format": 9}', "\0\1\2"])
def test_damaged_metadata_of_a_store_is_a_bad_input(adata, tmp_path, capsys, content, target):
    pytest.importorskip("zarr")
    with quiet():
        adata.write_zarr(tmp_path / "whole.zarr")
    whole, out = tmp_path / "whole.zarr", str(tmp_path / "out")
    named = [path for name in (".zgroup", ".zarray", ".zattrs", "zarr.json") for path in whole.rglob(name)]
    for path in named[::3]:
        store = tmp_path / "in.zarr"
        shutil.copytree(whole, store)
        (store / path.relative_to(whole)).write_text(content)
        code = cli.run(["integrate", str(store), "-o", out + target, "--batch-key", "batch", "--overwrite"])
        # Some of it nobody needs.
        assert code in (0, 3)
        assert code == 0 or "in.zarr" in capsys.readouterr().err
        shutil.rmtree(store)


def test_a_model_that_claims_more_than_it_holds_is_refused(adata, tmp_path):
    zarr = pytest.importorskip("zarr")
    harmonax.pp.harmony_integrate(adata, "batch", save_model=str(tmp_path / "model.zarr"), rng=0)
    root = zarr.open_group(str(tmp_path / "model.zarr"), mode="r+")
    make = getattr(root, "create_array", None) or root.create_dataset
    make("huge", shape=(10**12,), dtype="f8", chunks=(10**6,))
    with pytest.raises(FileFormatError, match="claims more than it holds"):
        HarmonyModel.load(tmp_path / "model.zarr")


def test_a_model_in_a_circle_is_refused(adata, tmp_path):
    harmonax.pp.harmony_integrate(adata, "batch", save_model=str(tmp_path / "model.h5"), rng=0)
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        file["tables/again"] = file["tables"]
    with pytest.raises(FileFormatError, match="circle of groups"):
        HarmonyModel.load(tmp_path / "model.h5")
