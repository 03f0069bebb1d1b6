"""Time to a first result for a newcomer: each package form installed into an empty environment, then `harmonax demo`.

usage: python benchmarks/first_result.py [wheel] [sdist] [checkout] [r]

wheel and sdist are those in dist/ (`make package` makes them); checkout is `make demo` of a clean clone; r builds the R
package, installs it into an empty library beside the wheel, and corrects a matrix. pip downloads from an empty cache.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = "| form | install, s | first result, s | both, CPU s | environment, MiB |\n|---|---|---|---|---|"
R = "library(harmonax); set.seed(1); Z <- matrix(rnorm(20000), 1000); batch <- rep(c('a', 'b'), 500); "
R += "stopifnot(identical(dim(RunHarmony(Z, batch, verbose = FALSE)), dim(Z)))"


def main() -> None:
    print(HEADER, flush=True)
    for form in sys.argv[1:] or ["wheel", "sdist", "checkout", "r"]:
        with tempfile.TemporaryDirectory() as folder:
            print(measure(form, Path(folder)), flush=True)


def measure(form: str, folder: Path) -> str:
    """Install one form and run it once; return the row of the table."""
    steps = {"wheel": python_package, "sdist": python_package, "checkout": checkout, "r": r_package}[form](form, folder)
    begun, seconds = cpu(), []
    for commands in steps:
        start = time.perf_counter()
        for command, where, environment in commands:
            subprocess.run(command, cwd=where, env=os.environ | environment, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return f"| {form} | {seconds[0]:.0f} | {seconds[1]:.0f} | {cpu() - begun:.0f} | {size / 2**20:.0f} |"


def python_package(form: str, folder: Path) -> list[list[tuple[list[str], Path, dict[str, str]]]]:
    (archive,) = (ROOT / "dist").glob("*cp311-cp311-*.whl" if form == "wheel" else "*.tar.gz")
    return [in_environment(f"{archive}[demo]", folder), [([str(folder / "env/bin/harmonax"), "demo"], folder, {})]]


def checkout(form: str, folder: Path) -> list[list[tuple[list[str], Path, dict[str, str]]]]:
    clone = ["git", "clone", "--quiet", str(ROOT), "clone"]
    none = {"PIP_NO_CACHE_DIR": "1", "BROWSER": "true"}
    return [[(clone, folder, {})], [(["make", "demo"], folder / "clone", none)]]


def r_package(form: str, folder: Path) -> list[list[tuple[list[str], Path, dict[str, str]]]]:
    (wheel,) = (ROOT / "dist").glob("*cp311-cp311-*.whl")
    (folder / "library").mkdir()
    there = {"R_LIBS": str(folder / "library"), "RETICULATE_PYTHON": str(folder / "env/bin/python")}
    install = ["R", "CMD", "INSTALL", f"--library={folder / 'library'}", str(ROOT / "r/harmonax")]
    return [[*in_environment(str(wheel), folder), (install, folder, there)], [(["Rscript", "-e", R], folder, there)]]


def in_environment(what: str, folder: Path) -> list[tuple[list[str], Path, dict[str, str]]]:
    python = str(folder / "env/bin/python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-cache-dir", what]
    return [([sys.executable, "-m", "venv", "env"], folder, {}), (pip, folder, {})]


def cpu() -> float:
    """Return the CPU seconds of all children so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
