"""How harmonax scales over the cores of this machine: 1, 2, 4, ... all of them, and where it stops and why.

usage: python benchmarks/cores.py [--cells 1000000] [--passes 4] [--most 64] [--repeats 3] [--out table.md]

The same run (N x 50, 10 batches, K = 100, 5 rounds) on each number of threads, seeding included, in one process; the
fastest of several. Its time is split by what is asked of the cells, and "between" is all that one thread does alone:
penalties, objective, ridge, order of the cells. An efficiency is the speed-up over one thread, divided by the threads.
The last column is the largest loss: the part whose time is furthest above that of one thread divided by the threads.

A part that stops while the others go on is short of memory bandwidth (sweeps over what is kept: compare the GB/s that
the table shows with the machine's), or too small for the threads (then --cells 10000000 scales further).
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import data
import numpy as np

import harmonax
from harmonax.cells.memory import MemoryCells
from harmonax.cells.native import NativeCells
from harmonax.system.cpus import resolve_threads

D, BATCHES, CLUSTERS, ROUNDS = 50, 10, 100, 5
PARTS = "lay out", "distances", "passes", "moments", "correct", "output", "between"


class Clock:
    """Seconds by part of a run."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def watch(self, kind: type, name: str, part: Any) -> None:
        """Count the time that a method takes to `part`, or to what that makes of the method's arguments."""
        method = getattr(kind, name)

        def timed(cells: Any, *args: Any, **how: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(cells, *args, **how)
            finally:
                # Not what the seeding asks of its sample.
                if cells.n_cells == self.n_cells:
                    self.seconds[part if isinstance(part, str) else part(*args, **how)] += time.perf_counter() - start

        setattr(kind, name, timed)

    n_cells = 0


def part_of_sweep(block: Any, Y: Any, sigma: Any, logp: Any, *, moment: bool, last: bool = False) -> str:
    return "distances" if logp is None else "moments" if last else "passes"


def measure(Z: np.ndarray, codes: np.ndarray, passes: int, n_threads: int, clock: Clock) -> dict[str, float]:
    """Return the seconds of one run by part, and of all of it."""
    limits = {"max_iter_harmony": ROUNDS, "max_iter_clustering": passes, "tol_harmony": 0.0, "tol_clustering": 0.0}
    params = harmonax.HarmonyParams(n_clusters=CLUSTERS, **limits)
    clock.seconds.clear()
    start = time.perf_counter()
    result = harmonax.harmonize(Z, codes, params, rng=0, n_threads=n_threads, backend="memory", progress=False)
    whole = time.perf_counter() - start
    found = dict(clock.seconds)
    # The first sweep lays the cells out.
    found["distances"] -= found["lay out"]
    between = whole - sum(found.values())
    return found | {"between": between, "whole": whole, "kept": float(result.backend.get("cache") == "all")}


def row(n: int, here: dict[str, float], one: dict[str, float], read: float) -> str:
    speedup = one["whole"] / here["whole"]
    losses = {part: here.get(part, 0) - one.get(part, 0) / n for part in PARTS}
    worst = max(losses, key=lambda part: losses[part])
    why = f"{worst}: {losses[worst]:.2f} s" if n > 1 else ""
    rate = f"{read / here['passes'] / 1e9:.1f}" if here["kept"] else ""
    parts = " | ".join(f"{here.get(part, 0):.2f}" for part in PARTS)
    return f"| {n} | {here['whole']:.2f} | {speedup:.2f} | {speedup / n:.0%} | {parts} | {rate} | {why} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--most", type=int, help="threads; all that this process may use, unless given")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    most = args.most or resolve_threads(None)
    Z, codes = data.make(args.cells, D, (BATCHES,))
    clock = Clock()
    clock.n_cells = args.cells
    clock.watch(MemoryCells, "_open", "lay out")
    clock.watch(NativeCells, "sweep", part_of_sweep)
    clock.watch(NativeCells, "moments", "moments")
    clock.watch(NativeCells, "correct", "correct")
    clock.watch(MemoryCells, "emit", "output")
    columns = ["threads", "seconds", "speed-up", "efficiency", *PARTS, "passes GB/s", "largest loss"]
    lines = [
        f"harmonax, {args.cells:,} x {D}, {BATCHES} batches, {ROUNDS} rounds of {args.passes} passes\n",
        "| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|",
    ]
    print("\n".join(lines), flush=True)
    read = args.cells * 4.0 * CLUSTERS * ROUNDS * (args.passes - 1)
    one: dict[str, float] = {}
    for n in sorted({min(1 << e, most) for e in range(most.bit_length() + 1)}):
        runs = [measure(Z, codes, args.passes, n, clock) for _ in range(args.repeats)]
        best = min(runs, key=lambda found: found["whole"])
        one = one or best
        lines.append(row(n, best, one, read))
        print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
