"""What quality control left out is part of the verdict; so are the labels' own scores."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from harmonax.evaluation.before.quality_control import CELLS, TYPES, losses
from harmonax.evaluation.findings import to_table
from harmonax.evaluation.verdict import overall

CHECKED = pd.DataFrame({"code": [], "level": [], "message": [], "advice": []}, dtype=object)


def cells(*rows) -> pd.DataFrame:
    return pd.DataFrame([("batch", *row) for row in rows], columns=CELLS)


def types(*rows) -> pd.DataFrame:
    return pd.DataFrame([("batch", *row) for row in rows], columns=TYPES)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (cells(("a", 100, 85), ("b", 100, 99)), ""),
        (cells(("a", 100, 80), ("b", 900, 900)), "2% of the cells; by batch: 20% of 'a'"),
        (cells(("a", 100, 50), ("b", 100, 50)), "50% of the cells; by batch: 50% of 'a', 50% of 'b'"),
        (cells(("a", 0, 0), ("b", 100, 100)), ""),
        (None, ""),
        ("a table that a file has lost", ""),
    ],
)
def test_cells_that_a_batch_lost(table, said):
    found = losses(table)
    assert [finding.code for finding in found] == ["cells_lost"] * bool(said)
    assert said in "".join(finding.message for finding in found)


def test_types_that_are_gone_from_a_batch():
    table = types(
        ("a", "T", 50, 0),
        ("b", "T", 50, 50),
        ("a", "B", 40, 15),
        ("a", "rare", 9, 0),
        ("b", "", 90, 0),
        ("b", "B", 40, 30),
    )
    gone, lost = losses(None, table)
    assert (gone.code, lost.code) == ("types_gone", "types_lost")
    assert "T in a (50 of 50)." in gone.message
    assert "B in a (25 of 40)." in lost.message


def test_no_verdict_of_trust_after_such_losses():
    fine = {"verdict": "fine", "summary": "", "findings": CHECKED, "basis": "X_pca", "adjusted_basis": "X"}
    assert overall({"harmonax_diagnosis": fine}).code == "trust"
    kept = cells(("a", 100, 99))
    for table in ({"cells": cells(("a", 100, 50))}, {"cells": kept, "types": types(("a", "T", 20, 0))}):
        found = overall({"harmonax_diagnosis": fine, "harmonax_workflow": table})
        assert found.code == "caution"
        assert found.findings[0].code in ("cells_lost", "types_gone")
    assert overall({"harmonax_diagnosis": fine, "harmonax_workflow": {"cells": kept}}).code == "trust"


@pytest.mark.parametrize(
    ("after", "width", "code"),
    [
        *((0.70, np.nan, "trust"), (0.66, np.nan, "trust"), (0.60, np.nan, "caution"), (np.nan, np.nan, "trust")),
        *((0.60, 0.04, "caution"), (0.60, 0.06, "trust")),
    ],
)
def test_scores_of_the_labels_that_fell(after, width, code):
    fine = {"verdict": "fine", "summary": "", "findings": to_table([]), "basis": "X_pca", "adjusted_basis": "X"}
    rows = [("X_pca", "total", "bio", 0.70), ("X", "total", "bio", after), ("X", "total", "total", 0.1)]
    scores = pd.DataFrame(rows, columns=["embedding", "kind", "metric", "value"])
    scores["low"], scores["high"] = scores["value"] - width, scores["value"] + width
    assert overall({"harmonax_diagnosis": fine, "harmonax_evaluation": {"scores": scores}}).code == code
    # Of another correction's scores nothing follows.
    other = fine | {"adjusted_basis": "Y"}
    assert overall({"harmonax_diagnosis": other, "harmonax_evaluation": {"scores": scores}}).code == "trust"
