"""What a run starts from: annotated files and 10x output, one or several joined."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .. import io
from ..errors import FileFormatError, HarmonaxError, InputError, MissingKeyError, nearest, warn
from ..inputs.genes import remedy, unversioned
from ..inputs.sparse import intact
from ..io.names import short_names
from ..system.validate import check_file
from . import features
from . import out_of_core as beyond
from .cellranger import matrices, read_10x_h5, read_10x_mtx
from .containers import read_h5mu, read_zarr_zip, refuse_spatial
from .joining import drop_own_results, tell_other_ids

if TYPE_CHECKING:
    from anndata import AnnData

_Found = TypeVar("_Found")
KINDS = (
    ".h5ad, .zarr, .zarr.zip, .h5mu, a 10x .h5, a folder with matrix.mtx, barcodes and features (or genes), "
    ".gz or not, or Cell Ranger's folder of a sample"
)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Hide what other packages announce to programmers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_inputs(
    paths: Sequence[str],
    batch_key: str | None = None,
    *,
    replace: bool = True,
    room: int | None = None,
    feature_type: str | None = None,
) -> AnnData:
    """Read a data set from one file or folder, or several that are joined.

    Parameters
    ----------
    paths
        ``.h5ad``, ``.zarr``, ``.zarr.zip``, ``.h5mu``, 10x ``.h5``, or 10x folders.
    batch_key
        Column of ``obs`` to make of the files' names. None: none.
    replace
        Whether it may take the place of one that is there.
    room
        Bytes of memory for their expression; where it takes more, it stays on the disk (see `beyond`). None: no limit.

    feature_type
        Which features are joined, and which modality of an .h5mu file is read: see `features.choose`.

    Returns
    -------
    AnnData
        In memory, but for that. Of several, the genes that all have; cells whose names occur twice get the name of
        their file.

    Raises
    ------
    InputError
        If a file is missing, is named twice, or shares no gene with the others.
    FileFormatError
        If a file is truncated, corrupt or of another kind.
    """
    places = [os.path.realpath(path) for path in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise InputError(f"{path} is given more than once")
    names = short_names(paths)
    # One that is missing is told before the others are read.
    for path in paths:
        kind_of(path)
    within = None if room is None or not too_large(paths, room) else room
    parts = [unique_names(read(path, within, feature_type), path) for path in paths]
    if len(parts) > 1:
        # Joined, they would lose what says which features are which.
        parts = [features.choose(part, feature_type) for part in parts]
    adata = parts[0] if len(parts) == 1 else _joined(parts, names)
    if batch_key is not None:
        import pandas as pd

        if batch_key in adata.obs and not replace:
            raise InputError(
                f"the files have a column '{batch_key}' already: say --batch-key {batch_key} to use it, or "
                f"--batch-from file to put the files' names in its place"
            )
        sizes = [part.n_obs for part in parts]
        labels = [name for name, size in zip(names, sizes, strict=True) for _ in range(size)]
        adata.obs[batch_key] = pd.Categorical(labels, categories=names)
    return adata


def kind_of(path: str) -> str:
    """Return "h5ad", "zarr", "10x_h5" or "10x_mtx", by the name of a file and by what lies in a folder."""
    place = Path(path)
    if not place.exists():
        raise InputError(f"{path}: no such file or folder")
    check_file(place)
    name = place.name.lower()
    if name.endswith(".zarr.zip"):
        return "zarr_zip"
    if name.endswith(".h5mu"):
        return "h5mu"
    if place.is_dir():
        refuse_spatial(place)
        if any((place / inside).exists() for inside in ("zarr.json", ".zgroup")):
            return "zarr"
        if any(re.search(r"matrix\.mtx(\.gz)?$", entry.name) for entry in place.iterdir()):
            return "10x_mtx"
        raise InputError(f"{path} is a folder without matrix.mtx and is no Zarr store; allowed are {KINDS}")
    if name.endswith(".h5ad"):
        return "h5ad"
    if name.endswith((".h5", ".hdf5")):
        return "10x_h5"
    inside = f"; give the folder {place.parent}" if re.search(r"\.mtx(\.gz)?$", name) else ""
    raise InputError(f"{path}: the format is told by the end of the name; allowed are {KINDS}{inside}")


def too_large(paths: Sequence[str], room: int) -> bool:
    """Return whether the expression of all files together takes more than there is room for."""
    total = 0
    for path in paths:
        if kind_of(path) not in ("h5ad", "zarr"):
            raise InputError(f"{path}: max_memory (--max-memory) is for .h5ad and .zarr, which can be read in pieces")
        total += readable(path, functools.partial(beyond.size, path))
    return total > room


def samples(paths: Sequence[str]) -> list[str]:
    """Return the files and folders with matrices, also where Cell Ranger's output of one sample or several is given."""
    return [found for path in paths for found in matrices(path)]


def read(path: str, room: int | None = None, feature_type: str | None = None) -> AnnData:
    """Read one file or folder into memory, or, for a room that its expression has not, without that."""
    kind = kind_of(path)

    def work() -> AnnData:
        if kind not in ("10x_mtx", "zarr_zip"):
            io.check_links(Path(path))
        if kind == "h5mu":
            return _intact(read_h5mu(Path(path), features.name_of(feature_type)), Path(path))
        return _READERS[kind](Path(path)) if room is None else beyond.read(path, room)

    return readable(path, work)


def readable(path: str, work: Callable[[], _Found]) -> _Found:
    """Return what is read of a file, or say what is the matter with it."""
    kind = kind_of(path)
    try:
        with silent():
            return work()
    except HarmonaxError:
        raise
    # A damaged size asks for more than any machine has.
    except MemoryError as error:
        raise FileFormatError(
            f"{path} takes more memory to read than there is: truncated or corrupt, or too large for this machine"
        ) from error
    except PermissionError:
        raise InputError(f"{path} cannot be read: permission denied") from None
    # Readers raise nearly every kind of error on damaged files.
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileFormatError(
            f"{path} is not readable as {kind}: truncated, corrupt or of another kind? ({said})"
        ) from error


def _read_h5ad(path: Path) -> AnnData:
    import anndata

    return _intact(anndata.read_h5ad(path), path)


def _read_zarr(path: Path) -> AnnData:
    import anndata

    return _intact(anndata.read_zarr(path), path)


def _intact(adata: AnnData, path: Path) -> AnnData:
    """Return data whose sparse matrices all are what they should be."""
    groups = (adata.layers, adata.obsm, adata.obsp, adata.varm, adata.varp)
    raw = [] if adata.raw is None else [adata.raw.X]
    for value in (adata.X, *raw, *(value for group in groups for value in group.values())):
        intact(value, str(path))
    return adata


_READERS = {
    "h5ad": _read_h5ad,
    "zarr": _read_zarr,
    "zarr_zip": lambda path: _intact(read_zarr_zip(path), path),
    "10x_h5": read_10x_h5,
    "10x_mtx": read_10x_mtx,
}


def unique_names(adata: AnnData, what: str) -> AnnData:
    """Make names of cells and of genes unique where they are not, with a warning."""
    for names, kind, repair in (
        (adata.obs_names, "cell", adata.obs_names_make_unique),
        (adata.var_names, "gene", adata.var_names_make_unique),
    ):
        twice = names.duplicated()
        if twice.any():
            first = names[twice][0]
            warn(f"{what}: {int(twice.sum())} {kind} names occur twice (first: '{first}'); made unique by a suffix")
            with silent():
                repair()
    return adata


def _joined(parts: list[AnnData], names: list[str]) -> AnnData:
    """Put the cells of several files together, on the genes they share."""
    import anndata

    shared = parts[0].var_names
    for part in parts[1:]:
        shared = shared.intersection(part.var_names)
    if not len(shared):
        firsts = ", ".join(
            f"{name}: '{part.var_names[0]}'" for name, part in zip(names, parts, strict=True) if part.n_vars
        )
        first, other = parts[0].var_names, parts[1].var_names
        how = "drop the identifiers' versions" if len(unversioned(first).intersection(unversioned(other))) else ""
        how = how or remedy(first, other) or "give all of them the same kind of names"
        raise InputError(f"the files have no gene name in common ({firsts}); {how}")
    lost = {name: part.n_vars - len(shared) for name, part in zip(names, parts, strict=True)}
    if any(lost.values()):
        told = ", ".join(f"{name} loses {count:,}" for name, count in lost.items() if count)
        warn(f"the files have different genes: the {len(shared):,} that all have are kept ({told})")
    tell_other_ids(parts, names, shared)
    cells = parts[0].obs_names
    for part in parts[1:]:
        cells = cells.append(part.obs_names)
    if cells.duplicated().any():
        for name, part in zip(names, parts, strict=True):
            part.obs_names = [f"{cell}-{name}" for cell in part.obs_names]
    with silent():
        joined = anndata.concat(parts, join="inner", merge="same")
    drop_own_results(joined)
    columns = sorted({str(name) for part in parts for name in part.obs} - {str(name) for name in joined.obs})
    if columns:
        warn(f"columns of obs that not all files have are dropped: {', '.join(columns)}")
    return joined if not joined.obs_names.duplicated().any() else unique_names(joined, "the joined files")


def column(adata: AnnData, key: str, what: str) -> Any:
    """Return a column of obs, or say which there are."""
    if key not in adata.obs.columns:
        raise MissingKeyError(f"obs has no {what} column '{key}'; {nearest(key, adata.obs.columns)}")
    return adata.obs[key]


def facts(path: str) -> dict[str, Any]:
    """Return the path, size and time of an input; of a folder, those of all its files."""
    # Before anything is asked of a file that may not be there.
    place, kind = Path(path), kind_of(path)
    known = {**io.file_facts(place), "kind": kind}
    if place.is_dir():
        files = [found for found in sorted(place.rglob("*")) if found.is_file()]
        known |= {
            "files": len(files),
            "bytes": sum(found.stat().st_size for found in files),
            "modified": max((found.stat().st_mtime for found in files), default=known["modified"]),
        }
    return known
