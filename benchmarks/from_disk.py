"""A hundred million cells from disk, end to end: time of each round, bytes read, peak memory.

usage: python benchmarks/from_disk.py [--cells 100000000] [--max-memory 6G] [--rounds 3] [--folder DIR] [--keep]

N x 30 float32 and 100 batches are written in blocks of 100,000 cells to one HDF5 file, corrected from there into
another, 4 passes a round, K = 100. Takes 16 N d bytes of disk in all (100M: 48 GB): the input, a scratch file of twice
its size, and the result. "read" is what system calls returned, "from the disk" what the page cache did not have.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import data
import h5py
import numpy as np
from _worker import cpu_seconds, status

import harmonax
from harmonax.design import BatchDesign

D, BATCHES, CLUSTERS, PASSES = 30, 100, 100, 4
GIB, GB = 1 << 30, 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000_000)
    parser.add_argument("--max-memory", default="6G")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--folder", type=Path, help="where the files go; by default a temporary directory")
    parser.add_argument("--keep", action="store_true", help="leave the input, and use it where it is there already")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = args.folder if args.keep and args.folder else Path(temporary)
        file = folder / f"cells-{args.cells}.h5"
        start = time.perf_counter()
        if not file.exists():
            write(file, args.cells)
            print(f"written in {time.perf_counter() - start:.0f} s", flush=True)
        run(file, Path(temporary), args)


def write(path: Path, n_cells: int) -> None:
    """Write the cells in blocks, and give the file its name when it is whole."""
    part = path.with_suffix(".part")
    with h5py.File(part, "w") as file:
        Z = file.create_dataset("Z", (n_cells, D), np.float32)
        data.fill(Z, file.create_dataset("codes", (n_cells, 1), np.int16), (BATCHES,))
    part.rename(path)


def bytes_read() -> tuple[int, int]:
    """Return the bytes that this process has read, in all and from the disk."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"]), int(fields["read_bytes"])


class Log:
    """A line for each round: when it began and ended, and what was read for it."""

    def __init__(self) -> None:
        self.mark()

    def mark(self) -> None:
        self.since, self.cpu, self.read = time.perf_counter(), cpu_seconds(), bytes_read()

    def line(self, name: str) -> None:
        read, from_disk = (now - before for now, before in zip(bytes_read(), self.read, strict=True))
        seconds, cpu = time.perf_counter() - self.since, cpu_seconds() - self.cpu
        peak = status("VmHWM") / GIB
        print(
            f"| {name} | {seconds:.1f} | {cpu:.1f} | {read / GB:.1f} | {from_disk / GB:.1f} | {peak:.2f} |", flush=True
        )
        self.mark()

    def __call__(self, round_: int, pass_: int, objective: float) -> None:
        if pass_ == 1:
            # Its first pass ends what came before: layout and seeding, or the round before with its correction.
            self.line("layout, seeding, first pass" if round_ == 1 else f"passes, then correction {round_ - 1}")


def run(path: Path, folder: Path, args: argparse.Namespace) -> None:
    columns = "| part | seconds | CPU s | GB read | GB from the disk | peak GiB |"
    print(f"{args.cells:,} x {D}, {BATCHES} batches, {args.rounds} rounds of {PASSES} passes, {args.max_memory}\n")
    print(columns + "\n" + "|---" * (columns.count("|") - 1) + "|", flush=True)
    limits = {"max_iter_harmony": args.rounds, "max_iter_clustering": PASSES, "tol_harmony": 0.0, "tol_clustering": 0.0}
    how = {"backend": "disk", "max_memory": args.max_memory, "n_threads": args.threads, "scratch": folder}
    log = Log()
    start, began, first = time.perf_counter(), cpu_seconds(), bytes_read()
    with h5py.File(path) as file, h5py.File(folder / "out.h5", "w") as out:
        design = BatchDesign.from_codes(file["codes"][:, 0])
        result = out.create_dataset("Z", file["Z"].shape, np.float32)
        params = harmonax.HarmonyParams(n_clusters=CLUSTERS, **limits)
        log.line("batches")
        found = harmonax.harmonize(file["Z"], design, params, rng=0, out=result, progress=log, **how)
        log.line("passes, then output")
    log.since, log.cpu, log.read = start, began, first
    log.line("all")
    print(f"\nobjective {found.history.rounds[-1]:.6g}, kept of a round: {found.backend.get('cache')}")


if __name__ == "__main__":
    main()
