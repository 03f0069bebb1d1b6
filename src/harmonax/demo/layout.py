"""Two-dimensional views for the demo's figure: UMAP by igraph where that is installed, else the first two columns."""

from __future__ import annotations

import random

import numpy as np

_EPOCHS = 200
_MIN_DIST = 1.0
_N_NEIGHBOURS = 15
INSTALL = "pip install 'harmonax[demo]'"


def has_igraph() -> bool:
    """Return whether UMAP views can be drawn."""
    try:
        import igraph  # noqa: F401
    except ImportError:
        return False
    return True


def lay_out(embedding: np.ndarray, distance: np.ndarray, index: np.ndarray, seed: int) -> np.ndarray:
    """Return a view of the cells, (N, 2), given their nearest neighbours (distances and indices, (N, k)).

    It sees no labels. For the eye only: distances between the islands of a UMAP mean little.
    """
    if not has_igraph():
        return embedding[:, :2]
    import igraph

    n, k = len(index), min(_N_NEIGHBOURS, index.shape[1])
    edges = np.column_stack([np.repeat(np.arange(n), k), index[:, :k].ravel()])
    graph = igraph.Graph(n=n, edges=edges, directed=True)
    start = embedding[:, :2] / embedding[:, 0].std() * 2.0
    # igraph draws from one generator for the whole process; Python's own is its default.
    igraph.set_random_number_generator(random.Random(seed))
    try:
        layout = graph.layout_umap(
            dist=distance[:, :k].ravel().tolist(), epochs=_EPOCHS, min_dist=_MIN_DIST, seed=start.tolist()
        )
    finally:
        igraph.set_random_number_generator(random)
    return np.asarray(layout.coords)
