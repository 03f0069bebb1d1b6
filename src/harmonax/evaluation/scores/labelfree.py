"""Scores that need no cell types: do batches mix, and does each batch keep its own structure?

All lie between 0 and 1, and higher is better. Neighbours are exact and sought among all cells, also where only some
cells are scored: so the score of a sample is that of all cells, but for chance.

    iLISI                      effective number of batches around a cell, scaled: scib-metrics' ilisi_knn
    kBET                       share of cells around which the batches are as frequent as among all: scib-metrics' kbet.
                               Not per cluster: clusters of the uncorrected embedding are often those of one batch each,
                               on which nothing could be tested. So it is strict: below 1 also where batches differ in
                               their cell types, and the lower the more cells. Compare embeddings by it, not data sets
    variance not explained by batch
                               of the whole embedding: 1 less the adjusted R^2 of its components, weighted by their
                               variance
    own-batch neighbors kept   share of a cell's 15 nearest neighbours in its own batch of the baseline embedding that
                               are still among them; 1 for the baseline
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc

from ...system.extras import need
from ..lisi import lisi_of_neighbours
from ..mixing import explained_by_batch
from ..neighbours import nearest_cells, share_kept
from .scib import is_installed, n_neighbours

LABELFREE_SCORES = ("iLISI", "kBET", "variance not explained by batch", "own-batch neighbors kept")
KEPT_NEIGHBOURS = 15
# kBET tests so many neighbours: as scib-metrics per label, a quarter of the mean batch, within these.
_FEWEST, _MOST = 10, 70
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


def own_neighbours(x: np.ndarray, batch: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the `neighbours.own_batch_neighbours` of some cells, (q, 15); -1 where a batch is too small."""
    found = np.full((len(rows), KEPT_NEIGHBOURS), -1)
    for code in np.unique(batch[rows]):
        own, asked = np.flatnonzero(batch == code), np.flatnonzero(batch[rows] == code)
        most = min(KEPT_NEIGHBOURS, len(own) // 3)
        if most:
            places = np.searchsorted(own, rows[asked])
            found[asked[:, None], np.arange(most)] = own[nearest_cells(x[own], most, places)]
    return found


def cell_values(near: Near, x: np.ndarray, batch: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return what the scores are made of: a column for each of `LABELFREE_SCORES`, (q, 4).

    Parameters
    ----------
    near, x, batch
        Neighbours, the embedding of all cells, and the code of each one's batch.
    before, after
        `own_neighbours` in the baseline and in this embedding.
    """
    n_batches = len(np.unique(batch))
    values = np.full((len(near.rows), len(LABELFREE_SCORES)), np.nan)
    values[:, 3] = share_kept(before, after)
    if n_batches > 1:
        if is_installed():
            lisi = lisi_of_neighbours(near.distances, near.indices, near.rows, batch)
            # Where all neighbours are too far to weigh anything, scib-metrics has -1.
            values[:, 0] = np.clip((lisi - 1) / (n_batches - 1), 0, 1)
        values[:, 1] = _accepted(near, batch)
        share, explained = explained_by_batch(x, batch)
        values[:, 2] = 1 - share @ explained
    return values


def scores_of(values: np.ndarray) -> dict[str, float]:
    """Return the scores of cells: of iLISI the median, as scib-metrics takes it, of the others the mean."""
    if not len(values):
        return dict.fromkeys(LABELFREE_SCORES, float("nan"))
    return {
        name: float("nan") if np.isnan(own).all() else float((np.nanmedian if name == "iLISI" else np.nanmean)(own))
        for name, own in zip(LABELFREE_SCORES, values.T, strict=True)
    }


def _accepted(near: Near, batch: np.ndarray) -> np.ndarray:
    """Return, per cell, whether the test finds the batches of all cells' frequencies around it, itself included."""
    sizes = np.bincount(batch)
    k = min(int(np.clip(len(batch) // len(sizes) // 4, _FEWEST, _MOST)), near.indices.shape[1])
    around = np.column_stack([batch[near.rows], batch[near.indices[:, :k]]])
    observed = np.stack([(around == code).sum(axis=1) for code in range(len(sizes))], axis=1)
    expected = (k + 1) * sizes / len(batch)
    statistic = ((observed - expected) ** 2 / expected).sum(axis=1)
    return chdtrc(len(sizes) - 1, statistic) >= _ALPHA
