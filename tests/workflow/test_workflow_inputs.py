"""The workflow's way in: files and folders, several joined, where counts are, and options."""

from __future__ import annotations

import gzip
import shutil
import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

from harmonax import HarmonyParams
from harmonax.errors import FileFormatError, HarmonaxWarning, InputError, MissingKeyError
from harmonax.inputs import expression as counts
from harmonax.io.annotated import quiet
from harmonax.workflow import WorkflowOptions
from harmonax.workflow.inputs import kind_of, read_inputs, short_names

pytest.importorskip("scanpy")


def made(n: int = 30, genes: int = 12, seed: int = 0, prefix: str = "cell") -> ad.AnnData:
    """Small counts with an identifier per gene."""
    gen = np.random.default_rng(seed)
    X = sp.csr_matrix(gen.poisson(1.0, (n, genes)).astype(np.float32))
    var = pd.DataFrame({"gene_ids": [f"ENSG{i:03d}" for i in range(genes)]}, index=[f"G{i}" for i in range(genes)])
    return ad.AnnData(X, obs=pd.DataFrame(index=[f"{prefix}{i}" for i in range(n)]), var=var)


def save(adata: ad.AnnData, path: Path) -> Path:
    with quiet():
        (adata.write_zarr if path.suffix == ".zarr" else adata.write_h5ad)(path)
    return path


def write_10x_folder(
    adata: ad.AnnData, folder: Path, *, version: int = 3, packed: bool = True, prefix: str = ""
) -> Path:
    """Write matrix.mtx, barcodes.tsv and features.tsv (genes.tsv in version 2), gzipped or not."""
    folder.mkdir(parents=True, exist_ok=True)
    opened = gzip.open if packed else open
    end = ".gz" if packed else ""
    ids, names = adata.var["gene_ids"], adata.var_names
    kind = "\tGene Expression" if version == 3 else ""
    features = "".join(f"{i}\t{n}{kind}\n" for i, n in zip(ids, names, strict=True))
    with opened(folder / f"{prefix}{'features' if version == 3 else 'genes'}.tsv{end}", "wt") as file:
        file.write(features)
    with opened(folder / f"{prefix}barcodes.tsv{end}", "wt") as file:
        file.write("".join(f"{name}\n" for name in adata.obs_names))
    with opened(folder / f"{prefix}matrix.mtx{end}", "wb") as file:
        scipy.io.mmwrite(file, sp.coo_matrix(adata.X.T).astype(np.int64))
    return folder


def write_10x_h5(adata: ad.AnnData, path: Path) -> Path:
    X = sp.csc_matrix(adata.X.T)  # genes x cells, by cell
    text = lambda values: np.array(list(values), dtype="S")  # noqa: E731
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["data"], group["indices"], group["indptr"] = X.data.astype(np.int32), X.indices, X.indptr
        group["shape"] = np.array(X.shape, np.int32)
        group["barcodes"] = text(adata.obs_names)
        features = group.create_group("features")
        features["id"], features["name"] = text(adata.var["gene_ids"]), text(adata.var_names)
        features["feature_type"] = text(["Gene Expression"] * adata.n_vars)
        features["genome"] = text(["GRCh38"] * adata.n_vars)
    return path


# ---- kinds of files ---------------------------------------------------------------------------------------------

WRITERS = {
    "a.h5ad": lambda a, p: save(a, p),
    "a.zarr": lambda a, p: save(a, p),
    "a.h5": write_10x_h5,
    "v3": lambda a, p: write_10x_folder(a, p),
    "v2": lambda a, p: write_10x_folder(a, p, version=2, packed=False),
    "geo": lambda a, p: write_10x_folder(a, p, prefix="GSM1_"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_input_gives_the_same_data(tmp_path, name):
    adata = made()
    read = read_inputs([str(WRITERS[name](adata, tmp_path / name))])
    np.testing.assert_array_equal(read.X.toarray(), adata.X.toarray())
    assert list(read.obs_names) == list(adata.obs_names)
    assert list(read.var_names) == list(adata.var_names)
    assert list(read.var["gene_ids"]) == list(adata.var["gene_ids"])


def test_plain_text_of_version_3_is_read_or_named(tmp_path):
    import inspect

    import scanpy

    folder = write_10x_folder(made(), tmp_path / "solo", packed=False)
    if "compressed" in inspect.signature(scanpy.read_10x_mtx).parameters:
        assert read_inputs([str(folder)]).shape == (30, 12)
    else:
        with pytest.raises(InputError, match="gzip the three files"):
            read_inputs([str(folder)])


def test_repeated_gene_names_of_10x_become_unique_with_a_word(tmp_path):
    adata = made()
    adata.var_names = ["G0", "G0", *adata.var_names[2:]]
    path = write_10x_h5(adata, tmp_path / "a.h5")
    with pytest.warns(HarmonaxWarning, match="1 gene names occur twice"):
        read = read_inputs([str(path)])
    assert list(read.var_names[:2]) == ["G0", "G0-1"]


def test_repeated_cell_names_become_unique_with_a_word(tmp_path):
    adata = made()
    adata.obs_names = ["x", "x", *adata.obs_names[2:]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = save(adata, tmp_path / "a.h5ad")
    with pytest.warns(HarmonaxWarning, match="1 cell names occur twice"):
        assert read_inputs([str(path)]).obs_names.is_unique


@pytest.mark.parametrize("name", ["a.h5ad", "a.h5"])
def test_a_truncated_file_is_named(tmp_path, name):
    path = WRITERS[name](made(300, 50), tmp_path / name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FileFormatError, match="truncated"):
        read_inputs([str(path)])


def test_a_truncated_matrix_is_named(tmp_path):
    folder = write_10x_folder(made(300, 50), tmp_path / "x")
    whole = (folder / "matrix.mtx.gz").read_bytes()
    (folder / "matrix.mtx.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileFormatError, match="truncated"):
        read_inputs([str(folder)])


def test_what_cannot_be_read_is_refused_with_what_can(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.rds").write_text("no")
    folder = write_10x_folder(made(), tmp_path / "x")
    for path, says in [
        ("none.h5ad", "no such file"),
        ("empty", "without matrix.mtx"),
        ("a.rds", "the format is told by the end of the name"),
        ("x/matrix.mtx.gz", "give the folder"),
    ]:
        with pytest.raises(InputError, match=says):
            kind_of(str(tmp_path / path))
    (folder / "barcodes.tsv.gz").unlink()
    with pytest.raises(FileFormatError, match=r"no barcodes\.tsv"):
        read_inputs([str(folder)])
    shutil.copy(folder / "matrix.mtx.gz", folder / "other_matrix.mtx.gz")
    with pytest.raises(InputError, match="several matrices"):
        read_inputs([str(folder)])


# ---- several files ----------------------------------------------------------------------------------------------


def two(tmp_path: Path, first: ad.AnnData, second: ad.AnnData) -> list[str]:
    return [str(save(first, tmp_path / "one.h5ad")), str(save(second, tmp_path / "two.h5ad"))]


def test_several_files_are_joined_with_their_name_as_batch(tmp_path):
    first, second = made(20, seed=1), made(10, seed=2)
    joined = read_inputs(two(tmp_path, first, second), "batch")
    np.testing.assert_array_equal(joined.X.toarray(), np.vstack([first.X.toarray(), second.X.toarray()]))
    assert list(joined.obs["batch"]) == ["one"] * 20 + ["two"] * 10
    # Barcodes clash over samples: they get the sample's name.
    assert joined.obs_names[0] == "cell0-one"
    assert joined.obs_names[20] == "cell0-two"
    assert list(joined.var["gene_ids"]) == list(first.var["gene_ids"])


def test_names_that_do_not_clash_stay(tmp_path):
    joined = read_inputs(two(tmp_path, made(20, prefix="a"), made(10, prefix="b")), "batch")
    assert joined.obs_names[0] == "a0"
    assert joined.obs_names[-1] == "b9"


def test_genes_that_not_all_have_are_dropped_with_a_word(tmp_path):
    with pytest.warns(HarmonaxWarning, match=r"the 12 that all have are kept \(two loses 3\)"):
        joined = read_inputs(two(tmp_path, made(genes=12), made(genes=15)), "batch")
    assert joined.n_vars == 12


def test_files_without_a_common_gene_are_refused(tmp_path):
    second = made()
    second.var_names = second.var["gene_ids"]
    second.var = second.var.rename_axis(None)
    with pytest.raises(InputError, match=r"no gene name in common.*'G0'.*'ENSG000'"):
        read_inputs(two(tmp_path, made(), second), "batch")


def test_one_name_for_two_genes_is_told(tmp_path):
    second = made()
    second.var.loc["G3", "gene_ids"] = "ENSG999"
    with pytest.warns(HarmonaxWarning, match=r"1 genes have one name but different gene_ids.*'G3'"):
        read_inputs(two(tmp_path, made(), second), "batch")


def test_axes_of_each_file_are_not_put_together(tmp_path):
    first, second = made(), made()
    for part in (first, second):
        part.obsm["X_pca"], part.obsm["X_scVI"] = np.ones((30, 3)), np.ones((30, 2))
    with pytest.warns(HarmonaxWarning, match="own X_pca are not kept"):
        joined = read_inputs(two(tmp_path, first, second), "batch")
    assert list(joined.obsm) == ["X_scVI"]


def test_a_batch_column_that_is_there_is_not_replaced_unasked(tmp_path):
    first, second = made(), made()
    first.obs["batch"] = second.obs["batch"] = "x"
    paths = two(tmp_path, first, second)
    with pytest.raises(InputError, match=r"column 'batch' already.*--batch-from file"):
        read_inputs(paths, "batch", replace=False)
    assert set(read_inputs(paths, "batch").obs["batch"]) == {"one", "two"}


def test_columns_that_not_all_have_are_dropped_with_a_word(tmp_path):
    first, second = made(), made()
    first.obs["donor"], second.obs["donor"], first.obs["note"] = "d1", "d2", "x"
    with pytest.warns(HarmonaxWarning, match="dropped: note"):
        joined = read_inputs(two(tmp_path, first, second), "batch")
    assert list(joined.obs["donor"]) == ["d1"] * 30 + ["d2"] * 30


def test_the_same_file_twice_is_refused(tmp_path):
    path = save(made(), tmp_path / "one.h5ad")
    (tmp_path / "link.h5ad").symlink_to(path)
    with pytest.raises(InputError, match="given more than once"):
        read_inputs([str(path), str(tmp_path / "link.h5ad")])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/one.h5ad", "x/two.zarr"], ["one", "two"]),
        (["s1/outs/filtered_feature_bc_matrix.h5", "s2/outs/filtered_feature_bc_matrix.h5"], ["s1", "s2"]),
        (["s1/Solo.out/Gene/filtered", "s2/Solo.out/Gene/filtered"], ["s1", "s2"]),
        (["s1/counts.h5ad", "s2/counts.h5ad"], ["s1_counts", "s2_counts"]),
        (["r1/s/counts.h5ad", "r2/s/counts.h5ad"], ["r1_s_counts", "r2_s_counts"]),
    ],
)
def test_names_tell_files_apart(paths, names):
    assert short_names(paths) == names


# ---- counts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("matrix", [np.asarray, sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([[0, 1], [2, 3]], "counts"),
        ([[0.0, 1.0], [2.0, 3.0]], "counts"),
        ([[0.0, 1.5], [2.0, 3.0]], "values that are not whole numbers"),
        ([[0.0, -1.0], [2.0, 3.5]], "negative values"),
        ([[0.0, np.nan], [2.0, -3.0]], "NaN or infinity"),
        ([[0.0, np.inf], [2.0, 3.0]], "NaN or infinity"),
    ],
)
def test_counts_are_told_by_their_numbers(matrix, values, kind):
    assert counts.kind_of(matrix(np.array(values))) == kind


def test_where_counts_are():
    adata = made()
    raw = adata.X.copy()
    assert counts.where_counts(adata, None) == "X"
    adata.raw = adata.copy()
    adata.X = np.log1p(adata.X)
    assert counts.where_counts(adata, None) is None
    assert counts.where_counts(adata, "raw") == "raw"
    few = adata[:, ["G3", "G1"]].copy()
    np.testing.assert_array_equal(counts.matrix(few, "raw").toarray(), raw[:, [3, 1]].toarray())
    adata.layers["umi"] = raw
    assert counts.where_counts(adata, "umi") == "umi"
    with pytest.raises(MissingKeyError, match="did you mean 'umi'"):
        counts.where_counts(adata, "umis")
    adata.layers["counts"] = adata.X
    with pytest.raises(
        InputError, match=r"layers\['counts'\] should hold raw counts, but it has values that are not whole numbers"
    ):
        counts.where_counts(adata, None)


def test_large_counts_stay_exact():
    X = np.array([[2**24 + 1, 0]])
    assert counts.as_counts(X)[0, 0] == 2**24 + 1
    assert counts.as_counts(np.array([[5, 0]])).dtype == np.float32


# ---- options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"min_genes": -1}, "min_genes=-1 must be a whole number of at least 0"),
        ({"min_genes": 1.5}, "whole number"),
        ({"min_genes": "many"}, "whole number"),
        ({"max_pct_mt": 101}, "max_pct_mt=101 must be a number from 0 to 100"),
        ({"max_genes": 100}, "below min_genes=200"),
        ({"resolutions": ()}, "resolutions is empty"),
        ({"resolutions": (0.5, -1)}, "resolutions=-1"),
        ({"hvg_flavor": "none"}, "allowed are 'seurat'"),
        ({"recompute": "umaps"}, "recompute='umaps' is not known"),
        ({"start_from": "umap"}, "start_from='umap' is not known; allowed are 'counts', 'normalise', 'hvg'"),
        ({"skip": "pca"}, "skip='pca' is not known"),
        ({"batch_key": 3}, "must be a name"),
        ({"n_comps": True}, "whole number"),
        ({"missing": "drop"}, "allowed are 'error', 'level'"),
    ],
)
def test_bad_options(given, says):
    with pytest.raises(InputError, match=says):
        WorkflowOptions(**given)


def test_options_of_the_method_go_by_their_own_names():
    options = WorkflowOptions().replace(theta=3, min_genes=5, ridge_lambda=2)
    assert options.harmony == HarmonyParams(theta=3, ridge_lambda=2, ridge="fixed")
    assert options.replace(flavor="harmony1").harmony.theta == 3
    assert options.min_genes == 5
    with pytest.raises(TypeError, match="did you mean 'theta'"):
        options.replace(thetta=1)


def test_the_middle_resolution_is_the_main_one():
    assert WorkflowOptions(resolutions=(0.8, 0.3, 0.5)).main_resolution == 0.5
    assert WorkflowOptions(resolutions=(1, 2)).main_resolution == 1
