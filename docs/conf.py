"""The documentation site: `make docs` builds it with warnings as errors into build/docs; nothing is run but imports."""

from __future__ import annotations

import sys
from pathlib import Path

from numpy import nanmean
from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT / "src"))

from harmonax.system.version import __version__  # noqa: E402

project = "harmonax"
author = copyright = "the harmonax developers"
version = release = __version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_made"]
# Annotations are long; the docstrings give kinds and shapes in words.
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autosummary_generate = True
# Without it a page of the class lists each attribute twice, and asks for a page of each.
# "--option" is not a dash.
smartquotes = False
numpydoc_show_class_members = False
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "sphinx_book_theme"
html_title = "harmonax"
templates_path = ["_templates"]
html_static_path = ["_static", "images"]
html_css_files = ["harmonax.css"]
html_context = {"default_mode": "auto"}
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"show_navbar_depth": 1, "home_page_in_toc": False, "use_download_button": False}

# Only CI reaches other sites. Those that refuse programs, and anchors that scripts make, are not asked for.
linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_anchors = False
linkcheck_ignore = [r"https://doi\.org/.*"]

# Pages of the repository that the site has under another name.
MOVED = {
    "../benchmarks/README.md": "benchmarks.md",
    "../r/harmonax/README.md": "r.md",
    "../CHANGELOG.md": "changelog.md",
}
# Pages whose folder they list.
LISTS = ("recipes/README", "tutorials/README")
GALLERY = {
    "kang": "Blood cells of the same donors, resting and stimulated with interferon beta",
    "pancreas": "Pancreas cells, sequenced with three protocols",
    "onek1k": "Blood cells of many donors",
}


def link_within_the_site(app: Sphinx, name: str, source: list[str]) -> None:
    """Let links to pages of the repository lead to the pages of the site that hold them."""
    up = "../" * name.count("/")
    for path, page in MOVED.items():
        source[0] = source[0].replace(f"]({up}{path}", f"]({up}{page}")
    if name in LISTS:
        # Not in the file itself: there it would show as code on other sites.
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n"


def list_the_reports(app: Sphinx) -> None:
    """Write the part of the gallery that depends on which reports `make gallery` has left."""
    reports = Path(app.confdir).parent / "build" / "gallery"
    made = [name for name in GALLERY if (reports / f"{name}.html").is_file()]
    lines = [f'- <a href="reports/{name}.html">{name}</a>: {GALLERY[name]}' for name in made]
    if missing := sorted(set(GALLERY) - set(made)):
        lines.append(f"- not made for this build of the site: {', '.join(missing)} (`make gallery` makes them)")
    page = Path(app.confdir, "_made", "gallery.md")
    page.parent.mkdir(exist_ok=True)
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if made:
        target = Path(app.outdir, "reports")
        target.mkdir(parents=True, exist_ok=True)
        for name in made:
            (target / f"{name}.html").write_bytes((reports / f"{name}.html").read_bytes())


def not_ours(app: Sphinx, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """Leave out what scikit-learn and NumPy put into a class: its documentation refers to pages of theirs."""
    return True if name.endswith("_request") or member is nanmean else None


def setup(app: Sphinx) -> None:
    """Join Sphinx."""
    app.connect("autodoc-skip-member", not_ours)
    app.connect("builder-inited", list_the_reports)
    app.connect("source-read", link_within_the_site)
