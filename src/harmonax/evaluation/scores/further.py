"""Scores beside scib-metrics' that enter no mean: what the means miss. docs/metrics.md says what each one misses.

CiLISI                 Andreatta et al. 2024, Nature Communications 15:872: iLISI among the cells of one label
kSIM                   Li et al. 2020, Nature Methods 17:793 (Pegasus): 25 neighbours, 90 % of one label
isolated labels (ASW)  Luecken et al. 2022, Nature Methods 19:41, as scib-metrics has it
isolated labels (F1)   the same paper: the best F1 of a cluster, over resolutions
scGraph                Wang et al. 2024, bioRxiv 2024.04.02.587824: distances between labels, against those within
                       batches
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from ...errors import warn
from ..lisi import quiet
from .population import FEWEST_OF_LABEL, scaled_lisi
from .scib import LabelledCells

# Of kSIM, the cell itself included.
KSIM_NEIGHBOURS, KSIM_SHARE = 25, 0.9
# Of scGraph: what is cut from each end of a label's cells, and how many other labels a correlation needs.
_TRIMMED, _FEWEST_OTHERS = 0.05, 3


def cilisi(cells: LabelledCells) -> float:
    """Return how many batches there are around a cell among the cells of its label, scaled: the mean over cells.

    Scaled by the batches that have the label; labels of one batch, or of fewer than ten cells, are left out.
    """
    found = []
    for own, near in cells.of.within_labels(cells.rows):
        found.append(scaled_lisi(near, cells.batch[own]))
    values = np.concatenate(found) if found else np.full(1, np.nan)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def ksim(cells: LabelledCells) -> float:
    """Return the share of cells whose neighbourhood is of their label, nearly all of it."""
    near = cells.of.near_of(cells.rows)
    k = min(KSIM_NEIGHBOURS - 1, near.indices.shape[1])
    same = cells.of.label[near.indices[:, :k]] == cells.of.label[cells.rows][:, None]
    return float(((same.sum(axis=1) + 1) / (k + 1) >= KSIM_SHARE).mean())


def isolated(cells: LabelledCells) -> np.ndarray:
    """Return the labels that are in the fewest batches, and have cells among those that are scored."""
    pairs = np.unique(np.column_stack([cells.of.label, cells.batch]), axis=0)
    codes, counts = np.unique(pairs[:, 0], return_counts=True)
    return np.intersect1d(codes[counts == counts.min()], cells.label)


def isolated_asw(cells: LabelledCells) -> float:
    """Return the scaled silhouette of the isolated labels: the mean over them."""
    labels = isolated(cells)
    if not len(labels) or len(np.unique(cells.label)) < 2:
        return float("nan")
    return float(np.mean([cells.graph.silhouettes[cells.label == code].mean() for code in labels]))


def isolated_f1(cells: LabelledCells) -> float:
    """Return how well some cluster, at some resolution, is an isolated label: the mean over these labels.

    nan without igraph, which finds the clusters and is GPL: it enters no mean.
    """
    labels = isolated(cells)
    if find_spec("igraph") is None:
        warn("isolated labels (F1) is left out: igraph, which finds its clusters, is not installed")
        return float("nan")
    if not len(labels) or len(np.unique(cells.label)) < 2:
        return float("nan")
    clusterings = cells.graph.leiden
    return float(np.mean([max(_best_f1(found, cells.label == code) for found in clusterings) for code in labels]))


def _best_f1(clusters: np.ndarray, wanted: np.ndarray) -> float:
    sizes, hits = np.bincount(clusters), np.bincount(clusters, wanted)
    return float((2 * hits / (sizes + wanted.sum())).max())


def scgraph(cells: LabelledCells) -> float:
    """Return how far the distances between labels are those within the batches: a correlation, the mean over labels.

    Where a label lies is the trimmed mean of its cells. Distances within each batch are those of the uncorrected
    embedding, as shares of the largest; their mean over the batches that have both labels is what they are compared
    with. A difference between near labels weighs more than one between distant ones (by 1 / distance). Below 0 is 0;
    nan where labels have fewer than three others to be compared with.
    """
    of = cells.of
    labels = np.unique(of.label)
    within = []
    for code in np.unique(cells.batch):
        rows = np.flatnonzero(cells.batch == code)
        within.append(_distances(of.before[rows], of.label[rows], labels))
    with quiet():
        consensus = np.nanmean(within, axis=0)
    found = _distances(of.x, of.label, labels)
    scores = [_correlation(found[i], consensus[i]) for i in range(len(labels))]
    return float(np.clip(np.nanmean(scores), 0, 1)) if np.isfinite(scores).any() else float("nan")


def _distances(x: np.ndarray, label: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return distances between labels as shares of each one's largest; nan for those of few cells, and to itself."""
    from scipy.stats import trim_mean

    centres = np.full((len(labels), x.shape[1]), np.nan)
    for i, code in enumerate(labels):
        own = label == code
        if own.sum() >= FEWEST_OF_LABEL:
            centres[i] = trim_mean(np.asarray(x[own], np.float64), _TRIMMED, axis=0)
    between = np.linalg.norm(centres[:, None] - centres, axis=2)
    np.fill_diagonal(between, np.nan)
    with quiet():
        largest = np.nanmax(between, axis=1, keepdims=True)
        shares: np.ndarray = between / np.where(largest > 0, largest, 1)
    return shares


def _correlation(found: np.ndarray, expected: np.ndarray) -> float:
    """Return Pearson's correlation, weighted by 1 / expected."""
    both = np.isfinite(found) & np.isfinite(expected) & (expected > 0)
    if both.sum() < _FEWEST_OTHERS:
        return float("nan")
    a, b, weights = found[both], expected[both], 1 / expected[both]
    a, b = a - np.average(a, weights=weights), b - np.average(b, weights=weights)
    spread = np.sqrt((weights * a**2).sum() * (weights * b**2).sum())
    return float((weights * a * b).sum() / spread) if spread > 0 else float("nan")
