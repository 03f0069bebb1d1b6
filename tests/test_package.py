"""The package as a whole: its public names, what importing it loads, and who may import whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import harmonax

PACKAGE = Path(harmonax.__file__).parent
PROJECT = Path(__file__).resolve().parents[1]
MODULES = sorted(PACKAGE.rglob("*.py"))

# What is not named here is front.
VALUES = {
    *("errors", "version", "params", "design", "schedule", "result", "randomness", "progress", "threads", "extras"),
    *("embedding", "memory"),
}
# What a layer may import of the package. The evaluation knows embeddings and labels, not Harmony.
MAY_IMPORT = {
    "values": {"values"},
    "algorithm": {"values", "algorithm"},
    "cells": {"values", "algorithm", "cells"},
    "columns": {"values"},
    "evaluation": {"values", "columns", "evaluation"},
    "front": {"values", "algorithm", "cells", "columns", "evaluation", "front"},
}
# What a layer may load from elsewhere, beside the standard library; the others are free.
THIRD_PARTY = {"values": {"numpy"}, "algorithm": {"numpy", "scipy"}, "cells": {"numpy"}}
MOST_LINES = 300


def layer(parts: tuple[str, ...]) -> str:
    """Return the layer of a module given by its path below the package."""
    top = parts[0]
    if top in VALUES:
        return "values"
    return "cells" if top == "kernels" else top if top in MAY_IMPORT else "front"


def imported(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Give ("", path below the package) for the package's own modules that a file imports, (name, ()) for others."""
    package = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [(node.module or "").split(".")]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else [])]
            # "from . import x" names a module; "from .x import y" names y inside one.
            names = [["harmonax", *base, *([] if node.module else [alias.name])] for alias in node.names]
        else:
            continue
        for name in names:
            yield ("", tuple(name[1:])) if name[0] == "harmonax" else (name[0], ())


def test_public_names_are_these_and_exist():
    assert sorted(harmonax.__all__) == [
        "Harmony",
        "HarmonyModel",
        "HarmonyParams",
        "HarmonyResult",
        "Status",
        "__version__",
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
class TestModule:
    def test_imports_point_one_way(self, path):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        own = layer(parts)
        for outside, inside in imported(path):
            if outside:
                allowed = THIRD_PARTY.get(own)
                if parts[0] == "cells" and parts[-1].startswith("jax"):
                    allowed = {"numpy", "jax"}
                assert allowed is None or outside in allowed | set(sys.stdlib_module_names), (
                    f"{own} imports {outside}: {own} may load {', '.join(sorted(allowed))} only"
                )
            elif inside and parts != ("__init__",):
                theirs = layer(inside)
                assert theirs in MAY_IMPORT[own], f"{own} imports {'.'.join(inside)}, which is {theirs}"

    def test_is_short_enough_to_read(self, path):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_no_path_of_anyones_machine_is_in_the_project():
    pattern = re.compile(r"/(work|tmp|home|Users|root)/[a-z]|files\.python|registry\.npm|deb\.debian")
    kinds = {".py", ".cpp", ".hpp", ".inl", ".md", ".toml", ".cff", ".yaml", ".yml", ".txt", ".json", ""}
    kinds |= {".c", ".R", ".Rmd", ".Rd"}
    roots = [PROJECT / name for name in ("src", "tests", "benchmarks", "docs", "r", ".ci", ".github")]
    files = [p for root in roots for p in root.rglob("*")] + list(PROJECT.iterdir())
    found = [
        f"{path.relative_to(PROJECT)}:{number}: {line.strip()}"
        for path in files
        if path.is_file() and path.suffix in kinds and not {"__pycache__", ".envs"} & set(path.parts)
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)
