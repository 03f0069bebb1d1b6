"""The graph of nearest cells: UMAP's connectivities, connected parts, and Leiden clusters at several resolutions.

The connectivities are those of umap-learn (0.5, BSD-3; McInnes et al. 2018), which compiles for half a minute first.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from scipy import sparse

from ...system.extras import need

_STEPS, _TOLERANCE, _NARROWEST = 64, 1e-5, 1e-3
_FEW = 14
_RESOLUTIONS = tuple(0.2 * step for step in range(1, 11))


def connectivities(distances: np.ndarray, indices: np.ndarray) -> Any:
    """Return the fuzzy union of the neighbourhoods, (n, n), sparse and symmetric.

    Parameters
    ----------
    distances, indices
        Of the nearest other cells, (n, k), nearest first; none is the cell itself.
    """
    n, k = indices.shape
    distances = np.asarray(distances, np.float64)
    # The nearest that is not at the same place has strength 1.
    first = (distances > 0).argmax(axis=1)
    reach = distances[np.arange(n), first][:, None]
    beyond = np.maximum(distances - reach, 0)
    width = np.maximum(_widths(beyond, float(np.log2(k + 1))), _NARROWEST * _mean(distances, reach[:, 0]))
    strength = np.exp(-beyond / np.where(width > 0, width, 1)[:, None])
    one_way = _csr(strength, indices)
    other_way = one_way.T.tocsr()
    return (one_way + other_way - one_way.multiply(other_way)).tocsr()


def _mean(distances: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Return the mean distance of each cell, itself included, or of all where its neighbours are at its place."""
    own = distances.sum(axis=1) / (distances.shape[1] + 1)
    return np.where(reach > 0, own, own.mean())


def _widths(beyond: np.ndarray, wanted: float) -> np.ndarray:
    """Return, per cell, the width at which the strengths of its neighbours add up to what is wanted."""
    width, low, high = np.ones(len(beyond)), np.zeros(len(beyond)), np.full(len(beyond), np.inf)
    left = np.arange(len(beyond))
    for _ in range(_STEPS):
        total = np.exp(-beyond[left] / width[left][:, None]).sum(axis=1)
        open_ = np.abs(total - wanted) >= _TOLERANCE
        left, above = left[open_], (total > wanted)[open_]
        if not len(left):
            break
        high[left[above]], low[left[~above]] = width[left[above]], width[left[~above]]
        bounded = np.isfinite(high[left])
        width[left] = np.where(bounded, (low[left] + np.where(bounded, high[left], 0)) / 2, 2 * width[left])
    return width


def _csr(values: np.ndarray, indices: np.ndarray) -> Any:
    n, k = indices.shape
    return sparse.csr_matrix((values.ravel(), indices.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))


def largest_part(indices: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return, per label, the share of its cells in the largest strongly connected part of its own graph, (labels,)."""
    from scipy.sparse.csgraph import connected_components

    graph, shares = _csr(np.ones(indices.shape, np.float32), indices), []
    for code in np.unique(label):
        own = np.flatnonzero(label == code)
        part = connected_components(graph[own][:, own], connection="strong")[1]
        shares.append(np.bincount(part).max() / len(own))
    return np.array(shares)


def leiden(distances: np.ndarray, indices: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Return clusters of cells at resolutions 0.2 to 2, from the graph of their 15 nearest, themselves included."""
    igraph = need("igraph", "workflow")
    graph = igraph.Graph.Weighted_Adjacency(connectivities(distances[:, :_FEW], indices[:, :_FEW]), mode="max")
    found = []
    for resolution in _RESOLUTIONS:
        igraph.set_random_number_generator(random.Random(seed))
        parts = graph.community_leiden(objective_function="modularity", weights="weight", resolution=resolution)
        found.append(np.asarray(parts.membership))
    return found
