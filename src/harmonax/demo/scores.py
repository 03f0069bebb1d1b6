"""Two questions about an embedding: do batches mix, and do cell types stay apart?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

N_NEIGHBOURS = 30


class Scores(NamedTuple):
    """Means over cells, all between 0 and 1 (mixing may pass 1 by chance).

    Attributes
    ----------
    mixing
        Entropy of the batches among a cell's neighbours, relative to what as many cells drawn at random from its own
        type would have: 0 apart, 1 as mixed as the types' compositions allow.
    purity
        Share of neighbours of the cell's own type.
    absent_purity
        The same for cells of the type that one batch lacks.
    """

    mixing: float
    purity: float
    absent_purity: float


def neighbours(embedding: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and indices of the k nearest other cells, exactly, (N, k) each."""
    distance, index = cKDTree(embedding).query(embedding, k + 1)
    # A cell is its own first neighbour, unless another lies at the very same place.
    own = index == np.arange(len(index))[:, None]
    own[~own.any(axis=1), -1] = True
    return distance[~own].reshape(-1, k), index[~own].reshape(-1, k)


def score(index: np.ndarray, batch: np.ndarray, cell_type: np.ndarray, absent: int, rng: np.random.Generator) -> Scores:
    """Score neighbours (N, k) given each cell's batch and type as codes."""
    drawn = np.empty_like(index)
    for t in np.unique(cell_type):
        members = np.flatnonzero(cell_type == t)
        drawn[members] = rng.choice(members, (len(members), index.shape[1]))
    n_batches = int(batch.max()) + 1
    same = (cell_type[index] == cell_type[:, None]).mean(axis=1)
    chance = _entropy(batch[drawn], n_batches).sum()
    return Scores(
        mixing=float(_entropy(batch[index], n_batches).sum() / chance) if chance > 0 else 1.0,
        purity=float(same.mean()),
        absent_purity=float(same[cell_type == absent].mean()) if (cell_type == absent).any() else float("nan"),
    )


def _entropy(labels: np.ndarray, n: int) -> np.ndarray:
    """Return the entropy of each row of labels."""
    share = np.stack([(labels == b).mean(axis=1) for b in range(n)], axis=1)
    return -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=1)
