"""From a file to a file: what ``harmonax integrate`` does, for Python too."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import io
from .columns import design_from_table
from .design import BatchDesign
from .engine import check_embedding, harmonize
from .errors import InputError, OutputError
from .params import HarmonyParams
from .result import HarmonyResult
from .surroundings import announce
from .uns import uns_record

log = logging.getLogger("harmonax")


@dataclass(frozen=True)
class FileJob:
    """Which files to read and to write.

    Parameters
    ----------
    source
        ``.h5ad``, ``.zarr``, or a bare embedding: ``.csv``, ``.tsv`` (``.gz``), ``.parquet``, ``.npy``.
    output
        Any of these; its name tells the format. ``X`` and all else of an AnnData file is copied into another.
    keys
        Batch columns.
    basis, adjusted_basis
        Entries of ``obsm``: what to correct, and where the result goes.
    metadata
        Table with the batch columns of a bare embedding.
    run_json
        Where the record of the run goes; None: ``run.json`` beside the output.
    overwrite
        Replace an output that is there; the input is never replaced.
    also_read
        Further files that must not be written over, such as the configuration.
    """

    source: str
    output: str
    keys: Sequence[str]
    basis: str = "X_pca"
    adjusted_basis: str = "X_pca_harmony"
    metadata: str | None = None
    run_json: str | None = None
    overwrite: bool = False
    also_read: Sequence[str] = field(default=())


def integrate_file(
    job: FileJob,
    params: HarmonyParams | None = None,
    *,
    columns: Mapping[str, Any] | None = None,
    **how: Any,
) -> HarmonyResult:
    """Correct the embedding of a file and write the result with its record, both whole or neither.

    Parameters
    ----------
    job
        The files.
    params
        What to run; None: `HarmonyParams` as they come.
    columns
        How batch columns are read: ``combine_keys``, ``missing``, ``allow_many_levels``, as in `harmonize`.
    **how
        How to run: ``rng``, ``dtype``, ``n_threads``, ``backend``, ``progress``, as in `harmonize`.

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
    >>> from harmonax.files import FileJob, integrate_file
    >>> job = FileJob("atlas.h5ad", "corrected.h5ad", ["donor", "chemistry"])
    >>> integrate_file(job, rng=0)  # doctest: +SKIP
    """
    started = datetime.datetime.now(datetime.UTC)
    clock = _Clock()
    kind, place, beside = _check_places(job)
    source = io.read_source(job.source, job.keys, basis=job.basis, metadata=job.metadata)
    for note in source.notes:
        log.warning(note)
    design = design_from_table(
        source.table, job.keys, where="obs" if job.metadata is None else job.metadata, **columns or {}
    )
    check_embedding(source.Z, job.source, source.table.index if source.named else None)
    clock.lap("read")
    log.debug("read %d cells x %d features, %s", *_shape(source.Z), _describe(design))
    params = params if params is not None else HarmonyParams()
    itemsize = np.dtype(how.get("dtype") or params.precision).itemsize
    needed = io.size_of(source, kind, source.Z.size * itemsize)
    io.check_space(place, needed)
    result = harmonize(source.Z, design, params, **how)
    clock.lap("harmonize")
    announce(result)
    record = uns_record(result, job.basis, job.adjusted_basis)
    with io.whole_or_nothing(beside, place, overwrite=job.overwrite, needed=needed) as (record_part, part):
        made = io.Result(source, job.basis, job.adjusted_basis, result.embedding, record)
        io.write_result(part, kind, made, compress=job.output.lower().endswith(".gz"))
        clock.lap("write")
        facts = {"started": started.isoformat(timespec="seconds"), **clock.facts()}
        io.write_json(record_part, _run_record(job, source, result) | facts)
    log.info("wrote %s and %s (%.1f s)", job.output, beside, sum(clock.laps.values()))
    return result


def _check_places(job: FileJob) -> tuple[io.Format, Path, Path]:
    """Refuse, before any work, whatever cannot be written; return the format and where result and record really lie."""
    kind = io.format_of(job.output)
    io.check_writable(kind)
    if kind.annotated and (not job.adjusted_basis or "/" in job.adjusted_basis):
        raise InputError(f"adjusted_basis='{job.adjusted_basis}' must be a name without a slash")
    inputs = [path for path in (job.source, job.metadata, *job.also_read) if path is not None]
    place = io.check_destination(job.output, inputs=inputs, overwrite=job.overwrite)
    beside = job.run_json if job.run_json is not None else str(Path(job.output).parent / "run.json")
    try:
        record_place = io.check_destination(beside, inputs=[*inputs, job.output], overwrite=job.overwrite)
    except OutputError as error:
        if job.run_json is not None:
            raise
        raise OutputError(f"the record of the run: {error}; --run-json puts it elsewhere") from None
    return kind, place, record_place


def _run_record(job: FileJob, source: io.Source, result: HarmonyResult) -> dict[str, Any]:
    record = result.record()
    record["versions"] = record["versions"] | io.versions()
    read = {**io.file_facts(source.path), "sha256": io.data_hash(source.Z, result.design), "shape": source.Z.shape}
    if source.format.annotated:
        read["basis"] = job.basis
    if job.metadata is not None:
        read["metadata"] = io.file_facts(Path(job.metadata))
    written = {"path": str(Path(job.output).resolve()), "dtype": result.embedding.dtype.name}
    if io.format_of(job.output).annotated:
        written["adjusted_basis"] = job.adjusted_basis
    return {"input": read, "output": written, **record}


def _shape(Z: np.ndarray) -> tuple[int, int]:
    return (Z.shape[0], Z.shape[1]) if Z.ndim == 2 else (Z.size, 1)


def _describe(design: BatchDesign) -> str:
    return ", ".join(f"{name}: {len(own)} levels" for name, own in zip(design.variables, design.levels, strict=True))


class _Clock:
    """Seconds of each step, and of all of them on the processors."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last, self._cpu = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now

    def facts(self) -> dict[str, Any]:
        return {
            "seconds": {**self.laps, "cpu": time.process_time() - self._cpu},
            "peak_memory_bytes": io.peak_memory(),
        }
