"""The partitions of one run on the workers of a Dask cluster, whatever becomes of these workers.

Every partition is an actor. A worker answers for all of its partitions at once, so a question takes one message a
worker; to many workers some pass it on, so that nobody sends more than about the square root of their number. When a
worker is lost its partitions are made anew on others, brought to where the run is, and asked again.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import math
import pickle
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any

import numpy as np

from ...errors import HarmonaxError, InputError
from ...system.extras import need
from .faults import cluster_errors
from .partition import GoneError, Partition, PartitionSpec, ReplayStep, Tables, WorkerInfo, same

# How often one question may lose a partition: what kills a worker four times will kill it again.
_ATTEMPTS = 4
# With more workers than this, some pass questions on to others.
_DIRECT = 8
# Seconds between looks at whether a worker that has not answered is still there, and to wait for one to come at all.
_LOOK = 0.25
_NO_WORKERS = 60.0
_PROTOCOL = pickle.HIGHEST_PROTOCOL
# What distributed says, in errors of no type of their own, when a worker is lost.
_ACTOR_LOST = "Worker holding Actor was lost"


class Workers:
    """The partitions of one run, each with its rows of the embedding as a `Delayed` in `chunks`.

    `history` returns the corrections and sweeps by which a partition is brought to where the run is.
    """

    def __init__(
        self,
        client: Any,
        chunks: Sequence[Any],
        parts: Sequence[PartitionSpec],
        history: Callable[[PartitionSpec], tuple[list[Tables], list[ReplayStep]]],
    ) -> None:
        self.client, self.parts = client, parts
        self.chunks, self._history = chunks, history
        self._have_centroids: set[str] = set()
        self._centroids: tuple[np.ndarray, np.ndarray] | None = None
        self._futures: dict[int, Any] = {}
        self._actors: dict[int, Any] = {}
        self._builds: dict[int, int] = {}
        self.info: dict[int, WorkerInfo] = {}
        self._n_built = self._n_calls = self.bytes_sent = self.bytes_received = 0
        with large_graphs():
            self.part_futures = [
                client.submit(same, part, key=f"harmonax-part-{part.run}-{number}") for number, part in enumerate(parts)
            ]

    def set_centroids(self, Y: np.ndarray, sigma: np.ndarray) -> None:
        """Set the centroids for the questions that follow; they are sent once to each worker."""
        if self._centroids is None or not all(map(np.array_equal, self._centroids, (Y, sigma))):
            self._centroids = (Y, sigma)
            self._have_centroids.clear()

    @cluster_errors()
    def call(self, method: str, each: Callable[[PartitionSpec], tuple[Any, ...]]) -> list[Any]:
        """Call a method of every partition and return the answers in the order of the partitions."""
        answers: dict[int, Any] = {}
        self._n_calls += 1
        if len(self._actors) == len(self.parts):
            # What is lost on the way is asked again below, directly, which shows who does not answer.
            self._send(method, each, list(self._actors), answers, passed_on=True)
        for _ in range(_ATTEMPTS):
            if len(answers) < len(self.parts):
                self._revive()
                self._send(method, each, [n for n in self._actors if n not in answers], answers)
            if len(answers) == len(self.parts):
                return [answers[n] for n in range(len(self.parts))]
        lost = [part for part in self.parts if part.number not in answers]
        first, last = lost[0].start, lost[0].start + lost[0].design.n_cells - 1
        raise HarmonaxError(
            f"{len(lost)} partitions (first: rows {first} to {last}) were lost with their workers {_ATTEMPTS} times in "
            "a row; look for what ends them in the logs of the workers, such as too little memory"
        )

    def fetch(self, numbers: Sequence[int]) -> list[Any]:
        """Have the embedding's rows of these partitions computed; return futures."""
        futures: list[Any] = self.client.compute([self.chunks[n] for n in numbers])
        return futures

    def n_threads_by_worker(self) -> dict[str, int]:
        """Return the threads of every worker, once there is one."""
        try:
            threads: dict[str, int] = self.client.nthreads()
            if not threads:
                self.client.wait_for_workers(1, timeout=_NO_WORKERS)
                threads = self.client.nthreads()
        except TimeoutError:
            raise HarmonaxError(
                f"the Dask cluster has had no workers for {_NO_WORKERS:.0f} s; start some and run again"
            ) from None
        except OSError as error:
            raise HarmonaxError(f"the Dask cluster's scheduler does not answer ({error}); run again") from None
        return threads

    def close(self) -> None:
        """Release the actors."""
        self._lose(list(self._futures))

    def _revive(self) -> None:
        """Make the partitions that are missing, and bring them to where the run is."""
        missing = [n for n in range(len(self.parts)) if n not in self._actors]
        if not missing:
            return
        self._build(missing)
        info: dict[int, WorkerInfo] = {}
        self._send("restore", self._history, [n for n in missing if n in self._actors], info)
        for number, now in info.items():
            if number in self.info:
                self._compare(number, self.info[number].fingerprint, now.fingerprint)
            self.info[number] = now
            self._have_centroids.discard(now.address)

    def _build(self, numbers: Sequence[int]) -> None:
        """Start actors, as evenly over the workers as their sizes allow."""
        homes = self._place(numbers)
        self._n_built += 1
        chunks = self.fetch(numbers)
        for number, chunk, home in zip(numbers, chunks, homes, strict=True):
            self._builds[number] = self._n_built
            self._futures[number] = self.client.submit(
                Partition,
                chunk,
                self.part_futures[number],
                self._n_built,
                actor=True,
                # Not to wait for a worker that is paused, or lost by then.
                workers=[home],
                allow_other_workers=True,
                key=f"harmonax-cells-{self.parts[number].run}-{number}-{self._n_built}",
            )
        for number in numbers:
            actor = self._started(self._futures[number])
            if actor is None:
                self._lose([number])
            else:
                self._actors[number] = actor

    def _place(self, numbers: Sequence[int]) -> list[str]:
        threads = self.n_threads_by_worker()
        load: dict[str, int] = dict.fromkeys(threads, 0)
        for number in self._actors:
            address = self.info[number].address
            load[address] = load.get(address, 0) + self.parts[number].design.n_cells
        homes = []
        for number in numbers:
            size = self.parts[number].design.n_cells
            homes.append(min(threads, key=lambda address: ((load[address] + size) / threads[address], address)))
            load[homes[-1]] += size
        return homes

    def _started(self, future: Any) -> Any:
        """Return the actor when it has started, None if it was lost since; an error of the user's graph is raised."""
        while True:
            try:
                actor = future.result(timeout=_LOOK)
                with self.client.as_current():
                    # An actor speaks through the client that was current when it was made, which may be another.
                    return copy.copy(actor)
            except TimeoutError:
                if future.status == "error":
                    raise
                self.n_threads_by_worker()
            except CancelledError:  # by the scheduler, which has lost what it needs
                return None
            except RuntimeError as error:
                if _ACTOR_LOST not in str(error):
                    raise
                return None

    def _send(
        self,
        method: str,
        each: Callable[[PartitionSpec], tuple[Any, ...]],
        numbers: Sequence[int],
        answers: dict[int, Any],
        *,
        passed_on: bool = False,
    ) -> None:
        """Ask these partitions, all workers at once; those that do not answer are lost.

        `passed_on`: only where there are many workers, by way of some of them; then no answer does not mean lost.
        """
        by_worker = defaultdict(list)
        for number in numbers:
            # Where a new actor lives it says itself, in its first answer.
            by_worker[self.info[number].address if method != "restore" else str(number)].append(number)
        if passed_on and len(by_worker) <= _DIRECT:
            return
        calls = []
        for group in _groups(list(by_worker.values()), passed_on):
            messages = [self._message(method, each, theirs) for theirs in group]
            self.bytes_sent += sum(map(len, messages))
            head = self._actors[group[0][0]]
            try:
                if passed_on:
                    actors = [(self.info[theirs[0]].address, self._actors[theirs[0]].key) for theirs in group]
                    calls.append((group, head.pass_on(list(zip(actors, messages, strict=True)))))
                else:
                    calls.append((group, head.ask(messages[0])))
            except RuntimeError:  # it is known to be lost
                self._unanswered(group, passed_on)
        # All in one go: to wait for each in turn costs the client half as much time again.
        for (group, _), got in zip(calls, self.client.sync(self._gather, calls), strict=True):
            for theirs, message in zip(group, got if passed_on and got else [got] * len(group), strict=True):
                if message is None:
                    self._unanswered([theirs], passed_on)
                else:
                    self.bytes_received += len(message)
                    answers.update(pickle.loads(message))

    def _message(self, method: str, each: Callable[[PartitionSpec], tuple[Any, ...]], theirs: Sequence[int]) -> bytes:
        """Return what one worker is asked; it has the centroids from then on."""
        asked, centroids = {n: (self._builds[n], each(self.parts[n])) for n in theirs}, None
        if method != "restore":
            address = self.info[theirs[0]].address
            centroids = None if address in self._have_centroids else self._centroids
            self._have_centroids.add(address)
        return pickle.dumps((self._n_calls, method, centroids, asked), _PROTOCOL)

    def _unanswered(self, group: Sequence[list[int]], passed_on: bool) -> None:
        for theirs in group:
            if not passed_on:
                self._lose(theirs)
            elif theirs[0] in self.info:
                self._have_centroids.discard(self.info[theirs[0]].address)

    async def _gather(self, calls: Sequence[tuple[list[list[int]], Any]]) -> list[Any]:
        return [await self._answer(call, [theirs[0] for theirs in group]) for group, call in calls]

    async def _answer(self, call: Any, numbers: Sequence[int]) -> Any:
        """Wait for an answer as long as it can still come; None if it cannot."""
        while True:
            try:
                # A wait with a limit costs more, and most have come by now.
                return await (call if call.done() else asyncio.wait_for(_waiting(call), _LOOK))
            except TimeoutError:
                if any(self._futures[number].status != "finished" for number in numbers):
                    return None
            except (OSError, GoneError, CancelledError):
                return None
            except asyncio.CancelledError:  # of the wait within, unless this run itself is cancelled
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise
                return None

    def _lose(self, numbers: Sequence[int]) -> None:
        """Release actors, where they still exist."""
        for number in numbers:
            self._actors.pop(number, None)
            if number in self.info:
                self._have_centroids.discard(self.info[number].address)
        gone = [self._futures.pop(number) for number in numbers if number in self._futures]
        # Dask would release them with their last reference, and an exception may hold one for long.
        if gone and self.client.status == "running":
            self.client.cancel(gone)

    def _compare(self, number: int, before: np.ndarray, now: np.ndarray) -> None:
        """Refuse rows that were computed again with another result: what the run knows of them would be wrong."""
        # Other machines may round otherwise.
        if not np.allclose(now[0], before[0], rtol=0, atol=1e-4 * float(before[1].max())):
            part = self.parts[number]
            raise InputError(
                f"rows {part.start} to {part.start + part.design.n_cells - 1} of the embedding were computed again "
                "after a worker was lost and have other values now; store or persist the embedding before the run"
            )


def _groups(workers: list[list[int]], passed_on: bool) -> list[list[list[int]]]:
    """Return each worker alone, or about as many groups as each has members; the first passes on to the others."""
    n = math.isqrt(len(workers)) if passed_on else len(workers)
    return [workers[i::n] for i in range(n)]


async def _waiting(call: Any) -> Any:
    return await call


@contextlib.contextmanager
def large_graphs() -> Iterator[None]:
    """Keep Dask from warning of values in tasks: ours are there so that they can be found again."""
    with need("dask", "dask").config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
        yield
