"""Cells on the workers of a Dask cluster, which send tables only.

Each chunk of rows is a partition (`partition.py`) that answers with the kernels of `cells/memory.py`; the answers
are added here in the order of the partitions, so the bits depend on the chunks but not on workers, threads or timing.
`tests/cells/test_dask.py` compares with memory.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from ...algorithm.contracts import Assignment, Moments, Sweep
from ...algorithm.schedule import Block, FixedPartition
from ...algorithm.seeding import unit
from ...design import BatchDesign
from ...errors import InputError
from ...inputs.values import ValueCheck, check_shape
from ...system.extras import need
from ..memory import MemoryCells, sample
from ..native import Arithmetic
from .faults import cluster_errors
from .partition import PartitionSpec, ReplayStep, Tables, ended, same
from .workers import Workers, large_graphs

_LOOK = 5.0


class DaskCells:
    """Cells on the workers of a Dask cluster.

    They hold 2 N d values there, and for a while the input. A lost worker's cells are made anew from the input, so it
    must compute to the same values again: persist it, or store it, where that is expensive or in doubt. Errors in its
    graph come out as they are.

    Z is a Dask array (N, d) with rows in any chunks; every chunk is a partition, and one or a few per worker are best.
    `n_threads` is of each worker; None: those that Dask gave it. The bits do not depend on it. `client` None: the
    current one.
    """

    # After `emit`: a Dask array with the rows of Z in the same chunks, in the workers' memory, and computed again, from
    # Z and the tables of all rounds, where a worker is lost.
    embedding: Any = None

    def __init__(
        self,
        Z: Any,
        design: BatchDesign,
        schedule: FixedPartition,
        *,
        precision: str = "float32",
        n_threads: int | None = None,
        client: Any = None,
    ) -> None:
        Z = _checked(Z, design)
        client = client if client is not None else current_client()
        if client.asynchronous:
            raise InputError("the Dask client is asynchronous; make one with asynchronous=False")
        self.n_cells, self.n_features = int(Z.shape[0]), int(Z.shape[1]) - len(design.covariates)
        self.design, self.schedule, self.precision = design, schedule, precision
        # For the sample that seeding takes, which is computed here.
        self._arithmetic = Arithmetic.of(precision, n_threads)
        self._run = uuid.uuid4().hex[:12]
        self._row_chunks = tuple(int(n) for n in Z.chunks[0])
        starts = np.cumsum((0, *self._row_chunks))
        full = [i for i, n in enumerate(self._row_chunks) if n]
        how: dict[str, Any] = {"precision": precision, "n_threads": n_threads}
        parts = [
            PartitionSpec.of(design, schedule, int(starts[i]), int(starts[i + 1]), self._run, number, **how)
            for number, i in enumerate(full)
        ]
        chunks = Z.to_delayed().ravel()
        self._mass: dict[int, np.ndarray] = {}
        self._past: list[Tables] = []
        self._replay: list[ReplayStep] = []
        self._workers = Workers(client, [chunks[i] for i in full], parts, self._history)
        try:
            self._workers.call("ready", lambda part: ())
            _check_values([info.check for _, info in sorted(self._workers.info.items())])
        except BaseException:
            self.close()
            raise

    @property
    def description(self) -> dict[str, Any]:
        """The workers, for the record of a run."""
        info = self._workers.info.values()
        return {
            "n_partitions": len(self._workers.parts),
            "n_workers": len({each.address for each in info}),
            "n_threads": sorted({each.n_threads for each in info}),
            "instruction_set": ", ".join(sorted({each.instruction_set for each in info})),
        }

    def take(self, rows: np.ndarray) -> MemoryCells:
        return sample(self._rows(rows), self._arithmetic)

    def points(self, rows: np.ndarray) -> np.ndarray:
        return unit(self._rows(rows).astype(self.precision).astype(np.float64))

    def mass(self, block: Block) -> np.ndarray:
        return self._mass[block.index]

    def sweep(
        self,
        block: Block,
        Y: np.ndarray,
        sigma: np.ndarray,
        logp: np.ndarray | None,
        *,
        moment: bool,
        last: bool = False,
    ) -> Sweep:
        if not last:
            self._replay.clear()
        self._workers.set_centroids(Y, sigma)
        answers = self._workers.call(
            "sweep", lambda part: (block.index, None if logp is None else logp[part.levels], moment, last)
        )
        if last:
            self._replay.append(ReplayStep(block.index, Y, sigma, logp))
        mass = np.zeros((self.design.n_levels, len(Y)))
        for part, answer in zip(self._workers.parts, answers, strict=True):
            mass[part.levels] += answer[0]
        self._mass[block.index] = mass
        _, log_partition, moments = zip(*answers, strict=True)
        return Sweep(mass, sum(log_partition), reduce(np.add, moments))

    def moments(self, assigned: Assignment) -> Moments:
        self._workers.set_centroids(assigned.Y, assigned.sigma)
        answers = self._workers.call("moments", lambda part: (assigned.logp.take(part.levels, axis=1),))
        self._replay.clear()
        S = np.zeros((self.design.n_joint, len(assigned.Y), answers[0].S.shape[2]))
        mass = np.zeros(S.shape[:2])
        for part, own in zip(self._workers.parts, answers, strict=True):
            S[part.joint] += own.S
            mass[part.joint] += own.mass
        return Moments(S, mass, sum(own.entropy for own in answers))

    def correct(self, assigned: Assignment, W: np.ndarray, moment: bool) -> np.ndarray:
        tables = Tables(assigned, W)
        self._replay.clear()
        self._workers.set_centroids(assigned.Y, assigned.sigma)
        answers = self._workers.call("correct", lambda part: (*_of_part(tables, part), moment))
        self._past.append(tables)
        return reduce(np.add, answers)

    @cluster_errors()
    def emit(self, assigned: Assignment, W: np.ndarray, out: Any, moment: bool) -> np.ndarray:
        """Have the corrected embedding computed where the cells are, for `embedding`; `out` is not used."""
        da, distributed = need("dask.array", "dask"), need("distributed", "dask")
        numbers = range(len(self._workers.parts))
        tables, sums = Tables(assigned, W), np.empty((0, self.n_features))
        if moment:
            self._workers.set_centroids(assigned.Y, assigned.sigma)
            sums = reduce(np.add, self._workers.call("corrected_moment", lambda part: _of_part(tables, part)))
        rounds = self._shipped(tables)
        name = f"harmonax-embedding-{self._run}-{uuid.uuid4().hex[:8]}"
        futures = [
            self._workers.client.submit(
                ended,
                "corrected",
                chunk,
                self._workers.part_futures[number],
                *rounds,
                workers=[self._workers.info[number].address],
                allow_other_workers=True,
                key=f"{name}-{number}",
            )
            for number, chunk in zip(numbers, self._workers.fetch(numbers), strict=True)
        ]
        while True:
            try:
                with self._workers.client.as_current():
                    distributed.wait(futures, timeout=_LOOK)
                break
            except TimeoutError:
                self._workers.n_threads_by_worker()
        for future in futures:
            if future.status != "finished":
                future.result()
        done = iter(futures)
        # Chunks without rows have no partition.
        empty = np.empty((0, self.n_features), self.precision)
        graph = {(name, i, 0): next(done) if n else empty for i, n in enumerate(self._row_chunks)}
        self.embedding = da.Array(graph, name, (self._row_chunks, (self.n_features,)), dtype=self.precision)
        return sums

    def assignments(self, assigned: Assignment) -> Any:
        """Return R (N, K) as a Dask array; its chunks are computed when asked for."""
        da, dask = need("dask.array", "dask"), need("dask", "dask")
        rounds = self._shipped(Tables(assigned, np.empty((self.design.n_levels, 0))))
        one = dask.delayed(ended, pure=False)
        K = len(assigned.Y)
        arrays = [
            da.from_delayed(one("assignments", chunk, part, *rounds), (own.design.n_cells, K), self.precision)
            for chunk, part, own in zip(
                self._workers.chunks, self._workers.part_futures, self._workers.parts, strict=True
            )
        ]
        return da.concatenate(arrays)

    def close(self) -> None:
        """Release the workers' cells; `embedding` stays."""
        self._workers.close()

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        """Return rows as they came, before any sweep."""
        parts = self._workers.parts
        number = np.searchsorted([part.start for part in parts], rows, side="right") - 1
        answers = self._workers.call("rows", lambda part: (rows[number == part.number] - part.start,))
        out = np.empty((len(rows), self.n_features), np.result_type(*answers))
        for part, answer in zip(parts, answers, strict=True):
            out[number == part.number] = answer
        return out

    def _history(self, part: PartitionSpec) -> tuple[list[Tables], list[ReplayStep]]:
        """Return what brings cells as they came to where the run is, for one partition."""
        again = [a._replace(logp=None if a.logp is None else a.logp[part.levels]) for a in self._replay]
        return [tables.of(part) for tables in self._past], again

    def _shipped(self, end: Tables) -> list[Any]:
        """Put the tables of all rounds on the cluster, where they are as long as an array needs them."""
        with large_graphs():
            return [self._workers.client.submit(same, tables, pure=False) for tables in (*self._past, end)]


def current_client() -> Any:
    """Return the Dask client of this process."""
    try:
        return need("distributed", "dask").get_client()
    except ValueError:
        raise InputError(
            "there is no Dask client; make one first, such as dask.distributed.Client('tcp://scheduler:8786'), "
            "or dask.distributed.Client() for this machine alone"
        ) from None


def _checked(Z: Any, design: BatchDesign) -> Any:
    """Return Z with one chunk of columns; refuse what is not an embedding, before anything is computed."""
    if len(Z.shape) == 2 and any(np.isnan(n) for axis in Z.chunks for n in axis):
        raise InputError(
            "the embedding is a Dask array with chunks of unknown size; call its compute_chunk_sizes() first"
        )
    check_shape(tuple(Z.shape))
    if Z.dtype.kind not in "fiub":
        raise InputError(f"the embedding has dtype {Z.dtype}; allowed are real numbers")
    if Z.shape[0] != design.n_cells:
        raise InputError(
            f"the embedding has {Z.shape[0]} cells but the batch labels have {design.n_cells}; they must agree"
        )
    return Z if Z.numblocks[1] == 1 else Z.rechunk({1: -1})


def _check_values(checks: Sequence[ValueCheck]) -> None:
    """Refuse values that cannot be corrected."""
    total = ValueCheck("the embedding")
    for check in checks:
        total.merge(check)
    total.finish()


def _of_part(tables: Tables, part: PartitionSpec) -> tuple[np.ndarray, np.ndarray]:
    own = tables.of(part)
    return own.assigned.logp, own.W
