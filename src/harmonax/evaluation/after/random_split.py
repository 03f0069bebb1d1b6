"""Random splits: one batch cut at random into two that are not batches, corrected: whatever changes was invented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ...system.extras import need
from ..neighbours import OF_BATCH, nearest, nearest_cells
from ..scores.graph import leiden
from .null import Correct, splits
from .structure import moved_share, neighbours_kept

# Leiden clusters of the fifth of the resolutions, 1; of the graph of so many neighbours.
_RESOLUTION, _GRAPH = 4, 15
# Genes that are tested, those of the highest variance; cells that a half needs in a cluster; the rate of false calls.
_GENES, _CELLS, _RATE = 2000, 20, 0.05
_ROWS = 500


@dataclass(frozen=True, eq=False)
class RandomSplit:
    """What a correction changed where there was nothing to correct.

    Attributes
    ----------
    batch, n_cells
        The batch that was split, and how many of its cells.
    table
        One row per split; the columns are those that `harmonax.tl.random_split` names.
    """

    batch: str
    n_cells: int
    table: pd.DataFrame

    @property
    def mean(self) -> pd.Series:
        """The mean of each column over the splits."""
        return self.table.mean()

    def to_uns(self) -> dict[str, Any]:
        """Return it as ``adata.uns`` holds it."""
        return {"batch": self.batch, "n_cells": self.n_cells, "table": self.table}

    def __str__(self) -> str:
        rows = "\n".join(f"  {name:<24}{value:.3f}" for name, value in self.mean.dropna().items())
        return f"Batch {self.batch} ({self.n_cells:,} cells) split at random, {len(self.table)} times:\n{rows}"


def measure(
    Z: np.ndarray, correct: Correct, rng: np.random.Generator, n_splits: int, expression: np.ndarray | None
) -> pd.DataFrame:
    """Split cells at random, correct the halves as if they were batches, and return a row of measures per split.

    Parameters
    ----------
    Z
        Embedding of the cells of one batch, (n, d).
    correct
        The correction.
    rng
        Draws the halves.
    n_splits
        How often.
    expression
        Logarithms of expression, (n, genes); None: no genes are tested.
    """
    near, clusters = nearest_cells(Z, OF_BATCH), _clusters(Z)
    again = _agree(clusters, _clusters(Z, seed=1))
    genes = None if expression is None else expression[:, np.argsort(-expression.var(axis=0))[:_GENES]]
    rows = []
    for half, after in splits(Z, correct, rng, n_splits):
        found = _clusters(after)
        rows.append(
            {
                "neighbours_kept": float(neighbours_kept(Z, after, half).mean()),
                "displacement": displacement(near, after),
                "movement": moved_share(Z, after) if after.shape == Z.shape else np.nan,
                "cluster_concordance": _agree(clusters, found),
                "concordance_again": again,
                "genes_called_before": np.nan if genes is None else genes_called(genes, half, clusters),
                "genes_called": np.nan if genes is None else genes_called(genes, half, found),
            }
        )
    return pd.DataFrame(rows, index=[str(i) for i in range(len(rows))])


def displacement(near: np.ndarray, after: np.ndarray) -> float:
    """Return how far the nearest cells of each cell fell back among all: 0 where none did, 1 as by chance.

    Parameters
    ----------
    near
        Nearest other cells before, (n, k).
    after
        Embedding after, (n, any).

    Examples
    --------
    >>> Z = np.random.default_rng(0).normal(size=(100, 3))
    >>> displacement(nearest_cells(Z, 5), Z)
    0.0
    """
    distances = need("sklearn.metrics", "workflow").euclidean_distances
    n, k = near.shape
    ranks = []
    for start in range(0, n, _ROWS):
        rows = np.arange(start, min(n, start + _ROWS))
        found = distances(after[rows], after)
        found[np.arange(len(rows)), rows] = -1
        ranks.append(np.take_along_axis(np.argsort(np.argsort(found, axis=1), axis=1), near[rows], axis=1))
    still = (k + 1) / 2
    return float((np.concatenate(ranks).mean() - still) / (n / 2 - still))


def genes_called(expression: np.ndarray, half: np.ndarray, clusters: np.ndarray) -> float:
    """Return which share of genes differs between the halves of a cluster (Welch's t-test, 5 % false discoveries).

    Parameters
    ----------
    expression
        Logarithms of expression, (n, genes).
    half, clusters
        Codes, (n,). Clusters with fewer than 20 cells of a half are left out.
    """
    from scipy.stats import false_discovery_control, ttest_ind

    called = tested = 0
    for cluster in np.unique(clusters):
        first, second = (expression[(clusters == cluster) & (half == side)] for side in (0, 1))
        if min(len(first), len(second)) < _CELLS:
            continue
        varies = (first.std(axis=0) > 0) | (second.std(axis=0) > 0)
        if varies.any():
            p = false_discovery_control(ttest_ind(first[:, varies], second[:, varies], equal_var=False).pvalue)
            called, tested = called + int((p < _RATE).sum()), tested + len(p)
    return called / tested if tested else float("nan")


def _clusters(Z: np.ndarray, seed: int = 0) -> np.ndarray:
    return leiden(*nearest(Z, _GRAPH), seed=seed)[_RESOLUTION]


def _agree(first: np.ndarray, second: np.ndarray) -> float:
    return float(need("sklearn.metrics", "workflow").adjusted_rand_score(first, second))
