"""Where the cells of a run should live: memory while it suffices, else disk. Estimated before anything is made."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..algorithm.schedule import FixedPartition
from ..cells.disk import SLAB_BYTES, DiskCells
from ..cells.memory import MemoryCells
from ..design import BatchDesign
from ..errors import InputError
from ..inputs.embedding import ValueCheck, check_embedding, is_dask, is_sliced
from ..params import ResolvedParams
from ..system.cpus import resolve_threads
from ..system.memory import available, human, resident

log = logging.getLogger("harmonax")

# Of what is free when no limit was given, so that others, and the estimate's error, have room.
_SHARE = 0.8
# Bytes a cell while its order is found: sorted keys and positions.
_ORDER = 24
# Pieces of a slab that are in memory together: being read, read, sorted, converted.
_SLABS = 5
_LEAST_SLAB = 1 << 20
# Interpreter, libraries and what they load later.
_LATER = 60 << 20


@dataclass(frozen=True)
class Wishes:
    """Where the user wants the cells: backend, threads, the most memory in bytes, and where a scratch file may go."""

    backend: str
    n_threads: int | None = None
    max_memory: int | None = None
    scratch: str | os.PathLike[str] | None = None


@dataclass(frozen=True)
class Choice:
    """Where the cells go, in how large pieces they are read there, why in one word or two, and with the sizes."""

    backend: str
    slab_bytes: int
    reason: str
    why: str


@dataclass(frozen=True)
class Sizes:
    """What a run takes, in bytes.

    Attributes
    ----------
    cells
        The embedding in the arithmetic's numbers.
    to_load
        The embedding as it comes, where it is not in memory yet.
    result
        The result, where it is to be in memory.
    each
        The few bytes for each cell, wherever they are.
    tables
        All that grows with levels and clusters.
    """

    cells: int
    to_load: int
    result: int
    each: int
    tables: int

    @property
    def in_memory(self) -> int:
        return 2 * self.cells + self.to_load + self.result + self.each + self.tables

    def on_disk(self, slab: int) -> int:
        return self.result + self.each // 2 + self.tables + _SLABS * slab + _LATER


def make_cells(
    Z: Any,
    design: BatchDesign,
    schedule: FixedPartition,
    resolved: ResolvedParams,
    wishes: Wishes,
    *,
    n_result: int,
    digest: Any,
) -> tuple[Any, dict[str, Any]]:
    """Return the cells, with all values seen and found usable, and a description of where they live and why.

    Parameters
    ----------
    Z
        An array that was checked, or what is read in slices.
    n_result
        Bytes per value of a result that is to be in memory, else 0.
    digest
        A hash that is fed with the values of a Z that is read in slices.
    """
    precision = resolved.params.precision
    if wishes.backend == "dask" or (wishes.backend == "auto" and is_dask(Z) and has_client()):
        return _on_dask(Z, design, schedule, precision, wishes.n_threads)
    sliced = is_sliced(Z)
    if wishes.backend == "dense":
        from ..cells.dense import DenseCells

        return DenseCells(_loaded(Z, digest), design, schedule), {"cells": "dense"}
    if wishes.backend == "jax":
        from ..cells.jax.cells import JaxCells

        on_devices = JaxCells(_loaded(Z, digest), design, schedule, precision=precision)
        return on_devices, on_devices.described
    n_threads = resolve_threads(wishes.n_threads)
    n_loaded = np.dtype(Z.dtype).itemsize if sliced else 0
    size = sizes(design, resolved, Z.shape[1], n_loaded=n_loaded, n_result=n_result, n_threads=n_threads)
    choice = select(wishes.backend, size, wishes.max_memory)
    level = logging.INFO if choice.backend == "disk" else logging.DEBUG
    log.log(level, "cells: %s (%s)", choice.backend, choice.why)
    how: dict[str, Any] = {"precision": precision, "n_threads": n_threads}
    # No sizes: what is free is another at each run, and the record of the same run should be the same.
    described = {"cells": choice.backend, "why": choice.reason, "n_threads": n_threads}
    cells: MemoryCells | DiskCells
    if choice.backend == "memory":
        cells = MemoryCells(_loaded(Z, digest), design, schedule, **how)
        return cells, described | {"instruction_set": cells.instruction_set}
    check = ValueCheck("the embedding", digest=digest if sliced else None)
    place: dict[str, Any] = {"directory": wishes.scratch, "slab_bytes": choice.slab_bytes, "look": check.add}
    cells = DiskCells(Z, design, schedule, **place, **how)
    cells.open()
    check.finish()
    return cells, described | {"instruction_set": cells.instruction_set}


def _loaded(Z: Any, digest: Any) -> np.ndarray:
    """Return the embedding as an array in memory; one that is read only now is checked now."""
    return check_embedding(np.asarray(Z[:]), digest=digest, least=1) if is_sliced(Z) else Z


def _on_dask(
    Z: Any, design: BatchDesign, schedule: FixedPartition, precision: str, n_threads: int | None
) -> tuple[Any, dict[str, Any]]:
    if not is_dask(Z):
        raise InputError("backend='dask' needs a Dask array as the embedding, such as dask.array.from_zarr gives")
    from ..cells.dask.cells import DaskCells

    cells = DaskCells(Z, design, schedule, precision=precision, n_threads=n_threads)
    return cells, cells.described


def has_client() -> bool:
    """Return whether this process has a Dask client; distributed is not imported for it."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        return distributed.get_client() is not None
    except ValueError:
        return False


def sizes(
    design: BatchDesign, resolved: ResolvedParams, n_features: int, *, n_loaded: int, n_result: int, n_threads: int
) -> Sizes:
    """Estimate what a run takes; `n_loaded` and `n_result` are bytes per value, 0 for what memory need not hold."""
    n, K, itemsize = design.n_cells, resolved.n_clusters, 4 if resolved.params.precision == "float32" else 8
    n_blocks = resolved.params.n_blocks(n)
    moments = design.n_joint * K * n_features
    rounds = design.n_levels * K * (n_features + 3 * n_blocks)
    # Half of the order's bytes is of a slab only on disk.
    return Sizes(
        cells=n * n_features * itemsize,
        to_load=n * n_features * n_loaded,
        result=n * n_features * n_result,
        each=n * _ORDER,
        tables=8 * (3 * moments + 2 * rounds) + n_threads * (4 << 20),
    )


def select(wanted: str, size: Sizes, max_memory: int | None) -> Choice:
    """Choose where the cells go.

    Parameters
    ----------
    wanted
        ``"memory"``, ``"disk"``, or ``"auto"``.
    size
        What the run takes.
    max_memory
        The most that the process may hold, in bytes; None: what is free.

    Raises
    ------
    InputError
        If the limit is too small for any way.
    """
    held, free = resident(), available()
    if max_memory is not None:
        limit, allowed = max_memory, f"{human(max_memory)} are allowed"
    elif free is not None:
        limit, allowed = held + int(_SHARE * free), f"{human(free)} are free"
    else:
        limit, allowed = 1 << 62, "nothing is known of what is free"
    needed = held + size.in_memory
    slab = min(SLAB_BYTES, max(size.cells, 1), max(_LEAST_SLAB, (limit - held - size.on_disk(0)) // _SLABS))
    least = held + size.on_disk(min(_LEAST_SLAB, slab))
    reason = "asked for"
    if wanted == "auto":
        fits = needed <= limit
        wanted, reason = ("memory", "memory suffices") if fits else ("disk", "memory does not suffice")
    if wanted == "memory":
        if max_memory is not None and needed > limit:
            raise InputError(
                f"in memory this run needs {human(needed)}, but {allowed}: raise max_memory (--max-memory), or use "
                f"backend='disk', which needs {human(least)}"
            )
        return Choice("memory", slab, reason, f"in memory it needs {human(needed)}; {allowed}")
    if max_memory is not None and least > limit:
        raise InputError(f"even from disk this run needs {human(least)}, but {allowed}: raise max_memory")
    on_disk = human(held + size.on_disk(slab))
    return Choice("disk", slab, reason, f"from disk it needs {on_disk}, in memory {human(needed)}; {allowed}")
