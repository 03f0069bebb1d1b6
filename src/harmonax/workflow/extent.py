"""How large an input is, from what its files say of themselves: nothing of the expression is read."""

from __future__ import annotations

import functools
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import io
from ..errors import MissingKeyError, nearest
from . import inputs
from . import out_of_core as beyond


class Extent(NamedTuple):
    """Cells, genes, and stored values of the counts; whether these stay beyond memory."""

    cells: int
    genes: int
    values: int
    beyond: bool = False


def extent(paths: Sequence[str], counts_layer: str | None = None, room: int | None = None) -> Extent:
    """Return how large the data of one file or folder, or of several that are joined, are.

    Parameters
    ----------
    paths
        As `read_inputs` takes them.
    counts_layer
        Where the counts are, as in `WorkflowOptions`.
    room
        Bytes of memory for their expression. None: no limit.

    Raises
    ------
    InputError
        If a file is missing or lacks those counts.
    FileFormatError
        If a file is truncated, corrupt or of another kind.
    """
    lies_beyond = room is not None and inputs.too_large(paths, room)
    found = [inputs.readable(path, functools.partial(_size, path, counts_layer)) for path in paths]
    cells, genes, values = zip(*found, strict=True)
    # Joined, they have the genes that all have: at most those of the smallest.
    return Extent(sum(cells), min(genes), sum(values), lies_beyond)


def _size(path: str, counts_layer: str | None) -> tuple[int, int, int]:
    kind = inputs.kind_of(path)
    if kind != "10x_mtx":
        io.check_links(Path(path))
    return _SIZES[kind](path, counts_layer)


def _annotated(path: str, counts_layer: str | None) -> tuple[int, int, int]:
    with beyond.opened(path) as root:
        there = beyond.matrices(root)
        name = counts_layer or ("counts" if "layers/counts" in there else "X")
        place = name if name in ("X", "raw") else f"layers/{name}"
        if place not in there:
            raise MissingKeyError(f"{path} has no '{name}'; {nearest(name, there)}")
        shape = there[place].attrs.get("shape", getattr(there[place], "shape", None))
        return int(shape[0]), int(shape[1]), beyond.stored(there[place])


def _10x_h5(path: str, counts_layer: str | None) -> tuple[int, int, int]:
    import h5py

    with h5py.File(path) as file:
        genes, cells, values = 0, 0, 0
        # One group, or in older files one for each genome.
        for group in file.values():
            genes, cells = (int(n) for n in group["shape"][:])
            values += int(group["data"].shape[0])
        return cells, genes, values


def _10x_mtx(path: str, counts_layer: str | None) -> tuple[int, int, int]:
    place = next(entry for entry in Path(path).iterdir() if entry.name.endswith(("matrix.mtx", "matrix.mtx.gz")))
    opened: Any = gzip.open if place.suffix == ".gz" else open
    with opened(place, "rt") as file:
        genes, cells, values = map(int, next(line for line in file if not line.startswith("%")).split())
    return cells, genes, values


_SIZES = {"h5ad": _annotated, "zarr": _annotated, "10x_h5": _10x_h5, "10x_mtx": _10x_mtx}
