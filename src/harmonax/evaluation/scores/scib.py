"""scib-metrics' scores of one embedding: its numbers, from exact neighbours that are found once and shared.

Neighbours are exact (90 or a third of the cells), where scib-metrics' benchmark takes approximate ones. What it
compiles for every shape of the data (silhouettes, k-means, LISI, the tests of kBET) is computed here without: see
`silhouette`, `kbet` and `evaluation.lisi`.
A score that is not defined for the data is nan.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from ...system.extras import need
from ..lisi import lisi_of_neighbours, quiet
from ..neighbours import nearest
from .communities import leiden
from .kbet import kbet_of_labels
from .silhouette import batch_silhouettes, label_silhouettes

if TYPE_CHECKING:
    from .population import Population

MAX_NEIGHBOURS = 90


def is_installed() -> bool:
    """Return whether scib-metrics is there; without it, some scores that need no labels can still be had."""
    return find_spec("scib_metrics") is not None


def n_neighbours(n: int) -> int:
    """Return how many neighbours scores look at, the cell itself included."""
    return min(MAX_NEIGHBOURS, n // 3)


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
    def neighbours(self) -> Any:
        """The nearest cells as scib-metrics takes them, each cell itself first."""
        distances, indices = self._near or nearest(self.x, n_neighbours(len(self.x)) - 1)
        results = need("scib_metrics.nearest_neighbors", "workflow").NeighborsResults
        own = np.arange(len(indices))
        with quiet():
            return results(
                indices=np.column_stack([own, indices]),
                distances=np.column_stack([0.0 * own, distances]).astype(np.float32),
            )

    @cached_property
    def silhouettes(self) -> np.ndarray:
        """Of the labels, per cell, scaled to 0..1."""
        return (label_silhouettes(self.x, self.label) + 1) / 2

    @cached_property
    def leiden(self) -> list[np.ndarray]:
        """Clusters at several resolutions."""
        return leiden(self.neighbours)

    @cached_property
    def clusters(self) -> np.ndarray:
        """As many clusters as labels: scib-metrics' k-means, which starts there and goes on in scikit-learn.

        There, 300 rounds are made whatever happens; a local optimum is reached in far fewer.
        """
        k = len(np.unique(self.label))
        x = self.x - self.x.mean(axis=0)
        with quiet():
            means = need("scib_metrics.utils", "workflow").KMeans(k)
            key = need("jax.random", "workflow").split(means.seed, means.n_init)[0]
            start = np.asarray(means._initialize(x, k, key))
            search = need("sklearn.cluster", "workflow").KMeans(k, init=start, n_init=1, max_iter=300, tol=0)
            found: np.ndarray = search.fit_predict(x)
        return found


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
    with quiet():
        return float(need("scib_metrics", "workflow").graph_connectivity(cells.graph.neighbours, cells.label))


def kbet_per_label(cells: LabelledCells) -> float:
    """Return the share of neighbourhoods within labels that have the label's batches."""
    with quiet():
        scores = kbet_of_labels(cells.graph.neighbours.knn_graph_connectivities, cells.own_batch, cells.label)
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
