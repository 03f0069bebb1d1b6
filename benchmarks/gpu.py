"""How much faster than the CPU's native kernels is a GPU (or whatever JAX finds), and does it give the same answer?

usage: python benchmarks/gpu.py [--cells 1000000 10000000] [--levels 10] [--rounds 4] [--threads N] [--devices 1]
                                [--precision float32]

N x 50, K = 100, rounds of 4 passes; both from the same centroids and schedule, one after the other in one process.
"first" is the time to the end of the first round, with the cells laid out, sent to the device and all but one of the
programs compiled; "round" the median of the third and later rounds (the correction, compiled in the second, included);
"emit" the result's way back. On a machine without a GPU, JAX computes on the CPU: try it with --cells 20000.
"""

from __future__ import annotations

import argparse
import platform
import time
from typing import Any, NamedTuple

import data
import jax
import numpy as np

from harmonax.algorithm.harmony import Fit, Harmony
from harmonax.algorithm.schedule import FixedPartition
from harmonax.algorithm.seeding import seed_centroids
from harmonax.cells.jax.cells import JaxCells
from harmonax.cells.memory import MemoryCells
from harmonax.design import BatchDesign
from harmonax.params import HarmonyParams, ResolvedParams
from harmonax.system.cpus import resolve_threads

D, CLUSTERS, PASSES = 50, 100, 4
HEADER = "| cells | where | first (s) | round (s) | emit (s) | times as fast | embedding differs | objective differs |"


class Timed(NamedTuple):
    """Seconds, and what came out."""

    first: float
    each: float
    emit: float
    out: np.ndarray
    fit: Fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--levels", type=int, nargs="+", default=[10], help="levels of each batch variable")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, help="of the native kernels; default: all CPUs of this process")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--precision", choices=["float32", "float64"], default="float32")
    args = parser.parse_args()
    if args.rounds < 3:
        parser.error("--rounds must be at least 3: the first two compile")
    threads = resolve_threads(args.threads)
    devices = jax.local_devices()[: args.devices]
    print(f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform}), jax {jax.__version__}")
    print(f"native: {threads} threads, {platform.machine()}; levels {args.levels}, {args.precision}\n")
    print(HEADER, "|" + " --- |" * 8, sep="\n", flush=True)
    for n_cells in args.cells:
        compare(n_cells, args, threads, devices)


def compare(n_cells: int, args: argparse.Namespace, threads: int, devices: list[Any]) -> None:
    """Print a row for either kind of cells."""
    Z, codes = data.make(n_cells, D, tuple(args.levels))
    design = BatchDesign.from_codes(codes)
    params = HarmonyParams(
        n_clusters=CLUSTERS,
        precision=args.precision,
        max_iter_harmony=args.rounds,
        max_iter_clustering=PASSES,
        tol_harmony=0,
        tol_clustering=0,
    )
    resolved = params.resolve(design)
    native = timed(MemoryCells, Z, design, resolved, n_threads=threads)
    row(n_cells, "native", native, native)
    device = timed(JaxCells, Z, design, resolved, devices=devices)
    row(n_cells, "jax", device, native)
    stats = devices[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        print(f"\npeak memory of the first device: {stats['peak_bytes_in_use'] / 2**30:.2f} GiB\n")


def timed(kind: Any, Z: np.ndarray, design: BatchDesign, resolved: ResolvedParams, **how: Any) -> Timed:
    """Run from a fixed seed, and see when each round ends."""
    params = resolved.params
    schedule = FixedPartition(params.n_blocks(len(Z)), np.random.SeedSequence(0))
    cells = kind(Z, design, schedule, precision=params.precision, **how)
    Y = seed_centroids(cells, resolved.n_clusters, np.random.default_rng(0))
    # Written once, so that no page is new to whoever comes first.
    out = np.zeros(Z.shape, params.precision)
    ends = [time.perf_counter()]
    fit = Harmony(cells, design, schedule, resolved).run(Y, out, keep=lambda ended: ends.append(time.perf_counter()))
    emit = time.perf_counter() - ends[-1]
    return Timed(ends[1] - ends[0], float(np.median(np.diff(ends)[2:])), emit, out, fit)


def row(n_cells: int, where: str, this: Timed, native: Timed) -> None:
    embedding = np.abs(this.out - native.out).max() / np.abs(native.out).max()
    objective = np.abs(np.array(this.fit.history.total) / np.array(native.fit.history.total) - 1).max()
    seconds = f"{this.first:.2f} | {this.each:.3f} | {this.emit:.2f} | {native.each / this.each:.2f}"
    print(f"| {n_cells:,} | {where} | {seconds} | {embedding:.1e} | {objective:.1e} |", flush=True)


if __name__ == "__main__":
    main()
