""".h5ad to .zarr and back: big arrays block by block, everything else as anndata reads and writes it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileFormatError, OutputError
from .annotated import created, nullable_strings, opened, quiet
from .arrays import new_array
from .formats import Format
from .source import reading

# Arrays above this many bytes are copied in blocks of this many.
_BLOCK = 1 << 26
# Groups that hold elements, and carry nothing themselves but their attributes.
_FOLDERS = ("anndata", "raw", "dict")
_SPARSE = ("csr_matrix", "csc_matrix")


def convert(path: Path, kind: Format, part: Path, target: Format, room: int) -> None:
    """Copy a whole AnnData file into the other format, without ever holding a big array in memory.

    `room` is about how many bytes the copy takes.
    """
    with quiet(), nullable_strings(), contextlib.ExitStack() as stack:
        with reading(path, kind):
            source = stack.enter_context(opened(path, kind))
            if source.attrs.get("encoding-type") != "anndata":
                raise FileFormatError(f"{path} was written by anndata before 0.8; read and write it again with anndata")
        _Copy(path, kind, target).group(source, stack.enter_context(created(part, target, room)))


@dataclass(frozen=True)
class _Copy:
    """Copies elements; only what is read goes through `reading`, so that a full disk is not called a corrupt file."""

    path: Path
    kind: Format
    target: Format

    def group(self, source: Any, target: Any) -> None:
        self.attributes(source, target)
        for name in list(source):
            self.element(source[name], target, name)

    def element(self, element: Any, target: Any, name: str) -> None:
        kind = element.attrs.get("encoding-type", "")
        if kind in _FOLDERS:
            self.group(element, target.create_group(name))
        elif kind in _SPARSE:
            group = target.create_group(name)
            self.attributes(element, group)
            for part in ("data", "indices", "indptr"):
                self.array(element[part], group, part)
        elif kind == "array" and element.dtype.kind in "fiub" and element.nbytes > _BLOCK:
            self.array(element, target, name)
        elif kind != "null":  # older versions of anndata cannot read one, and leaving it out means the same
            self.whole(element, target, name)

    def array(self, array: Any, target: Any, name: str) -> None:
        """Copy one array in blocks of rows, whole chunks at a time."""
        row = array.dtype.itemsize * int(np.prod(array.shape[1:]))
        in_chunk = array.chunks[0] if array.chunks else 1
        step = max(1, _BLOCK // max(1, row) // in_chunk) * in_chunk
        copy = _make_array(target, name, array)
        self.attributes(array, copy)
        for start in range(0, array.shape[0], step):
            with reading(self.path, self.kind):
                block = array[start : start + step]
            copy[start : start + step] = block

    def whole(self, element: Any, target: Any, name: str) -> None:
        """Copy one element through memory."""
        from anndata.io import read_elem, write_elem

        with reading(self.path, self.kind):
            value = read_elem(element)
        try:
            write_elem(target, name, value)
        except (TypeError, ValueError, NotImplementedError) as error:
            said = str(error).splitlines()[0]
            raise OutputError(f"{self.path}: {element.name} cannot be stored in {self.target.value}: {said}") from error

    def attributes(self, source: Any, target: Any) -> None:
        """Copy attributes between HDF5's arrays and Zarr's JSON."""
        # A list first: h5py keeps its global lock while one iterates, and zarr's own thread may come to wait for it.
        for name, value in list(source.attrs.items()):
            if self.target is Format.H5AD:
                target.attrs[name] = np.array(value) if isinstance(value, list) else value
            else:
                target.attrs[name] = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _make_array(group: Any, name: str, like: Any) -> Any:
    shape, dtype, chunks = like.shape, like.dtype, like.chunks if np.prod(like.shape) else None
    if type(group).__module__.startswith("zarr"):
        return new_array(group, name, shape, dtype, chunks)
    # gzip, since every reader of HDF5 knows it.
    packed = {"compression": "gzip", "compression_opts": 1, "chunks": chunks or True} if np.prod(shape) else {}
    return group.create_dataset(name, shape=shape, dtype=dtype, **packed)
