"""What a format answers, and how much of a file is to be in memory."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ...errors import FileFormatError, HarmonaxError, InputError
from ...system.validate import check_file


@dataclass(frozen=True)
class Reading:
    """How much is to be in memory.

    Attributes
    ----------
    up_to
        Bytes of an embedding above which it is left in the file, and read piece by piece. None: never.
    names
        Whether the cells' names are read even so.
    """

    up_to: int | None = None
    names: bool = True

    def in_pieces(self, array: Any) -> bool:
        """Return whether to leave in the file what may be a table of numbers, or something else."""
        shape, dtype = getattr(array, "shape", ()), getattr(array, "dtype", None)
        if self.up_to is None or dtype is None or len(shape) != 2 or np.dtype(dtype).kind not in "fiu":
            return False
        return int(np.prod(shape)) * dtype.itemsize > self.up_to


@dataclass(frozen=True, eq=False)
class BareTable:
    """An embedding as a bare file holds it.

    Attributes
    ----------
    Z
        The embedding, (N, d): an array, or what gives its rows as ``[start:stop]``.
    names
        The cells' names, where the file has some.
    features
        Names of the d columns, where the file has some.
    """

    Z: Any
    names: pd.Index | None = None
    features: list[str] | None = None


class NamedFormat:
    """A kind of file, told by the end of its name.

    Parameters
    ----------
    suffix
        That end, such as ``".npy"``.
    """

    # Whether it holds a whole AnnData rather than one embedding.
    annotated: ClassVar[bool] = False
    # Whether its rows may have names.
    named: ClassVar[bool] = True
    # Whether it is text, which may be gzipped.
    text: ClassVar[bool] = False

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.suffix}>"

    def check_installed(self) -> None:
        """Refuse, before any work, a format whose package is missing."""


class BareFormat(NamedFormat, ABC):
    """A file with one embedding and nothing else, except perhaps the names of its cells and features."""

    @abstractmethod
    def read(self, path: Path) -> BareTable:
        """Read all of a file."""

    def rows(self, path: Path, how: Reading) -> BareTable | None:
        """Return the rows of a file that is to be read piece by piece; None: it is read whole."""
        return None

    @abstractmethod
    def write(self, part: Path, table: BareTable, *, compress: bool) -> None:
        """Write an embedding, slab by slab; `compress` is asked of text only."""

    def size_of(self, n_bytes: int) -> int:
        """Return about how many bytes an embedding of `n_bytes` takes in a file."""
        return n_bytes


@contextlib.contextmanager
def reading(path: Path, kind: NamedFormat) -> Iterator[None]:
    """Turn whatever a reader says about a bad file into one line that names the file."""
    check_file(path)
    try:
        yield
    except HarmonaxError:
        raise
    except PermissionError:
        raise InputError(f"{path} cannot be read: permission denied") from None
    except BlockingIOError:
        raise InputError(f"{path} is being written by another program; wait until it is done") from None
    # A damaged size asks for more than any machine has.
    except MemoryError as error:
        raise FileFormatError(
            f"{path} takes more memory to read than there is: truncated or corrupt, or too large for this machine"
        ) from error
    # Readers raise nearly every kind of error on damaged files: zlib's, struct's, KeyError, RuntimeError, ...
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileFormatError(f"{path} is not a readable {kind.suffix} file: truncated or corrupt? ({said})") from error
