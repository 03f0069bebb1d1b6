"""Files that hold more than one AnnData, or one in an archive: .h5mu, .zarr.zip; and stores that are not a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileFormatError, InputError, MissingExtraError

if TYPE_CHECKING:
    from anndata import AnnData

# What modalities are called in .h5mu files, by the kind of their features.
_CALLED = {
    "Gene Expression": ("rna", "gex", "genes", "gene_expression"),
    "Antibody Capture": ("prot", "adt", "protein", "antibodies", "cite"),
    "Peaks": ("atac", "peaks"),
}


def read_h5mu(path: Path, feature_type: str) -> AnnData:
    """Return the modality of a MuData file that has these features, with the columns of all cells.

    Raises
    ------
    InputError
        If no modality is known to have them.
    """
    import h5py
    from anndata.io import read_elem

    with h5py.File(path, "r") as file:
        if "mod" not in file:
            raise FileFormatError(f"{path} is not a MuData file: it has no group 'mod'")
        name = _modality(path, sorted(file["mod"]), feature_type)
        adata: AnnData = read_elem(file["mod"][name])
        shared = read_elem(file["obs"]) if "obs" in file else None
    if shared is not None:
        shared = shared.reindex(adata.obs_names)
        prefix = f"{name}:"
        for column in shared.columns:
            # MuData writes a modality's own columns under its name.
            bare = str(column).removeprefix(prefix)
            if bare not in adata.obs and ":" not in bare:
                adata.obs[bare] = shared[column]
    if "feature_types" not in adata.var:
        adata.var["feature_types"] = feature_type
    return adata


def _modality(path: Path, there: list[str], feature_type: str) -> str:
    called = (*_CALLED.get(feature_type, ()), feature_type.casefold())
    found = [name for name in there if name.casefold() in called]
    if len(there) == 1:
        return there[0]
    if not found:
        raise InputError(
            f"{path} has the modalities {', '.join(map(repr, there))}, none of which is known to have "
            f"'{feature_type}': pass feature_type= (--feature-type), or give that modality as an .h5ad file"
        )
    return found[0]


def read_zarr_zip(path: Path) -> AnnData:
    """Return the AnnData in a Zarr store that was put into one .zip file."""
    from anndata.io import read_elem

    try:
        import zarr
        from zarr.storage import ZipStore
    except ImportError:
        raise MissingExtraError("a .zarr.zip file needs zarr: pip install zarr") from None
    store: Any = ZipStore(path, mode="r")
    try:
        root = zarr.open_group(store, mode="r")
        if "X" not in root and "obs" not in root:
            raise FileFormatError(f"{path} has no AnnData at its root; zip what is inside the .zarr folder")
        adata: AnnData = read_elem(root)
    finally:
        store.close()
    return adata


def refuse_spatial(path: Path) -> None:
    """Refuse a SpatialData store, whose tables are stores of their own."""
    tables = path / "tables"
    if tables.is_dir() and not (path / "obs").exists():
        names = sorted(entry.name for entry in tables.iterdir() if entry.is_dir())
        listed = ", ".join(f"{tables}/{name}" for name in names) or "none"
        raise InputError(f"{path} is a SpatialData store; give one of its tables: {listed}")
