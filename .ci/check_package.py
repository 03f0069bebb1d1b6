"""Look into the source archive and the wheel; install the wheel away from the checkout, import it, use it.

usage: check_package.py DIST
"""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

# Modules that ``import harmonax`` may load beyond those of anndata: what it costs, without a clock. The interfaces (pp,
# tl, pl, workflow, report) wait until they are asked for.
MAX_MODULES = 120
REPEATS = 7


def main(dist: Path) -> None:
    """Check what DIST holds."""
    (sdist,), (wheel,) = list(dist.glob("*.tar.gz")), list(dist.glob("*.whl"))
    check_sdist(sdist)
    check_wheel(wheel)
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / ("Scripts" if os.name == "nt" else "bin") / "python"
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, str(wheel.resolve())], check=True)
        check_import(python, folder)
        subprocess.run([str(python), Path(__file__).with_name("smoke.py").resolve()], cwd=folder, check=True)


def check_sdist(path: Path) -> None:
    """Everything a build and its tests need is there."""
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"LICENSE", "README.md", "CMakeLists.txt", "pyproject.toml", "src/harmonax/py.typed", "tests/conftest.py"}
    require(not wanted - names, f"{path.name} lacks {sorted(wanted - names)}")
    unwanted = [n for n in names if n.endswith((".so", ".pyd", ".h5ad", ".pyc"))]
    require(not unwanted, f"{path.name} holds {unwanted}")
    print(f"{path.name}: {len(names)} files, {path.stat().st_size / 1024:.0f} KiB")


def check_wheel(path: Path) -> None:
    """The package, its extension and its licence, no sources; the metadata of a typed, licensed package."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        metadata = next(n for n in names if n.endswith(".dist-info/METADATA"))
        fields = email.message_from_bytes(archive.read(metadata))
    require("harmonax/py.typed" in names, "the wheel has no py.typed")
    require("harmonax/SKILL.md" in names, "the wheel has no SKILL.md")
    require(any("_native" in n and n.endswith((".so", ".pyd")) for n in names), "the wheel has no native module")
    require(any(".dist-info/licenses/" in n for n in names), "the wheel has no licence")
    sources = [n for n in names if n.endswith((".cpp", ".hpp", ".inl", ".a", ".lib"))]
    require(not sources, f"the wheel holds {sources}")
    require(all(n.startswith("harmonax") for n in names), f"the wheel holds more than harmonax: {names}")
    require(fields["License-Expression"] == "BSD-3-Clause", f"licence {fields['License-Expression']}")
    require(fields["Requires-Python"] == ">=3.11", f"Requires-Python {fields['Requires-Python']}")
    print(f"{path.name}: {len(names)} files, {path.stat().st_size / 1024:.0f} KiB")


def check_import(python: Path, folder: str) -> None:
    """Limit what importing loads on top of anndata; report its CPU time, the quickest of several runs."""
    code = (
        "import anndata, sys, time; before = set(sys.modules); start = time.process_time(); import harmonax;"
        "print(time.process_time() - start, *set(sys.modules) - before)"
    )
    runs = [subprocess.check_output([str(python), "-c", code], cwd=folder, text=True).split() for _ in range(REPEATS)]
    seconds, loaded = min(float(run[0]) for run in runs), runs[0][1:]
    print(f"import: {len(loaded)} modules on top of anndata (at most {MAX_MODULES}), {seconds:.3f} s of CPU")
    require(len(loaded) <= MAX_MODULES, f"import harmonax loads too much: {sorted(loaded)}")
    heavy = {"jax", "scanpy", "matplotlib", "torch", "sklearn"} & set(loaded)
    require(not heavy, f"import harmonax loads {heavy}")


def require(condition: bool, message: str) -> None:
    """End with the message unless the condition holds."""
    if not condition:
        sys.exit(message)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
