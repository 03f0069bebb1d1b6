""".h5ad: AnnData in an HDF5 file."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import FileFormatError, OutputError
from .groups import AnnotatedFormat
from .links import check_links

if TYPE_CHECKING:
    from anndata import AnnData

_BLOCK = 1 << 20


class H5adFormat(AnnotatedFormat):
    """HDF5, as anndata writes it."""

    @contextlib.contextmanager
    def open(self, path: Path, *, room: int | None = None) -> Iterator[Any]:
        import h5py

        if path.is_dir():
            raise FileFormatError(f"{path} is a directory, not an .h5ad file")
        if room is not None:
            _reserve(path, room)
        else:
            check_links(path)
        with h5py.File(path, "r" if room is None else "r+") as file:
            yield file

    @contextlib.contextmanager
    def create(self, path: Path, room: int) -> Iterator[Any]:
        import h5py

        h5py.File(path, "w").close()
        with self.open(path, room=room) as file:
            yield file

    def copy(self, source: Path, part: Path) -> None:
        before = source.stat()
        shutil.copyfile(source, part)
        after = source.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise OutputError(f"{source} was changed by another program while it was copied; run again")

    def write(self, part: Path, adata: AnnData) -> None:
        adata.write_h5ad(part)

    def new_array(
        self, group: Any, name: str, shape: tuple[int, ...], dtype: Any, chunks: Any = None, *, compress: bool = False
    ) -> Any:
        # gzip, since every reader of HDF5 knows it.
        packed = {"compression": "gzip", "compression_opts": 1, "chunks": chunks or True}
        return group.create_dataset(name, shape=shape, dtype=dtype, **(packed if compress and np.prod(shape) else {}))

    def attribute(self, value: Any) -> Any:
        return np.array(value) if isinstance(value, list) else value


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


H5AD = H5adFormat(".h5ad")
