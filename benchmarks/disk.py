"""From disk or in memory: the same file through ``harmonax integrate``, at equal rounds; time, memory and the result.

usage: python benchmarks/disk.py [--cells 10000000] [--max-memory 2G] [--rounds 5] [--only disk] [--folder DIR]

The file (.h5ad, N x 50, 10 batches, named cells) is written slab by slab beforehand, so the page cache is warm as far
as it goes; where it is smaller than the file and the scratch file together, some reading is from the disk. Seconds and
peak memory (resident, of the whole process) are those of run.json. 5 rounds of 4 passes, K = 100.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import data
import h5py
import numpy as np

D, BATCHES, CLUSTERS, PASSES = 50, 10, 100, 4
GIB = 1 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000_000)
    parser.add_argument("--max-memory", default="2G")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", choices=["disk", "memory"])
    parser.add_argument("--folder", type=Path, help="where the files go; by default a temporary directory")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        data.write_h5ad(folder / "in.h5ad", args.cells, D, BATCHES)
        print(f"{args.cells:,} x {D}, {BATCHES} batches, {args.rounds} rounds of {PASSES} passes, page cache warm\n")
        columns = ("cells live", "read s", "harmonize s", "write s", "CPU s", "s a round", "peak GiB")
        print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
        found = {}
        for backend in [args.only] if args.only else ["memory", "disk"]:
            found[backend] = run(folder, backend, args)
    if len(found) == 2:
        disk, memory = (found[name]["seconds"] for name in ("disk", "memory"))
        ratio = {what: disk[what] / memory[what] for what in ("harmonize", "cpu")}
        same = "the same bits" if found["disk"]["bits"] == found["memory"]["bits"] else "OTHER RESULTS"
        print(f"\ndisk / memory: {ratio['harmonize']:.2f} (time), {ratio['cpu']:.2f} (CPU); {same}")


def run(folder: Path, backend: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run once; return run.json, with a sum over the bits of the result."""
    out = folder / f"{backend}.h5ad"
    options = ["--batch-key", "batch", "--n-clusters", CLUSTERS, "--max-iter-clustering", PASSES]
    options += ["--max-iter-harmony", args.rounds, "--tol-harmony", "0", "--tol-clustering", "0", "--quiet"]
    options += ["--max-memory", args.max_memory] if backend == "disk" else []
    options += ["--threads", args.threads] if args.threads else []
    command = [
        Path(sys.executable).parent / "harmonax",
        "integrate",
        folder / "in.h5ad",
        "-o",
        out,
        "--backend",
        backend,
    ]
    subprocess.run([str(part) for part in (*command, *options)], check=True)
    record = json.loads((folder / f"{backend}.h5ad.run.json").read_text())
    with h5py.File(out) as file:
        Z = file["obsm/X_pca_harmony"]
        slabs = (Z[start : start + 1_000_000].view(np.uint32) for start in range(0, len(Z), 1_000_000))
        record["bits"] = sum(int(slab.sum(dtype=np.uint64)) for slab in slabs)
    out.unlink()
    seconds = record["seconds"]
    rounds = len(record["history"]["passes"])
    shown = [f"{seconds[name]:.1f}" for name in ("read", "harmonize", "write", "cpu")]
    shown += [f"{seconds['harmonize'] / rounds:.2f}", f"{record['peak_memory_bytes'] / GIB:.2f}"]
    print(f"| {backend} | " + " | ".join(shown) + " |", flush=True)
    return record


if __name__ == "__main__":
    main()
