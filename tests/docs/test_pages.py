"""The pages of the site outside of recipes and tutorials run as those do, and the API is there to the last name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path

import pytest
from test_recipes import blocks, run_page

import harmonax

DOCS = Path(__file__).resolve().parents[2] / "docs"
RUN = ("faq", "migration")
API = sorted((DOCS / "api").glob("*.md"))
_NEEDED = ("jax", "flax", "optax", "sklearn")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", RUN)
def test_page_runs(name, tmp_path, monkeypatch):
    for module in ("scanpy", "sklearn"):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    # Another test may have asked for it, and it warns the first time only.
    monkeypatch.delitem(sys.modules, "harmonax.columns", raising=False)
    run_page(DOCS / f"{name}.md")


def test_no_other_page_has_code_that_nothing_runs():
    code = {
        path.stem
        for path in DOCS.glob("*.md")
        if any(kind == "python" for kind, _, _ in blocks(path.read_text(encoding="utf-8")))
    }
    assert code == {*RUN, "index"}


def test_the_first_page_runs(tmp_path, monkeypatch):
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    (code,) = [body for kind, body, _ in blocks(text) if kind == "python"]
    adata = harmonax.datasets.simulate(300)
    harmonax.datasets.prepare(adata)
    exec(code, {"adata": adata})
    assert adata.uns["harmonax_diagnosis"]


def listed() -> list[str]:
    """Return every name that the pages of the API list."""
    return [
        name
        for path in API
        for name in re.findall(r"^   (harmonax\.\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]


def resolved(name: str) -> object:
    """Return what a dotted name stands for."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def public() -> dict[str, object]:
    """Return everything that a module of harmonax names in its ``__all__``, but for modules."""
    found: dict[str, object] = {}
    names = ["harmonax", *(module.name for module in pkgutil.walk_packages(harmonax.__path__, "harmonax."))]
    for name in names:
        module = importlib.import_module(name)
        for last in vars(module).get("__all__", ()):
            value = getattr(module, last)
            if not isinstance(value, type(pkgutil)):
                found[f"{name}.{last}"] = value
    return found


def test_every_public_name_is_in_the_api():
    for module in _NEEDED:
        pytest.importorskip(module)
    values = [resolved(name) for name in listed()]
    missing = [name for name, value in public().items() if not any(value is known for known in values)]
    assert not missing
    assert len(public()) > 130


def test_the_api_lists_nothing_twice():
    assert len(listed()) == len(set(listed()))


def test_what_is_in_the_api_says_what_it_is():
    for module in _NEEDED:
        pytest.importorskip(module)
    documented = [name for name in listed() if inspect.isclass(resolved(name)) or inspect.isfunction(resolved(name))]
    silent = [name for name in documented if not (resolved(name).__doc__ or "").strip()]
    assert len(documented) > 100
    assert not silent


def test_every_error_is_in_the_api():
    from harmonax import errors

    own = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert own == {name.rpartition(".")[2] for name in listed() if name.startswith("harmonax.errors.")}


def test_the_commands_come_from_the_program():
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert ".. click:: harmonax.cli:cli\n" in page
    assert ":nested: full" in page
