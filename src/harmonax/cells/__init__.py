"""Where the cells of a run live. Every backend answers the questions in `harmonax.algorithm.contracts.Cells`.

Leave ``backend="auto"`` unless there is a reason: it takes the cluster for a Dask array where there is a client, memory
while it suffices, else disk.

memory  the fastest on CPUs: native kernels over the whole embedding
disk    the same kernels and the same bits, for an embedding that does not fit into memory; half as fast or less
dask    the same kernels on the workers of a cluster, for an embedding that lies there as a Dask array
jax     a GPU or a TPU
dense   plain NumPy that stores all assignments: the reference that the others are tested against; few cells only

A new backend is one module beside these and one entry in `BACKENDS`, which is data for `engine/placement.py` and for
`tests/cells/test_contract.py`. Importing this module imports none of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..algorithm.contracts import Cells
from ..algorithm.schedule import FixedPartition
from ..design import BatchDesign
from ..errors import InputError
from ..inputs.embedding import Kind, kind_of, read_embedding
from ..inputs.values import ValueCheck

BackendName = Literal["memory", "disk", "dask", "jax", "dense"]


@dataclass(frozen=True, eq=False)
class CellsInput:
    """What cells are made of."""

    Z: Any  # an array that was checked, or what is read in slices
    # design, schedule, precision: batches, blocks, and arithmetic.
    design: BatchDesign
    schedule: FixedPartition
    precision: str
    n_threads: int | None  # None: all that there are
    scratch: str | os.PathLike[str] | None  # directory of a scratch file
    slab_bytes: int  # size of the pieces in which Z is read and the result written
    cache_bytes: int  # memory in which what depends on distances alone may be kept for a round
    digest: Any  # a hash that is fed with the values of a Z that is read in slices; None: no hash is needed

    def array(self) -> np.ndarray:
        """Return Z as an array in memory; one that is read only now is checked now."""
        Z = self.Z
        return Z if kind_of(Z) is Kind.ARRAY else read_embedding(Z, min_cells=1).load(self.digest).source


@dataclass(frozen=True)
class Situation:
    """What ``backend="auto"`` decides by."""

    on_cluster: bool  # the embedding is a Dask array, and there is a client
    fits: bool  # the run fits into memory


@dataclass(frozen=True)
class BackendEntry:
    """One way for cells to live."""

    make: Callable[[CellsInput], Cells]  # makes the cells, with all values of the embedding seen and found usable
    purpose: str  # when to use it, in one sentence
    # Whether ``backend="auto"`` takes it in a situation: exactly one entry does in each.
    automatic: Callable[[Situation], bool] = lambda situation: False
    because: str = ""  # why it then does, in a few words
    # What this process holds of the cells: ``"all"``, ``"pieces"``, or None: memory is not estimated.
    holds: Literal["all", "pieces"] | None = None
    # Whether the result stays where the cells live: ``"never"``, ``"if lazy"`` (where that is asked for), or
    # ``"always"``.
    result_stays: Literal["never", "if lazy", "always"] = "never"


# Each says that it returns `Cells`: so the type checker holds every backend to the contract.
def _memory(given: CellsInput) -> Cells:
    from .memory import MemoryCells

    how: dict[str, Any] = {"precision": given.precision, "n_threads": given.n_threads}
    return MemoryCells(given.array(), given.design, given.schedule, cache_bytes=given.cache_bytes, **how)


def _disk(given: CellsInput) -> Cells:
    from .disk import DiskCells

    check = ValueCheck("the embedding", digest=None if kind_of(given.Z) is Kind.ARRAY else given.digest)
    cells = DiskCells(
        given.Z,
        given.design,
        given.schedule,
        directory=given.scratch,
        slab_bytes=given.slab_bytes,
        look=check.add,
        cache_bytes=given.cache_bytes,
        precision=given.precision,
        n_threads=given.n_threads,
    )
    cells.open()
    check.finish()
    return cells


def _dask(given: CellsInput) -> Cells:
    if kind_of(given.Z) is not Kind.DASK:
        raise InputError("backend='dask' needs a Dask array as the embedding, such as dask.array.from_zarr gives")
    from .dask.cells import DaskCells

    how: dict[str, Any] = {"precision": given.precision, "n_threads": given.n_threads}
    return DaskCells(given.Z, given.design, given.schedule, **how)


def _jax(given: CellsInput) -> Cells:
    from .jax.cells import JaxCells

    return JaxCells(given.array(), given.design, given.schedule, precision=given.precision)


def _dense(given: CellsInput) -> Cells:
    from .dense import DenseCells

    return DenseCells(given.array(), given.design, given.schedule)


BACKENDS: dict[str, BackendEntry] = {
    "memory": BackendEntry(
        _memory,
        "CPUs, and an embedding that fits into memory: the fastest there.",
        automatic=lambda situation: situation.fits and not situation.on_cluster,
        because="memory suffices",
        holds="all",
    ),
    "disk": BackendEntry(
        _disk,
        "An embedding that does not fit into memory: the same bits, from a scratch file.",
        automatic=lambda situation: not situation.fits and not situation.on_cluster,
        because="memory does not suffice",
        holds="pieces",
        result_stays="if lazy",
    ),
    "dask": BackendEntry(
        _dask,
        "An embedding that lies on the workers of a Dask cluster, and stays there.",
        automatic=lambda situation: situation.on_cluster,
        result_stays="always",
    ),
    "jax": BackendEntry(_jax, "A GPU, a TPU, or several of them."),
    "dense": BackendEntry(_dense, "The plain reference in NumPy, for tests and for few cells."),
}
