"""From a file to a file: what ``harmonax map`` does, for Python too."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import io
from ..adata import storable
from ..inputs.columns import design_from_table
from ..mapping.build import read_model
from ..mapping.query import Mapped, QueryOptions, check_places, map_cells, project
from ..system.arguments import check_arguments
from ..system.validate import listed, one_of

log = logging.getLogger("harmonax")

# Embeddings above this many bytes stay in their file.
_MAX_IN_MEMORY = 1 << 30


@dataclass(frozen=True)
class MapJob:
    """Which files to read and to write.

    Parameters
    ----------
    source
        New cells, ``.h5ad`` or ``.zarr``. X is read in pieces, and copied.
    model
        File of the reference's model, or an ``.h5ad`` that has it in ``uns``.
    output
        ``.h5ad`` or ``.zarr``: all that `source` has, and what was found.
    keys
        Batch columns; empty: one batch.
    basis
        Entry of ``obsm`` with the cells in the reference's uncorrected embedding; None: projected from X.
    layer
        Layer to take instead of X.
    adjusted_basis, projected_basis
        Where in ``obsm`` the mapped cells go, and the projected ones.
    overwrite
        Replace an output that is there; inputs are never replaced.
    also_read
        Further files that must not be written over.
    columns
        How batch columns are read: ``missing``, ``allow_many_levels``.
    """

    source: str | os.PathLike[str]
    model: str | os.PathLike[str]
    output: str | os.PathLike[str]
    keys: str | Sequence[str] = ()
    basis: str | None = None
    layer: str | None = None
    adjusted_basis: str = "X_pca_harmony"
    projected_basis: str = "X_pca_reference"
    overwrite: bool = False
    also_read: Sequence[str | os.PathLike[str]] = ()
    columns: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_arguments(MapJob, vars(self))
        object.__setattr__(self, "keys", listed(self.keys))
        for name in self.columns:
            one_of(name, "columns", ("missing", "allow_many_levels", "combine_keys"))


def map_file(job: MapJob, wanted: QueryOptions) -> Mapped:
    """Map the cells of a file and write them, whole or not at all.

    Parameters
    ----------
    job
        The files.
    wanted
        What to find out; ``wanted.how`` are arguments of `harmonax.mapping.map_query`.

    Raises
    ------
    InputError
        If the data cannot be used.
    OutputError
        If the result cannot be written.
    """
    check_arguments(map_file, locals())
    kind, target = io.format_of(job.source, io.ANNOTATED), io.format_of(job.output, io.ANNOTATED)
    io.check_writable(target)
    place = io.check_destination(job.output, inputs=[job.source, job.model, *job.also_read], overwrite=job.overwrite)
    check_places(job.adjusted_basis, job.basis or job.projected_basis)
    inputs = io.Unchanged(job.source, job.model)
    up_to = 0 if wanted.how.get("max_memory") is not None else _MAX_IN_MEMORY
    model = read_model(job.model, wanted.labels)
    matched = X = None
    if job.basis is not None:
        # The output is a copy, names and all.
        reading = io.Reading(up_to, names=False)
        source = io.read_source(str(job.source), job.keys, basis=job.basis, metadata=None, how=reading)
        Z, obsm = source.Z, {}
    else:
        path = Path(job.source)
        stored, var, table = io.read_expression(path, kind, job.keys, job.layer)
        what = "X" if job.layer is None else f"layers['{job.layer}']"
        Z, matched, X = project(model, stored, var, wanted, what=what)
        if Z.nbytes <= up_to:
            Z = Z[:]
        source, obsm = io.Source(path, kind, Z, table, False), {job.projected_basis: Z}
    design = design_from_table(source.table, list(job.keys), **job.columns) if job.keys else None
    wanted = replace(wanted, how={"scratch": place.parent} | wanted.how)
    # What the columns take is little beside the rest.
    io.check_space(place, io.size_of(source, target, (1 + len(obsm)) * Z.shape[0] * Z.shape[1] * 4))
    mapped = map_cells(model, Z, design, wanted, matched, X)
    record = storable(
        mapped.record | {"adjusted_basis": job.adjusted_basis, "model_file": io.file_facts(Path(job.model))}
    )
    made = io.Result(
        source,
        job.basis or job.projected_basis,
        job.adjusted_basis,
        mapped.embedding,
        record,
        "harmonax_map",
        mapped.columns,
        obsm,
    )
    needed = io.size_of(source, target, made.nbytes)
    io.check_space(place, needed)
    with io.whole_or_nothing(place, overwrite=job.overwrite, needed=needed) as (part,), inputs:
        io.write_result(part, target, made)
    log.info("wrote %s", job.output)
    return mapped
