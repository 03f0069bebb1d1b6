"""The reference's cells with their labels, kept so that labels can be handed to new cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError, MissingKeyError, nearest
from ..extras import need

# Votes of so many reference cells decide.
K = 15
# Above so many cells neighbours are approximate.
_EXACT = 50_000
# Cells that the confidence is calibrated on.
_CALIBRATED_ON = 5_000


@dataclass(frozen=True, eq=False)
class Labels:
    """One column of labels: a name for each code, each cell's code (-1: none), and how votes became right.

    Attributes
    ----------
    names
        Names of the codes.
    codes
        (N,), -1 for cells without a label.
    votes, right
        Shares of the vote, rising, and the shares of cells for which the winner was right.
    """

    names: np.ndarray
    codes: np.ndarray
    votes: np.ndarray
    right: np.ndarray


@dataclass(frozen=True, eq=False)
class Reference:
    """Corrected embedding (N, d) and label columns of the reference's cells."""

    embedding: np.ndarray
    labels: dict[str, Labels]

    @classmethod
    def of(cls, embedding: Any, labels: pd.DataFrame, batch: np.ndarray, rng: Any = 0) -> Reference:
        """Keep cells and labels, and find out how far the votes of other batches' cells can be trusted.

        Each label is compared with the vote among the nearest cells of other batches, since new cells are of another
        batch too; with one batch, among all others.
        """
        Z = np.asarray(embedding, np.float32)
        columns = {}
        for name in labels.columns:
            column = labels[name].astype("category").cat.remove_unused_categories()
            names = column.cat.categories.astype(str).to_numpy(object)
            codes = column.cat.codes.to_numpy(np.int32)
            if len(names) == 0:
                raise InputError(f"column '{name}' has no labels")
            columns[str(name)] = _calibrated(Z, names, codes, np.asarray(batch), np.random.default_rng(rng))
        return cls(Z, columns)

    def column(self, name: str) -> Labels:
        """Return one column of labels."""
        if name not in self.labels:
            raise MissingKeyError(f"the model keeps no labels '{name}'; {nearest(name, self.labels)}")
        return self.labels[name]

    def transfer(self, Z: np.ndarray, name: str, k: int = K) -> pd.DataFrame:
        """Return the label that most of the k nearest reference cells have, and the chance that it is right.

        Parameters
        ----------
        Z
            New cells in the corrected space, (N, d).
        name
            Column of labels.

        Returns
        -------
        pandas.DataFrame
            ``label``, ``vote`` (share of the k cells) and ``confidence`` (share of the reference's own cells with
            such a vote, among cells of other batches, for which it was right), N rows.
        """
        own = self.column(name)
        rows = np.flatnonzero(own.codes >= 0)
        near = rows[nearest_rows(self.embedding[rows], np.asarray(Z, np.float32), min(k, len(rows)))[0]]
        winner, share = _vote(own.codes[near], len(own.names))
        confidence = np.interp(share, own.votes, own.right)
        return pd.DataFrame({"label": own.names[winner], "vote": share, "confidence": confidence})


def nearest_rows(cells: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and distances of the k nearest cells of each query, (n, k); approximate where cells are many."""
    if len(cells) > _EXACT:
        index = need("pynndescent", "workflow").NNDescent(cells, n_neighbors=max(k, 15), random_state=0)
        return index.query(queries, k=k)
    search = need("sklearn.neighbors", "workflow").NearestNeighbors(n_neighbors=k).fit(cells)
    distances, rows = search.kneighbors(queries)
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
    labelled = np.flatnonzero(codes >= 0)
    tried = labelled if len(labelled) <= _CALIBRATED_ON else np.sort(gen.choice(labelled, _CALIBRATED_ON, replace=False))
    shares, right = [], []
    levels = np.unique(batch[labelled])
    for level in levels:
        own = tried[batch[tried] == level]
        others = labelled[batch[labelled] != level] if len(levels) > 1 else labelled
        if not len(own) or len(others) < 2:
            continue
        # With one batch only, the cell itself is the nearest and has no vote.
        skip = int(len(levels) == 1)
        near = others[nearest_rows(Z[others], Z[own], min(K + skip, len(others)))[0]][:, skip:]
        winner, share = _vote(codes[near], len(names))
        shares.append(share)
        # A type that no other batch has cannot be right, and says nothing of the vote.
        known = np.isin(codes[own], codes[others])
        shares[-1] = share[known]
        right.append((winner == codes[own])[known])
    share, hit = np.concatenate([*shares, np.empty(0)]), np.concatenate([*right, np.empty(0)])
    grid = np.linspace(0.0, 1.0, K + 1)
    if len(share) < K:
        return Labels(names, codes, grid, grid)
    # One wrong and one right cell of each vote keep the ends from being certain.
    share = np.concatenate([share, grid, grid])
    hit = np.concatenate([hit, np.ones(len(grid)), np.zeros(len(grid))])
    fit = need("sklearn.isotonic", "workflow").IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    return Labels(names, codes, grid, fit.fit(share, hit).predict(grid))
