""".zarr: AnnData in a Zarr store on the disk, of whichever version of zarr."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import FileFormatError, MissingExtraError
from .contract import reading
from .groups import AnnotatedFormat
from .links import check_links

if TYPE_CHECKING:
    from anndata import AnnData


class ZarrFormat(AnnotatedFormat):
    """A Zarr store, as anndata writes it."""

    def check_installed(self) -> None:
        _import()

    @contextlib.contextmanager
    def open(self, path: Path, *, room: int | None = None) -> Iterator[Any]:
        zarr = _import()
        if not path.is_dir():
            raise FileFormatError(f"{path} is not a Zarr directory")
        if room is None:
            check_links(path)
        # Consolidated metadata may lag behind the store, and zarr 3 refuses to change a group read through them.
        choice = {"use_consolidated": False} if _is_3(zarr) else {}
        yield zarr.open_group(str(path), mode="r" if room is None else "r+", **choice)

    @contextlib.contextmanager
    def create(self, path: Path, room: int) -> Iterator[Any]:
        zarr = _import()
        import anndata

        # The version that anndata writes.
        choice = {"zarr_format": getattr(anndata.settings, "zarr_write_format", 2)} if _is_3(zarr) else {}
        yield zarr.open_group(str(path), mode="w", **choice)
        self.finish(path)

    def finish(self, path: Path) -> None:
        """Gather the metadata in one place, as anndata does; what was there would hide what was added."""
        _import().consolidate_metadata(str(path))

    def copy(self, source: Path, part: Path) -> None:
        # All metadata are read when the copy's are gathered: damage is the input's, not the output's.
        with reading(source, self), self.open(source) as root:
            _look_through(root)
        _copy_folder(source, part)

    def write(self, part: Path, adata: AnnData) -> None:
        adata.write_zarr(part)

    def new_array(
        self, group: Any, name: str, shape: tuple[int, ...], dtype: Any, chunks: Any = None, *, compress: bool = False
    ) -> Any:
        # zarr compresses by default.
        if hasattr(group, "create_array"):  # zarr 3
            return group.create_array(name, shape=shape, dtype=dtype, chunks=chunks or "auto")
        return group.create_dataset(name, shape=shape, dtype=dtype, chunks=chunks or True)

    def attribute(self, value: Any) -> Any:
        # Attributes are JSON.
        return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _look_through(group: Any) -> None:
    for name in list(group):
        element = group[name]
        dict(element.attrs)
        if hasattr(element, "keys"):
            _look_through(element)


def _copy_folder(source: Path, part: Path) -> None:
    # Not shutil.copytree: it copies access rights too, and a read-only store would give a read-only copy.
    part.mkdir()
    for entry in sorted(source.iterdir()):
        if entry.is_dir():
            _copy_folder(entry, part / entry.name)
        else:
            shutil.copyfile(entry, part / entry.name)


def _import() -> Any:
    """Return zarr, which older versions of anndata do not bring along."""
    try:
        import zarr
    except ImportError:
        raise MissingExtraError("Zarr stores need the package zarr: pip install zarr") from None
    return zarr


def _is_3(zarr: Any) -> bool:
    return int(zarr.__version__.split(".")[0]) >= 3


ZARR = ZarrFormat(".zarr")
