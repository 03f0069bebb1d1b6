"""AnnData on disk, .h5ad and .zarr: one entry of obsm and some columns of obs, never X."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import FileFormatError, MissingExtraError, MissingKeyError, nearest
from ..inputs.expression import dense
from ..inputs.values import check_real
from .formats import Format
from .source import Reading, Source, reading

_BLOCK = 1 << 20


def read_annotated(path: Path, kind: Format, keys: Sequence[str], basis: str, how: Reading) -> Source:
    """Read ``obsm[basis]`` and the batch columns of an AnnData file."""
    with reading(path, kind), opened(path, kind) as root:
        for part in ("obs", "obsm"):
            if part not in root:
                raise FileFormatError(f"{path} is not an AnnData file: it has no '{part}'")
            if not hasattr(root[part], "keys"):
                raise FileFormatError(f"{path} was written by anndata before 0.7; read and write it again with anndata")
        bases = sorted(root["obsm"].keys())
        if basis not in bases:
            raise MissingKeyError(f"{path}: obsm has no basis '{basis}'; {nearest(basis, bases)}")
        element = root["obsm"][basis]
        if how.in_pieces(element):
            from .rows import AnnotatedRows

            table, named = read_obs(path, root["obs"], keys, names=how.names), how.names
            return _agreeing(Source(path, kind, AnnotatedRows(path, kind, basis, element), table, named), basis)
        table = read_obs(path, root["obs"], keys)
        Z, features = _as_matrix(_read(element))
    return _agreeing(Source(path, kind, Z, table, named=True, features=features), basis)


def _agreeing(source: Source, basis: str) -> Source:
    shape, n_cells = source.Z.shape, len(source.table)
    if shape and shape[0] != n_cells:
        raise FileFormatError(
            f"{source.path}: obsm['{basis}'] has {shape[0]} rows but obs has {n_cells}; they must agree"
        )
    return source


@contextlib.contextmanager
def opened(path: Path, kind: Format, *, room: int | None = None) -> Iterator[Any]:
    """Open the root group, to add about so many bytes if `room` is given; the file is closed, however the body ends."""
    mode = "r" if room is None else "r+"
    if kind is Format.ZARR:
        yield _zarr_group(path, mode)
        return
    import h5py

    if path.is_dir():
        raise FileFormatError(f"{path} is a directory, not an .h5ad file")
    if room is not None:
        _reserve(path, room)
    with h5py.File(path, mode) as file:
        yield file


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what anndata and zarr announce about their own formats, older and coming."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def nullable_strings() -> Iterator[None]:
    """Let anndata write the string columns that it just read, which some versions refuse by default."""
    import anndata

    if "allow_write_nullable_strings" not in dir(anndata.settings):
        yield
        return
    with anndata.settings.override(allow_write_nullable_strings=True):
        yield


def import_zarr() -> Any:
    """Return zarr, which older versions of anndata do not bring along."""
    try:
        import zarr
    except ImportError:
        raise MissingExtraError("Zarr stores need the package zarr: pip install zarr") from None
    return zarr


@contextlib.contextmanager
def created(path: Path, kind: Format, room: int) -> Iterator[Any]:
    """Make an empty file, or a Zarr store in the version that anndata writes, and give its root group."""
    if kind is Format.H5AD:
        import h5py

        h5py.File(path, "w").close()
        with opened(path, kind, room=room) as file:
            yield file
        return
    zarr = import_zarr()
    import anndata

    choice = {"zarr_format": getattr(anndata.settings, "zarr_write_format", 2)} if zarr_3(zarr) else {}
    yield zarr.open_group(str(path), mode="w", **choice)
    consolidate(path)


def consolidate(path: Path) -> None:
    """Gather the metadata of a Zarr store in one place, as anndata does; what was there would hide what was added."""
    zarr = import_zarr()
    zarr.consolidate_metadata(str(path))


def _reserve(path: Path, n_bytes: int) -> None:
    """Lengthen an HDF5 file by room for what is to be added; HDF5 cuts off what it did not use.

    A full disk is an error here. Inside HDF5 it would be many, and a crash when the program ends.
    """
    size = path.stat().st_size
    with open(path, "r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), size, n_bytes)
            return
        file.seek(size)
        for start in range(0, n_bytes, _BLOCK):
            file.write(bytes(min(_BLOCK, n_bytes - start)))


def _zarr_group(path: Path, mode: str) -> Any:
    zarr = import_zarr()
    if not path.is_dir():
        raise FileFormatError(f"{path} is not a Zarr directory")
    # Consolidated metadata may lag behind the store, and zarr 3 refuses to change a group read through them.
    choice = {"use_consolidated": False} if zarr_3(zarr) else {}
    return zarr.open_group(str(path), mode=mode, **choice)


def zarr_3(zarr: Any) -> bool:
    """Return whether this is zarr's version 3 or later."""
    return int(zarr.__version__.split(".")[0]) >= 3


def _read(element: Any) -> Any:
    from anndata.io import read_elem

    with quiet():
        return read_elem(element)


def read_obs(path: Path, obs: Any, keys: Sequence[str], *, names: bool = True) -> pd.DataFrame:
    """Read these columns of obs, indexed by the cells' names or by 0..N-1."""
    columns = [str(c) for c in obs.attrs["column-order"]]
    for key in keys:
        if key not in columns:
            raise MissingKeyError(f"{path}: obs has no column '{key}'; {nearest(key, columns)}")
    if obs.attrs.get("encoding-version") == "0.1.0":
        # Older categories lie beside the columns and are put together only when obs is read as a whole.
        return _read(obs)[list(keys)]
    known = obs[obs.attrs["_index"]]
    # A hundred million names would take more memory than all else.
    # Newer text that may be missing is a group of values and a mask.
    n_cells = (known["values"] if hasattr(known, "keys") else known).shape[0]
    index = pd.Index(_strings(_read(known))).astype(str) if names else pd.RangeIndex(n_cells)
    # A repeated key is for the design to refuse.
    read = {key: _strings(_read(obs[key])) for key in keys}
    for key, values in read.items():
        if len(values) != len(index):
            raise FileFormatError(f"{path}: obs['{key}'] has {len(values)} rows but there are {len(index)} cells")
    return pd.DataFrame(read, index=index)


def _strings(values: Any) -> Any:
    """Return NumPy's own strings, which zarr 3 reads and pandas does not know, as objects; all else as it is."""
    return values.astype(object) if isinstance(values, np.ndarray) and values.dtype.kind == "T" else values


def _as_matrix(value: Any) -> tuple[np.ndarray, list[str] | None]:
    array = dense(value)
    check_real(array.dtype, "the basis")
    return array, [str(c) for c in value.columns] if isinstance(value, pd.DataFrame) else None
