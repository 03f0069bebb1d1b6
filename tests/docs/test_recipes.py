"""The recipes run from top to bottom, and print what they say they print.

Of a recipe, ``python`` blocks are run in one namespace; a ``text`` block after one holds its output, with ``...`` for
what may differ. ``sh`` blocks are commands of harmonax. ``console`` blocks are for the reader and are not run.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from harmonax import cli

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes"
PAGES = sorted(path for path in RECIPES.glob("*.md") if path.name != "README.md")
KINDS = {"python", "text", "sh", "console", "toml"}
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NEEDED = {"scib_metrics", "scanpy", "igraph", "plotly", "jinja2", "distributed", "jax", "flax", "optax"}


def blocks(text: str) -> Iterator[tuple[str, str, int]]:
    """Give the kind, the text and the first line's number of every fenced block."""
    for found in _BLOCK.finditer(text):
        yield found[1], found[2], text[: found.start(2)].count("\n")


def run_page(path: Path) -> None:
    """Run a page from top to bottom in the present directory, comparing what it prints."""
    namespace: dict[str, object] = {"__name__": "recipe"}
    printed = ""
    for kind, body, line in blocks(path.read_text(encoding="utf-8")):
        assert kind in KINDS, f"{path.name}:{line}: ```{kind} is not one of {', '.join(sorted(KINDS))}"
        if kind == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                # Empty lines before it make tracebacks point into the recipe.
                exec(compile("\n" * line + body, path, "exec"), namespace)
            printed = out.getvalue()
        elif kind == "text":
            options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            same = doctest.OutputChecker().check_output(body, printed, options)
            assert same, f"{path.name}:{line} says\n{body}\nbut what was printed is\n{printed}"
        elif kind == "sh":
            for command in body.replace("\\\n", " ").splitlines():
                program, *arguments = shlex.split(command)
                assert program == "harmonax"
                assert cli.run(arguments) == 0, f"{path.name}: {command}"


@pytest.mark.thorough
# What the libraries that a page calls announce for their next version is theirs to mend.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_recipe_runs(path, tmp_path, monkeypatch):
    for module in _NEEDED:
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    run_page(path)


def test_the_index_names_every_recipe_and_no_other():
    index = (RECIPES / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\]\(([\w-]+\.md)\)", index)) == [path.name for path in PAGES]


@pytest.mark.parametrize("path", [*PAGES, RECIPES / "README.md"], ids=lambda p: p.stem)
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), f"{path.name}: {link}"
