"""What cells on a Dask cluster cost beside cells in memory, and where the time would go on a larger one.

usage: python benchmarks/dask_cells.py [--cells 400000] [--passes 3] [--batches 10] [--out table.md]

N x 50 float32, K = 100, in chunks of N / 4; harmony2 passes of 20 blocks after an unpenalised one. Workers are
processes of one thread; client and scheduler share a process, which the workers' answers pass through (Dask's default)
or not (direct_to_workers=True). Others may use the machine, so CPU seconds are compared; "efficiency" is one worker's
seconds by the number of workers, over the busiest one's and what client and scheduler add, as if they never overlapped.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import dask.array as da
import distributed
import numpy as np

from harmonax.algorithm.harmony import Harmony
from harmonax.algorithm.schedule import FixedPartition
from harmonax.algorithm.seeding import unit
from harmonax.cells.dask.cells import DaskCells
from harmonax.cells.dask.workers import _DIRECT
from harmonax.cells.memory import MemoryCells
from harmonax.design import BatchDesign
from harmonax.params import HarmonyParams

D, K, CHUNKS = 50, 100, 4
# What a network link moves in a second, and one message's way there and back on it; assumed for the table.
LINK, ROUND_TRIP = 1.25e9, 0.2e-3


def read(file: str, block_info: Any = None) -> np.ndarray:
    (start, stop), _ = block_info[None]["array-location"]
    return np.array(np.load(file, mmap_mode="r")[start:stop])


def cpu(dask_worker: Any = None) -> float:
    return time.process_time()


def passes(cells: Any, design: BatchDesign, schedule: FixedPartition, n: int, meter: Any) -> list[dict[str, float]]:
    """Run passes; return what the meter counted in each."""
    params = HarmonyParams(n_clusters=K)
    run = Harmony(cells, design, schedule, params.resolve(design))
    Y = unit(np.random.default_rng(1).normal(size=(K, D)))
    run._assign_without_penalty(Y)
    logp = np.zeros((schedule.n_blocks, design.n_levels, K))
    counted = []
    for _ in range(n):
        before = meter()
        run._one_pass(Y, logp, last=False)
        counted.append({name: value - before[name] for name, value in meter().items()})
    return counted


def best(counted: list[dict[str, float]]) -> dict[str, float]:
    """Return the least of every count: what a machine that others use disturbs the least."""
    return {name: min(each[name] for each in counted) for name in counted[0]}


def on_dask(Z: Any, design: BatchDesign, args: argparse.Namespace, n_workers: int, direct: bool) -> dict[str, float]:
    schedule = FixedPartition(20, np.random.SeedSequence(0))
    with (
        distributed.LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster, direct_to_workers=direct or None) as client,
    ):
        cells = DaskCells(Z, design, schedule, client=client)

        def meter() -> dict[str, float]:
            counts = {f"worker {i}": v for i, v in enumerate(client.run(cpu).values())}
            workers = cells._workers
            counts |= {"sent": workers.bytes_sent, "received": workers.bytes_received}
            return counts | {"wall": time.perf_counter(), "client": time.process_time()}

        got = best(passes(cells, design, schedule, args.passes, meter))
        rounds = 200
        start, started = time.process_time(), time.perf_counter()
        for _ in range(rounds):
            cells._workers.call("ready", lambda part: ())
        got["message"] = (time.process_time() - start) / rounds / n_workers
        got["question"] = (time.perf_counter() - started) / rounds
        cells.close()
    got["busiest"] = max(value for name, value in got.items() if name.startswith("worker"))
    got["workers"] = sum(value for name, value in got.items() if name.startswith("worker"))
    return got


def at_scale(message: float, sent: float, received: float, compute: float, n_blocks: int = 20) -> list[str]:
    """Return a table of one pass by workers, from the cost of a message, the bytes of one worker, and CPU s a cell."""
    lines = [
        f"\nOne pass of {n_blocks} blocks from these figures: who asks, sends one message after another at "
        f"{1e3 * message:.2f} ms each (client, measured), to all workers up to {_DIRECT}, else to as many as each of "
        f"them passes on to; bytes go over one link of {LINK / 1e9:.2f} GB/s (assumed), {1e3 * ROUND_TRIP:.1f} ms to "
        f"and fro, {sent / 1e3:.0f} kB out and {received / 1e3:.0f} kB in a worker, and each worker has one thread at "
        f"{1e6 * compute:.3f} us a cell.\n",
        "| workers | cells each | compute s | messages s | bytes s | waiting s | pass s | efficiency |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for n_workers, n_cells in ((2, 10**6), (10, 10**6), (100, 10**6), (100, 10**7)):
        groups = math.isqrt(n_workers) if n_workers > _DIRECT else n_workers
        # The client's own, then those of the first worker of a group to its others: it asks itself too.
        in_a_row, trips = (groups + math.ceil(n_workers / groups), 2) if groups < n_workers else (n_workers, 1)
        work, messages = n_cells * compute, n_blocks * in_a_row * message
        moved, waiting = n_workers * (sent + received) / LINK, n_blocks * trips * ROUND_TRIP
        total = work + messages + moved + waiting
        lines.append(
            f"| {n_workers} | {n_cells:,} | {work:.2f} | {messages:.2f} | {moved:.3f} | {waiting:.3f} | {total:.2f} "
            f"| {work / total:.0%} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=400_000)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    gen = np.random.default_rng(0)
    codes = gen.integers(args.batches, size=args.cells)
    design = BatchDesign.from_codes(codes)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/Z.npy"
        array = gen.normal(size=(args.cells, D)).astype(np.float32) + gen.normal(size=(args.batches, D))[codes]
        np.save(file, array.astype(np.float32))
        rows = [len(part) for part in np.array_split(codes, CHUNKS)]
        Z = da.map_blocks(read, file=file, chunks=(tuple(rows), (D,)), dtype=np.float32, meta=np.empty((0, 0), "f4"))
        schedule = FixedPartition(20, np.random.SeedSequence(0))
        memory = MemoryCells(array.astype(np.float32), design, schedule, n_threads=1)
        clock = lambda: {"cpu": time.process_time(), "wall": time.perf_counter()}  # noqa: E731
        in_memory = best(passes(memory, design, schedule, args.passes, clock))
        del memory, array
        rows_of = {
            (n, direct): on_dask(Z, design, args, n, direct)
            for n, direct in ((1, False), (2, False), (1, True), (2, True))
        }
    lines = [
        f"{args.cells:,} x {D}, K = {K}, {args.batches} batches, {CHUNKS} partitions; load {load:.1f} to "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs\n",
        "| cells | pass, wall s | workers, CPU s | busiest | client and scheduler, CPU s | of memory's CPU | kB sent "
        "| kB received | ms a message | ms a question | efficiency |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        f"| memory, 1 thread | {in_memory['wall']:.2f} | {in_memory['cpu']:.2f} | | | 1.00 | | | | | |",
    ]
    for (n, direct), got in rows_of.items():
        one = rows_of[1, direct]
        efficiency = one["workers"] / n / (got["busiest"] + got["client"])
        lines.append(
            f"| {n} worker{'s' * (n > 1)}{', direct' * direct} | {got['wall']:.2f} | {got['workers']:.2f} "
            f"| {got['busiest']:.2f} | {got['client']:.2f} | {(got['workers'] + got['client']) / in_memory['cpu']:.2f} "
            f"| {got['sent'] / 1e3:.0f} | {got['received'] / 1e3:.0f} | {1e3 * got['message']:.2f} "
            f"| {1e3 * got['question']:.1f} | {efficiency:.0%} |"
        )
    two = rows_of[2, True]
    # A worker's own bytes, where it has one partition: the tables of four were measured.
    lines += at_scale(two["message"], two["sent"] / CHUNKS, two["received"] / CHUNKS, in_memory["cpu"] / args.cells)
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
