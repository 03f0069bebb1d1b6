"""scib-metrics' scores of one embedding, called one and the same way everywhere.

The protocol: approximate neighbours (pynndescent, 90 or a third of the cells), batch = mean of iLISI, BRAS, graph
connectivity and kBET per label; bio = mean of cLISI, NMI, ARI and ASW; total = 0.4 batch + 0.6 bio. A score that is
not defined for the data is nan, and so is every mean over it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from ...system.extras import need
from ..lisi import quiet

BATCH_SCORES = ("iLISI", "BRAS", "graph connectivity", "kBET per label")
BIO_SCORES = ("cLISI", "NMI", "ARI", "ASW label")
MOST_NEIGHBOURS = 90
BATCH_WEIGHT, BIO_WEIGHT = 0.4, 0.6


def is_installed() -> bool:
    """Return whether scib-metrics is there; without it, some scores that need no labels can still be had."""
    return find_spec("scib_metrics") is not None


def n_neighbours(n: int) -> int:
    """Return how many neighbours scores look at, the cell itself included."""
    return min(MOST_NEIGHBOURS, n // 3)


def neighbours_of(x: np.ndarray, seed: int) -> Any:
    """Return scib-metrics' approximate neighbours of each cell, itself included."""
    with quiet():
        search = need("scib_metrics.nearest_neighbors", "workflow").pynndescent
        return search(x, n_neighbors=n_neighbours(len(x)), random_state=seed % (1 << 32))


def batch_scores(x: np.ndarray, neighbours: Any, batch: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Return how well batches mix within labels: `BATCH_SCORES` and their mean, "batch"."""
    scib = need("scib_metrics", "workflow")
    if len(np.unique(batch)) < 2:
        return dict.fromkeys((*BATCH_SCORES, "batch"), float("nan"))
    scores = {
        "iLISI": score_or_nan(scib.ilisi_knn, neighbours, batch),
        "BRAS": score_or_nan(scib.bras, x, label, batch),
        "graph connectivity": score_or_nan(scib.graph_connectivity, neighbours, label),
        "kBET per label": score_or_nan(scib.kbet_per_label, neighbours, batch, label),
    }
    return scores | {"batch": _mean(scores)}


def bio_scores(x: np.ndarray, neighbours: Any, label: np.ndarray) -> dict[str, float]:
    """Return how well labels stay apart: `BIO_SCORES` and their mean, "bio"."""
    scib = need("scib_metrics", "workflow")
    if len(np.unique(label)) < 2:
        return dict.fromkeys((*BIO_SCORES, "bio"), float("nan"))
    with quiet():
        clusters = scib.nmi_ari_cluster_labels_kmeans(x, label)
    scores = {
        "cLISI": score_or_nan(scib.clisi_knn, neighbours, label),
        "NMI": float(clusters["nmi"]),
        "ARI": float(clusters["ari"]),
        "ASW label": score_or_nan(scib.silhouette_label, x, label),
    }
    return scores | {"bio": _mean(scores)}


def total_score(batch: float, bio: float) -> float:
    """Return the weighted mean that scib-metrics ranks methods by."""
    return BATCH_WEIGHT * batch + BIO_WEIGHT * bio


def _mean(scores: dict[str, float]) -> float:
    return float(np.mean(list(scores.values())))


def score_or_nan(score: Callable[..., Any], *data: Any) -> float:
    """Return a score, or nan where scib-metrics finds nothing that it could be computed on."""
    with quiet():
        try:
            return float(score(*data))
        except ValueError:
            # No label has cells of two batches; versions differ in what they say.
            return float("nan")
