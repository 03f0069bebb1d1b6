"""From a file to a file: what ``harmonax integrate`` does, for Python too."""

from __future__ import annotations

import datetime
import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from .. import files as package
from .. import io
from ..adata import uns_record
from ..design import BatchDesign
from ..engine.checkpoint import Checkpoint
from ..errors import InputError, OutputError
from ..inputs.columns import Missing, design_from_table
from ..inputs.embedding import Embedding, read_embedding
from ..inputs.roles import role_columns
from ..inputs.values import data_hash
from ..params import HarmonyParams
from ..result import HarmonyResult, announce
from ..system import memory
from ..system.arguments import check_arguments
from ..system.validate import entry_name, listed

log = logging.getLogger("harmonax")

# Embeddings above this many bytes stay in their file unless memory is asked for.
_MAX_IN_MEMORY = 1 << 30


@dataclass(frozen=True)
class FileJob:
    """Which files to read and to write.

    Parameters
    ----------
    source
        ``.h5ad``, ``.zarr``, or a bare embedding: ``.csv``, ``.tsv`` (``.gz``), ``.parquet``, ``.npy``. Several are
        corrected together, as if they were one, and never joined: the output then has embedding and batch columns only.
    output
        Any of these; its ending says which. ``X`` and all else of an AnnData file is copied into another.
    keys
        Batch columns.
    basis, adjusted_basis
        Entries of ``obsm``: what to correct, and where the result goes.
    metadata
        Table with the batch columns of a bare embedding.
    run_json
        Where the record of the run goes; None: beside the output, under its name with ``.run.json`` after it.
    overwrite
        Replace an existing output; the input is never replaced.
    also_read
        Further files that must not be written over, such as the configuration.
    batch_from
        ``"file"``: the (only) batch column is made of the names of several files.
    combine_keys, missing, allow_many_levels
        How batch columns are read: see `harmonax.pp.harmony_integrate`.
    reference, protect, covariates
        Batch levels whose cells stay, columns with biology that must stay, and numeric ones to remove: see there too.
    save_model, save_labels
        File for what was learned (``.h5``, ``.zarr``), and label columns that go into it: see there too.
    """

    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
    output: str | os.PathLike[str]
    keys: str | Sequence[str]
    basis: str = "X_pca"
    adjusted_basis: str = "X_pca_harmony"
    metadata: str | os.PathLike[str] | None = None
    run_json: str | os.PathLike[str] | None = None
    overwrite: bool = False
    also_read: Sequence[str | os.PathLike[str]] = ()
    batch_from: Literal["file"] | None = None
    combine_keys: bool = False
    missing: Missing = "error"
    allow_many_levels: bool = False
    save_model: str | os.PathLike[str] | None = None
    save_labels: str | Sequence[str] = ()
    reference: Any = None
    protect: str | Sequence[str] = ()
    covariates: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        check_arguments(FileJob, vars(self))
        for name in ("keys", "save_labels", "protect", "covariates"):
            object.__setattr__(self, name, listed(getattr(self, name)))
        if not self.sources:
            raise InputError("no input; name at least one file")

    @property
    def sources(self) -> list[str]:
        one = isinstance(self.source, (str, os.PathLike))
        return [str(path) for path in ([self.source] if one else self.source)]  # type: ignore[list-item, union-attr]

    def columns(self) -> dict[str, Any]:
        """Return how batch columns are read."""
        return {name: getattr(self, name) for name in ("combine_keys", "missing", "allow_many_levels")}


def integrate_file(job: FileJob, params: HarmonyParams | None = None, **how: Any) -> HarmonyResult:
    """Correct the embedding of a file and write the result with its record, both whole or neither.

    Parameters
    ----------
    job
        The files.
    params
        What to run; None: the defaults of `HarmonyParams`.
    **how
        How to run: ``rng``, ``dtype``, ``n_threads``, ``backend``, ``max_memory``, ``scratch``, ``checkpoint``,
        ``progress``, as in `harmonize`. The checkpoint is removed when the output is in its place; the scratch file
        goes beside the output unless ``scratch`` says otherwise.

    Returns
    -------
    HarmonyResult
        What was written.

    Raises
    ------
    InputError
        If the data or the parameters cannot be used.
    OutputError
        If the result cannot be written; nothing is left behind.

    Examples
    --------
    >>> from harmonax.files.integrate import FileJob, integrate_file
    >>> job = FileJob("atlas.h5ad", "corrected.h5ad", ["donor", "chemistry"])
    >>> integrate_file(job, rng=0)  # doctest: +SKIP
    """
    check_arguments(integrate_file, locals())
    clock = _Clock()
    params = params if params is not None else HarmonyParams()
    places = _check_places(job)
    inputs = io.Unchanged(*job.sources, job.metadata)
    source, embedding, design, roles = _read(job, how)
    clock.lap("read")
    limit, held = memory.parse_size(how.get("max_memory")), memory.peak() or 0
    if limit is not None and held > limit:
        allowed = f"{memory.human(limit)} are allowed: raise max_memory (--max-memory)"
        raise InputError(f"reading the batch columns took {memory.human(held)}, but {allowed}")
    n_bytes = math.prod(source.Z.shape) * np.dtype(how.get("dtype") or params.precision).itemsize
    # A model with labels has the corrected cells too.
    needed = io.size_of(source, places.kind, n_bytes) + (math.prod(source.Z.shape) * 4 if job.save_labels else 0)
    io.check_space(places.result, needed)
    how["scratch"] = how.get("scratch") or places.result.parent
    # As the package has it, so that what is put there instead is called.
    result = package.harmonize(embedding, design, params, reference=job.reference, **roles, out="lazy", **how)
    clock.lap("harmonize")
    announce(result)
    columns = {"keys": list(job.keys)} | job.columns() | ({"protect": list(job.protect)} if job.protect else {})
    record = uns_record(result, job.basis, job.adjusted_basis, columns)
    made = io.Result(source, job.basis, job.adjusted_basis, result.embedding, record)
    files = [places.record, *([places.model] if places.model is not None else []), places.result]
    with io.whole_or_nothing(*files, overwrite=job.overwrite, needed=needed) as (json_part, *model_part, part), inputs:
        io.write_result(part, places.kind, made, compress=io.gzipped(job.output))
        clock.lap("write")
        for each in model_part:
            _write_model(job, source, result, each)
            clock.lap("model")
        io.write_json(json_part, _run_record(job, source, result) | clock.facts())
    if places.former is not None:
        said = "%s, the record of %s, is replaced by that of %s; --run-json puts it elsewhere"
        log.warning(said, places.record, places.former, job.output)
    if how.get("checkpoint") is not None:
        Checkpoint(how["checkpoint"]).clear()
    log.info("wrote %s (%.1f s)", job.output, sum(clock.laps.values()))
    return result


class _Places(NamedTuple):
    kind: io.Format
    result: Path
    record: Path
    model: Path | None
    former: str | None  # another output, whose record is where this output's record goes


def _check_places(job: FileJob) -> _Places:
    """Refuse, before any work, whatever cannot be written."""
    kind = io.format_of(job.output)
    io.check_writable(kind)
    if kind.annotated:
        entry_name(job.adjusted_basis, "adjusted_basis")
    inputs = [path for path in (*job.sources, job.metadata, *job.also_read) if path is not None]
    result = io.check_destination(job.output, inputs=inputs, overwrite=job.overwrite)
    beside = Path(job.run_json) if job.run_json is not None else Path(f"{str(job.output).rstrip('/')}.run.json")
    # A record of ours gives way to the next one.
    former = io.recorded_output(beside)
    try:
        record = io.check_destination(
            beside, inputs=[*inputs, job.output], overwrite=job.overwrite or former is not None
        )
    except OutputError as error:
        raise OutputError(f"the record of the run: {error}; --run-json puts it elsewhere") from None
    model = None
    if job.save_model is not None:
        from ..mapping.serialise import check_place

        model = check_place(job.save_model, inputs=[*inputs, job.output], overwrite=job.overwrite)[1]
    elif job.save_labels:
        raise InputError("labels are kept in a model: say where with save_model (--save-model)")
    return _Places(kind, result, record, model, former if former != str(result) else None)


def _write_model(job: FileJob, source: io.Source, result: HarmonyResult, part: Path) -> None:
    """Write what was learned; of one AnnData file with its loadings, where they reproduce the embedding."""
    from ..mapping.build import model_of
    from ..mapping.serialise import to_dict, write

    kind, cells = source.format, None
    if source.whole and isinstance(kind, io.AnnotatedFormat):
        cells = io.stored_cells(source.path, kind, {job.basis: source.Z})
    model = model_of(result, cells, job.basis, source.table[list(job.save_labels)])
    write(to_dict(model), part, str(job.save_model))


def _read(job: FileJob, how: dict[str, Any]) -> tuple[io.Source, Embedding, BatchDesign, dict[str, Any]]:
    target = io.format_of(job.output)
    up_to: int | None = _MAX_IN_MEMORY
    if how.get("max_memory") is not None or how.get("backend") == "disk":
        up_to = 0
    elif how.get("backend") in ("memory", "dense"):
        up_to = None
    columns = list(dict.fromkeys([*job.keys, *job.save_labels, *job.protect, *job.covariates]))
    reading = io.Reading(up_to, names=not target.annotated and target.named)
    if len(job.sources) > 1:
        if job.metadata is not None:
            raise InputError("a metadata table goes with one bare embedding, not with several inputs")
        if job.batch_from == "file" and len(job.keys) != 1:
            raise InputError("the files' names make one batch column: name one")
        from_file = job.keys[0] if job.batch_from == "file" else None
        source = io.read_several(job.sources, columns, basis=job.basis, from_file=from_file, how=reading)
    elif job.batch_from == "file":
        raise InputError("there is one input only: its name cannot make batches")
    else:
        metadata = None if job.metadata is None else str(job.metadata)
        source = io.read_source(job.sources[0], columns, basis=job.basis, metadata=metadata, how=reading)
    for note in source.notes:
        log.warning(note)
    where = "obs" if job.metadata is None else str(job.metadata)
    design = design_from_table(source.table, job.keys, where=where, **job.columns())
    roles = role_columns(source.table, job.protect or None, job.covariates or None, where, job.columns())
    if job.save_labels:
        from ..mapping.build import check_labels

        check_labels(source.table, job.save_labels)
    cells = source.table.index if source.named else None
    embedding = read_embedding(source.Z, what=job.sources[0], cells=cells)
    levels = ", ".join(f"{name}: {len(own)} levels" for name, own in zip(design.variables, design.levels, strict=True))
    log.debug("read %d cells x %d features; %s", *source.Z.shape, levels)
    return source, embedding, design, roles


def _run_record(job: FileJob, source: io.Source, result: HarmonyResult) -> dict[str, Any]:
    record = result.record()
    record["versions"] = record["versions"] | io.versions()
    sha256 = result.data_sha256 or data_hash(source.Z, result.design)
    files = [io.file_facts(path) for path in source.parts]
    read = {**({"files": files} if files else io.file_facts(source.path)), "sha256": sha256, "shape": source.Z.shape}
    if source.format.annotated:
        read["basis"] = job.basis
    if job.metadata is not None:
        read["metadata"] = io.file_facts(Path(job.metadata))
    written = {"path": str(Path(job.output).resolve()), "dtype": result.embedding.dtype.name}
    if io.format_of(job.output).annotated:
        written["adjusted_basis"] = job.adjusted_basis
    return {"input": read, "output": written, "columns": job.columns(), **record}


class _Clock:
    """Seconds of each step, and of all of them on the processors."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.started = datetime.datetime.now(datetime.UTC)
        self._last, self._cpu = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now

    def facts(self) -> dict[str, Any]:
        return {
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": {**self.laps, "cpu": time.process_time() - self._cpu},
            "peak_memory_bytes": memory.peak(),
        }
