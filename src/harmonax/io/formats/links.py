"""Files whose content lies elsewhere, or within itself: links, told before any of it is read.

The rule: what a file holds is in that file. Soft and hard links within it are followed. Refused are links into other
files and data sets that others hold (they would dangle in the copy, and a missing one reads as a constant), groups
that contain themselves, and, in a Zarr store, whatever is not a plain file or directory.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import FileFormatError
from .heaps import check_heaps
from .texts import check_texts

if TYPE_CHECKING:
    import h5py

# Far above what anndata writes; a copy goes through as many.
_MAX_DEPTH, _MAX_GROUPS = 100, 100_000
# Values of a data set this large are not searched for text.
_LARGE = 1 << 20
_REMEDY = "write it anew with anndata, which brings all into one file"


def check_links(path: Path) -> None:
    """Refuse a file or store, once for each state of it, whose content does not all lie in itself.

    Raises
    ------
    FileFormatError
        If it is such a file.
    """
    facts = path.stat()
    check = _check_store if path.is_dir() else _check_hdf5
    check(str(path), facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)


@functools.lru_cache(256)
def _check_hdf5(path: str, *state: int) -> None:
    import h5py

    with h5py.File(path, "r") as file:
        todo: list[tuple[h5py.Group, tuple[int, ...]]] = [(file, ())]
        large: list[tuple[int, int]] = []
        n_groups = 0
        while todo:
            group, above = todo.pop()
            address = int(h5py.h5o.get_info(group.id).addr)
            n_groups += 1
            _check_types(path, group)
            if address in above or len(above) > _MAX_DEPTH or n_groups > _MAX_GROUPS:
                raise FileFormatError(f"{path}: {group.name} is in a circle of groups, or in too many: {_REMEDY}")
            for name in group:
                place = f"{path}: {group.name.rstrip('/')}/{name}"
                if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                    raise FileFormatError(f"{place} is a link into another file: {_REMEDY}")
                item = group.get(name)
                if item is None:
                    raise FileFormatError(f"{place} is a link that leads nowhere: {_REMEDY}")
                if isinstance(item, h5py.Dataset):
                    if item.is_virtual or item.external:
                        raise FileFormatError(f"{place} is a data set whose values are in other files: {_REMEDY}")
                    _check_types(path, item)
                    large += _stored(item) if item.id.get_storage_size() > _LARGE else []
                if isinstance(item, h5py.Group):
                    todo.append((item, (*above, address)))
    check_heaps(path, large)


def _check_types(path: str, item: h5py.Group | h5py.Dataset) -> None:
    """Refuse values of variable length that are of no kind: HDF5 (2.0) ends the process where it reads them."""
    import h5py

    types = [h5py.h5a.open(item.id, index=i).get_type() for i in range(h5py.h5a.get_num_attrs(item.id))]
    types += [item.id.get_type()] if isinstance(item, h5py.Dataset) else []
    for kind in types:
        # Four bytes into what HDF5 writes of a type: 0 is a sequence, and text has a class of its own.
        if kind.get_class() == h5py.h5t.VLEN and kind.encode()[3] & 0xF:
            raise FileFormatError(f"{path} is damaged: the type of {item.name}, or of its attributes, is unknown")


def _stored(data: h5py.Dataset) -> list[tuple[int, int]]:
    """Return where the file has the values of a data set."""
    if data.chunks is None:
        start = data.id.get_offset()
        return [] if start is None else [(start, start + data.id.get_storage_size())]
    found: list[tuple[int, int]] = []
    data.id.chunk_iter(lambda chunk: found.append((chunk.byte_offset, chunk.byte_offset + chunk.size)))
    return found


@functools.lru_cache(256)
def _check_store(path: str, *state: int) -> None:
    folders = [path]
    while folders:
        check_texts(folder := folders.pop())
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                    raise FileFormatError(
                        f"{entry.path} is a link, a pipe or a device in a Zarr store; copy the store with its content "
                        "(cp -rL)"
                    )
                if entry.is_dir():
                    folders.append(entry.path)
