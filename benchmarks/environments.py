"""The peers' environments: one each, under benchmarks/.envs, from the package index; ready ones can be named instead.

usage: python benchmarks/environments.py [--env NAME=PATH_TO_PYTHON ...]      (makes what is missing, prints the paths)
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / ".envs"
# Name: Python that it needs (None: this one), what to install.
PEERS = {
    "harmonypy": (None, ["harmonypy==2.1.0", "pandas"]),
    # Its own implementation came with the 1.13 pre-releases.
    "scanpy": ("python3.12", ["--pre", "scanpy>=1.13.0a1"]),
    "scib-metrics": (None, ["scib-metrics", "anndata"]),
    # It needs the harmonypy of its time.
    "symphonypy": (None, ["symphonypy==0.2.4", "harmonypy<0.1", "scanpy"]),
}


def add_argument(parser: argparse.ArgumentParser) -> None:
    help_ = f"use this Python for a peer ({', '.join(PEERS)}) instead of making an environment"
    parser.add_argument("--env", action="append", default=[], metavar="NAME=PYTHON", help=help_)


def pythons(named: list[str], wanted: list[str]) -> dict[str, str]:
    """Return each wanted program's Python; a peer that cannot be had is left out with a word why."""
    given = dict(item.split("=", 1) for item in named)
    if unknown := set(given) - {*PEERS, "harmonax"}:
        raise SystemExit(f"--env: unknown {', '.join(sorted(unknown))}; allowed are {', '.join(PEERS)}, harmonax")
    found = {"harmonax": given.get("harmonax", sys.executable)}
    for name in wanted:
        try:
            found[name] = given[name] if name in given else _environment(name)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{name}: left out ({error})", file=sys.stderr)
    return found


def work(python: str, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run jobs in one process of that Python (see _worker.py); return what each measured."""
    command = [python, str(Path(__file__).with_name("_worker.py")), json.dumps(jobs)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"a run of {jobs[0]['program']} failed with exit status {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _environment(name: str) -> str:
    needs, packages = PEERS[name]
    base = shutil.which(needs) if needs else sys.executable
    if needs and sys.version_info[:2] >= tuple(int(v) for v in needs.removeprefix("python").split(".")):
        base = sys.executable
    # A version manager may put a name on the path behind which there is nothing.
    if base is None or subprocess.run([base, "-c", ""], capture_output=True, check=False).returncode:
        raise OSError(f"needs {needs}, which does not run here; or name one that has {name}: --env {name}=PYTHON")
    folder = FOLDER / name
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    done = folder / "installed.txt"
    if not done.exists() or done.read_text() != " ".join(packages):
        print(f"{name}: installing {' '.join(packages)}", file=sys.stderr)
        subprocess.run([base, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        done.write_text(" ".join(packages))
    return str(python)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_argument(parser)
    for name, python in pythons(parser.parse_args().env, list(PEERS)).items():
        print(name, python)
