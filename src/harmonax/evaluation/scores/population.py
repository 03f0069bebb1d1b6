"""All labelled cells of one embedding, among which the neighbours of those that are scored are sought."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..lisi import lisi_of_neighbours
from ..neighbours import nearest

MAX_NEIGHBOURS = 90
FEWEST_OF_LABEL = 10


def n_neighbours(n: int) -> int:
    """Return how many neighbours scores look at, the cell itself included."""
    return min(MAX_NEIGHBOURS, n // 3)


class Around(NamedTuple):
    """Some cells, (q,), and the distances and rows of their nearest others among all, (q, k)."""

    rows: np.ndarray
    distances: np.ndarray
    indices: np.ndarray


def around(x: np.ndarray, rows: np.ndarray) -> Around:
    """Return the neighbours that scores look at."""
    return Around(rows, *nearest(x, n_neighbours(len(x)) - 1, rows))


@dataclass(frozen=True, eq=False)
class Population:
    """Cells with labels, of one embedding.

    Attributes
    ----------
    x, before
        This embedding of all cells with a label, (N, d), and the uncorrected one.
    label
        Codes, (N,).
    near
        Neighbours of all cells that are scored.
    """

    x: np.ndarray
    before: np.ndarray
    label: np.ndarray
    near: Around

    def near_of(self, rows: np.ndarray) -> Around:
        """Return the neighbours of some of the cells that are scored."""
        if len(rows) == len(self.near.rows):
            return self.near
        places = np.searchsorted(self.near.rows, rows, sorter=(order := np.argsort(self.near.rows)))
        chosen = order[places]
        return Around(rows, self.near.distances[chosen], self.near.indices[chosen])

    def ilisi(self, rows: np.ndarray, batch: np.ndarray) -> np.ndarray:
        """Return the scaled number of batches around each cell, as label-free iLISI has it."""
        return scaled_lisi(self.near_of(rows), batch)

    def within_labels(self, rows: np.ndarray) -> list[tuple[np.ndarray, Around]]:
        """Return, per label, its cells, and the neighbours among them of those that are scored, as places."""
        found = []
        for code in np.unique(self.label[rows]):
            own = np.flatnonzero(self.label == code)
            if len(own) >= FEWEST_OF_LABEL:
                found.append((own, around(self.x[own], np.searchsorted(own, rows[self.label[rows] == code]))))
        return found


def scaled_lisi(near: Around, batch: np.ndarray) -> np.ndarray:
    """Return the number of batches around each cell, from 0 (one) to 1 (all, alike); nan where there is one only."""
    codes = np.unique(batch, return_inverse=True)[1]
    n = int(codes.max()) + 1
    if n < 2:
        return np.full(len(near.rows), np.nan)
    return np.clip((lisi_of_neighbours(near.distances, near.indices, near.rows, codes) - 1) / (n - 1), 0, 1)
