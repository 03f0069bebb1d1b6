"""The whole job by step: `harmonax run` on simulated cells, from counts to the report, beside what --dry-run predicted.

    python benchmarks/job.py                        100,000 cells x 2,000 genes, two threads
    python benchmarks/job.py --cells 10000,30000    other sizes
    python benchmarks/job.py --max-memory 500M      the expression from disk

Each run is a process of its own. On a machine that is not idle, the CPU seconds say more than the clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harmonax.workflow import WorkflowOptions, forecast

_RUN = "from harmonax.cli import main; raise SystemExit(main())"
_COUNTS = """
import sys
from harmonax.datasets import simulate
simulate(int(sys.argv[1]), rng=0).write_h5ad(sys.argv[2])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default="100000", help="sizes, separated by commas")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-memory", help="as in harmonax run")
    parser.add_argument("--skip", help="as in harmonax run")
    parser.add_argument("--folder", help="where the counts and the results go, and stay (default: a temporary one)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(asked.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for cells in map(int, asked.cells.split(",")):
            print(table(cells, folder, asked), flush=True)


def table(cells: int, folder: Path, asked: Any) -> str:
    """Return a table in Markdown of one run by step."""
    counts, out = folder / f"counts{cells}.h5ad", folder / f"out{cells}"
    if not counts.exists():
        subprocess.run([sys.executable, "-c", _COUNTS, str(cells), str(counts)], check=True)
    options = ["--batch-key", "batch", "--label-key", "cell_type", "--threads", str(asked.threads), "--overwrite"]
    options += ["--max-memory", asked.max_memory] if asked.max_memory else []
    options += ["--skip", asked.skip] if asked.skip else []
    skip = tuple(asked.skip.split(",")) if asked.skip else ()
    command = [sys.executable, "-c", _RUN, "run", str(counts), "-o", str(out), *options]
    # Of libraries with threads of their own: as many as are asked for.
    names = ("OMP", "OPENBLAS", "MKL", "NUMBA")
    environment = os.environ | {f"{name}_NUM_THREADS": str(asked.threads) for name in names}
    told = forecast(str(counts), WorkflowOptions(max_memory=asked.max_memory, n_threads=asked.threads, skip=skip))
    subprocess.run(command, check=True, env=environment)
    record = json.loads((out / "run.json").read_text())
    expected = {step.step: (step.cpu_seconds, step.peak_memory_bytes) for step in told}
    rows = [
        (s["step"], s["seconds"], s["cpu_seconds"], s["peak_memory_bytes"], *expected[s["step"]])
        for s in record["steps"]
    ]
    sums = [sum(row[i] for row in rows) for i in (1, 2, 4)]
    peaks = [max(row[i] for row in rows) for i in (3, 5)]
    rows.append(("all steps", sums[0], sums[1], peaks[0], sums[2], peaks[1]))
    whole = record["seconds"]
    lines = [
        f"{cells:,} cells, {asked.threads} threads: {whole:.0f} s with what keeping each step's result takes",
        "",
        "| step | seconds | CPU seconds | peak memory, GiB | predicted: CPU seconds | peak memory, GiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, wall, cpu, peak, cpu_told, peak_told in rows:
        lines.append(
            f"| {name} | {wall:.1f} | {cpu:.1f} | {peak / 2**30:.2f} | {cpu_told:.1f} | {peak_told / 2**30:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
