"""How near the sweep kernel comes to this machine's float32 matrix-product rate, on one thread.

usage: python benchmarks/kernel_rate.py [--cells 1000000] [--levels 10]

The sweep is counted as its product alone, 2 N d K operations; the softmax, the penalties and the sums over batches come
on top and count for nothing. The machine's rate is NumPy's (OpenBLAS): at the sweep's own shape, cells x d by d x K,
on as many cells as stay in the cache and on all of them, and at 2048 cubed, where it is best.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable

import data
import numpy as np

from harmonax.algorithm.schedule import FixedPartition
from harmonax.cells.memory import MemoryCells
from harmonax.design import BatchDesign


def best_seconds(call: Callable[[], object], repeats: int = 7) -> float:
    """Return the least CPU time of several calls."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def product_rate(rows: int, d: int, K: int, at_least: float = 5e9) -> float:
    """Return GFLOP/s of (rows x d) @ (d x K) in float32, written to memory that is there already."""
    rng = np.random.default_rng(0)
    a, b = rng.random((rows, d), np.float32), rng.random((d, K), np.float32)
    out = np.empty((rows, K), np.float32)
    turns = max(1, round(at_least / (2 * rows * d * K)))

    def call() -> None:
        for _ in range(turns):
            np.matmul(a, b, out=out)

    return 2 * rows * d * K * turns / best_seconds(call) / 1e9


def sweep_rate(Z: np.ndarray, codes: np.ndarray, K: int, penalised: bool) -> tuple[float, str]:
    """Return GFLOP/s of the sweep over all blocks, and the instruction set that ran."""
    rng = np.random.default_rng(0)
    design = BatchDesign.from_codes(codes)
    schedule = FixedPartition(20, np.random.SeedSequence(0))
    cells = MemoryCells(Z, design, schedule, precision="float32", n_threads=1)
    Y = Z[rng.choice(len(Z), K, replace=False)].astype(np.float64)
    Y /= np.linalg.norm(Y, axis=1, keepdims=True)
    sigma = np.full(K, 0.1)
    logp = rng.normal(scale=0.3, size=(design.n_levels, K)) if penalised else None

    def call() -> None:
        for block in schedule.all_blocks():
            cells.sweep(block, Y, sigma, logp, moment=False)

    return 2 * Z.size * K / best_seconds(call) / 1e9, cells.arithmetic.instruction_set


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--levels", type=int, default=10)
    parser.add_argument("--features", type=int, default=50)
    parser.add_argument("--clusters", type=int, default=100)
    args = parser.parse_args()
    d, K = args.features, args.clusters
    Z, codes = data.make(args.cells, d, (args.levels,))
    rates = {
        f"product, {args.cells:,} x {d} by {d} x {K}": product_rate(args.cells, d, K),
        f"product, 4,096 x {d} by {d} x {K} (in the cache)": product_rate(4096, d, K),
        "product, 2048 cubed": product_rate(2048, 2048, 2048),
    }
    sweeps = {}
    for penalised in (False, True):
        rate, instruction_set = sweep_rate(Z, codes, K, penalised)
        sweeps[f"sweep, {'with' if penalised else 'without'} penalty ({instruction_set})"] = rate
    columns = [f"one thread, float32, {args.levels} batches", "GFLOP/s", *(f"of {name}" for name in rates)]
    print("| " + " | ".join(columns) + " |")
    print("|---|---|" + "---|" * len(rates))
    for name, rate in rates.items():
        print(f"| {name} | {rate:.1f} |" + " |" * len(rates))
    for name, rate in sweeps.items():
        print(f"| {name} | {rate:.1f} | " + " | ".join(f"{rate / whole:.2f}" for whole in rates.values()) + " |")


if __name__ == "__main__":
    # A BLAS reads its number of threads once, when it is loaded: start again with one.
    one = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM")}
    if one.items() <= os.environ.items():
        main()
    else:
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=os.environ | one, check=False).returncode)
