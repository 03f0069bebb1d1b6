"""Documents and sections that code, pages and configuration cite exist."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
ALGORITHM = "docs/algorithm.md"
ROOTS = ("src", "tests", "benchmarks", "docs", "packaging", "r", ".ci", ".github")
PROSE = {".md", ".toml", ".yml", ".yaml", ".cff", ".txt", ".Rmd", ""}
COMMENTED = {".cpp": "//", ".hpp": "//", ".inl": "//", ".R": "#"}
# Files that commands in the pages write, and files outside the project.
WRITTEN = {"table.md", "script.py"}

_URL = re.compile(r"https?://\S+")
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_PATH = re.compile(
    r"(?<![\w/.*{<}$-])((?:\.\.?/)*(?:[\w.-]+/)*[\w-]+\.(?:md|py|cpp|hpp|inl)|(?:[\w.-]+/)+[\w-]+\.R)\b(?!\()"
)
_SECTION = re.compile(re.escape(ALGORITHM) + r'`?,[\s/#]+"([^"]+)"')
_LINK = re.compile(r"\]\(([^)\s:]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def project_files() -> list[Path]:
    found = [path for root in ROOTS for path in (PROJECT / root).rglob("*") if path.is_file()]
    found += [path for path in PROJECT.iterdir() if path.is_file()]
    return [path for path in found if not {"__pycache__", ".envs"} & set(path.parts)]


FILES = project_files()
NAMES = [f"/{path.relative_to(PROJECT).as_posix()}" for path in FILES]
READ = [path for path in FILES if path.suffix in PROSE | set(COMMENTED) | {".py"} and path.name != ".git"]


def prose(path: Path, text: str) -> str:
    """Return what a file says to its readers: comments and docstrings of code, pages without their code blocks."""
    if path.suffix == ".py":
        tree = ast.parse(text)
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docstrings = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        return "\n".join([*docstrings, *(token.string for token in tokens if token.type == tokenize.COMMENT)])
    if mark := COMMENTED.get(path.suffix):
        return "\n".join(line[line.index(mark) :] for line in text.splitlines() if mark in line)
    return _FENCED.sub("", text) if path.suffix in {".md", ".Rmd"} else text


def problems(path: Path, text: str) -> Iterator[str]:
    """Give every citation in this text, of the file `path`, that leads nowhere."""
    said = _URL.sub("", prose(path, text))
    for cited in dict.fromkeys(_PATH.findall(said)):
        if not exists(path, cited):
            yield f"there is no {cited}"
    headings = set(_HEADING.findall((PROJECT / ALGORITHM).read_text(encoding="utf-8")))
    for title in _SECTION.findall(said):
        if title not in headings:
            yield f'{ALGORITHM} has no section "{title}"'
    for link in _LINK.findall(said) if path.suffix == ".md" else ():
        target, _, anchor = link.partition("#")
        page = path.parent / target if target else path
        if not page.exists():
            yield f"there is no {link}"
        elif anchor and anchor not in anchors(page.read_text(encoding="utf-8")):
            yield f"{target or path.name} has no section #{anchor}"


def exists(path: Path, cited: str) -> bool:
    """Return whether a cited file is there: beside the citing one, or under the end of its path in the project."""
    if cited in WRITTEN or (path.parent / cited).exists() or cited.startswith("../shared/"):
        return True
    if path.name == "__init__.py" and "/" not in cited:
        # A folder's list of its files.
        return any(path.parent.rglob(cited))
    return any(name.endswith(f"/{cited.removeprefix('./')}") for name in NAMES)


def anchors(page: str) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(page)}


def test_everything_cited_exists():
    found = [
        f"{path.relative_to(PROJECT)}: {problem}"
        for path in READ
        for problem in problems(path, path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("src/harmonax/errors.py", '"""See docs/missing.md."""', "there is no docs/missing.md"),
        ("src/harmonax/errors.py", "x = 1  # cells/missing.py has it", "there is no cells/missing.py"),
        ("src/harmonax/io/__init__.py", '"""\n    dense.py   of another folder\n"""', "there is no dense.py"),
        ("src/harmonax/kernels/tile.inl", "// as in cells/missing.py", "there is no cells/missing.py"),
        ("src/harmonax/errors.py", f'"""See {ALGORITHM}, "Nothing"."""', f'{ALGORITHM} has no section "Nothing"'),
        ("tests/a.cpp", f'// {ALGORITHM},\n// "Nothing"', f'{ALGORITHM} has no section "Nothing"'),
        ("docs/algorithm.md", "[speed](missing.md)", "there is no missing.md"),
        ("README.md", "[speed](docs/algorithm.md#nothing)", "docs/algorithm.md has no section #nothing"),
        ("r/harmonax/R/plot.R", "# R/missing.R draws it", "there is no R/missing.R"),
        ("pyproject.toml", 'readme = "MISSING.md"', "there is no MISSING.md"),
    ],
)
def test_a_citation_that_leads_nowhere_is_found(name, text, problem):
    assert problem in list(problems(PROJECT / name, text))


@pytest.mark.parametrize(
    "text",
    [
        '"""The loop is in `algorithm/harmony.py`."""',
        f'"""The ridge ({ALGORITHM}, "Ridge correction of cluster k")."""',
        'x = "docs/missing.md"  # a value, not a citation',
        '"""Read https://example.org/docs/missing.md."""',
    ],
)
def test_a_citation_that_leads_somewhere_is_not_a_problem(text):
    assert not list(problems(PROJECT / "src/harmonax/errors.py", text))


def test_every_package_that_is_installed_has_its_licence_listed():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    names = {re.split(r"[\s<>=!\[;]", requirement)[0] for requirement in asked}
    page = (PROJECT / "docs/licences.md").read_text(encoding="utf-8")
    assert not {name for name in names - {"harmonax"} if not re.search(rf"\b{re.escape(name)}\b", page)}


def test_no_merge_is_left_half_done():
    # Two of the three marks that git leaves: the third underlines headings in other files.
    marks = tuple(sign * 7 + " " for sign in "<>")
    found = [name for path, name in zip(FILES, NAMES, strict=True) if path in READ and marked(path, marks)]
    assert not found


def marked(path: Path, marks: tuple[str, ...]) -> bool:
    return any(line.startswith(marks) for line in path.read_text(encoding="utf-8").splitlines())
