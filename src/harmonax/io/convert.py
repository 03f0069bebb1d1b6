"""One AnnData format to another: big arrays block by block, everything else as anndata reads and writes it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileFormatError, OutputError
from .annotated import nullable_strings, quiet
from .formats import AnnotatedFormat, reading

# Arrays above this many bytes are copied in blocks of this many.
_BLOCK = 1 << 26
# Groups that hold elements, and carry nothing themselves but their attributes.
_FOLDERS = ("anndata", "raw", "dict")
_SPARSE, _PARTS = ("csr_matrix", "csc_matrix"), ("data", "indices", "indptr")


def convert(path: Path, kind: AnnotatedFormat, part: Path, target: AnnotatedFormat, room: int) -> None:
    """Copy a whole AnnData file into the other format, without ever holding a big array in memory.

    `room` is about how many bytes the copy takes.
    """
    with quiet(), nullable_strings(), contextlib.ExitStack() as stack:
        with reading(path, kind):
            source = stack.enter_context(kind.open(path))
            if source.attrs.get("encoding-type") != "anndata":
                raise FileFormatError(f"{path} was written by anndata before 0.8; read and write it again with anndata")
        _Copy(path, kind, target).group(source, stack.enter_context(target.create(part, room)))


@dataclass(frozen=True)
class _Copy:
    """Copies elements; only what is read goes through `reading`, so that a full disk is not called a corrupt file."""

    path: Path
    kind: AnnotatedFormat
    target: AnnotatedFormat

    def group(self, source: Any, target: Any) -> None:
        self.attributes(source, target)
        with reading(self.path, self.kind):
            elements = {name: source[name] for name in list(source)}
        for name, element in elements.items():
            self.element(element, target, name)

    def element(self, element: Any, target: Any, name: str) -> None:
        with reading(self.path, self.kind):
            kind = element.attrs.get("encoding-type", "")
            # Where the metadata of an array are damaged, zarr may give a group without its shape instead.
            parts = {part: _array(element[part]) for part in _PARTS} if kind in _SPARSE else {}
            large = kind == "array" and _array(element).dtype.kind in "fiub" and element.nbytes > _BLOCK
        if kind in _FOLDERS:
            self.group(element, target.create_group(name))
        elif parts:
            group = target.create_group(name)
            self.attributes(element, group)
            for part, array in parts.items():
                self.array(array, group, part)
        elif large:
            self.array(element, target, name)
        elif kind != "null":  # older versions of anndata cannot read one, and leaving it out means the same
            self.whole(element, target, name)

    def array(self, array: Any, target: Any, name: str) -> None:
        """Copy one array in blocks of rows, whole chunks at a time."""
        row = array.dtype.itemsize * int(np.prod(array.shape[1:]))
        in_chunk = array.chunks[0] if array.chunks else 1
        step = max(1, _BLOCK // max(1, row) // in_chunk) * in_chunk
        chunks = array.chunks if np.prod(array.shape) else None
        copy = self.target.new_array(target, name, array.shape, array.dtype, chunks, compress=True)
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
            said, suffix = str(error).splitlines()[0], self.target.suffix
            raise OutputError(f"{self.path}: {element.name} cannot be stored in {suffix}: {said}") from error

    def attributes(self, source: Any, target: Any) -> None:
        """Copy attributes as the other format stores them."""
        # A list first: h5py keeps its global lock while one iterates, and zarr's own thread may come to wait for it.
        with reading(self.path, self.kind):
            attributes = list(source.attrs.items())
        for name, value in attributes:
            target.attrs[name] = self.target.attribute(value)


def _array(element: Any) -> Any:
    if not hasattr(element, "dtype"):
        raise FileFormatError(f"{element.name} is not an array: its metadata are damaged")
    return element
