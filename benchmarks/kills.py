"""Kill -9 of the commands at random moments, and what is there afterwards: the output whole or absent, the same bits
when run again, and nothing left beside it.

    python benchmarks/kills.py --kills 200 --seed 1
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

# Of numba's ways to use threads, GNU's OpenMP does not outlive a fork.
os.environ["NUMBA_THREADING_LAYER"] = "workqueue"

import h5py
import matplotlib.pyplot  # noqa: F401
import numpy as np
import scanpy  # noqa: F401

import harmonax.files
import harmonax.report
import harmonax.tl
import harmonax.workflow  # noqa: F401
from harmonax import cli

CLUSTERS = "--n-clusters 8 --max-iter-harmony 4 --tol-harmony 0"


# What a killed run keeps in its folder.
STEPS = ".harmonax-work/"


class Case(NamedTuple):
    """A command, its result, and what may stay for a rerun; whatever else it makes comes with the result."""

    command: str
    result: str
    kept: str = ""


CASES = {
    "integrate": Case(f"integrate in.h5ad -o out.h5ad --batch-key batch {CLUSTERS}", "out.h5ad"),
    "integrate zarr": Case(f"integrate in.h5ad -o out.zarr --batch-key batch {CLUSTERS}", "out.zarr"),
    "disk": Case(f"integrate in.h5ad -o out.npy --batch-key batch --backend disk {CLUSTERS}", "out.npy"),
    "checkpoint": Case(
        f"integrate in.h5ad -o out.npy --batch-key batch --checkpoint rounds {CLUSTERS}", "out.npy", "rounds"
    ),
    "map": Case("map in.h5ad -o out.h5ad --model model.h5 --basis X_pca --batch-key batch", "out.h5ad"),
    "report": Case("report corrected.h5ad -o out.html", "out.html"),
    "sweep": Case("sweep in.h5ad -o out.h5ad --batch-key batch --theta 1,2 --sigma 0.1 --n-clusters 8", "out.h5ad"),
    "counts": Case("counts corrected.h5ad -o out.h5ad", "out.h5ad"),
    "run": Case(
        "run counts.h5ad -o out --batch-key batch --n-comps 10 --n-top-genes 200"
        " --skip check,umap,umap_uncorrected,evaluate,diagnose",
        "out",
    ),
}


def prepare(folder: Path) -> None:
    """Make the inputs, of 3,000 cells (300 of the counts)."""
    from harmonax.datasets import simulate
    from harmonax.datasets.preparation import prepare as components

    adata = simulate(3000, rng=0)
    adata[:300].copy().write_h5ad(folder / "counts.h5ad")
    adata.layers["counts"] = adata.X.copy()
    components(adata, n_genes=200, n_components=20)
    adata.write_h5ad(folder / "in.h5ad")
    words = f"integrate in.h5ad -o corrected.h5ad --batch-key batch {CLUSTERS} --save-model model.h5"
    finish(Case(words, "corrected.h5ad"), folder)


def compile_for(case: Case, folder: Path) -> None:
    """Do the command in this very process, whose forks then have what it compiled."""
    before, said = os.getcwd(), io.StringIO()
    os.chdir(folder)
    with contextlib.redirect_stderr(said):
        code = cli.run(case.command.split())
    os.chdir(before)
    if code:
        raise SystemExit(f"{case.command} failed: {said.getvalue()[-800:]}")


def begin(case: Case, folder: Path) -> int:
    """Begin a command in a fork of this process, which has imported all: it is killed at work, not at imports."""
    if number := os.fork():
        return number
    try:
        os.chdir(folder)
        said = os.open(folder.parent / f"{folder.name}.said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os._exit(cli.run(case.command.split()))
    finally:
        os._exit(99)


def wait(number: int, seconds: float = np.inf) -> int | None:
    """Return the exit code of a fork, negative where a signal ended it; None once it has used so much processor time.

    That is counted rather than the clock, which the rest of the machine's work stretches: a kill hits the work itself.
    """
    while True:
        ended, status = os.waitpid(number, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if used(number) >= seconds:
            return None
        time.sleep(0.002)


def used(number: int) -> float:
    """Return the seconds of a processor that a process has used."""
    fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def used_by_ended() -> float:
    """Return the seconds that all forks which have ended had used."""
    facts = resource.getrusage(resource.RUSAGE_CHILDREN)
    return facts.ru_utime + facts.ru_stime


def bits(path: Path) -> object:
    """Return what of an output must be the same: all numbers of a data set, all of other files but times and memory."""
    if path.is_dir():
        files = {str(file.relative_to(path)): file for file in sorted(path.rglob("*")) if file.is_file()}
        return {name: bits(file) for name, file in files.items() if not name.startswith(STEPS)}
    if path.suffix == ".h5ad":
        found = {}
        with h5py.File(path) as file:
            file.visititems(lambda name, item: found.update({name: item[()].tobytes()}) if _told(name, item) else None)
        return found
    if path.suffix == ".npy":
        return np.load(path).tobytes()
    # Records and pages have times in them: whole, they end as they should.
    if path.suffix in (".json", ".html"):
        return path.read_text(encoding="utf-8").rstrip()[-1]
    return None if "zarr.json" in path.name or path.suffix in (".png", ".pdf", ".yml") else path.read_bytes()


def _told(name: str, item: object) -> bool:
    return (
        isinstance(item, h5py.Dataset)
        and item.shape is not None
        and item.dtype.kind in "biuf"
        and not name.startswith("uns/harmonax")
    )


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def whole(case: Case, folder: Path, expected: dict[str, object]) -> bool:
    """Return whether the result is whole, with all that comes with it, or absent: what comes with it is moved first."""
    there = {name: bits(folder / name) for name in expected if (folder / name).exists()}
    if case.result == "out":
        # The files of a run, of which integrated.h5ad comes last.
        there, expected = there.get("out", {}), expected["out"]
    result = "integrated.h5ad" if case.result == "out" else case.result
    return (result not in there or there.keys() == expected.keys()) and all(
        value == expected[name] for name, value in there.items()
    )


def finish(case: Case, folder: Path) -> None:
    if wait(begin(case, folder)):
        raise SystemExit(f"{case.command} failed: {(folder.parent / f'{folder.name}.said').read_text()[-800:]}")


def remove(folder: Path, names: set[str]) -> None:
    for name in names:
        subprocess.run(["rm", "-rf", name], cwd=folder, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    given = parser.parse_args()
    gen = np.random.default_rng(given.seed)
    counted, bad, told = Counter[str](), list[str](), 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "here")
        folder.mkdir()
        prepare(folder)
        inputs, whole_run = listing(folder), {}
        for name in given.cases:
            # What numba compiles for a run takes longer than all else in it: the forks find it compiled.
            compile_for(CASES[name], folder)
            remove(folder, listing(folder) - inputs)
            began = used_by_ended()
            finish(CASES[name], folder)
            made = listing(folder) - inputs - {CASES[name].kept}
            whole_run[name] = used_by_ended() - began, {o: bits(folder / o) for o in made}
            remove(folder, listing(folder) - inputs)
        for number in range(given.kills):
            name = given.cases[number % len(given.cases)]
            case, (seconds, expected) = CASES[name], whole_run[name]
            delay = seconds * gen.uniform(0, 1)
            process = begin(case, folder)
            code = wait(process, delay)
            if code is None:
                # Of writing, most is waiting for the disk.
                time.sleep(gen.uniform(0, 0.03))
                os.kill(process, signal.SIGKILL)
                code = wait(process)
            counted["killed" if code == -signal.SIGKILL else "had ended"] += 1
            left = listing(folder) - inputs
            steps = case.result == "out" and (folder / "out" / STEPS).exists()
            counted["resumed"] += case.kept in left or steps
            counted["absent" if case.result not in left else "whole"] += 1
            counted["left a part"] += any(part.endswith(".part") for part in left)
            if not whole(case, folder, expected):
                bad.append(f"{name} killed after {delay:.2f} s: torn")
            # Of what a run left, the next one takes the steps; it would not write over a whole one.
            remove(folder, set(expected) & left if not steps else set())
            finish(case, folder)
            if any(bits(folder / o) != expected[o] for o in expected):
                bad.append(f"{name} killed after {delay:.2f} s: other bits when run again")
            if more := listing(folder) - inputs - set(expected) - {case.kept}:
                bad.append(f"{name} killed after {delay:.2f} s: left {sorted(more)}")
            for line in bad[told:]:
                print(line, flush=True)
            told = len(bad)
            remove(folder, listing(folder) - inputs)
            if (number + 1) % 20 == 0:
                print(f"{number + 1}: {dict(counted)}, {len(bad)} bad", flush=True)
    print(f"{given.kills} kills of {', '.join(given.cases)}: {dict(counted)}; {len(bad)} bad (seed {given.seed})")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
