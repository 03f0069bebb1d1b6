"""What works where igraph, which is GPL, is not installed: everything but clusters."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from pathlib import Path

import pytest

from harmonax.errors import HarmonaxWarning, MissingExtraError

for name in ("scanpy", "sklearn", "umap", "scib_metrics"):
    pytest.importorskip(name, reason="needs harmonax[workflow-permissive]")

from harmonax.datasets import simulate  # noqa: E402
from harmonax.demo import run_demo  # noqa: E402
from harmonax.tl import evaluate  # noqa: E402
from harmonax.workflow import run  # noqa: E402

QUICK = {"n_comps": 8, "n_top_genes": 200}


@pytest.fixture
def without_igraph(monkeypatch):
    """Have igraph, and what is GPL beside it, be missing to whoever asks."""
    gone = ("igraph", "leidenalg")
    found = importlib.util.find_spec
    for module in [name for name in sys.modules if name.split(".")[0] in gone]:
        monkeypatch.delitem(sys.modules, module)
    for module in gone:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name.split(".")[0] in gone else found(name, *rest)
    )
    for module in ("demo", "workflow.execute", "evaluation.scores.further"):
        monkeypatch.setattr(sys.modules[f"harmonax.{module}"], "find_spec", importlib.util.find_spec)


@pytest.fixture(scope="module")
def counts():
    return simulate(400, rng=0)


@pytest.mark.usefixtures("without_igraph")
def test_a_run_says_what_is_missing_before_any_work(counts):
    with pytest.raises(MissingExtraError, match=r"GPL.*pip install igraph.*skip='leiden' \(--skip leiden\)"):
        run(counts.copy(), "batch", **QUICK)


@pytest.mark.thorough
@pytest.mark.usefixtures("without_igraph")
def test_a_run_without_clusters(counts):
    with pytest.warns(HarmonaxWarning, match="igraph"):
        got = run(counts.copy(), "batch", label_key="cell_type", skip="leiden", **QUICK)
    assert not [name for name in got.obs if name.startswith("leiden")]
    steps = got.uns["harmonax_workflow"]["steps"].set_index("step")
    assert steps.loc["markers", "note"] == "there are no clusters without the step leiden"
    assert set(steps.index[steps["status"] == "skipped"]) == {"leiden", "markers"}


@pytest.mark.usefixtures("without_igraph")
def test_scores_without_clusters_are_the_same_but_for_one(counts):
    adata = run(counts.copy(), "batch", skip=("leiden", "evaluate", "diagnose", "umap", "umap_uncorrected"), **QUICK)
    with pytest.warns(HarmonaxWarning, match=r"isolated labels \(F1\) is left out: igraph"):
        found = evaluate(adata, "batch", label_key="cell_type", rng=0).table()
    there = set(found.index.get_level_values("metric"))
    assert "isolated labels (ASW)" in there
    assert "isolated labels (F1)" not in there
    assert found.notna().all(axis=None)


@pytest.mark.usefixtures("without_igraph")
def test_the_demo(tmp_path):
    demo = run_demo(tmp_path, n_cells=600, quiet=True)
    assert demo.report.stat().st_size > 10_000


def test_one_extra_lacks_igraph_and_nothing_else():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    assert extras["workflow"] == ["harmonax[workflow-permissive]", "igraph>=0.11"]
    assert "igraph" not in " ".join(extras["workflow-permissive"])
