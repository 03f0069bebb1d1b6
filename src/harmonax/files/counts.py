"""From a file to a file: what ``harmonax counts`` does, for Python too."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from .. import io
from ..adata import storable, stored_run
from ..counts.assignment import soft_clusters
from ..counts.stream import Counts
from ..errors import InputError
from ..io.annotated import quiet
from ..io.expression import StoredExpression
from ..pp.counts import KEY, Correction, allowed, correction, counts_wanted, shown
from ..system.arguments import check_arguments
from ..system.validate import entry_name, listed

log = logging.getLogger("harmonax")

# Bytes of a stored value and its column, before compression.
_VALUE = 12


@dataclass(frozen=True)
class CountsJob:
    """Which files to read and to write, and what for.

    Parameters
    ----------
    source
        Corrected cells with counts, ``.h5ad`` or ``.zarr``. Counts are read in pieces.
    output
        ``.h5ad`` or ``.zarr``: all that `source` has, and the corrected counts.
    keys
        Batch columns; empty: those of the correction in `source`.
    counts_layer, decimals, rates, ridge_lambda, alpha, layer_added
        As in `harmonax.pp.correct_counts`.
    overwrite
        Replace an output that is there; inputs are never replaced.
    also_read
        Further files that must not be written over.
    """

    source: str | os.PathLike[str]
    output: str | os.PathLike[str]
    keys: str | Sequence[str] = ()
    counts_layer: str | None = None
    decimals: bool = False
    rates: bool = False
    ridge_lambda: float = 1.0
    alpha: float = 0.2
    layer_added: str = "counts_corrected"
    overwrite: bool = False
    also_read: Sequence[str | os.PathLike[str]] = ()

    def __post_init__(self) -> None:
        check_arguments(CountsJob, vars(self))
        object.__setattr__(self, "keys", listed(self.keys))
        object.__setattr__(self, "layer_added", entry_name(self.layer_added, "layer_added"))


def correct_counts_file(
    job: CountsJob,
    *,
    rng: Any = 0,
    n_threads: int | None = None,
    progress: bool | Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Correct the counts of a file and write them, whole or not at all.

    Parameters
    ----------
    job
        The files.
    rng, n_threads, progress
        As in `harmonax.pp.correct_counts`.

    Returns
    -------
    dict
        How it was made, as in ``uns["harmonax_counts"]`` of the output.

    Raises
    ------
    InputError
        If the data cannot be used.
    OutputError
        If the result cannot be written.
    """
    check_arguments(correct_counts_file, locals())
    kind, target = io.format_of(job.source, io.ANNOTATED), io.format_of(job.output, io.ANNOTATED)
    io.check_writable(target)
    place = io.check_destination(job.output, inputs=[job.source, *job.also_read], overwrite=job.overwrite)
    inputs = io.Unchanged(job.source)
    path = Path(job.source)
    found = io.read_parts(path, uns=["harmonax", "log1p"])
    run = stored_run(found.uns)
    bases = [str(run[name]) for name in ("basis", "adjusted_basis") if name in run]
    adata = io.read_parts(path, bases=bases, uns=["harmonax"])
    where, stored = _stored(path, kind, job.counts_layer)
    if where == f"layers['{job.layer_added}']":
        raise InputError(f"layer_added='{job.layer_added}' is where the counts are; choose another name")
    kinds = allowed(where, job.counts_layer, job.decimals, found.uns)
    wanted = counts_wanted(where, kinds, job.rates, job.ridge_lambda, job.alpha, rng, n_threads)
    batches, keys = soft_clusters(adata, list(job.keys) or None, None, wanted.n_threads)
    with shown(progress) as report:
        counts = Counts(stored, where)
        done = correction(counts, batches, wanted, report)
        record = storable(done.record | {"batch_keys": keys, "layer_added": job.layer_added})
        needed = io.stored_bytes(path) + _VALUE * counts.nnz
        io.check_space(place, needed)
        with io.whole_or_nothing(place, overwrite=job.overwrite, needed=needed) as (part,), inputs:
            io.copy_annotated(path, kind, part, target)
            with target.open(part, room=_VALUE * counts.nnz + (1 << 20)) as root, quiet():
                _write(root, job.layer_added, done, record)
            target.finish(part)
    log.info("wrote %s; %s", job.output, done.summary())
    return record


def _stored(path: Path, kind: io.AnnotatedFormat, asked: str | None) -> tuple[str, StoredExpression]:
    """Return what messages call the place of the counts, and the counts in their file."""
    if asked == "raw":
        raise InputError("counts in raw are corrected in memory: harmonax.pp.correct_counts(counts_layer='raw')")
    if asked is None:
        with io.reading(path, kind), kind.open(path) as root:
            asked = "counts" if "layers" in root and "counts" in root["layers"] else "X"
    if asked == "X":
        return "X", StoredExpression(path, kind)
    return f"layers['{asked}']", StoredExpression(path, kind, asked)


def _write(root: Any, name: str, done: Correction, record: dict[str, Any]) -> None:
    """Add the corrected counts, piece by piece, and how they were made."""
    from anndata.io import sparse_dataset, write_elem

    for group in ("layers", "uns"):
        if group not in root:
            write_elem(root, group, {})
    made = None
    for piece in _larger(done.pieces):
        if made is None:
            if name in root["layers"]:
                del root["layers"][name]
            # Positions may need 64 bits later.
            piece.indptr = piece.indptr.astype(np.int64)
            write_elem(root["layers"], name, piece)
            made = sparse_dataset(root["layers"][name])
        else:
            made.append(piece)
    write_elem(root["uns"], KEY, record)


def _larger(pieces: Any, values: int = 1 << 22) -> Iterator[sparse.csr_matrix]:
    """Give pieces of more values: every one that is added costs time of its own."""
    held: list[sparse.csr_matrix] = []
    for piece in pieces:
        held.append(piece)
        if sum(each.nnz for each in held) >= values:
            yield sparse.vstack(held, format="csr")
            held = []
    if held:
        yield sparse.vstack(held, format="csr")
