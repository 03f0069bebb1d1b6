"""Where the cells of a run are to live: what was asked for, what fits (`budget.py`), and the cells themselves."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..algorithm.contracts import Cells
from ..algorithm.schedule import FixedPartition
from ..cells import CellsInput
from ..design import BatchDesign
from ..errors import InputError
from ..inputs.embedding import Kind, kind_of
from ..params import ResolvedParams
from ..system.cpus import resolve_threads
from ..system.memory import parse_size
from .budget import choose, estimate

log = logging.getLogger("harmonax")


@dataclass(frozen=True)
class ResourceRequest:
    """What the user asks for."""

    backend: str  # where the cells are to live: a name in `BACKENDS`, or ``"auto"``
    n_threads: int | None = None  # None: the CPUs this process may use
    max_memory: int | None = None  # the maximum that this process may hold, in bytes; None: what is free
    scratch: str | os.PathLike[str] | None = None  # directory of a scratch file
    # What takes the result: a new array, what the caller gave, or, ``"lazy"``, it may stay where the cells live.
    result: Literal["new", "given", "lazy"] = "new"

    @classmethod
    def of(cls, backend: str, n_threads: int | None, max_memory: Any, scratch: Any, out: Any) -> ResourceRequest:
        """Read what the arguments of a run ask for; refuse a size that is not valid."""
        result: Literal["new", "given", "lazy"] = "given"
        if out is None:
            result = "new"
        elif isinstance(out, str) and out == "lazy":
            result = "lazy"
        return cls(backend, n_threads, parse_size(max_memory), scratch, result)


@dataclass(frozen=True)
class Placement:
    """Where the cells of a run live."""

    cells: Cells  # all their values were seen and found usable
    description: dict[str, Any]  # where they live and why, for the record of the run
    result_stays: bool  # whether the result stays there, as ``cells.embedding``, for an `emit` without `out`


def make_cells(
    Z: Any,
    design: BatchDesign,
    schedule: FixedPartition,
    resolved: ResolvedParams,
    request: ResourceRequest,
    *,
    dtype: Any = np.float64,
    cache: bool = False,
    digest: Any = None,
) -> Placement:
    """Choose where the cells live, and make them, from an array that was checked or what is read in slices.

    `dtype` is that of a result in a new array; `cache` says whether something can be kept of each round; `digest` is a
    hash that is fed with the values of a Z read in slices.
    """
    size = estimate(
        design,
        resolved,
        Z.shape[1],
        n_loaded=0 if kind_of(Z) is Kind.ARRAY else np.dtype(Z.dtype).itemsize,
        n_result=np.dtype(dtype).itemsize if request.result == "new" else 0,
        n_threads=resolve_threads(request.n_threads),
        cache=cache,
    )
    choice = choose(request.backend, size, request.max_memory, on_cluster=kind_of(Z) is Kind.DASK and has_client())
    backend = choice.backend
    if backend.result_stays == "always" and request.result == "given":
        raise InputError("cells on a cluster give a Dask array: leave out=None and write that, for instance to_zarr")
    if choice.why:
        log.log(logging.INFO if backend.holds == "pieces" else logging.DEBUG, "cells: %s (%s)", choice.name, choice.why)
    cells = backend.make(
        CellsInput(
            Z,
            design,
            schedule,
            precision=resolved.params.precision,
            n_threads=request.n_threads,
            scratch=request.scratch,
            slab_bytes=choice.slab_bytes,
            cache_bytes=choice.cache_bytes,
            digest=digest,
        )
    )
    # No sizes: what is free is another at each run, and the record of the same run should be the same.
    why = {"why": choice.reason} if choice.why else {}
    if choice.why and size.cache:
        why["cache"] = "all" if choice.cache_bytes == size.cache else "part" if choice.cache_bytes else "none"
    stays = backend.result_stays == "always" or (backend.result_stays == "if lazy" and request.result == "lazy")
    return Placement(cells, {"cells": choice.name} | why | cells.description, stays)


def has_client() -> bool:
    """Return whether this process has a Dask client; distributed is not imported for it."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        return distributed.get_client() is not None
    except ValueError:
        return False
