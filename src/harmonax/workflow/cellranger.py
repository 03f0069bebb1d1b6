"""Cell Ranger's output as people type it: the sample's folder, its ``outs``, or that of several samples (``multi``)."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileFormatError, InputError
from ..inputs.sparse import check_matrix_market, check_stored
from ..system.extras import need

if TYPE_CHECKING:
    from anndata import AnnData

_MATRIX = re.compile(r"(?i).*matrix\.mtx(\.gz)?$")
# What is taken where several are there: filtered before raw, one file before a folder of three.
_FILES = ("filtered_feature_bc_matrix.h5", "sample_filtered_feature_bc_matrix.h5", "filtered_gene_bc_matrices_h5.h5")
_FOLDERS = ("filtered_feature_bc_matrix", "sample_filtered_feature_bc_matrix", "filtered_gene_bc_matrices")


def has_matrix(folder: Path) -> bool:
    """Return whether the three files of a 10x matrix lie in a folder."""
    return any(_MATRIX.match(entry.name) for entry in folder.iterdir())


def matrices(path: str) -> list[str]:
    """Return the filtered matrices of what Cell Ranger wrote into a folder; the path itself where it is none of that.

    Of ``cellranger multi`` there is one for each sample; of version 2 it lies in a folder that the genome names.

    Raises
    ------
    InputError
        If there is output of several genomes, or of Cell Ranger without a filtered matrix.
    """
    place = Path(path)
    if not place.is_dir() or has_matrix(place):
        return [path]
    for folder in (place, place / "outs"):
        samples = folder / "per_sample_outs"
        if samples.is_dir():
            found = [matrix for sample in sorted(samples.iterdir()) for matrix in _of(sample / "count")]
            if not found:
                raise InputError(f"{samples} has no sample with a filtered matrix; allowed are {_names()}")
            return found
        if found := _of(folder):
            return found
    if place.name.startswith("filtered_gene_bc_matrices"):
        return _genome(place)
    if (place / "outs").is_dir() or place.name == "outs":
        raise InputError(f"{path} has no filtered matrix; allowed are {_names()}")
    return [path]


def _names() -> str:
    return ", ".join((*_FILES, *_FOLDERS))


def _of(folder: Path) -> list[str]:
    """Return the matrix in a folder, if there is one."""
    for name in _FILES:
        if (folder / name).is_file():
            return [str(folder / name)]
    for name in _FOLDERS:
        if (folder / name).is_dir():
            return [str(folder / name)] if has_matrix(folder / name) else _genome(folder / name)
    return []


def _genome(folder: Path) -> list[str]:
    """Return the matrix of version 2, which lies in a folder called by its genome."""
    found = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and has_matrix(entry)]
    if len(found) > 1:
        raise InputError(f"{folder} has matrices of several genomes ({', '.join(f.name for f in found)}); name one")
    return [str(found[0])] if found else []


def read_10x_h5(path: Path) -> AnnData:
    """Return a 10x .h5 file with all its kinds of features."""
    import h5py

    with h5py.File(path, "r") as file:
        for group in (group for group in file.values() if isinstance(group, h5py.Group) and "indptr" in group):
            n_genes, n_cells = (int(n) for n in group["shape"][:])
            check_stored(group, n_cells, n_genes, str(path))
    return need("scanpy", "workflow").read_10x_h5(path, gex_only=False)


def read_10x_mtx(path: Path) -> AnnData:
    """Return a 10x folder with all its kinds of features."""
    reader = need("scanpy", "workflow").read_10x_mtx
    found = sorted(entry.name for entry in path.iterdir() if re.search(r"matrix\.mtx(\.gz)?$", entry.name))
    prefixes = sorted({re.sub(r"matrix\.mtx(\.gz)?$", "", name) for name in found})
    if len(prefixes) > 1:
        raise InputError(f"{path} has several matrices ({', '.join(found[:5])}); put each in a folder of its own")
    for stems in (("barcodes.tsv",), ("features.tsv", "genes.tsv")):
        names = [prefixes[0] + stem for stem in stems]
        if not any((path / (name + end)).exists() for name in names for end in ("", ".gz")):
            raise FileFormatError(f"{path} has {found[0]}, but no {' or '.join(names)} (.gz)")
    how: dict[str, Any] = {"prefix": prefixes[0] or None, "gex_only": False}
    if (path / (prefixes[0] + "features.tsv")).exists() and f"{prefixes[0]}matrix.mtx" in found:
        if "compressed" not in inspect.signature(reader).parameters:
            raise InputError(f"{path}: this version of scanpy reads features.tsv gzipped only; gzip the three files")
        how["compressed"] = False
    for name in found:
        check_matrix_market(path / name)
    return reader(path, **how)
