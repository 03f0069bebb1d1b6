"""What a notebook shows of a verdict, a check, a diagnosis and a result, and what printing them does."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

import harmonax as hx
from harmonax.datasets import prepare, simulate
from harmonax.evaluation.findings import Finding, Level
from harmonax.evaluation.verdict import Overall

HOSTILE = "<script>alert('x')</script> & \"quoted\""


def text_of(html: str) -> str:
    """Return the text of well-formed HTML."""
    return "".join(ET.fromstring(html.replace("<br>", "<br/>")).itertext())


def test_names_of_the_data_are_text_not_html():
    finding = Finding("batches_apart", Level.WARNING, f"Batch {HOSTILE} lies apart.", f"Look at {HOSTILE}.")
    html = Overall("caution", HOSTILE, HOSTILE, [finding])._repr_html_()
    assert "<script" not in html
    assert text_of(html).count("<script>") == 4


def test_a_finding_without_advice_has_no_line_of_it():
    with_advice, without = (
        Overall("trust", "a", "b", [Finding("c", Level.GOOD, "d", advice)])._repr_html_() for advice in ("e", "")
    )
    assert "<br>" in with_advice
    assert "<br>" not in without


@pytest.mark.thorough
def test_what_the_tools_return_shows_its_verdict():
    adata = simulate(300, np.random.default_rng(0))
    prepare(adata)
    hostile = adata.obs["batch"].cat.categories[0]
    adata.obs["batch"] = adata.obs["batch"].cat.rename_categories({hostile: HOSTILE})
    hx.pp.harmony_integrate(adata, "batch", max_iter_harmony=50, rng=0)
    found = [
        hx.tl.check(adata, "batch", label_key="cell_type"),
        hx.tl.diagnose(adata, label_key="cell_type"),
        hx.tl.verdict(adata, "batch", label_key="cell_type"),
    ]
    for each in found:
        html = each._repr_html_()
        assert "<script" not in html
        shown = text_of(html)
        assert each.summary in shown
        assert all(finding.message[1:] in shown for finding in each.findings)
        # Lines are broken, also at hyphens.
        printed = "".join(str(each).split())
        assert all("".join(said[1:].split()) in printed for said in (each.summary, *(f.message for f in each.findings)))
    result = hx.harmonize(adata.obsm["X_pca"], adata.obs["batch"], rng=0, progress=False)
    result.notes.append(HOSTILE)
    html = result._repr_html_()
    assert "<script" not in html
    assert result.summary() in text_of(html)
    assert HOSTILE in text_of(html)
