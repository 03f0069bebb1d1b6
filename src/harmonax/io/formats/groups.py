"""What the formats of AnnData files have in common: a root group that holds elements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...inputs.rows import Rows
from .contract import NamedFormat, reading

if TYPE_CHECKING:
    from anndata import AnnData


class AnnotatedFormat(NamedFormat, ABC):
    """A file that holds a whole AnnData."""

    annotated: ClassVar[bool] = True

    @abstractmethod
    def open(self, path: Path, *, room: int | None = None) -> AbstractContextManager[Any]:
        """Open the root group to be read, or to add about `room` bytes to it; it is closed, however the body ends."""

    @abstractmethod
    def create(self, path: Path, room: int) -> AbstractContextManager[Any]:
        """Make an empty file with room for about so many bytes, and give its root group."""

    @abstractmethod
    def copy(self, source: Path, part: Path) -> None:
        """Copy a whole file of this format."""

    @abstractmethod
    def write(self, part: Path, adata: AnnData) -> None:
        """Write an AnnData from memory."""

    @abstractmethod
    def new_array(
        self, group: Any, name: str, shape: tuple[int, ...], dtype: Any, chunks: Any = None, *, compress: bool = False
    ) -> Any:
        """Make an array in a group, to be filled."""

    @abstractmethod
    def attribute(self, value: Any) -> Any:
        """Return the value of an attribute, from whichever format, as this one stores it."""

    def finish(self, path: Path) -> None:
        """Do what is due once something was added."""

    def rows(self, path: Path, basis: str, array: Any) -> Rows:
        """Return an entry of ``obsm`` that is read piece by piece."""
        return AnnotatedRows(path, self, basis, array)


class AnnotatedRows(Rows):
    """An entry of ``obsm``; the file is opened for each piece, so that none stays open."""

    def __init__(self, path: Path, kind: AnnotatedFormat, basis: str, array: Any) -> None:
        super().__init__(array.shape, array.dtype)
        self._path, self._kind, self._basis = path, kind, basis

    def read(self, start: int, stop: int) -> np.ndarray:
        with reading(self._path, self._kind), self._kind.open(self._path) as root:
            return np.asarray(root["obsm"][self._basis][start:stop])
