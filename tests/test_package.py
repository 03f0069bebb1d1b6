"""The package as a whole: its public names, names that moved, and what importing it loads.

Who may import whom is held by import-linter (pyproject.toml), which `make lint` runs.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import harmonax
from harmonax.compat.moved import MOVED

PACKAGE = Path(harmonax.__file__).parent
PROJECT = Path(__file__).resolve().parents[1]
MODULES = sorted(PACKAGE.rglob("*.py"))

MAX_LINES = 300


def test_public_names_are_these_and_exist():
    assert sorted(harmonax.__all__) == [
        "Harmony",
        "HarmonyModel",
        "HarmonyParams",
        "HarmonyResult",
        "Status",
        "__version__",
        "datasets",
        "harmonize",
        "harmony1",
        "harmony2",
        "pl",
        "pp",
        "report",
        "run_harmony",
        "tl",
        "workflow",
    ]
    assert all(hasattr(harmonax, name) for name in harmonax.__all__)


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_a_moved_module_is_found_under_its_old_name(old, new, monkeypatch):
    module = importlib.import_module(f"harmonax.{new}")
    monkeypatch.delitem(sys.modules, f"harmonax.{old}", raising=False)
    with pytest.warns(DeprecationWarning, match=f"harmonax.{old} is now harmonax.{new}"):
        assert importlib.import_module(f"harmonax.{old}") is module
    assert module.__spec__.name == f"harmonax.{new}"


def test_no_moved_module_takes_the_name_of_a_function():
    for old in MOVED:
        folder, _, name = f"harmonax.{old}".rpartition(".")
        found = getattr(importlib.import_module(folder), name, None) if folder != "harmonax" else None
        assert found is None or isinstance(found, types.ModuleType), old


def test_the_version_is_that_of_the_project_file():
    import tomllib

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert harmonax.__version__ == project["version"]
    assert f"version: {harmonax.__version__}" in (PROJECT / "CITATION.cff").read_text(encoding="utf-8")


def test_importing_loads_nothing_heavy_beyond_anndata():
    code = (
        "import sys, anndata; before = set(sys.modules); import harmonax;"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "harmonax" in loaded
    heavy = {"jax", "jaxlib", "flax", "scanpy", "matplotlib", "torch", "sklearn", "dask", "click", "plotly", "numba"}
    assert not heavy & set(loaded)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_module_is_short_enough_to_read(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_no_path_of_anyones_machine_is_in_the_project():
    pattern = re.compile(r"/(work|tmp|home|Users|root)/[a-z]|files\.python|registry\.npm|deb\.debian")
    kinds = {".py", ".cpp", ".hpp", ".inl", ".md", ".toml", ".cff", ".yaml", ".yml", ".txt", ".json", ""}
    kinds |= {".c", ".R", ".Rmd", ".Rd"}
    roots = [PROJECT / name for name in ("src", "tests", "benchmarks", "docs", "packaging", "r", ".ci", ".github")]
    files = [p for root in roots for p in root.rglob("*")] + list(PROJECT.iterdir())
    found = [
        f"{path.relative_to(PROJECT)}:{number}: {line.strip()}"
        for path in files
        if path.is_file() and path.suffix in kinds and not {"__pycache__", ".envs"} & set(path.parts)
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)
