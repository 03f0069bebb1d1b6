"""How unlike anything in the reference new cells are.

A cell type that the reference lacks is placed among the types that it has, so distances in the corrected space say
little (`benchmarks/mapping.py` has the figures). What shows it is the expression that the reference's components cannot
explain: of a cell y, scaled by the reference's means and standard deviations, the residual e = y - V V^T y. The score
is the mean of its largest positive entries, each in standard deviations of the reference's own residuals, after
averaging over the cell and its nearest new cells. Where the query lacks genes, both are of those that it has: y is
explained by least squares.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse

from ..inputs.expression import dense
from .projection import Matched, Projection
from .reference import Near, Reference

Kind = Literal["genes", "reference", "clusters"]
# Genes whose residuals count, and cells that are averaged over: the cell and its nearest.
TOP, NEAR = 20, 8
# Neighbours in the reference, where there are no genes.
_K = 15
# Reference cells that the score is tried on.
_TRIED = 5_000
# A cell is called novel this much above this quantile of the reference's own scores,
_NOVEL, _MARGIN = 0.99, 1.15
# after a batch's scores were made comparable by this one: a protocol that adds noise adds it to every cell.
_KNOWN = 0.25
# A batch whose scores are so many times the reference's is unlike it as a whole.
UNLIKE = 2.5
_PIECE = 2048


@dataclass(frozen=True, eq=False)
class Novelty:
    """What the reference's own cells look like."""

    # ``"genes"``: from residuals of expression; ``"reference"``: mean distance to the nearest reference cells;
    # ``"clusters"``: distance to the nearest cluster's mean, which is near to guessing.
    kind: Kind
    spread: np.ndarray  # standard deviation of the reference's residuals by gene, (G,); empty for the other kinds
    quantiles: np.ndarray  # of the reference's scores, at 0, 0.01, ..., 1
    # The same of scores that were not averaged over neighbours; empty for the other kinds.
    alone: np.ndarray = field(default_factory=lambda: np.empty(0))

    def quantile(self, share: float) -> float:
        """Return the score that this share of the reference's cells are below."""
        return float(np.interp(share, np.linspace(0, 1, len(self.quantiles)), self.quantiles))

    def relative(self, scores: np.ndarray) -> np.ndarray:
        """Return scores as multiples of the reference's median."""
        return scores / max(self.quantile(0.5), np.finfo(float).tiny)

    def novel(self, scores: np.ndarray, batch: Any, known: Any = ()) -> tuple[np.ndarray, pd.Series]:
        """Return which of the new cells (N,) are novel, and by how much each batch's scores exceed the reference's.

        `known` are the batches that the reference has: there, only novel cells explain such an excess.
        """
        own = pd.Categorical(batch)
        lower = [np.quantile(scores[own.codes == code], _KNOWN) for code in range(len(own.categories))]
        shift = pd.Series(lower, own.categories) / max(self.quantile(_KNOWN), np.finfo(float).tiny)
        shift = shift.clip(lower=1.0)
        allowed = shift.where(~shift.index.isin(list(known)), 1.0).to_numpy()
        return scores > _MARGIN * self.quantile(_NOVEL) * allowed[own.codes], shift


def by_genes(projection: Projection, X: Any, Z: np.ndarray) -> Novelty:
    """Summarise some cells of the reference (`sample_rows`) by their expression.

    X is the expression of the projection's genes as the components were computed from it, Z the embedding before
    correction.
    """
    V, center = projection.loadings, projection.center
    total = np.zeros(len(center))
    for start in range(0, len(Z), _PIECE):
        total += (_residual(dense(X[start : start + _PIECE], np.float64) - center, V) ** 2).sum(axis=0)
    spread = np.sqrt(total / len(Z)) + 1e-3
    several = (dense(mean @ X, np.float64) for mean in _averages(Z))
    single = (dense(X[start : start + _PIECE], np.float64) for start in range(0, len(Z), _PIECE))
    quantiles, alone = (
        np.quantile(np.concatenate([_top(_residual(x - center, V) / spread) for x in pieces]), np.linspace(0, 1, 101))
        for pieces in (several, single)
    )
    return Novelty("genes", spread, quantiles, alone)


def by_distance(reference: Reference | None, means: np.ndarray, Zc: np.ndarray) -> Novelty:
    """Summarise some cells of the reference, Zc, by distances in the corrected space.

    To all of its cells where the model keeps them, else to the mean of each cluster.
    """
    kind: Kind = "clusters" if reference is None else "reference"
    if reference is not None:
        # The first is the cell itself.
        scores = reference.near()(np.asarray(Zc, np.float32), _K + 1)[1][:, 1:].mean(axis=1)
    else:
        scores = _to_clusters(means, Zc)
    return Novelty(kind, np.empty(0), np.quantile(scores, np.linspace(0, 1, 101)))


def score_genes(novelty: Novelty, matched: Matched, X: Any, Z: np.ndarray | None) -> np.ndarray:
    """Return the score of new cells, (N,), from X, their expression like the reference's before scaling, in pieces.

    Neighbours are found in Z, the embedding before correction, and X is then in memory for a while. None: every cell by
    itself, which makes a rare type harder to see.
    """
    p, n = matched.projection, X.shape[0]
    out = np.empty(n)
    if Z is None:
        for start in range(0, n, _PIECE):
            rows = slice(start, min(n, start + _PIECE))
            out[rows] = _score(novelty, matched, X[rows])
        return out
    there = matched.column >= 0
    pieces = (X[start : min(n, start + _PIECE)][:, matched.column[there]] for start in range(0, n, _PIECE))
    own = scipy.sparse.vstack([scipy.sparse.csr_matrix(piece, dtype=np.float32) for piece in pieces], format="csr")
    # Its columns are numbered anew.
    here, start = Matched(p, np.where(there, np.cumsum(there) - 1, -1)), 0
    for mean in _averages(Z):
        rows = slice(start, start + mean.shape[0])
        out[rows] = _score(novelty, here, mean @ own)
        start = rows.stop
    return out


def score_distance(novelty: Novelty, reference: Reference | None, means: np.ndarray, Z: np.ndarray) -> np.ndarray:
    """Return the score of new cells from where they are in the corrected space, (N, d); see `by_distance`."""
    if novelty.kind == "reference" and reference is not None:
        return reference.near()(np.asarray(Z, np.float32), _K)[1].mean(axis=1)
    return _to_clusters(means, Z)


def _score(novelty: Novelty, matched: Matched, X: Any) -> np.ndarray:
    p, there = matched.projection, matched.column >= 0
    y = matched.scaled(matched.values(X)) - p.center
    if there.all():
        return _top(_residual(y, p.loadings) / novelty.spread)
    # A missing gene's mean is not what the others predict of it: the components are fitted to the genes that are there.
    y, V = y[:, there], p.loadings[there]
    return _top((y - y @ np.linalg.pinv(V).T @ V.T) / novelty.spread[there])


def _residual(y: np.ndarray, V: np.ndarray) -> np.ndarray:
    return y - (y @ V) @ V.T


def _top(e: np.ndarray) -> np.ndarray:
    """Return the mean of the largest positive entries of each row."""
    n = min(TOP, e.shape[1])
    return np.maximum(np.partition(e, -n, axis=1)[:, -n:], 0).mean(axis=1)


def _averages(Z: np.ndarray) -> Iterator[Any]:
    """Give pieces of the sparse matrix that averages over each cell and its nearest."""
    n = len(Z)
    Z, k = np.asarray(Z, np.float32), min(NEAR, n)
    near = Near(Z)(Z, k)[0]
    for start in range(0, n, _PIECE):
        rows = near[start : start + _PIECE]
        shape = (len(rows), n)
        yield scipy.sparse.csr_matrix((np.full(rows.size, 1 / k), rows.ravel(), np.arange(len(rows) + 1) * k), shape)


def _to_clusters(means: np.ndarray, Z: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import cdist

    return cdist(np.asarray(Z, np.float64), means).min(axis=1)


def sample_rows(n: int, rng: Any = 0) -> np.ndarray:
    """Return the rows of the reference's cells that the score is tried on."""
    return np.arange(n) if n <= _TRIED else np.sort(np.random.default_rng(rng).choice(n, _TRIED, replace=False))
