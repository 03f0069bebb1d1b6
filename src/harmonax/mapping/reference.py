"""The reference's cells with their labels, kept so that labels can be transferred to new cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..algorithm.seeding import unit
from ..errors import InputError, MissingKeyError, nearest
from ..inputs.columns import absent
from ..inputs.embedding import read_embedding
from ..inputs.levels import native
from ..system.extras import need

# Votes of so many reference cells decide, the nearest by angle, as Harmony's clusters see them. Of 5, 10 and 15, by
# angle and by distance, this gave the best labels on held-out batches (`benchmarks/mapping.py`).
K = 5
# Above so many cells neighbours are approximate.
_EXACT = 50_000
# Neighbours in that graph.
_GRAPH = 30
# Cells that the confidence is calibrated on.
_CALIBRATED_ON = 5_000


@dataclass(frozen=True, eq=False)
class Labels:
    """One column of labels: a name for each code, each cell's code (-1: none), and how votes became right."""

    names: np.ndarray  # names of the codes
    codes: np.ndarray  # (N,), -1 for cells without a label
    # votes, right: shares of the vote, rising, and the shares of cells for which the winner was right.
    votes: np.ndarray
    right: np.ndarray


@dataclass(frozen=True, eq=False)
class Reference:
    """Corrected embedding (N, d) and label columns of the reference's cells."""

    embedding: np.ndarray
    labels: dict[str, Labels]
    _near: dict[str | None, Near] = field(default_factory=dict, repr=False)

    def near(self, name: str | None = None) -> Near:
        """Return the search among all cells, or by angle among those with a label in this column; made once."""
        if name not in self._near:
            Z = self.embedding if name is None else unit(self.embedding[self.column(name).codes >= 0])
            self._near[name] = Near(Z)
        return self._near[name]

    @classmethod
    def of(cls, embedding: Any, labels: pd.DataFrame, batch: np.ndarray, rng: Any = 0) -> Reference:
        """Keep cells and labels, and find out how far the votes of other batches' cells can be trusted.

        Each label is compared with the vote among the nearest cells of other batches, since new cells are of another
        batch too; with one batch, among all others.
        """
        Z = read_embedding(np.asarray(embedding, np.float32), what="the reference's embedding").array()
        if len(batch) != len(Z) or len(labels) != len(Z):
            raise InputError(
                f"there are {len(Z)} cells, {len(labels)} labels and {len(batch)} batches; they must agree"
            )
        batch = pd.factorize(np.asarray(batch))[0]
        columns = {}
        for name in labels.columns:
            column = native(labels[name])
            column = column.mask(absent(column)).astype("category").cat.remove_unused_categories()
            names = column.cat.categories.astype(str).to_numpy(object)
            codes = column.cat.codes.to_numpy(np.int32)
            if len(names) == 0:
                raise InputError(f"column '{name}' has no labels")
            columns[str(name)] = _calibrated(Z, names, codes, batch, np.random.default_rng(rng))
        return cls(Z, columns)

    def column(self, name: str) -> Labels:
        """Return one column of labels."""
        if name not in self.labels:
            raise MissingKeyError(f"the model keeps no labels '{name}'; {nearest(name, self.labels)}")
        return self.labels[name]

    def transfer(self, Z: np.ndarray, name: str, k: int = K) -> pd.DataFrame:
        """Return the label that most of the k nearest reference cells have, and the chance that it is right.

        Of N new cells in the corrected space: ``label``, ``vote`` (share of the k cells) and ``confidence`` (share of
        the reference's own cells with such a vote, among cells of other batches, for which it was right).
        """
        own = self.column(name)
        near = self.near(name)(unit(np.asarray(Z, np.float32)), k)[0]
        winner, share = _vote(own.codes[own.codes >= 0][near], len(own.names))
        confidence = np.interp(share, own.votes, own.right)
        return pd.DataFrame({"label": own.names[winner], "vote": share, "confidence": confidence})


class Near:
    """Rows and distances of the k nearest of some cells, (n, k) each; approximate where the cells are many.

    With `exact` they never are: for few queries an index takes longer to build than it saves.
    """

    def __init__(self, cells: np.ndarray, *, exact: bool = False) -> None:
        self._n, self._index = len(cells), None
        if len(cells) > _EXACT and not exact:
            self._index = need("pynndescent", "workflow").NNDescent(cells, n_neighbors=_GRAPH, random_state=0)
        else:
            algorithm = "brute" if len(cells) > _EXACT else "auto"
            self._search = need("sklearn.neighbors", "workflow").NearestNeighbors(algorithm=algorithm).fit(cells)

    def __call__(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        k = min(k, self._n)
        if self._index is not None:
            found: tuple[np.ndarray, np.ndarray] = self._index.query(queries, k=k)
            return found
        distances, rows = self._search.kneighbors(queries, n_neighbors=k)
        return rows, distances


def _vote(codes: np.ndarray, n_names: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the most frequent code of each row, and its share; the nearest decides between equals."""
    n, k = codes.shape
    counts = np.zeros((n, n_names))
    np.add.at(counts, (np.arange(n)[:, None], codes), 1.0 + 1e-6 * np.arange(k, 0, -1) / k)
    winner = counts.argmax(axis=1)
    return winner, (codes == winner[:, None]).mean(axis=1)


def _calibrated(
    Z: np.ndarray, names: np.ndarray, codes: np.ndarray, batch: np.ndarray, gen: np.random.Generator
) -> Labels:
    """Find the share of right votes by the share of the vote, among cells of other batches."""
    Z, rows = unit(Z), np.flatnonzero(codes >= 0)
    tried = rows if len(rows) <= _CALIBRATED_ON else np.sort(gen.choice(rows, _CALIBRATED_ON, replace=False))
    grid = np.linspace(0.0, 1.0, K + 1)
    # One wrong and one right cell of each vote keep the ends from being certain.
    shares, right = [grid, grid], [np.ones(K + 1), np.zeros(K + 1)]
    levels = np.unique(batch[rows])
    # With one batch only, a cell is its own nearest, and has no vote.
    skip = int(len(levels) == 1)
    for level in levels:
        others = rows if skip else rows[batch[rows] != level]
        # A type that no other batch has cannot be right, and says nothing of the vote.
        own = tried[(batch[tried] == level) & np.isin(codes[tried], codes[others])]
        if len(own) and len(others) > 1:
            near = others[Near(Z[others], exact=True)(Z[own], K + skip)[0]][:, skip:]
            winner, share = _vote(codes[near], len(names))
            shares.append(share)
            right.append(winner == codes[own])
    if len(shares) == 2:
        return Labels(names, codes, grid, grid)
    fit = need("sklearn.isotonic", "workflow").IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    return Labels(names, codes, grid, fit.fit(np.concatenate(shares), np.concatenate(right)).predict(grid))
