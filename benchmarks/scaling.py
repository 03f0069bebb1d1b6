"""Do time and memory grow linearly with the number of cells? 10^4 to 10^7 cells of harmonax, N x 50, K = 100.

usage: python benchmarks/scaling.py [--most 10000000] [--threads 1] [--batches 10] [--out table.md]

5 rounds of 4 passes, each N in a process of its own; "total" is all memory of that process at its peak: interpreter,
input (float32), result (float32) and everything between. Linear: an exponent of 1, of CPU time from one N to the next.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from math import log
from pathlib import Path

import data
from environments import work

D, CLUSTERS, ROUNDS, PASSES = 50, 100, 5, 4
GIB = 1 << 30
LIMIT = 9 * GIB  # at 10^7 cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=10_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = [
        f"harmonax, {args.batches} batches, {args.threads} thread(s), {ROUNDS} rounds of {PASSES} passes\n",
        "| cells | CPU s | wall s | CPU us a cell | bytes a cell above input and result | total GiB | exponent |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    before = None
    sizes = [n for e in range(4, 8) for n in (10**e, 3 * 10**e) if n <= min(args.most, 10**7)]
    for n in sizes:
        with tempfile.TemporaryDirectory() as temporary:
            job = {"program": "harmonax", "data": str(data.write(Path(temporary), n, D, (args.batches,)))}
            job |= {"settings": "equal", "rounds": ROUNDS, "passes": PASSES, "clusters": CLUSTERS}
            job |= {"threads": args.threads}
            # Few cells are over in a moment: the fastest of several calls.
            measured = work(sys.executable, [job | {"calls": max(1, 300_000 // n)}])[0]
        cpu, wall, peak = min(measured["cpu"]), min(measured["wall"]), measured["peak"][0]
        exponent = f"{log(cpu / before[1]) / log(n / before[0]):.2f}" if before else ""
        before = n, cpu
        total = f"{peak / GIB:.2f}"
        if n == 10**7:
            total += f" (at most {LIMIT // GIB}: {'met' if peak <= LIMIT else 'MISSED'})"
        memory = measured["bytes_per_cell"][0]
        lines.append(f"| {n:,} | {cpu:.3g} | {wall:.3g} | {1e6 * cpu / n:.2f} | {memory:.0f} | {total} | {exponent} |")
        print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
