"""The registry of metrics: that one function and one entry make a metric, as `evaluation.scores.registry` says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from harmonax.evaluation.scores import registry
from harmonax.evaluation.scores.evaluate import Evaluation, evaluate
from harmonax.evaluation.scores.labelfree import UnlabelledCells
from harmonax.evaluation.scores.registry import METRICS, Metric
from harmonax.report.sections.evaluation import _meaning


def halves(cells: UnlabelledCells) -> np.ndarray:
    return np.where(cells.near.rows % 2, 0.25, 0.75)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Metric:
    metric = Metric("halves", "label-free", halves, "A toy: half of the cells have 1/4.", needs_batches=False)
    monkeypatch.setattr(registry, "METRICS", METRICS[:])
    registry.METRICS.append(metric)
    return metric


def test_a_new_metric_is_computed_stored_and_drawn(toy):
    from harmonax import pl

    pytest.importorskip("scib_metrics", reason="the scores need scib-metrics")
    gen = np.random.default_rng(0)
    batch = pd.DataFrame({"batch": np.repeat(["a", "b"], 60)})
    result = evaluate({"X_pca": gen.normal(size=(120, 4)), "X_new": gen.normal(size=(120, 4))}, batch)
    own = result.scores[result.scores["metric"] == "halves"]
    assert own["value"].tolist() == [0.5, 0.5]
    assert list(result.scores["metric"])[-1] == "halves"
    assert "halves" in str(Evaluation.from_uns(result.to_uns()))
    ax = pl.metrics(result, show=False)
    assert ax is not None
    assert "halves" in [label.get_text() for label in ax.get_yticklabels()]


def test_every_metric_is_explained_and_named_once_in_its_kind():
    names = [(metric.kind, metric.name) for metric in METRICS]
    assert len(set(names)) == len(names)
    assert all(_meaning(metric.name).endswith(".") for metric in METRICS)
    assert [metric.name for metric in METRICS if metric.needs_labels] == [
        *("iLISI", "BRAS", "graph connectivity", "kBET per label"),
        *("cLISI", "NMI", "ARI", "ASW label"),
        *("CiLISI", "kSIM", "isolated labels (ASW)", "isolated labels (F1)", "scGraph"),
    ]
    # The means stay scib-metrics'.
    assert {metric.kind for metric in METRICS[8:]} == {"further", "label-free"}
