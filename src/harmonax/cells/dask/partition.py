"""Some of the cells, on a worker of a Dask cluster: what `cells/dask/cells.py` talks to.

A partition is one chunk of rows behind the kernels of `cells/memory.py`, with the levels that its cells carry numbered
from 0, so that no table has rows that nobody needs. Its state is a function of the chunk and the tables of past rounds.
"""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np

from ...algorithm.contracts import Assignment, Moments
from ...algorithm.schedule import Block, FixedPartition
from ...design import BatchDesign
from ...errors import InputError
from ...inputs.embedding import as_array
from ...inputs.values import ValueCheck
from ...system.cpus import resolve_threads
from ...system.extras import need
from ..memory import MemoryCells

_CHECK_ROWS = 1 << 16

# The partitions of this process, so that one call reaches all that live here. They belong to Dask: when it lets an
# actor go, nothing is left here.
_LIVING: WeakValueDictionary[tuple[str, int], Partition] = WeakValueDictionary()


class GoneError(Exception):
    """A partition that was called does not live in this process."""


@dataclass(frozen=True, eq=False)
class PartitionSpec:
    """What a partition needs to know beside its cells."""

    # run, number: which run, and which of its partitions.
    run: str
    number: int
    start: int  # row of the whole embedding that its first cell is
    # design, schedule: its own batches; and the blocks of the whole run.
    design: BatchDesign
    schedule: FixedPartition
    # levels, joint: number of each of its levels, and joint levels, in the whole run.
    levels: np.ndarray
    joint: np.ndarray
    # precision, n_threads: as `MemoryCells` takes them; None: the threads of the worker.
    precision: str
    n_threads: int | None

    @classmethod
    def of(
        cls, design: BatchDesign, schedule: FixedPartition, start: int, stop: int, run: str, number: int, **how: Any
    ) -> PartitionSpec:
        """Cut cells start..stop-1 out of a run."""
        joint = design.joint[start:stop]
        present = np.flatnonzero(np.bincount(joint, minlength=design.n_joint))
        place = np.zeros(design.n_joint, np.min_scalar_type(max(len(present) - 1, 0)))
        place[present] = np.arange(len(present))
        levels = np.unique(design.joint_levels[present])
        own = np.searchsorted(levels, design.joint_levels[present]).astype(np.int32)
        names = tuple(
            tuple(design.levels[f][b - offset] for b in levels[(levels >= offset) & (levels < end)])
            for f, (offset, end) in enumerate(zip(design.offsets[:-1], design.offsets[1:], strict=True))
        )
        # The smallest codes that do: they are all of a partition that Dask's scheduler keeps.
        cut = BatchDesign(place[joint], own, design.variables, names, covariates=design.covariates)
        return cls(run, number, start, cut, schedule, levels, present, **how)

    @property
    def n_blocks(self) -> int:
        return self.schedule.n_blocks

    def block_of(self, start: int, stop: int) -> np.ndarray:
        """Return the blocks of its cells start..stop-1: those they have in the whole run."""
        return self.schedule.block_of(self.start + start, self.start + stop)


class Tables(NamedTuple):
    """An assignment and the correction that followed, of all levels."""

    assigned: Assignment
    W: np.ndarray

    def of(self, part: PartitionSpec) -> Tables:
        """Keep the levels of one partition, and the covariates, which are the last rows of W."""
        Y, logp, sigma = self.assigned.Y, self.assigned.logp, self.assigned.sigma
        rows = np.append(part.levels, np.arange(len(self.W) - len(part.design.covariates), len(self.W)))
        return Tables(Assignment(Y, logp.take(part.levels, axis=1), sigma), self.W[rows])


class ReplayStep(NamedTuple):
    """A sweep whose moments were summed on the way, to be done once more."""

    block: int
    Y: np.ndarray
    sigma: np.ndarray
    logp: np.ndarray | None


class WorkerInfo(NamedTuple):
    """What a partition reports of itself."""

    address: str
    check: ValueCheck
    fingerprint: np.ndarray  # (2, d): weighted sums of its values, and of their sizes
    instruction_set: str
    n_threads: int


class Partition:
    """An actor: the cells of one partition, whose rows of the embedding are `chunk`.

    `build` numbers the actors made for one partition: a late message to an earlier one must not change this one.
    """

    def __init__(self, chunk: Any, part: PartitionSpec, build: int = 0) -> None:
        chunk = as_array(chunk, "a chunk of the embedding")
        stop = part.start + part.design.n_cells
        if chunk.ndim != 2 or len(chunk) != part.design.n_cells:
            raise InputError(
                f"the chunk of rows {part.start} to {stop - 1} of the embedding came with shape {chunk.shape}; "
                f"the Dask array said {part.design.n_cells} rows"
            )
        self.part, self.build, self._n_corrections = part, build, 0
        self._address, n_threads = _worker()
        self._cells = _Released(
            chunk,
            part.design,
            part,  # type: ignore[arg-type]
            precision=part.precision,
            n_threads=part.n_threads or n_threads,
        )
        self._centroids = (np.empty((0, 0)), np.empty(0))
        self._answered: tuple[Any, Any] = None, None
        self._check, self._fingerprint = _look(chunk)
        _LIVING[part.run, part.number] = self

    def ask(self, message: bytes) -> bytes:
        """Call a method of some partitions that live here with this one, each with its own arguments.

        One pickle each way: Dask would take an array at a time, and twice as long.
        """
        call, method, centroids, each = pickle.loads(message)
        answers = {}
        for number, (build, own) in each.items():
            partition = _LIVING.get((self.part.run, number))
            if partition is None or partition.build != build:
                raise GoneError(number)
            if centroids is not None:
                partition._centroids = centroids
            if partition._answered[0] != (call, method):
                partition._answered = (call, method), getattr(partition, method)(*own)
            # Else it is asked again, because its answer was lost on the way.
            answers[number] = partition._answered[1]
        return pickle.dumps(answers, pickle.HIGHEST_PROTOCOL)

    async def pass_on(self, messages: list[tuple[tuple[str, str], bytes]]) -> list[bytes | None]:
        """Ask partitions on this and other workers, each by its address and its actor's name; None: it is not there."""
        worker = need("distributed", "dask").get_worker()
        return await asyncio.gather(*(_asked(worker, *actor, message) for actor, message in messages))

    def restore(self, corrections: list[Tables], swept: list[ReplayStep]) -> WorkerInfo:
        """Bring cells that are as they came to where the run is."""
        for tables in corrections:
            self._cells.correct(tables.assigned, tables.W, moment=False)
        self._n_corrections = len(corrections)
        for block, Y, sigma, logp in swept:
            self._cells.sweep(Block(block), Y, sigma, logp, moment=False, last=True)
        how = self._cells.arithmetic
        return WorkerInfo(self._address, self._check, self._fingerprint, how.instruction_set, how.n_threads)

    def ready(self) -> None:
        """Answer that this partition exists."""

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return rows as they came, before any sweep."""
        return self._cells.rows(rows)

    def sweep(self, block: int, logp: np.ndarray | None, moment: bool, last: bool) -> tuple[Any, ...]:
        Y, sigma = self._centroids
        swept = self._cells.sweep(Block(block), Y, sigma, logp, moment=moment, last=last)
        return swept.mass, swept.log_partition, swept.moment

    def moments(self, logp: np.ndarray) -> Moments:
        Y, sigma = self._centroids
        return self._cells.moments(Assignment(Y, logp, sigma))

    def correct(self, logp: np.ndarray, W: np.ndarray, moment: bool) -> np.ndarray:
        Y, sigma = self._centroids
        self._n_corrections += 1
        return self._cells.correct(Assignment(Y, logp, sigma), W, moment)

    def corrected_moment(self, logp: np.ndarray, W: np.ndarray) -> np.ndarray:
        """Return R^T (Z - R W)."""
        Y, sigma = self._centroids
        return self._emit(Assignment(Y, logp, sigma), W, moment=True)[1]

    def has_done(self, n_corrections: int) -> bool:
        """Return whether so many rounds were corrected for."""
        return self._n_corrections == n_corrections

    def corrected(self, tables: Tables) -> np.ndarray:
        """Return Z - R W."""
        return self._emit(tables.assigned, tables.W, moment=False)[0]

    def _emit(self, assigned: Assignment, W: np.ndarray, moment: bool) -> tuple[np.ndarray, np.ndarray]:
        out = np.empty((self._cells.n_cells, self._cells.n_features), self.part.precision)
        return out, self._cells.emit(assigned, W, out, moment)

    def assignments(self, tables: Tables) -> np.ndarray:
        """Return R."""
        return self._cells.assignments(tables.assigned)


def ended(method: str, chunk: Any, part: PartitionSpec, *rounds: Tables) -> np.ndarray:
    """Return a partition's answer at the end of these rounds: a function of values alone, so Dask can repeat it.

    Where the partition still lives in this process it is asked; else the rounds are replayed.
    """
    partition = _LIVING.get((part.run, part.number))
    own = [tables.of(part) for tables in rounds]
    if partition is None or not partition.has_done(len(own) - 1):
        partition = Partition(chunk, part)
        partition.restore(own[:-1], [])
    answer: np.ndarray = getattr(partition, method)(own[-1])
    return answer


class _Released(MemoryCells):
    """Cells that release the input once they have their own copy."""

    def _open(self, kind: Any) -> Any:
        opened = super()._open(kind)
        self._Z = np.empty((0, self.n_features))
        return opened

    def rows(self, rows: np.ndarray) -> np.ndarray:
        if "_cells" in self.__dict__:
            raise RuntimeError("rows are there until the first sweep")
        found: np.ndarray = self._Z[rows, : self.n_features]
        return found


async def _asked(worker: Any, address: str, actor: str, message: bytes) -> bytes | None:
    args = [need("distributed.protocol", "dask").to_serialize(message)]
    try:
        got = await worker.rpc(address).actor_execute(function="ask", actor=actor, args=args, kwargs={})
    except (OSError, KeyError):  # the worker is gone, or this actor is
        return None
    if got["status"] == "OK":
        answer: bytes = got["result"]
        return answer
    if isinstance(got["exception"], GoneError):
        return None
    raise got["exception"]


def _worker() -> tuple[str, int]:
    """Return the address of the worker that this runs on, and its threads."""
    try:
        worker = need("distributed", "dask").get_worker()
    except ValueError:
        return "", resolve_threads(None)
    return worker.address, worker.state.nthreads


def _look(chunk: np.ndarray) -> tuple[ValueCheck, np.ndarray]:
    """Check values, and sum them up in two rows that show whether a chunk that is computed again is the same."""
    check, sums = ValueCheck("the embedding"), np.zeros((2, chunk.shape[1]))
    for start in range(0, len(chunk), _CHECK_ROWS):
        slab = chunk[start : start + _CHECK_ROWS]
        check.add(slab)
        # Weights that differ from row to row: another order is another sum.
        weights = 1.0 + np.arange(start, start + len(slab)) % 97
        with np.errstate(invalid="ignore", over="ignore"):
            sums += weights @ slab, weights @ np.abs(slab)
    return check, sums


def same(value: Any) -> Any:
    """Return the value: a task that holds it, for which Dask finds it again when the worker that had it is lost."""
    return value
