"""scib-metrics' scores of one embedding, called one and the same way everywhere.

Neighbours are approximate (pynndescent, 90 or a third of the cells). A score that is not defined for the data is nan.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np

from ...system.extras import need
from ..lisi import quiet

MAX_NEIGHBOURS = 90


def is_installed() -> bool:
    """Return whether scib-metrics is there; without it, some scores that need no labels can still be had."""
    return find_spec("scib_metrics") is not None


def n_neighbours(n: int) -> int:
    """Return how many neighbours scores look at, the cell itself included."""
    return min(MAX_NEIGHBOURS, n // 3)


def neighbours_of(x: np.ndarray, seed: int) -> Any:
    """Return scib-metrics' approximate neighbours of each cell, itself included."""
    with quiet():
        search = need("scib_metrics.nearest_neighbors", "workflow").pynndescent
        return search(x, n_neighbors=n_neighbours(len(x)), random_state=seed % (1 << 32))


@dataclass(frozen=True, eq=False)
class LabelledCells:
    """Cells with labels, of one embedding, and their batches for scores that look at them.

    Attributes
    ----------
    x
        The embedding, (n, d).
    neighbours
        As `neighbours_of` returned them.
    label, batch
        Codes, (n,).
    """

    x: np.ndarray
    neighbours: Any
    label: np.ndarray
    batch: np.ndarray

    @cached_property
    def clusters(self) -> dict[str, Any]:
        """How clusters of the cells agree with the labels: k-means once for "nmi" and "ari"."""
        with quiet():
            found: dict[str, Any] = need("scib_metrics", "workflow").nmi_ari_cluster_labels_kmeans(self.x, self.label)
        return found


def batch_ilisi(cells: LabelledCells) -> float:
    """Return how many batches there are around a cell, scaled: the median."""
    return _score_or_nan("ilisi_knn", cells.neighbours, cells.batch)


def bras(cells: LabelledCells) -> float:
    """Return how much batches overlap within labels (batch removal adapted silhouette)."""
    return _score_or_nan("bras", cells.x, cells.label, cells.batch)


def graph_connectivity(cells: LabelledCells) -> float:
    """Return how much of each label hangs together in the graph of neighbours."""
    return _score_or_nan("graph_connectivity", cells.neighbours, cells.label)


def kbet_per_label(cells: LabelledCells) -> float:
    """Return the share of neighbourhoods within labels that have the label's batches."""
    return _score_or_nan("kbet_per_label", cells.neighbours, cells.batch, cells.label)


def clisi(cells: LabelledCells) -> float:
    """Return whether the labels around a cell are its own, scaled: the median."""
    return _score_or_nan("clisi_knn", cells.neighbours, cells.label)


def nmi(cells: LabelledCells) -> float:
    """Return the normalised mutual information of clusters and labels."""
    return float(cells.clusters["nmi"])


def ari(cells: LabelledCells) -> float:
    """Return the adjusted Rand index of clusters and labels."""
    return float(cells.clusters["ari"])


def asw_label(cells: LabelledCells) -> float:
    """Return the silhouette of the labels, scaled."""
    return _score_or_nan("silhouette_label", cells.x, cells.label)


def _score_or_nan(name: str, *data: Any) -> float:
    """Return a score of scib-metrics, or nan where it finds nothing that it could be computed on."""
    score = getattr(need("scib_metrics", "workflow"), name)
    with quiet():
        try:
            return float(score(*data))
        except ValueError:
            # No label has cells of two batches; versions differ in what they say.
            return float("nan")
