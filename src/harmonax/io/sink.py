"""What a run writes: an AnnData file with the corrected embedding added, or the embedding alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import OutputError
from ..inputs.rows import slabs
from .annotated import quiet
from .convert import convert
from .formats import AnnotatedFormat, BareFormat, BareTable, Format
from .source import Source

# Bytes of a chunk of rows, where a format has chunks.
_CHUNK = 4 << 20
# More than the headers of what is added, in bytes.
_SLACK = 1 << 20


@dataclass(frozen=True, eq=False)
class Result:
    """What is added to what was read.

    Attributes
    ----------
    source
        What was read.
    basis, adjusted_basis
        Names of the embedding and of the corrected one in ``obsm``.
    embedding
        The corrected embedding, (N, d): an array, or what gives its rows as ``[start:stop]``.
    record
        How it was made, for ``uns[key]``.
    columns
        Columns that are added to ``obs`` of an AnnData file, N rows.
    obsm
        Embeddings that are added to it besides.
    """

    source: Source
    basis: str
    adjusted_basis: str
    embedding: Any
    record: Mapping[str, Any]
    key: str = "harmonax"
    columns: pd.DataFrame | None = None
    obsm: Mapping[str, Any] = field(default_factory=dict)

    @property
    def embeddings(self) -> dict[str, Any]:
        return {self.adjusted_basis: self.embedding, **self.obsm}

    @property
    def nbytes(self) -> int:
        columns = 0 if self.columns is None else int(self.columns.memory_usage(deep=True).sum())
        return sum(int(e.nbytes) for e in self.embeddings.values()) + 2 * columns


def check_writable(kind: Format) -> None:
    """Refuse, before any work, a format whose package is missing."""
    kind.check_installed()


def size_of(source: Source, kind: Format, n_bytes: int) -> int:
    """Return about how many bytes the result takes on the disk, given those of its embedding."""
    if isinstance(kind, BareFormat):
        return kind.size_of(n_bytes)
    n_bytes += _SLACK
    if not source.whole:
        return n_bytes + source.Z.nbytes + int(source.table.memory_usage(deep=True).sum())
    return n_bytes + stored_bytes(source.path)


def write_result(part: Path, kind: Format, result: Result, *, compress: bool = False) -> None:
    """Write the result to `part` in format `kind`.

    An AnnData file made from another has everything that one has; its ``X`` is copied, never loaded.
    """
    source, own = result.source, result.source.format
    if isinstance(kind, BareFormat):
        kind.write(part, _bare(result), compress=compress)
    elif isinstance(own, AnnotatedFormat) and source.whole:
        copy_annotated(source.path, own, part, kind)
        _add(part, kind, result)
    else:
        _write_new(part, kind, result)


def copy_annotated(source: Path, own: AnnotatedFormat, part: Path, kind: AnnotatedFormat) -> None:
    """Copy a whole AnnData file, into another format where that is not its own."""
    if own is kind:
        kind.copy(source, part)
    else:
        convert(source, own, part, kind, _SLACK + stored_bytes(source))


def stored_bytes(path: Path) -> int:
    """Return the size of a file, or of all files in a directory."""
    return sum(f.stat().st_size for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file())


def _add(part: Path, kind: AnnotatedFormat, result: Result) -> None:
    """Add the corrected embedding and the record to a copy."""
    from anndata.io import write_elem

    with quiet():
        with kind.open(part, room=result.nbytes + _room(result.record) + _SLACK) as root:
            for group in ("uns", "obsm"):
                if group not in root:
                    write_elem(root, group, {})
            for name, embedding in result.embeddings.items():
                _write_array(kind, root["obsm"], name, embedding)
            write_elem(root["uns"], result.key, result.record)
            if result.columns is not None:
                _write_columns(kind, root["obs"], result.columns)
        kind.finish(part)


def _write_columns(kind: AnnotatedFormat, obs: Any, columns: pd.DataFrame) -> None:
    from anndata.io import write_elem

    order, index = [str(name) for name in obs.attrs["column-order"]], str(obs.attrs["_index"])
    if index in columns:
        raise OutputError(f"obs has its cells' names under '{index}', where a column of that name would go; rename it")
    for name in columns:
        write_elem(
            obs, name, columns[name].array if columns[name].dtype.name == "category" else columns[name].to_numpy()
        )
    names = [*order, *(name for name in columns if name not in order)]
    obs.attrs["column-order"] = kind.attribute(np.array(names, dtype=object))


def _write_array(kind: AnnotatedFormat, group: Any, name: str, embedding: Any) -> None:
    """Write an embedding as anndata does, piece by piece where it is not in memory."""
    from anndata.io import write_elem

    if isinstance(embedding, np.ndarray):
        write_elem(group, name, np.ascontiguousarray(embedding))
        return
    if name in group:
        del group[name]
    row = embedding.shape[1] * np.dtype(embedding.dtype).itemsize
    in_chunk = min(embedding.shape[0], max(1, _CHUNK // row))
    array = kind.new_array(group, name, embedding.shape, embedding.dtype, (in_chunk, embedding.shape[1]))
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    # Whole chunks at a time.
    for start, rows in slabs(embedding, 8 * in_chunk * row):
        array[start : start + len(rows)] = rows


def _room(value: Any) -> int:
    """Return more than a record takes in an HDF5 file."""
    if isinstance(value, Mapping):
        return sum(4096 + _room(item) for item in value.values())
    if isinstance(value, np.ndarray) and value.dtype == object:
        return sum(64 + 4 * len(str(item)) for item in value)
    return int(np.asarray(value).nbytes) + 64


def _write_new(part: Path, kind: AnnotatedFormat, result: Result) -> None:
    """Make an AnnData file without X from a bare embedding and its batch columns."""
    import anndata

    with quiet():
        table = result.source.table.set_axis(result.source.table.index.astype(str), axis=0)
        adata = anndata.AnnData(
            obs=table,
            uns={"harmonax": result.record},
        )
        adata.strings_to_categoricals()
        with kind.create(part, size_of(result.source, kind, result.embedding.nbytes)) as root:
            anndata.io.write_elem(root, "/", adata)
            _write_array(kind, root["obsm"], result.basis, result.source.Z)
            _write_array(kind, root["obsm"], result.adjusted_basis, result.embedding)
        kind.finish(part)


def _bare(result: Result) -> BareTable:
    source = result.source
    features = source.features or [f"{result.adjusted_basis}_{i + 1}" for i in range(result.embedding.shape[1])]
    return BareTable(result.embedding, source.table.index if source.named else None, features)
