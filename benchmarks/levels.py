"""Many levels: time and memory of cells with three batch variables, by how many donors the first one has.

usage: python benchmarks/levels.py [--cells 10000000] [--donors 1000 30000] [--threads 2] [--rounds 3]

Each donor has one of 50 studies and one of 6 assays; K=100, 50 components, 4 passes a round and no early stop. Each
number of donors runs in a process of its own. Needs 16 GiB of memory at ten million cells.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import numpy as np
from _worker import peak, reset_peak
from data import make

import harmonax
from harmonax.design import BatchDesign

HEADER = "| cells | donors | levels | joint levels | CPU s | s | MiB above input and result | peak GiB | kept |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000_000)
    parser.add_argument("--donors", type=int, nargs="+", default=[1000, 30_000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if len(args.donors) == 1:
        print(measure(args, args.donors[0]), flush=True)
        return
    print(HEADER + "\n" + "|---" * (HEADER.count("|") - 1) + "|", flush=True)
    for donors in args.donors:
        rest = ["--cells", args.cells, "--threads", args.threads, "--rounds", args.rounds, "--donors", donors]
        subprocess.run([sys.executable, __file__, *map(str, rest)], check=True)


def measure(args: argparse.Namespace, n_donors: int) -> str:
    """Run once; return the row of the table."""
    Z, _ = make(args.cells, 50, (10,))
    gen = np.random.default_rng(1)
    share = 1 + 3 * gen.random(n_donors)
    donor = gen.choice(n_donors, args.cells, p=share / share.sum()).astype(np.int32)
    of_donor = [np.arange(n_donors), gen.integers(50, size=n_donors), gen.integers(6, size=n_donors)]
    design = BatchDesign.from_codes(np.column_stack([codes[donor] for codes in of_donor]).astype(np.int32))
    del donor
    settings = {"max_iter_harmony": args.rounds, "max_iter_clustering": 4, "tol_harmony": 0.0, "tol_clustering": 0.0}
    params = harmonax.HarmonyParams(n_clusters=100, **settings)
    before, cpu, start = reset_peak(), time.process_time(), time.perf_counter()
    result = harmonax.harmonize(Z, design, params, rng=0, n_threads=args.threads, progress=False)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - start
    above = (peak() - before - result.embedding.nbytes) / 2**20
    counts = (args.cells, n_donors, design.n_levels, design.n_joint)
    cells = [*(f"{count:,}" for count in counts), f"{cpu:.1f}", f"{wall:.1f}"]
    cells += [f"{above:,.0f}", f"{peak() / 2**30:.2f}", str(result.backend.get("cache"))]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
