"""A model in a file: exact, whole or not at all, refused with a reason; and mapping from a file to a file."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from queries import experiment, fitted, logged, reference

import harmonax
from harmonax import HarmonyModel
from harmonax.cli import run
from harmonax.errors import FileFormatError, InputError, OutputError
from harmonax.mapping.serialise import from_dict, to_dict

STORED = Path(__file__).parents[1] / "data" / "model-v1.h5"


def with_everything():
    adata = reference(True)
    harmonax.pp.harmony_integrate(
        adata, "batch", rng=0, max_iter_harmony=50, save_model=True, save_labels=["cell_type"], verbose=False
    )
    return adata, from_dict(adata.uns["harmonax_model"], HarmonyModel)


@pytest.fixture(scope="module")
def whole():
    return with_everything()[1]


def flat(tree, name=""):
    if isinstance(tree, dict):
        return {key: value for k, v in tree.items() for key, value in flat(v, f"{name}/{k}").items()}
    return {name: tree}


def assert_same(a, b):
    a, b = flat(to_dict(a)), flat(to_dict(b))
    assert a.keys() == b.keys()
    for name in a:
        x, y = np.asarray(a[name]), np.asarray(b[name])
        assert (x.dtype, x.shape) == (y.dtype, y.shape), name
        assert x.tobytes() == y.tobytes() if x.dtype != object else (x == y).all(), name


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
@pytest.mark.parametrize("kind", ["tables", "whole"])
def test_a_round_trip_is_exact(suffix, kind, whole, tmp_path):
    model = whole if kind == "whole" else fitted((3, 2))[3]
    model.save(tmp_path / f"m{suffix}")
    again = HarmonyModel.load(tmp_path / f"m{suffix}")
    assert_same(model, again)
    assert again.params == model.params
    Z = np.random.default_rng(0).normal(size=(40, model.n_features))
    np.testing.assert_array_equal(model.map(Z), again.map(Z))
    assert [p.name for p in tmp_path.iterdir()] == [f"m{suffix}"]


@pytest.mark.filterwarnings("ignore:Writing zarr v2")
def test_it_goes_through_uns(tmp_path):
    adata, model = with_everything()
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata.write_zarr(tmp_path / "a.zarr")
    for read, name in ((anndata.read_h5ad, "a.h5ad"), (anndata.read_zarr, "a.zarr")):
        assert_same(from_dict(read(tmp_path / name).uns["harmonax_model"], HarmonyModel), model)


def test_any_names_of_batches(tmp_path):
    Z = np.random.default_rng(0).normal(size=(60, 3))
    names = {"a/b é": np.repeat(["x/y", "ü", ""], 20), "n": np.tile([1, 2], 30)}
    model = HarmonyModel.from_result(harmonax.harmonize(Z, names, rng=0, missing="literal", progress=False))
    model.save(tmp_path / "m.h5")
    again = HarmonyModel.load(tmp_path / "m.h5")
    assert again.variables == ("a/b é", "n")
    assert again.levels == (("", "x/y", "ü"), ("1", "2"))


def test_a_model_of_an_older_version_loads():
    # Written by version 0.1.0 (format 1); `python tests/mapping/test_model_files.py` made it.
    model = HarmonyModel.load(STORED)
    assert (model.n_cells, model.n_clusters, model.n_features) == (120, 4, 3)
    assert (len(model.projection.genes), model.novelty.kind, list(model.reference.labels)) == (12, "genes", ["kind"])
    assert model.variables == ("batch",)
    assert model.levels == (("a", "b"),)
    Z = np.array([[1.0, 0.0, -1.0], [4.0, 0.5, 0.0]])
    np.testing.assert_allclose(model.map(Z, {"batch": ["a", "c"]}), np.load(STORED.with_suffix(".npy")), rtol=1e-12)


class TestDamage:
    @pytest.fixture
    def file(self, tmp_path):
        fitted()[3].save(tmp_path / "m.h5")
        return tmp_path / "m.h5"

    def test_a_changed_number(self, file):
        import h5py

        with h5py.File(file, "r+") as root:
            root["tables"]["centroids"][0, 0] += 1e-12
        with pytest.raises(FileFormatError, match="damaged: its checksum does not fit"):
            HarmonyModel.load(file)

    def test_a_missing_table(self, file):
        import h5py

        with h5py.File(file, "r+") as root:
            del root["tables"]["ridge"]
        with pytest.raises(FileFormatError, match="damaged"):
            HarmonyModel.load(file)

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
    def test_a_truncated_file(self, file, share):
        content = file.read_bytes()
        file.write_bytes(content[: int(share * len(content))])
        with pytest.raises(FileFormatError, match=r"truncated or corrupt|damaged"):
            HarmonyModel.load(file)

    def test_a_later_version(self, file):
        import h5py

        with h5py.File(file, "r+") as root:
            root["version"][()] = 99
        with pytest.raises(FileFormatError, match=r"version 99.*update"):
            HarmonyModel.load(file)

    def test_another_kind_of_file(self, tmp_path, adata):
        adata.write_h5ad(tmp_path / "cells.h5")
        with pytest.raises(FileFormatError, match="holds no harmonax model"):
            HarmonyModel.load(tmp_path / "cells.h5")
        (tmp_path / "text.h5").write_text("hello")
        with pytest.raises(FileFormatError, match=r"text\.h5"):
            HarmonyModel.load(tmp_path / "text.h5")
        with pytest.raises(InputError, match="no such file"):
            HarmonyModel.load(tmp_path / "none.h5")
        with pytest.raises(InputError, match=r"kept in \.h5 or \.zarr"):
            HarmonyModel.load(tmp_path / "model.pkl")

    def test_only_a_model_is_replaced(self, tmp_path, adata):
        import h5py

        with h5py.File(tmp_path / "tenx.h5", "w") as root:
            root["matrix"] = 1
        before = (tmp_path / "tenx.h5").read_bytes()
        for place in (tmp_path / "tenx.h5", tmp_path / "folder.zarr"):
            (tmp_path / "folder.zarr").mkdir(exist_ok=True)
            with pytest.raises(OutputError, match=r"not a model|directory"):
                harmonax.pp.harmony_integrate(adata, "batch", save_model=place)
        assert (tmp_path / "tenx.h5").read_bytes() == before
        assert "X_pca_harmony" not in adata.obsm

    def test_what_is_there_is_kept(self, file):
        content = file.read_bytes()
        with pytest.raises(OutputError, match="exists already"):
            fitted()[3].save(file)
        assert file.read_bytes() == content
        fitted((2,))[3].save(file, overwrite=True)
        assert len(HarmonyModel.load(file).levels[0]) == 2


class TestCommand:
    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("files")
        reference(True).write_h5ad(folder / "ref.h5ad")
        logged(experiment(5, n=300, batches=(2,))).write_h5ad(folder / "query.h5ad")
        arguments = ["--batch-key", "batch", "--save-model", f"{folder}/model.h5", "--save-labels", "cell_type"]
        assert run(["integrate", f"{folder}/ref.h5ad", "-o", f"{folder}/out.h5ad", *arguments]) == 0
        return folder

    @pytest.mark.thorough
    @pytest.mark.parametrize("zarr_format", [2, 3])
    @pytest.mark.parametrize(("read", "suffix"), [(".h5ad", ".h5ad"), (".h5ad", ".zarr"), (".zarr", ".zarr")])
    # What anndata and zarr announce of their own formats.
    @pytest.mark.filterwarnings("ignore:.*zarr", "ignore:This setting will be removed")
    def test_maps_as_python_does(self, folder, suffix, read, zarr_format, tmp_path):
        query, source = anndata.read_h5ad(folder / "query.h5ad"), folder / "query.h5ad"
        if read == ".zarr":
            if "zarr_write_format" not in dir(anndata.settings):
                pytest.skip("this anndata writes one version of Zarr")
            source = tmp_path / "query.zarr"
            with anndata.settings.override(zarr_write_format=zarr_format):
                query.write_zarr(source)
        out = tmp_path / f"mapped{suffix}"
        arguments = ["-o", str(out), "--model", f"{folder}/model.h5", "--batch-key", "batch"]
        assert run(["map", str(source), *arguments]) == 0
        harmonax.tl.map_query(query, folder / "model.h5", "batch")
        got = anndata.read_h5ad(out) if suffix == ".h5ad" else anndata.read_zarr(out)
        for name in ("X_pca_harmony", "X_pca_reference"):
            np.testing.assert_array_equal(got.obsm[name], query.obsm[name])
        for name in (
            "harmonax_novelty",
            "harmonax_novel",
            "cell_type_mapped",
            "cell_type_nearest",
            "cell_type_confidence",
        ):
            pd.testing.assert_series_equal(got.obs[name], query.obs[name], check_categorical=False)
        assert (got.X != query.X).nnz == 0
        assert got.uns["harmonax_map"]["model_file"]["path"].endswith("model.h5")

    def test_from_disk_with_the_same_bits(self, folder, tmp_path, monkeypatch):
        from harmonax.files import map as files

        base = ["map", f"{folder}/query.h5ad", "--model", f"{folder}/model.h5", "--batch-key", "batch"]
        assert run([*base, "-o", str(tmp_path / "memory.h5ad")]) == 0
        # Nothing is small enough to be read at once.
        monkeypatch.setattr(files, "_MAX_IN_MEMORY", 0)
        assert run([*base, "-o", str(tmp_path / "disk.h5ad")]) == 0
        a, b = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("memory", "disk"))
        np.testing.assert_array_equal(a.obsm["X_pca_harmony"], b.obsm["X_pca_harmony"])
        pd.testing.assert_frame_equal(a.obs, b.obs)

    def test_the_reference_from_the_files_is_that_of_python(self, folder):
        adata = anndata.read_h5ad(folder / "ref.h5ad")
        harmonax.pp.harmony_integrate(
            adata, "batch", rng=0, max_iter_harmony=50, save_model=True, save_labels="cell_type", dtype="float32"
        )
        ours, theirs = from_dict(adata.uns["harmonax_model"], HarmonyModel), HarmonyModel.load(folder / "model.h5")
        np.testing.assert_array_equal(ours.cluster_moment, theirs.cluster_moment)
        np.testing.assert_array_equal(ours.projection.loadings, theirs.projection.loadings)
        np.testing.assert_allclose(ours.novelty.quantiles, theirs.novelty.quantiles, rtol=1e-6)
        np.testing.assert_array_equal(
            ours.reference.labels["cell_type"].right, theirs.reference.labels["cell_type"].right
        )

    def test_an_embedding_alone(self, folder, tmp_path, adata, capsys):
        adata.write_h5ad(tmp_path / "a.h5ad")
        base = ["--batch-key", "batch"]
        assert (
            run(
                [
                    "integrate",
                    f"{tmp_path}/a.h5ad",
                    "-o",
                    f"{tmp_path}/b.h5ad",
                    "--save-model",
                    f"{tmp_path}/m.zarr",
                    *base,
                ]
            )
            == 0
        )
        arguments = ["map", f"{tmp_path}/a.h5ad", "-o", f"{tmp_path}/c.h5ad", "--model", f"{tmp_path}/m.zarr"]
        assert run([*arguments, "--basis", "X_pca", *base]) == 0
        assert "3 known batches" in capsys.readouterr().err
        mapped, corrected = (anndata.read_h5ad(f"{tmp_path}/{name}.h5ad").obsm["X_pca_harmony"] for name in "cb")
        assert np.abs(mapped - corrected).max() < 0.05

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--model", "{folder}/none.h5"], "no such file"),
            (["--model", "{folder}/ref.h5ad"], "has no 'harmonax_model'"),
            (["--model", "{folder}/model.rds"], "kept in .h5 or .zarr"),
            (["--model", "{folder}/model.h5", "--batch-key", "bach"], "did you mean 'batch'"),
            (["--model", "{folder}/model.h5", "--label", "type"], "keeps no labels 'type'"),
            (["--model", "{folder}/model.h5", "--layer", "logs"], "no layer 'logs'"),
            (["--model", "{folder}/model.h5", "--basis", "X_umap"], "X_umap"),
            (["--model", "{folder}/model.h5", "--adjusted-basis", "a/b"], "without a slash"),
        ],
    )
    def test_bad_input_is_one_line_and_nothing_is_written(self, folder, tmp_path, arguments, says, capsys):
        arguments = [a.format(folder=folder) for a in arguments]
        assert run(["map", f"{folder}/query.h5ad", "-o", f"{tmp_path}/out.h5ad", *arguments]) == 3
        said = capsys.readouterr().err
        assert says in said
        assert said.strip().count("\n") == 0
        assert not list(tmp_path.iterdir())

    def test_inputs_are_never_replaced(self, folder, capsys):
        for target in ("query.h5ad", "model.h5"):
            arguments = ["-o", f"{folder}/{target}", "--model", f"{folder}/model.h5", "--overwrite"]
            assert run(["map", f"{folder}/query.h5ad", *arguments]) == 3
        HarmonyModel.load(folder / "model.h5")


if __name__ == "__main__":
    gen = np.random.default_rng(0)
    batch, kind = np.repeat(["a", "b"], 60), gen.choice(["T", "B"], 120)
    rate = np.exp(gen.normal(size=12)) * np.where(kind == "T", 1.0, 4.0)[:, None] ** (np.arange(12) < 5)
    X = np.log1p(gen.poisson(rate * np.where(batch == "a", 1.0, 1.5)[:, None]))
    V = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)[2][:3].T
    obs = pd.DataFrame({"batch": batch, "kind": kind}, index=[f"c{i}" for i in range(120)])
    cells = anndata.AnnData(X, obs=obs, obsm={"X_pca": (X - X.mean(axis=0)) @ V}, varm={"PCs": V})
    how = {"rng": 0, "n_clusters": 4, "precision": "float64", "max_iter_harmony": 50, "verbose": False}
    harmonax.pp.harmony_integrate(cells, "batch", save_model=STORED, save_labels="kind", **how)
    new = np.array([[1.0, 0.0, -1.0], [4.0, 0.5, 0.0]])
    np.save(STORED.with_suffix(".npy"), HarmonyModel.load(STORED).map(new, {"batch": ["a", "c"]}))
