"""scib-metrics' scores of one embedding: its numbers, from exact neighbours that are found once and shared.

Neighbours are exact (90 or a third of the cells), where scib-metrics' benchmark takes approximate ones. scib-metrics
compiles for every shape of the data; the same numbers come without that from `silhouette`, `graph`, `kbet`, `kmeans`
and `evaluation.lisi`, and tests compare them with its own. It must be installed, for its version says what they are.
A score that is not defined for the data is nan.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec

import numpy as np

from ...system.extras import need
from ..lisi import lisi_of_neighbours
from ..neighbours import nearest
from .graph import connectivities, largest_part, leiden
from .kbet import kbet_of_labels
from .kmeans import kmeans
from .population import Population, n_neighbours
from .silhouette import batch_silhouettes, label_silhouettes


def is_installed() -> bool:
    """Return whether scib-metrics is there; without it, some scores that need no labels can still be had."""
    return find_spec("scib_metrics") is not None


@dataclass(frozen=True, eq=False)
class LabelledCells:
    """Cells with labels, of one embedding, and their batches for scores that look at them.

    Attributes
    ----------
    of
        All cells with a label, among which neighbours are sought.
    rows
        Which of them are scored, (n,).
    batch
        Code of each of all these cells' batch.
    graph
        Neighbours of the cells that are scored, among themselves: `graph_of`.
    """

    of: Population
    rows: np.ndarray
    batch: np.ndarray
    graph: SampleGraph

    @property
    def x(self) -> np.ndarray:
        return self.graph.x

    @property
    def label(self) -> np.ndarray:
        return self.graph.label

    @property
    def own_batch(self) -> np.ndarray:
        """The batches of the cells that are scored."""
        return self.batch[self.rows]


class SampleGraph:
    """Cells of one embedding, their labels, and what several scores share: each is computed once."""

    def __init__(self, x: np.ndarray, label: np.ndarray, near: tuple[np.ndarray, np.ndarray] | None = None) -> None:
        self.x, self.label, self._near = x, label, near

    @cached_property
    def near(self) -> tuple[np.ndarray, np.ndarray]:
        """Distances and places of the nearest other cells, (n, k)."""
        return self._near or nearest(self.x, n_neighbours(len(self.x)) - 1)

    @cached_property
    def silhouettes(self) -> np.ndarray:
        """Of the labels, per cell, scaled to 0..1."""
        return (label_silhouettes(self.x, self.label) + 1) / 2

    @cached_property
    def leiden(self) -> list[np.ndarray]:
        """Clusters at several resolutions."""
        return leiden(*self.near)

    @cached_property
    def clusters(self) -> np.ndarray:
        """As many clusters as labels."""
        return kmeans(self.x, len(np.unique(self.label)))


def batch_ilisi(cells: LabelledCells) -> float:
    """Return how many batches there are around a cell, scaled: the median."""
    return float(np.nanmedian(cells.of.ilisi(cells.rows, cells.batch)))


def bras(cells: LabelledCells) -> float:
    """Return how much batches overlap within labels (batch removal adapted silhouette)."""
    found = []
    for code in np.unique(cells.label):
        own = np.flatnonzero(cells.label == code)
        n_batches = len(np.unique(cells.own_batch[own]))
        # scib-metrics skips these.
        if 1 < n_batches < len(own):
            found.append(1 - np.abs(batch_silhouettes(cells.x[own], cells.own_batch[own])).mean())
    return float(np.mean(found)) if found else float("nan")


def graph_connectivity(cells: LabelledCells) -> float:
    """Return how much of each label hangs together in the graph of neighbours."""
    return float(largest_part(cells.graph.near[1], cells.label).mean())


def kbet_per_label(cells: LabelledCells) -> float:
    """Return the share of neighbourhoods within labels that have the label's batches."""
    scores = kbet_of_labels(connectivities(*cells.graph.near), cells.own_batch, cells.label)
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")


def clisi(cells: LabelledCells) -> float:
    """Return whether the labels around a cell are its own, scaled: the median."""
    near, label = cells.of.near_of(cells.rows), np.unique(cells.of.label, return_inverse=True)[1]
    lisi, n = lisi_of_neighbours(near.distances, near.indices, near.rows, label), int(label.max()) + 1
    return float((n - np.nanmedian(lisi)) / (n - 1))


def nmi(cells: LabelledCells) -> float:
    """Return the normalised mutual information of clusters and labels."""
    score = need("sklearn.metrics", "workflow").normalized_mutual_info_score
    return float(score(cells.label, cells.graph.clusters))


def ari(cells: LabelledCells) -> float:
    """Return the adjusted Rand index of clusters and labels."""
    return float(need("sklearn.metrics", "workflow").adjusted_rand_score(cells.label, cells.graph.clusters))


def asw_label(cells: LabelledCells) -> float:
    """Return the silhouette of the labels, scaled."""
    return float(cells.graph.silhouettes.mean())
