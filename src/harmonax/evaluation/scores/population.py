"""All labelled cells of one embedding, among which the neighbours of those that are scored are sought."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..lisi import lisi_of_neighbours
from .labelfree import Near, near_of

FEWEST_OF_LABEL = 10


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
    near: Near

    def near_of(self, rows: np.ndarray) -> Near:
        """Return the neighbours of some of the cells that are scored."""
        if len(rows) == len(self.near.rows):
            return self.near
        places = np.searchsorted(self.near.rows, rows, sorter=(order := np.argsort(self.near.rows)))
        chosen = order[places]
        return Near(rows, self.near.distances[chosen], self.near.indices[chosen])

    def ilisi(self, rows: np.ndarray, batch: np.ndarray) -> np.ndarray:
        """Return the scaled number of batches around each cell, as label-free iLISI has it."""
        return scaled_lisi(self.near_of(rows), batch)

    def within_labels(self, rows: np.ndarray) -> list[tuple[np.ndarray, Near]]:
        """Return, per label, its cells, and the neighbours among them of those that are scored, as places."""
        found = []
        for code in np.unique(self.label[rows]):
            own = np.flatnonzero(self.label == code)
            if len(own) >= FEWEST_OF_LABEL:
                found.append((own, near_of(self.x[own], np.searchsorted(own, rows[self.label[rows] == code]))))
        return found


def scaled_lisi(near: Near, batch: np.ndarray) -> np.ndarray:
    """Return the number of batches around each cell, from 0 (one) to 1 (all, alike); nan where there is one only."""
    codes = np.unique(batch, return_inverse=True)[1]
    n = int(codes.max()) + 1
    if n < 2:
        return np.full(len(near.rows), np.nan)
    return np.clip((lisi_of_neighbours(near.distances, near.indices, near.rows, codes) - 1) / (n - 1), 0, 1)
