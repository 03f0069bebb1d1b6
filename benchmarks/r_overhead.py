"""What calling from R costs: RunHarmony of a matrix against `harmonize`, one seed, equal rounds, the same bits.

usage: python benchmarks/r_overhead.py [--cells 1000000] [--threads 1] [--turns 3] [--rscript Rscript] [--folder DIR]

Needs R with this project's package (r/harmonax) and its reticulate. Both read the same doubles and batch codes, in
processes of their own that take turns, warmed up by 2,000 cells; reading is not measured, the call is: seconds, CPU
seconds, and the process's peak of resident memory. In R the embedding is a matrix of cells x dimensions with named
cells, in Python a C-ordered array of float64. N x 50, 10 batches, 5 rounds of 4 passes, K = 100.

Both touch and free 2 GiB (--touch) beforehand: a virtual machine may give free memory back to its host, and then the
first touch of memory costs as much as a round of Harmony, whoever it is that touches it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import data
import numpy as np

D, BATCHES, CLUSTERS, ROUNDS, PASSES = 50, 10, 100, 5, 4
BLAS = ("OMP", "OPENBLAS", "MKL")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--touch", type=float, default=2, help="GiB to touch and free before the call")
    parser.add_argument("--rscript", default="Rscript")
    parser.add_argument("--folder", type=Path, help="where the files go; by default a temporary directory")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        args.folder = Path(temporary)
        write(args.folder, args.cells)
        turns = [{"R": run(args, "R"), "Python": run(args, "Python")} for _ in range(args.turns)]
        same = (args.folder / "R.bin").read_bytes() == (args.folder / "Python.bin").read_bytes()
    print(f"{args.cells:,} x {D}, {BATCHES} batches, {ROUNDS} rounds of {PASSES} passes, {args.threads} threads\n")
    print("| | s | CPU s | peak GiB of the process |\n|---|---|---|---|")
    for name in ("Python", "R"):
        wall, cpu, peak = (statistics.median(t[name][k] for t in turns) for k in ("wall", "cpu", "peak"))
        print(f"| {name} | {wall:.2f} | {cpu:.2f} | {peak / 2**20:.2f} |")
    for what in ("wall", "cpu"):
        ratios = sorted(turn["R"][what] / turn["Python"][what] for turn in turns)
        print(f"\n{what}: R / Python {', '.join(f'{r:.3f}' for r in ratios)} (median {statistics.median(ratios):.3f})")
    print("\nthe same bits" if same else "\nOTHER RESULTS")
    sys.exit(not same)


def write(folder: Path, n_cells: int) -> None:
    """Leave doubles by columns, as R has them, and the codes of the batches."""
    Z, codes = data.make(n_cells, D, (BATCHES,))
    with (folder / "Z.bin").open("wb") as file:
        for j in range(D):
            file.write(Z[:, j].astype(np.float64).tobytes())
    (folder / "codes.bin").write_bytes(codes[:, 0].astype(np.int32).tobytes())


def run(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Run once in a process of its own; return what it measured."""
    options = ["--cells", str(args.cells), "--threads", str(args.threads), "--folder", str(args.folder)]
    options += ["--touch", str(args.touch)]
    script = Path(__file__)
    command = {
        "Python": [sys.executable, str(script), "--worker", *options],
        "R": [args.rscript, str(script.with_suffix(".R")), *options],
    }[name]
    threads = {f"{blas}_NUM_THREADS": str(args.threads) for blas in BLAS}
    environment = {**os.environ, **threads, "RETICULATE_PYTHON": sys.executable}
    found = json.loads(subprocess.check_output(command, env=environment, text=True).splitlines()[-1])
    print(f"{name}: {found['wall']:.2f} s, {found['cpu']:.2f} CPU s", file=sys.stderr, flush=True)
    return found


def worker(args: argparse.Namespace) -> None:
    """Measure `harmonize` and leave its result as doubles by columns."""
    import resource

    import pandas as pd

    from harmonax import HarmonyParams, harmonize

    Z = np.ascontiguousarray(np.fromfile(args.folder / "Z.bin").reshape((args.cells, D), order="F"))
    codes = np.fromfile(args.folder / "codes.bin", np.int32)
    batch = pd.DataFrame({"batch": pd.Categorical.from_codes(codes, [str(b) for b in range(BATCHES)])})
    params = HarmonyParams(
        n_clusters=CLUSTERS, max_iter_harmony=ROUNDS, max_iter_clustering=PASSES, tol_harmony=0, tol_clustering=0
    )
    harmonize(Z[:2000], batch[:2000], params, rng=0, n_threads=args.threads, progress=False)
    np.ones(int(args.touch * 2**27))
    cpu, wall = time.process_time(), time.perf_counter()
    result = harmonize(Z, batch, params, rng=0, n_threads=args.threads, progress=False)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (args.folder / "Python.bin").open("wb") as file:
        for j in range(D):
            file.write(result.embedding[:, j].astype(np.float64).tobytes())
    print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak}))


if __name__ == "__main__":
    main()
