"""Scores that need no cell types: do batches mix, and does each batch keep its own structure?

All lie between 0 and 1, and higher is better. Neighbours are exact. Those of the first two are sought among all cells,
also where only some are scored: so the score of a sample is that of all cells, but for chance.

    iLISI                      effective number of batches around a cell, scaled: scib-metrics' ilisi_knn
    kBET                       share of cells around which the batches are as frequent as among all: scib-metrics' kbet.
                               Not per cluster: clusters of the uncorrected embedding are often those of one batch each,
                               on which nothing could be tested. So it is strict: below 1 also where batches differ in
                               their cell types, and the lower the more cells. Compare embeddings by it, not data sets
    variance not explained by batch
                               of the whole embedding: 1 less the adjusted R^2 of its components, weighted by their
                               variance
    own-batch neighbors kept   share of a cell's 15 nearest neighbours in its own batch of the baseline embedding that
                               are still among them; 1 for the baseline. Among the cells that are scored, as the
                               diagnosis has it: of more cells, neighbours are nearer, and fewer of them are kept.
                               With several batch columns a cell's batch is its combination of levels, also as
                               there: what differs in any of them is moved apart or together by right
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc

from ...system.extras import need
from ..lisi import lisi_of_neighbours
from ..mixing import explained_by_batch
from ..neighbours import share_kept
from .scib import is_installed, n_neighbours

# kBET tests so many neighbours: as scib-metrics per label, a quarter of the mean batch, within these.
_MIN_TESTED, _MAX_TESTED = 10, 70
_ALPHA = 0.05


@dataclass(frozen=True, eq=False)
class Near:
    """The nearest other cells of some cells, among all.

    Attributes
    ----------
    rows
        Cells that were asked for, (q,).
    distances, indices
        (q, k), nearest first.
    """

    rows: np.ndarray
    distances: np.ndarray
    indices: np.ndarray


def near_of(x: np.ndarray, rows: np.ndarray) -> Near:
    """Return the neighbours that scores look at."""
    search = need("sklearn.neighbors", "workflow").NearestNeighbors(algorithm="brute")
    k = n_neighbours(len(x)) - 1
    distances, indices = search.fit(x).kneighbors(x[rows], n_neighbors=k + 1)
    # A cell is its own nearest, but for another at the same place: drop it wherever it is, else the last.
    own = indices == rows[:, None]
    own[~own.any(axis=1), -1] = True
    return Near(rows, distances[~own].reshape(-1, k), indices[~own].reshape(-1, k))


@dataclass(frozen=True, eq=False)
class UnlabelledCells:
    """What scores without labels are made of, for some cells of one embedding.

    Attributes
    ----------
    near, x, batch
        Neighbours, the embedding of all cells, and the code of each one's batch.
    before, after
        Nearest cells of the same combination of batches, in the baseline and in this embedding, as places among those
        asked for.
    """

    near: Near
    x: np.ndarray
    batch: np.ndarray
    before: np.ndarray
    after: np.ndarray

    @property
    def n_batches(self) -> int:
        return len(np.unique(self.batch))


def ilisi(cells: UnlabelledCells) -> np.ndarray:
    """Return the scaled number of batches around each cell; nan without scib-metrics."""
    if not is_installed():
        return np.full(len(cells.near.rows), np.nan)
    lisi = lisi_of_neighbours(cells.near.distances, cells.near.indices, cells.near.rows, cells.batch)
    # Where all neighbours are too far to weigh anything, scib-metrics has -1.
    scaled: np.ndarray = np.clip((lisi - 1) / (cells.n_batches - 1), 0, 1)
    return scaled


def unexplained(cells: UnlabelledCells) -> float:
    """Return the share of the whole embedding's variance that batches do not explain."""
    share, explained = explained_by_batch(cells.x, cells.batch)
    return float(1 - share @ explained)


def neighbours_kept(cells: UnlabelledCells) -> np.ndarray:
    """Return the share of each cell's neighbours in its own batch that were kept."""
    return share_kept(cells.before, cells.after)


def kbet(cells: UnlabelledCells) -> np.ndarray:
    """Return, per cell, whether the test finds the batches of all cells' frequencies around it, itself included."""
    near, batch = cells.near, cells.batch
    sizes = np.bincount(batch)
    k = min(int(np.clip(len(batch) // len(sizes) // 4, _MIN_TESTED, _MAX_TESTED)), near.indices.shape[1])
    around = np.column_stack([batch[near.rows], batch[near.indices[:, :k]]])
    observed = np.stack([(around == code).sum(axis=1) for code in range(len(sizes))], axis=1)
    expected = (k + 1) * sizes / len(batch)
    statistic = ((observed - expected) ** 2 / expected).sum(axis=1)
    accepted: np.ndarray = chdtrc(len(sizes) - 1, statistic) >= _ALPHA
    return accepted
