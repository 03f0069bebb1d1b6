"""What a run reads: an embedding, the batch columns beside it, and the cells' names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import FileFormatError, HarmonaxError, InputError
from .formats import Format, format_of


@dataclass(frozen=True, eq=False)
class Source:
    """An embedding as read from a file.

    Attributes
    ----------
    path, format
        Where it came from.
    Z
        The embedding, (N, d): an array, or `Rows` of the file.
    table
        The batch columns asked for and no others, N rows, indexed by the cells' names or by 0..N-1.
    named
        Whether the index holds names.
    features
        Names of the d columns, where the file has some.
    notes
        What the user may want to know about the reading.
    parts
        The files, where they are several; `path` is the first.
    """

    path: Path
    format: Format
    Z: Any
    table: pd.DataFrame
    named: bool
    features: list[str] | None = None
    notes: tuple[str, ...] = ()
    parts: tuple[Path, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether it is one AnnData file, all of which goes into a result of that kind."""
        return self.format.annotated and not self.parts


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


def read_source(
    path: str,
    keys: Sequence[str],
    *,
    basis: str = "X_pca",
    metadata: str | None = None,
    how: Reading = Reading(),
) -> Source:
    """Read an embedding and its batch columns, and nothing else of the file.

    Parameters
    ----------
    path
        ``.h5ad`` or ``.zarr`` (one entry of ``obsm``, some columns of ``obs``; ``X`` is not touched), or a bare
        embedding: ``.csv``, ``.tsv`` (``.gz``), ``.parquet``, ``.npy``.
    keys
        Batch columns.
    basis
        Entry of ``obsm``.
    metadata
        Table with the batch columns of a bare embedding.
    how
        What may stay in the file.

    Raises
    ------
    MissingKeyError
        If the basis or a column is not there.
    FileFormatError
        If a file is truncated, corrupt or of another kind.
    InputError
        If there is no such file, or its parts do not fit together.
    """
    kind = format_of(path)
    if kind.annotated:
        from .annotated import read_annotated

        if metadata is not None:
            raise InputError(f"{path} has its own obs; a metadata table goes with bare embeddings only")
        return read_annotated(Path(path), kind, keys, basis, how)
    from .bare import read_bare

    if metadata is None:
        raise InputError(f"{path} is a bare embedding: name the table with its batch columns (--metadata)")
    return read_bare(Path(path), kind, keys, Path(metadata), how)


@contextlib.contextmanager
def reading(path: Path, kind: Format) -> Iterator[None]:
    """Turn whatever a reader says about a bad file into one line that names the file."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    try:
        yield
    except HarmonaxError:
        raise
    except PermissionError:
        raise InputError(f"{path} cannot be read: permission denied") from None
    except BlockingIOError:
        raise InputError(f"{path} is being written by another program; wait until it is done") from None
    except MemoryError:
        raise
    # Readers raise nearly every kind of error on damaged files: zlib's, struct's, KeyError, RuntimeError, ...
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileFormatError(f"{path} is not a readable {kind.value} file: truncated or corrupt? ({said})") from error
