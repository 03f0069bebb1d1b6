"""One name, one number: whatever a page says twice, it says alike."""

from __future__ import annotations

import re
from collections import defaultdict
from html import unescape

import anndata
import numpy as np
import pandas as pd
import pytest

import harmonax as hx
from harmonax.report import write_report

pytestmark = pytest.mark.thorough


for name in ("scib_metrics", "sklearn", "jinja2"):
    pytest.importorskip(name, reason="needs harmonax[workflow]")


@pytest.fixture(scope="module")
def cells() -> anndata.AnnData:
    """Three batches of unequal sizes, which hold unequal shares of three types, corrected with a loss."""
    gen = np.random.default_rng(0)
    batch = gen.choice(3, 700, p=[0.2, 0.3, 0.5])
    kind = np.where(gen.random(700) < 0.5, batch, gen.integers(0, 3, 700))
    Z = gen.normal(size=(700, 8)) + 6 * np.eye(8)[kind] + 2 * np.eye(8)[5 + batch]
    Z[(kind == 0) & (batch == 1)] += 1
    obs = pd.DataFrame({"batch": np.array(list("abc"))[batch], "cell_type": np.array(["T", "B", "M"])[kind]})
    obs.index = [f"c{i}" for i in range(700)]
    return anndata.AnnData(np.ones((700, 3), np.float32), obs=obs, obsm={"X_pca": Z.astype(np.float32)})


@pytest.fixture(scope="module")
def judged(cells) -> anndata.AnnData:
    hx.tl.sweep(cells, "batch", theta=(0.5, 8), sigma=0.1, label_key="cell_type")
    # The smallest batch loses the most: a mean over batches is not one over cells.
    own = (cells.obs["batch"] == "a").to_numpy()
    cells.obsm["X_pca_harmony"][own] += np.random.default_rng(1).normal(size=(own.sum(), 8))
    hx.tl.evaluate(cells, "batch", label_key="cell_type")
    hx.tl.verdict(cells, label_key="cell_type")
    return cells


def text(markup: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def rows(table: str) -> list[list[str]]:
    """Return the cells of a table as text: of a bar its number, and no explanation."""
    table = re.sub(r"<small.*?</small>", "", table, flags=re.S)
    return [
        [text(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)]
        for row in re.findall(r"<tr>(.*?)</tr>", table, re.S)
    ]


def numbers(page: str) -> dict[str, set[str]]:
    """Return every name that the page has, of a card, a fact, a metric, a run or a group, and what it says of it."""
    found: dict[str, set[str]] = defaultdict(set)
    for title, value in re.findall(r'card-title">(.*?)</p>\s*<p class="card-value">(.*?)</p>', page, re.S):
        found[text(title)].add(text(value))
    for title, value in re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", page, re.S):
        found[text(title)].add(text(value))
    for table in re.findall(r"<table.*?</table>", page, re.S):
        head, *body = rows(table)
        for name, *values in body:
            for column, value in zip(head[1:], values, strict=True):
                # A row of a metric names what is measured; that of a run, a group or a batch, whose number it is.
                found[f"{name} | {column}"].add(value)
    return found


def test_what_is_named_twice_has_one_number(judged, tmp_path):
    page = write_report(judged, tmp_path / "page.html").read_text()
    page = re.sub(r"<(script|style|svg).*?</\1>", "", page, flags=re.S)
    found = numbers(page)
    assert len(found) > 60
    assert {name: said for name, said in found.items() if len(said) > 1} == {}
    # The sweep looks at other neighbourhoods, and has other names for what it sees.
    metrics = {name.split(" | ")[0] for name in found if name.endswith("| X_pca_harmony")}
    sweep = rows(re.search(r'<section id="sweep".*?</section>', page, re.S)[0])[0]
    assert {"Mixing of 15 neighbours", "Kept of 50 neighbours"} <= set(sweep)
    assert not {name.casefold() for name in metrics} & {name.casefold() for name in sweep}

    def said(name: str) -> str:
        (value,) = found[name]
        return value

    kept = judged.uns["harmonax_diagnosis"]["numbers"]["neighbours_kept"]
    assert kept < 0.97
    assert kept != pytest.approx(judged.uns["harmonax_diagnosis"]["batches"]["neighbours_kept"].mean(), abs=0.02)
    assert said("Was the structure preserved?") == said("Same-batch neighbours kept") == f"{kept:.0%}"
    assert said("same-batch neighbours kept | X_pca_harmony") == f"{kept:.2f}"
    beyond = said("Same-batch neighbours beyond chance")
    assert beyond == said("Are the batches mixed?")
    assert f"same-batch neighbours beyond chance were {beyond.split()[0]} among cells of one type" in text(page)
    explained = [float(value.rstrip("%")) / 100 for value in said("Variance that batches explain").split(" → ")]
    for share, name in zip(explained, ("X_pca", "X_pca_harmony"), strict=True):
        assert float(said(f"variance not explained by batch | {name}")) == pytest.approx(1 - share, abs=0.006)
    assert said("iLISI | X_pca_harmony") == said("iLISI, label-free | X_pca_harmony")


@pytest.mark.parametrize("most", [300, 100_000], ids=["sample", "all"])
def test_the_same_cells_are_asked_everywhere(judged, most):
    scores = hx.tl.evaluate(judged, "batch", label_key="cell_type", max_cells=most, rng=3, key_added="again").scores
    found = hx.tl.diagnose(judged, label_key="cell_type", max_cells=most, rng=3, null=False, key_added="diagnosed")
    check = hx.tl.check(judged, "batch", label_key="cell_type", max_cells=most, rng=3, key_added="checked")
    of = scores.set_index(["embedding", "metric", "kind"])["value"]
    assert of["X_pca_harmony", "own-batch neighbors kept", "label-free"] == pytest.approx(
        found.numbers["neighbours_kept"], abs=1e-12
    )
    assert check.mixing["within_types"].iloc[0] == pytest.approx(found.numbers["excess_before"], abs=1e-12)
    assert check.mixing["explained"].iloc[0] == pytest.approx(found.numbers["explained_before"], abs=1e-6)
    if most > judged.n_obs:
        assert of["X_pca_harmony", "iLISI", "batch"] == of["X_pca_harmony", "iLISI", "label-free"]
        assert found.kept.mean() == pytest.approx(found.numbers["neighbours_kept"])


def test_several_batch_columns_have_one_definition(judged, tmp_path):
    adata = judged.copy()
    lane = np.random.default_rng(2).integers(0, 2, adata.n_obs)
    adata.obs["lane"] = np.array(["x", "y"])[lane]
    adata.obsm["X_pca"] = adata.obsm["X_pca"] + np.float32(0.5) * lane[:, None] * np.eye(8, dtype=np.float32)[0]
    keys = ["lane", "batch"]
    hx.pp.harmony_integrate(adata, keys, rng=0)
    hx.tl.check(adata, keys, label_key="cell_type")
    scores = hx.tl.evaluate(adata, keys, label_key="cell_type").scores
    found = hx.tl.diagnose(adata, label_key="cell_type", null=False)
    of = scores.set_index(["embedding", "metric", "kind", "batch_key"])["value"].xs("label-free", level="kind")
    kept = found.numbers["neighbours_kept"]
    assert kept < 1
    assert [of["X_pca_harmony", "own-batch neighbors kept", key] for key in keys] == pytest.approx([kept, kept])
    # Batches lie further apart than lanes.
    for when, name in (("before", "X_pca"), ("after", "X_pca_harmony")):
        explained = found.numbers[f"explained_{when}"]
        assert of[name, "variance not explained by batch", "batch"] == pytest.approx(1 - explained, abs=1e-6)
    rows = found.mixing.set_index("batch_key")
    assert rows["before"].idxmax() == "batch"
    assert found.numbers["excess_after"] == rows["after"]["batch"]
    mixing = hx.tl.check(adata, keys, label_key="cell_type").mixing.set_index("batch_key")
    assert mixing["explained"]["batch"] == pytest.approx(found.numbers["explained_before"], abs=1e-6)
    page = text(write_report(adata, tmp_path / "page.html").read_text())
    assert page.count("Of “batch”, whose batches lay furthest apart.") == 3
