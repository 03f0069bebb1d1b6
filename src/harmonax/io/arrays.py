"""New arrays in HDF5 files and Zarr stores, whichever version."""

from __future__ import annotations

from typing import Any


def new_array(group: Any, name: str, shape: tuple[int, ...], dtype: Any, chunks: tuple[int, ...] | None = None) -> Any:
    """Make an array, to be filled: uncompressed in HDF5, in chunks of the library's choice in Zarr unless given."""
    if hasattr(group, "create_array"):  # zarr 3
        return group.create_array(name, shape=shape, dtype=dtype, chunks=chunks or "auto")
    if type(group).__module__.startswith("zarr"):
        return group.create_dataset(name, shape=shape, dtype=dtype, chunks=chunks or True)
    return group.create_dataset(name, shape=shape, dtype=dtype)
