"""Time and memory of harmonax, harmonypy and scanpy on the same data, as one Markdown table.

usage: python benchmarks/speed.py [--quick] [--repeats 3] [--out table.md] [--env NAME=PYTHON ...]
       python benchmarks/speed.py --only "1,000,000 x 50, 10 " --one-thread --passes 20 --peers harmonypy

Every run is a process of its own (_worker.py) with that program's environment, warmed up on a small part of the data.
CPU seconds are those of the call, all threads, seeding included; memory is the peak of resident memory during the call
above the level before it, less the returned array. Programs take turns (A B C A B C ...); times are medians, ratios
medians of the ratios within a turn. The data are those of data.py, made once.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import data
from environments import add_argument, pythons, work

ROUNDS, CLUSTERS = 5, 100
# Bytes a cell, where what does not grow with the cells no longer counts: with what is kept of a round, and without.
MOST_BYTES = {"all": 950, "none": 500}
MILLION = 1_000_000


@dataclass(frozen=True)
class Case:
    """One data set and what is asked for on it."""

    name: str
    n_cells: int
    n_features: int
    n_levels: tuple[int, ...]
    target: float  # times less CPU than harmonypy, at least, at 4 passes a round
    scanpy: bool = False
    calls: int = 1  # in one warm process; their median counts
    quick: bool = False
    defaults: bool = True
    target_of_20: float | None = None  # the same at 20 passes a round, where it is another


CASES = [
    Case("3,500 x 30, 3 batches", 3_500, 30, (3,), 1, scanpy=True, calls=15, quick=True),
    Case("100,000 x 50, 10 batches", 100_000, 50, (10,), 5, scanpy=True, quick=True),
    Case("1,000,000 x 50, 10 batches", MILLION, 50, (10,), 11, scanpy=True, target_of_20=18),
    Case("1,000,000 x 50, 100 batches", MILLION, 50, (100,), 11, defaults=False),
    Case("1,000,000 x 50, 1000 batches", MILLION, 50, (1000,), 3, defaults=False),
    Case("1,000,000 x 50, 100 x 8 batches", MILLION, 50, (100, 8), 3, defaults=False),
]
COLUMNS = "cells", "settings", "threads", "program", "rounds, passes", "CPU s", "wall s", "bytes a cell"
COLUMNS += "CPU against harmonax", "asked for"
HEADER = "| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|"


def turns(python: dict[str, str], jobs: dict[str, dict[str, Any]], repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Run the programs' jobs in turn; return each one's measurements, one per turn. scanpy, slow, runs once."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in jobs}
    for turn in range(repeats):
        for name, job in jobs.items():
            if job["program"] == "scanpy" and turn > 0 and job["calls"] == 1:
                continue
            measured = work(python[job["program"]], [job])[0]
            asked = [job.get("passes")] * ROUNDS
            if job["settings"] == "equal" and measured["passes"] not in (asked, [None] * ROUNDS):
                raise SystemExit(f"{name} made other rounds and passes than asked for: {measured['passes']}")
            found[name].append(measured)
    return found


def rows(case: Case, settings: str, threads: int, found: dict[str, list[dict[str, Any]]]) -> list[str]:
    cpu = {name: [median(m["cpu"]) for m in runs] for name, runs in found.items()}
    first = next(iter(found))
    lines = []
    for name, runs in found.items():
        passes = runs[-1]["passes"]
        # scanpy does not say how many passes it made.
        many = f"{len(passes)}, {'not said' if None in passes else int(sum(passes))}"
        # Only the first call in a process shows its memory: later ones reuse it.
        memory = max(m["bytes_per_cell"][0] for m in runs)
        shown_memory = f"{memory:.0f}" if case.n_cells >= 100_000 else ""  # of few cells it is the interpreter's
        wall = median(median(m["wall"]) for m in runs)
        times = median(theirs / ours for theirs, ours in zip(cpu[name], cpu[first], strict=False))
        ratio = f"{times:.1f} x" if name != first else ""
        asked = ""
        if settings == "equal" and name == "harmonypy":
            target = case.target_of_20 if case.target_of_20 and passes[0] == 20 else case.target
            asked = f"at least {target:g}: {'met' if times >= target else 'MISSED'}"
        if settings == "equal" and name == first and case.n_cells >= MILLION:
            most = MOST_BYTES["all" if runs[-1]["about"].get("cache") == "all" else "none"]
            asked = f"at most {most} bytes: {'met' if memory <= most else 'MISSED'}"
        shown = f"{median(cpu[name]):.3g} | {wall:.3g} | {shown_memory} | {ratio} | {asked}"
        lines.append(f"| {case.name} | {settings} | {threads} | {name} | {many} | {shown} |")
    return lines


def jobs_of(
    case: Case, settings: str, threads: int, passes: int, folder: Path, python: dict[str, str]
) -> dict[str, dict[str, Any]]:
    shared = {"data": str(folder), "threads": threads, "calls": case.calls, "settings": settings}
    programs = ["harmonax", "harmonypy"] + ["scanpy"] * (case.scanpy and threads == 1)
    if settings == "equal":
        shared |= {"rounds": ROUNDS, "passes": passes, "clusters": CLUSTERS}
        return {p: shared | {"program": p} for p in programs if p in python}
    # run_harmony has harmonypy's own defaults, so that the two rows that follow each other do the same.
    own = {"harmonax.run_harmony": shared | {"program": "harmonax", "settings": "run_harmony"}}
    own |= {"harmonax.pp" if p == "harmonax" else p: shared | {"program": p} for p in programs if p in python}
    return own


def machine(versions: dict[str, str], about: dict[str, Any], passes: int) -> str:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    programs = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    place = f"Python {platform.python_version()}; {platform.system()}; {cpu}, kernels for {about['instruction_set']}"
    return f"{programs}; {place}. float32 input; equal: {ROUNDS} rounds of {passes} passes, K = {CLUSTERS}.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the cases below a million cells, once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", help="only cases whose name contains this")
    parser.add_argument("--one-thread", action="store_true", help="only equal work on one thread")
    parser.add_argument("--passes", type=int, default=4, help="in a round, of equal work")
    parser.add_argument("--peers", nargs="*", default=["harmonypy", "scanpy"])
    parser.add_argument("--out", type=Path)
    add_argument(parser)
    args = parser.parse_args()
    python = pythons(args.env, args.peers)
    lines, versions, about = [HEADER], {}, {}
    print(HEADER, flush=True)
    for case in CASES:
        if (args.quick and not case.quick) or (args.only and args.only not in case.name):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            folder = data.write(Path(temporary), case.n_cells, case.n_features, case.n_levels)
            rest = [] if args.one_thread else [("equal", 2)] + [("defaults", 1)] * case.defaults
            for settings, threads in [("equal", 1), *rest]:
                jobs = jobs_of(case, settings, threads, args.passes, folder, python)
                found = turns(python, jobs, 1 if args.quick else args.repeats)
                for job, runs in zip(jobs.values(), found.values(), strict=True):
                    versions[job["program"]] = runs[0]["version"]
                    about |= runs[0].get("about", {})
                lines += rows(case, settings, threads, found)
                print("\n".join(lines[-len(found) :]), flush=True)
    lines.insert(0, machine(versions, about, args.passes))
    print("\n" + lines[0])
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
