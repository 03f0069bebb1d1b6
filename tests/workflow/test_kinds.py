"""Kinds of features, counts with decimals, containers, and Cell Ranger's folders as people type them."""

from __future__ import annotations

import gzip

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

pytest.importorskip("scanpy", reason="scanpy is not installed")
pytest.importorskip("igraph", reason="igraph is not installed")

from harmonax import cli, pp, tl, workflow
from harmonax.errors import HarmonaxWarning, InputError
from harmonax.workflow.cellranger import matrices
from harmonax.workflow.features import centred_log_ratio
from harmonax.workflow.inputs import read_inputs, samples

pytestmark = pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")
REST = ("umap", "umap_uncorrected", "markers", "evaluate", "diagnose", "check")
QUICK = {"skip": REST, "min_genes": 5, "n_top_genes": 60, "n_comps": 8, "progress": False}
GENES, TAGS, PEAKS = 120, 15, 80


def cells(n=240, types=True, seed=0):
    """Return genes, antibodies and peaks of the same cells."""
    gen = np.random.default_rng(seed)
    kind, batch = gen.integers(0, 3, n), np.arange(n) % 2
    depth = np.exp(gen.normal(0, 0.4, n))[:, None]
    rna = gen.poisson(gen.gamma(0.6, 1.5, (3, GENES))[kind] * np.exp(gen.normal(0, 0.3, (2, GENES)))[batch] * depth)
    adt = gen.poisson(gen.lognormal(3, 1.0, (3, TAGS))[kind] * np.exp(gen.normal(0, 0.3, (2, TAGS)))[batch] * depth)
    atac = gen.poisson(gen.gamma(0.5, 0.8, (3, PEAKS))[kind] * np.exp(gen.normal(0, 0.3, (2, PEAKS)))[batch] * depth)
    names = ["Gene Expression"] * GENES + ["Antibody Capture"] * TAGS + ["Peaks"] * PEAKS
    var = pd.DataFrame(index=[f"f{i}" for i in range(len(names))])
    if types:
        var["feature_types"] = names
    obs = pd.DataFrame({"batch": batch.astype(str), "kind": kind.astype(str)}, index=[f"c{i}" for i in range(n)])
    return anndata.AnnData(sp.csr_matrix(np.hstack([rna, adt, atac]).astype(np.float32)), obs=obs, var=var)


class TestFeatures:
    @pytest.mark.thorough
    def test_genes_alone_are_run_and_the_rest_is_said(self):
        adata = cells()
        says = r"95 of 215 features are left aside: 80 'Peaks', 15 'Antibody Capture'.*feature_type="
        with pytest.warns(HarmonaxWarning, match=says):
            made = workflow.run(adata, "batch", **QUICK)
        alone = workflow.run(adata[:, :GENES].copy(), "batch", **QUICK)
        assert set(made.var["feature_types"]) == {"Gene Expression"}
        np.testing.assert_array_equal(made.obsm["X_pca_harmony"], alone.obsm["X_pca_harmony"])
        np.testing.assert_array_equal(made.obs["total_counts"], np.asarray(adata.X[:, :GENES].sum(axis=1)).ravel())

    @pytest.mark.parametrize(("asked", "first", "n"), [("antibodies", GENES, TAGS), ("Antibody Capture", GENES, TAGS)])
    @pytest.mark.filterwarnings("ignore:.*left aside:harmonax.errors.HarmonaxWarning")
    def test_antibodies(self, asked, first, n):
        adata = cells()
        made = workflow.run(adata, "batch", feature_type=asked, **QUICK | {"min_genes": 200})
        assert set(made.var["feature_types"]) == {"Antibody Capture"}
        # 200 is for genes: with 15 antibodies it would leave no cell.
        assert made.n_obs == adata.n_obs
        np.testing.assert_allclose(made.X, centred_log_ratio(adata.X[:, first : first + n]), rtol=1e-6)
        assert made.var["highly_variable"].all()
        assert purity(made) > 0.95

    @pytest.mark.filterwarnings("ignore:.*left aside:harmonax.errors.HarmonaxWarning")
    def test_peaks_without_the_component_of_the_depth(self):
        adata = cells()
        made = workflow.run(adata, "batch", feature_type="peaks", **QUICK)
        depth = np.log(made.layers["counts"].sum(axis=1).A1)
        assert np.abs(np.corrcoef(made.obsm["X_pca"].T, depth)[-1, :-1]).max() < 0.8
        assert made.obsm["X_pca"].shape[1] == 8
        assert purity(made) > 0.9
        again = workflow.run(adata, "batch", feature_type="peaks", **QUICK)
        np.testing.assert_array_equal(made.obsm["X_pca_harmony"], again.obsm["X_pca_harmony"])

    def test_files_without_genes_say_what_to_pass(self):
        with pytest.raises(InputError, match=r"has no 'Gene Expression', but 15 'Antibody.*feature_type='antibodies'"):
            workflow.run(cells()[:, GENES : GENES + TAGS].copy(), "batch", **QUICK)
        with pytest.raises(InputError, match="no 'Spots'"):
            workflow.run(cells(), "batch", feature_type="Spots", **QUICK)
        with pytest.raises(InputError, match="feature_type=3"):
            workflow.run(cells(), "batch", feature_type=3, **QUICK)

    def test_a_file_that_calls_its_genes_otherwise(self):
        adata = cells()[:, :GENES].copy()
        adata.var["feature_types"] = "protein_coding"
        assert workflow.run(adata, "batch", **QUICK).n_vars > 100

    def test_several_files_keep_their_kinds_apart(self, tmp_path):
        one, other = cells(120), cells(120, seed=1)
        one.write_h5ad(tmp_path / "one.h5ad")
        # The kinds are told in one of two ways; joined they would be lost.
        other.var = other.var.rename(columns={"feature_types": "feature_type"})
        other.write_h5ad(tmp_path / "other.h5ad")
        with pytest.warns(HarmonaxWarning, match="left aside"):
            joined = read_inputs([str(tmp_path / "one.h5ad"), str(tmp_path / "other.h5ad")], "file")
        assert joined.shape == (240, GENES)

    @pytest.mark.filterwarnings("ignore:.*left aside:harmonax.errors.HarmonaxWarning")
    def test_on_the_command_line(self, tmp_path):
        cells().write_h5ad(tmp_path / "a.h5ad")
        where = [str(tmp_path / "a.h5ad"), "-o", str(tmp_path / "out"), "--batch-key", "batch", "--quiet"]
        assert cli.run(["run", *where, "--feature-type", "antibodies", "--skip", ",".join(REST), "--n-comps", "5"]) == 0
        assert anndata.read_h5ad(tmp_path / "out" / "integrated.h5ad").n_vars == TAGS


def purity(adata):
    """Return the share of cells whose nearest other cell in the corrected space is of their kind."""
    from sklearn.neighbors import NearestNeighbors

    Z = adata.obsm["X_pca_harmony"]
    near = NearestNeighbors(n_neighbors=2).fit(Z).kneighbors(Z)[1][:, 1]
    kind = adata.obs["kind"].to_numpy()
    return (kind[near] == kind).mean()


class TestContainers:
    def mudata(self, path, adata, names=("rna", "prot", "atac")):
        import h5py
        from anndata.io import write_elem

        parts = zip(names, (slice(0, GENES), slice(GENES, GENES + TAGS), slice(GENES + TAGS, None)), strict=False)
        with h5py.File(path, "w") as file:
            for name, columns in parts:
                part = adata[:, columns].copy()
                part.obs = part.obs[[]]
                write_elem(file, f"mod/{name}", part)
            write_elem(file, "obs", adata.obs.rename(columns={"kind": "rna:kind"}))
        return str(path)

    def test_a_mudata_file(self, tmp_path):
        adata = cells(types=False)
        path = self.mudata(tmp_path / "a.h5mu", adata)
        genes = read_inputs([path])
        assert genes.n_vars == GENES
        assert list(genes.obs["batch"]) == list(adata.obs["batch"])
        assert "kind" in genes.obs
        assert read_inputs([path], feature_type="antibodies").n_vars == TAGS
        assert read_inputs([path], feature_type="peaks").n_vars == PEAKS
        with pytest.raises(InputError, match=r"modalities 'atac', 'prot', 'rna'.*'Spots'"):
            read_inputs([path], feature_type="Spots")
        assert workflow.run(read_inputs([path]), "batch", **QUICK).n_vars > 100

    @pytest.mark.filterwarnings("ignore:Writing zarr v2")
    def test_zarr_in_a_zip(self, tmp_path):
        import shutil

        adata = cells(types=False)
        adata.write_zarr(tmp_path / "a.zarr")
        shutil.make_archive(str(tmp_path / "a.zarr"), "zip", tmp_path / "a.zarr")
        again = read_inputs([str(tmp_path / "a.zarr.zip")])
        assert (again.X != adata.X).nnz == 0
        assert list(again.obs_names) == list(adata.obs_names)

    def test_several_tables_answer_with_the_way_to_one(self, tmp_path):
        class Several:
            def __init__(self, **parts):
                self.__dict__ |= {"obs": None, "obsm": {}, "uns": {}, "var": None} | parts

        for front in (lambda a: pp.harmony_integrate(a, "batch"), lambda a: tl.check(a, "batch")):
            with pytest.raises(InputError, match=r"is a MuData.*pass one of them: adata.mod\['rna'\]"):
                front(Several(mod={"rna": cells()}))
            with pytest.raises(InputError, match=r"is a SpatialData.*adata.tables\['table'\]"):
                front(Several(tables={"table": cells()}))
        (tmp_path / "s.zarr" / "tables" / "table").mkdir(parents=True)
        (tmp_path / "s.zarr" / "zarr.json").touch()
        with pytest.raises(InputError, match=r"SpatialData store; give one of its tables: .*tables/table"):
            read_inputs([str(tmp_path / "s.zarr")])


@pytest.mark.parametrize("kind", [sp.csr_array, sp.csc_array, sp.csc_matrix, lambda X: X.toarray()])
def test_any_kind_of_matrix_through_the_workflow(kind):
    adata = cells()[:, :GENES].copy()
    want = workflow.run(adata, "batch", **QUICK)
    adata.X = kind(adata.X)
    adata.layers["other"] = sp.csr_array(adata.X)
    made = workflow.run(adata, "batch", **QUICK)
    np.testing.assert_allclose(made.obsm["X_pca_harmony"], want.obsm["X_pca_harmony"], atol=1e-3)


class TestDecimals:
    def with_decimals(self):
        adata = cells()[:, :GENES].copy()
        adata.X.data = (adata.X.data * 0.93).astype(np.float32)
        return adata

    @pytest.mark.parametrize("place", ["X", "layers", "10x"])
    def test_are_refused_with_the_reason_and_run_when_asked(self, place, tmp_path):
        adata = self.with_decimals()
        if place == "layers":
            adata.layers["counts"] = adata.X.copy()
        if place == "10x":
            adata = read_inputs([tenx(tmp_path / "a.h5", adata)])
            adata.obs["batch"] = np.arange(adata.n_obs) % 2
        with pytest.raises(InputError, match=r"not whole numbers.*decimals=True \(--decimals\).*ambient RNA"):
            workflow.run(adata, "batch", **QUICK)
        made = workflow.run(adata, "batch", decimals=True, **QUICK)
        np.testing.assert_allclose(
            made.layers["counts"].sum(), adata[made.obs_names, made.var_names].X.sum(), rtol=1e-5
        )
        np.testing.assert_allclose(np.expm1(made.X).sum(axis=1), 1e4, rtol=1e-3)

    def test_what_was_logged_is_no_count_all_the_same(self):
        import scanpy as sc

        adata = cells()[:, :GENES].copy()
        sc.pp.normalize_total(adata)
        sc.pp.log1p(adata)
        with pytest.raises(InputError, match="raw counts are needed"):
            workflow.run(adata, "batch", decimals=True, **QUICK)


def tenx(path, adata):
    """Write a 10x .h5 of version 3."""
    import h5py

    X = sp.csr_matrix(adata.X)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for name, value in (("data", X.data), ("indices", X.indices), ("indptr", X.indptr), ("shape", X.shape[::-1])):
            group[name] = value
        group["barcodes"] = np.array(adata.obs_names, "S")
        features = group.create_group("features")
        types = adata.var.get("feature_types", pd.Series(["Gene Expression"] * adata.n_vars))
        columns = {"id": adata.var_names, "name": adata.var_names, "feature_type": types}
        for name, value in columns.items():
            features[name] = np.array(list(value), "S")
        features["genome"] = np.array(["GRCh38"] * adata.n_vars, "S")
    return str(path)


def folder(path, adata, genes="features.tsv.gz"):
    """Write a 10x folder."""
    from scipy.io import mmwrite

    path.mkdir(parents=True)
    zipped = genes.endswith(".gz")
    mmwrite(path / "matrix.mtx", sp.coo_matrix(adata.X.T.astype(int)))
    files = {
        "barcodes.tsv": "\n".join(adata.obs_names),
        genes.removesuffix(".gz"): "\n".join(f"{name}\t{name}\tGene Expression" for name in adata.var_names),
        "matrix.mtx": (path / "matrix.mtx").read_text(),
    }
    for name, text in files.items():
        if zipped:
            (path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
            (path / name).unlink(missing_ok=True)
        else:
            (path / name).write_text(text)
    return path


class TestCellRanger:
    @pytest.fixture
    def part(self):
        return cells(60)[:, :GENES].copy()

    @pytest.mark.parametrize("typed", ["ctrl", "ctrl/outs", "ctrl/outs/filtered_feature_bc_matrix"])
    @pytest.mark.parametrize("kind", ["folder", "file"])
    def test_a_sample_as_people_type_it(self, typed, kind, part, tmp_path):
        for name in ("ctrl", "stim"):
            outs = tmp_path / name / "outs"
            folder(outs / "raw_feature_bc_matrix", part)
            folder(outs / "filtered_feature_bc_matrix", part)
            if kind == "file":
                tenx(outs / "filtered_feature_bc_matrix.h5", part)
        paths = samples([str(tmp_path / typed), str(tmp_path / typed.replace("ctrl", "stim"))])
        joined = read_inputs(paths, "batch")
        assert list(joined.obs["batch"].cat.categories) == ["ctrl", "stim"]
        assert joined.n_obs == 120

    def test_several_samples_of_multi(self, part, tmp_path):
        for name in ("s1", "s2"):
            folder(
                tmp_path / "run" / "outs" / "per_sample_outs" / name / "count" / "sample_filtered_feature_bc_matrix",
                part,
            )
        for typed in ("run", "run/outs"):
            joined = read_inputs(samples([str(tmp_path / typed)]), "batch")
            assert list(joined.obs["batch"].cat.categories) == ["s1", "s2"]

    def test_version_2_is_called_by_its_sample(self, part, tmp_path):
        for name in ("ctrl", "stim"):
            folder(tmp_path / name / "outs" / "filtered_gene_bc_matrices" / "hg19", part, "genes.tsv")
        for typed in ("", "/outs", "/outs/filtered_gene_bc_matrices", "/outs/filtered_gene_bc_matrices/hg19"):
            paths = samples([str(tmp_path) + f"/{name}{typed}" for name in ("ctrl", "stim")])
            assert list(read_inputs(paths, "batch").obs["batch"].cat.categories) == ["ctrl", "stim"]
        folder(tmp_path / "ctrl" / "outs" / "filtered_gene_bc_matrices" / "mm10", part, "genes.tsv")
        with pytest.raises(InputError, match=r"several genomes .hg19, mm10.; name one"):
            matrices(str(tmp_path / "ctrl"))

    def test_folders_without_a_matrix_say_so(self, tmp_path):
        (tmp_path / "a" / "outs").mkdir(parents=True)
        with pytest.raises(InputError, match=r"has no filtered matrix; allowed are filtered_feature_bc_matrix.h5"):
            matrices(str(tmp_path / "a"))
        (tmp_path / "b" / "outs" / "per_sample_outs" / "s1").mkdir(parents=True)
        with pytest.raises(InputError, match="has no sample with a filtered matrix"):
            matrices(str(tmp_path / "b"))

    @pytest.mark.parametrize("name", ["none.h5ad", "none", "none.zarr", "none/outs", "none.h5mu"])
    def test_a_file_that_is_not_there_is_a_bad_input(self, name, tmp_path, capsys):
        assert cli.run(["run", str(tmp_path / name), "-o", str(tmp_path / "out"), "--batch-key", "batch"]) == 3
        assert "no such file" in capsys.readouterr().err
