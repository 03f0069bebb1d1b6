"""What a run writes: an AnnData file with the corrected embedding added, or the embedding alone."""

from __future__ import annotations

import gzip
import io
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import MissingExtraError, OutputError
from ..inputs.rows import slabs
from .arrays import new_array
from .formats import Format
from .source import Source

# Bytes of a chunk of rows in a Zarr store.
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
    if kind is Format.PARQUET:
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise MissingExtraError("Parquet files need pyarrow: pip install 'harmonax[parquet]'") from None
    if kind is Format.ZARR:
        from .annotated import import_zarr

        import_zarr()


def size_of(source: Source, kind: Format, n_bytes: int) -> int:
    """Return about how many bytes the result takes on the disk, given those of its embedding."""
    if not kind.annotated:
        # 12 characters a number; parquet and npy hold it as it is.
        return n_bytes * 3 if kind.text else n_bytes
    n_bytes += _SLACK
    if not source.whole:
        return n_bytes + source.Z.nbytes + int(source.table.memory_usage(deep=True).sum())
    files = source.path.rglob("*") if source.path.is_dir() else [source.path]
    return n_bytes + sum(f.stat().st_size for f in files if f.is_file())


def write_result(part: Path, kind: Format, result: Result, *, compress: bool = False) -> None:
    """Write the result to `part` in format `kind`.

    An AnnData file made from another has everything that one has; its ``X`` is copied, never loaded.
    """
    if not kind.annotated:
        _write_bare(part, kind, result, compress)
    elif not result.source.whole:
        _write_new(part, kind, result)
    else:
        _copy(result.source, part, kind)
        _add(part, kind, result)


def _copy(source: Source, part: Path, kind: Format) -> None:
    if source.format is not kind:
        from .convert import convert

        convert(source.path, source.format, part, kind, size_of(source, kind, 0))
    elif kind is Format.H5AD:
        before = source.path.stat()
        shutil.copyfile(source.path, part)
        after = source.path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise OutputError(f"{source.path} was changed by another program while it was copied; run again")
    else:
        _copy_tree(source.path, part)


def _copy_tree(source: Path, target: Path) -> None:
    # Not shutil.copytree: it copies access rights too, and a read-only store would give a read-only copy.
    target.mkdir()
    for entry in sorted(source.iterdir()):
        if entry.is_dir():
            _copy_tree(entry, target / entry.name)
        else:
            shutil.copyfile(entry, target / entry.name)


def _add(part: Path, kind: Format, result: Result) -> None:
    """Add the corrected embedding and the record to a copy."""
    from anndata.io import write_elem

    from .annotated import consolidate, opened, quiet

    with quiet():
        with opened(part, kind, room=result.nbytes + _room(result.record) + _SLACK) as root:
            for group in ("uns", "obsm"):
                if group not in root:
                    write_elem(root, group, {})
            for name, embedding in result.embeddings.items():
                _write_array(root["obsm"], name, embedding)
            write_elem(root["uns"], result.key, result.record)
            if result.columns is not None:
                _write_columns(root["obs"], result.columns)
        if kind is Format.ZARR:
            consolidate(part)


def _write_columns(obs: Any, columns: pd.DataFrame) -> None:
    from anndata.io import write_elem

    order, index = [str(name) for name in obs.attrs["column-order"]], str(obs.attrs["_index"])
    if index in columns:
        raise OutputError(f"obs has its cells' names under '{index}', where a column of that name would go; rename it")
    for name in columns:
        write_elem(
            obs, name, columns[name].array if columns[name].dtype.name == "category" else columns[name].to_numpy()
        )
    names = [*order, *(name for name in columns if name not in order)]
    # As anndata has it: Zarr's attributes are JSON.
    obs.attrs["column-order"] = names if _in_zarr(obs) else np.array(names, dtype=object)


def _in_zarr(group: Any) -> bool:
    return type(group).__module__.startswith("zarr")


def _write_array(group: Any, name: str, embedding: Any) -> None:
    """Write an embedding as anndata does, piece by piece where it is not in memory."""
    from anndata.io import write_elem

    if isinstance(embedding, np.ndarray):
        write_elem(group, name, np.ascontiguousarray(embedding))
        return
    if name in group:
        del group[name]
    row = embedding.shape[1] * np.dtype(embedding.dtype).itemsize
    in_chunk = min(embedding.shape[0], max(1, _CHUNK // row))
    array = new_array(
        group, name, embedding.shape, embedding.dtype, (in_chunk, embedding.shape[1]) if _in_zarr(group) else None
    )
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


def _write_new(part: Path, kind: Format, result: Result) -> None:
    """Make an AnnData file without X from a bare embedding and its batch columns."""
    import anndata

    from .annotated import consolidate, created, quiet

    with quiet():
        table = result.source.table.set_axis(result.source.table.index.astype(str), axis=0)
        adata = anndata.AnnData(
            obs=table,
            uns={"harmonax": result.record},
        )
        adata.strings_to_categoricals()
        with created(part, kind, size_of(result.source, kind, result.embedding.nbytes)) as root:
            anndata.io.write_elem(root, "/", adata)
            _write_array(root["obsm"], result.basis, result.source.Z)
            _write_array(root["obsm"], result.adjusted_basis, result.embedding)
        if kind is Format.ZARR:
            consolidate(part)


def _write_bare(part: Path, kind: Format, result: Result, compress: bool) -> None:
    if kind is Format.NPY:
        _write_npy(part, result.embedding)
        return
    source = result.source
    columns = source.features or [f"{result.adjusted_basis}_{i + 1}" for i in range(result.embedding.shape[1])]

    def frames() -> Iterator[pd.DataFrame]:
        for start, rows in slabs(result.embedding):
            frame = pd.DataFrame(rows, columns=columns, copy=False)
            if source.named:
                frame.index = source.table.index[start : start + len(rows)].rename("cell")
            yield frame

    if kind is Format.PARQUET:
        _write_parquet(part, frames(), named=source.named)
        return
    separator = "," if kind is Format.CSV else "\t"
    with open(part, "wb") as file:
        # No name and no time inside, so the same run gives the same bytes.
        packed = gzip.GzipFile("", "wb", 6, file, mtime=0) if compress else None
        with io.TextIOWrapper(packed or file, encoding="utf-8", newline="") as text:
            for i, frame in enumerate(frames()):
                frame.to_csv(text, sep=separator, index=source.named, header=i == 0, lineterminator="\n")


def _write_npy(part: Path, embedding: Any) -> None:
    with open(part, "wb") as file:
        # Not np.save: where the disk is full it forgets to say so.
        header = {"descr": np.dtype(embedding.dtype).str, "fortran_order": False, "shape": tuple(embedding.shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for _, rows in slabs(embedding):
            file.write(np.ascontiguousarray(rows).data)


def _write_parquet(part: Path, frames: Iterator[pd.DataFrame], *, named: bool) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    writer = None
    try:
        for frame in frames:
            table = pyarrow.Table.from_pandas(frame, preserve_index=named)
            writer = writer or parquet.ParquetWriter(part, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
