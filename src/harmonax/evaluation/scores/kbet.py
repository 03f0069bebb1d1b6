"""kBET within labels, as scib-metrics (0.5, BSD-3) computes it after Luecken et al. 2022.

In the graph of a label's cells, diffusion distances; around each cell, a chi-squared test of the batches. The same
steps and constants as there, but neighbours in the diffusion map are exact and nothing is compiled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import chdtrc

from ..neighbours import nearest

_ALPHA, _FEWEST_CELLS = 0.05, 10
_MIN_TESTED, _MAX_TESTED, _COMPONENTS = 10, 70, 100
# A component of the graph counts from three neighbourhoods on, and those that count must hold so many of the cells.
_NEIGHBOURHOODS, _ENOUGH = 3, 0.75


def kbet_of_labels(graph: Any, batch: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return, per label, the share of its cells around which its batches are as frequent as in it.

    Parameters
    ----------
    graph
        Connectivities of the cells, (n, n), sparse and symmetric.
    batch, label
        Codes, (n,).

    Returns
    -------
    numpy.ndarray
        (labels,); nan for labels of one batch or of fewer than ten cells, 0 for one that falls into pieces.
    """
    graph = graph.tocsr()
    scores = []
    for code in np.unique(label):
        own = np.flatnonzero(label == code)
        small = len(own) < _FEWEST_CELLS or len(np.unique(batch[own])) == 1
        scores.append(float("nan") if small else _accepted(graph[own][:, own], batch[own]))
    return np.array(scores)


def _accepted(graph: Any, batch: np.ndarray) -> float:
    from scipy.sparse.csgraph import connected_components

    sizes = np.unique(batch, return_counts=True)[1]
    k = int(np.clip(len(batch) // len(sizes) // 4, _MIN_TESTED, _MAX_TESTED))
    n_parts, part = connected_components(graph, connection="strong")
    if n_parts > 1:
        rows = np.flatnonzero(np.bincount(part)[part] >= _NEIGHBOURHOODS * k)
        if len(rows) < _ENOUGH * len(batch):
            return 0.0
        graph, batch = graph[rows][:, rows], batch[rows]
    x = _diffusion_map(graph)
    near = nearest(x, min(k, len(x) - 1))[1]
    return float(accepted(np.column_stack([np.arange(len(x)), near]), batch).mean())


def accepted(near: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Return, per cell, whether the batches of its neighbours are as frequent as among all (chi-squared, 5 %)."""
    batch = np.unique(batch, return_inverse=True)[1]
    sizes = np.bincount(batch)
    around = batch[near]
    observed = np.stack([(around == code).sum(axis=1) for code in range(len(sizes))], axis=1)
    expected = near.shape[1] * sizes / len(batch)
    passed: np.ndarray = chdtrc(len(sizes) - 1, ((observed - expected) ** 2 / expected).sum(axis=1)) >= _ALPHA
    return passed


def _diffusion_map(graph: Any) -> np.ndarray:
    """Return coordinates in which Euclidean distance is diffusion distance over all numbers of steps, (n, 100)."""
    from scipy.sparse.linalg import eigsh

    kernel = _scaled(graph, 1.0)
    transitions = _scaled(kernel, 0.5).astype(np.float64)
    values, vectors = eigsh(transitions, k=min(_COMPONENTS, graph.shape[0] - 1))
    values = values.astype(np.float32) + np.float32(1e-8)
    # A value of 1 (to single precision) belongs to a component of the graph.
    steps = np.where(values == 1, 1, values / np.where(values == 1, 1, 1 - values))
    return (vectors * steps).astype(np.float32)


def _scaled(matrix: Any, power: float) -> Any:
    """Divide rows and columns by this power of the column sums."""
    scale = sparse.diags_array(1 / np.asarray(matrix.sum(axis=0), np.float64).ravel() ** power)
    return scale @ matrix @ scale
