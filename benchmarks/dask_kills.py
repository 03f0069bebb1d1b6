"""Faults of a Dask cluster at random moments of a run: the same bits or a clear error, never another result.

    python benchmarks/dask_kills.py --seed 1

Workers killed (20), workers stopped for a while (5), the scheduler killed and begun again, and workers with too little
memory. Exit code 1 where a run gave other bits, another error than harmonax's, or no end.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from typing import Any

import dask.array as da
import distributed
import numpy as np

import harmonax
from harmonax.errors import HarmonaxError

N, D = 40_000, 20
LIMIT = 240
# A worker that says nothing for this long is given up; by default after five minutes.
TTL = 20


class Cluster:
    """A scheduler and workers as programs; the killed stay dead."""

    def __init__(self, folder: str) -> None:
        self.folder, self.workers = folder, list[subprocess.Popen[bytes]]()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.scheduler = self.start("scheduler", "--port", str(self.port), "--host", "127.0.0.1")

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "dask", *command, "--no-dashboard"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        told = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": f"{TTL}s", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(words, env=os.environ | told, **quiet)

    def client(self) -> Any:
        return distributed.Client(f"tcp://127.0.0.1:{self.port}", timeout=60)

    def have(self, n: int, client: Any, *more: str) -> None:
        """Start workers until there are n."""
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        for _ in range(n - len(self.workers)):
            words = ["--nthreads", "1", "--local-directory", self.folder, *(more or ["--no-nanny"])]
            self.workers.append(self.start("worker", f"tcp://127.0.0.1:{self.port}", *words))
        client.wait_for_workers(n, timeout=120)

    def close(self) -> None:
        for child in (*self.workers, self.scheduler):
            with_signal(child, signal.SIGCONT)
            child.terminate()
        for child in (*self.workers, self.scheduler):
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()


def with_signal(child: subprocess.Popen[bytes], number: int) -> None:
    if child.poll() is None:
        child.send_signal(number)


def correct(Z: np.ndarray, batch: np.ndarray, n_iter: int = 4) -> np.ndarray:
    params = harmonax.HarmonyParams(n_clusters=12, max_iter_harmony=n_iter, tol_harmony=0.0)
    made = harmonax.harmonize(da.from_array(Z, chunks=(len(Z) // 6 + 1, D)), batch, params, rng=0)
    return np.asarray(made.embedding.compute() if hasattr(made.embedding, "compute") else made.embedding)


def attempt(work: Any, expected: np.ndarray) -> str:
    """Return how a run ended, given up after some minutes."""
    found: list[str] = []

    def run() -> None:
        try:
            found.append("same bits" if np.array_equal(work(), expected) else "BAD other bits")
        except HarmonaxError as error:
            found.append(f"error: {str(error)[:160]}")
        except Exception as error:
            found.append(f"BAD {type(error).__module__}.{type(error).__name__}: {str(error)[:160]}")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LIMIT)
    return found[0] if found else f"BAD no end within {LIMIT} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stops", type=int, default=5)
    given = parser.parse_args()
    gen = np.random.default_rng(given.seed)
    batch = gen.integers(0, 4, N)
    Z = (gen.normal(size=(N, D)) + batch[:, None]).astype(np.float32)
    ended: dict[str, Counter[str]] = {}

    def note(kind: str, how: str) -> None:
        ended.setdefault(kind, Counter())[how] += 1
        print(f"{kind}: {how}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(folder)
        client = cluster.client()
        cluster.have(3, client)
        expected = correct(Z, batch)
        began = time.monotonic()
        note("undisturbed", attempt(lambda: correct(Z, batch), expected))
        seconds = time.monotonic() - began
        for kind, number in (("killed", given.kills), ("stopped", given.stops)):
            for _ in range(number):
                cluster.have(3, client)
                victim = cluster.workers[gen.integers(3)]
                timers = [threading.Timer(gen.uniform(0, seconds), with_signal, (victim, signal.SIGKILL))]
                if kind == "stopped":
                    first = gen.uniform(0, seconds)
                    timers = [
                        threading.Timer(first, with_signal, (victim, signal.SIGSTOP)),
                        threading.Timer(first + gen.uniform(1, 2 * TTL), with_signal, (victim, signal.SIGCONT)),
                    ]
                for timer in timers:
                    timer.start()
                note(kind, attempt(lambda: correct(Z, batch), expected))
                for timer in timers:
                    timer.join()
        cluster.have(3, client)

        def restart() -> None:
            cluster.scheduler.kill()
            cluster.scheduler.wait()
            cluster.scheduler = cluster.start("scheduler", "--port", str(cluster.port), "--host", "127.0.0.1")

        timer = threading.Timer(seconds / 2, restart)
        timer.start()
        note("scheduler restarted", attempt(lambda: correct(Z, batch), expected))
        timer.join()
        client.close()
        cluster.close()
        cluster = Cluster(folder)
        client = cluster.client()
        # Less than an import takes and its share of the cells.
        cluster.have(2, client, "--memory-limit", "150MB")
        note("too little memory", attempt(lambda: correct(np.tile(Z, (10, 1)), np.tile(batch, 10), 2), np.empty(0)))
        client.close(timeout=5)
        cluster.close()
    bad = sum(count for counts in ended.values() for how, count in counts.items() if how.startswith("BAD"))
    print({kind: dict(counts) for kind, counts in ended.items()}, f"{bad} bad (seed {given.seed})")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
