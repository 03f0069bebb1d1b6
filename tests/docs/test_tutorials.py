"""The tutorials run from top to bottom, print what they say they print, and make the figures that they show.

With ``HARMONAX_WRITE_IMAGES=1`` the figures of the run take the place of those in ``docs/images``.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax", reason="pip install 'harmonax[jax]'")
pytest.importorskip("flax", reason="pip install 'harmonax[jax]'")
pytest.importorskip("optax", reason="pip install 'harmonax[jax]'")
pytest.importorskip("sklearn", reason="pip install 'harmonax[workflow]'")

from test_recipes import blocks, run_page

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
PAGES = sorted(path for path in TUTORIALS.glob("*.md") if path.name != "README.md")
_IMAGE = re.compile(r"!\[[^\]]*\]\((\.\./images/([\w-]+\.png))\)")


# Minutes: they compile and train.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_tutorial_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    run_page(path)
    shown = _IMAGE.findall(path.read_text(encoding="utf-8"))
    assert {name for _, name in shown} == {made.name for made in tmp_path.glob("*.png")}
    for link, name in shown:
        if os.environ.get("HARMONAX_WRITE_IMAGES"):
            shutil.copyfile(tmp_path / name, path.parent / link)
        assert (tmp_path / name).stat().st_size > 5_000


def test_the_generator_in_the_page_makes_the_shared_data(data_dir):
    path = data_dir / "tutorial_b.npz"
    if not path.exists():
        pytest.skip(f"no {path.name} in {data_dir}")
    page = (TUTORIALS / "three-corrections.md").read_text(encoding="utf-8")
    source = next(body for kind, body, _ in blocks(page) if kind == "python")
    source = source[source.index("def simulate") :]
    namespace = {"np": np}
    exec(source, namespace)
    stored = np.load(path)
    assert len(namespace["sets"]) == 3
    for variant, arrays in namespace["sets"].items():
        for name, array in zip(("X", "batch", "type"), arrays, strict=True):
            np.testing.assert_allclose(array, stored[f"{variant}_{name}"], rtol=0, atol=1e-6)


def test_the_index_names_every_tutorial_and_no_other():
    index = (TUTORIALS / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\]\(([\w-]+\.md)\)", index)) == [path.name for path in PAGES]


@pytest.mark.parametrize("path", [*PAGES, TUTORIALS / "README.md"], ids=lambda p: p.stem)
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), f"{path.name}: {link}"
