"""Reading one file, whatever its format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from .annotated import read_annotated
from .bare import read_bare
from .formats import AnnotatedFormat, Reading, format_of
from .source import Source

_WHOLE = Reading()


def read_source(
    path: str,
    keys: Sequence[str],
    *,
    basis: str = "X_pca",
    metadata: str | None = None,
    how: Reading = _WHOLE,
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
    if isinstance(kind, AnnotatedFormat):
        if metadata is not None:
            raise InputError(f"{path} has its own obs; a metadata table goes with bare embeddings only")
        return read_annotated(Path(path), kind, keys, basis, how)
    if metadata is None:
        raise InputError(f"{path} is a bare embedding: name the table with its batch columns (--metadata)")
    return read_bare(Path(path), kind, keys, Path(metadata), how)
