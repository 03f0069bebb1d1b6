"""Views and clusters for the demo, by igraph; without it the views are the first two columns."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

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

    graph, k = _graph(index, directed=True)
    start = embedding[:, :2] / embedding[:, 0].std() * 2.0
    with _seeded(igraph, seed):
        layout = graph.layout_umap(
            dist=distance[:, :k].ravel().tolist(), epochs=_EPOCHS, min_dist=_MIN_DIST, seed=start.tolist()
        )
    return np.asarray(layout.coords)


def leiden(index: np.ndarray, seed: int) -> np.ndarray:
    """Return the cluster of each cell, largest first, given their nearest neighbours (N, k); it sees no labels."""
    import igraph

    graph, _ = _graph(index, directed=False)
    with _seeded(igraph, seed):
        found = graph.simplify().community_leiden("modularity", n_iterations=2).membership
    sizes = np.bincount(found)
    return np.argsort(np.argsort(-sizes, kind="stable"))[found]


def _graph(index: np.ndarray, *, directed: bool) -> tuple[Any, int]:
    import igraph

    n, k = len(index), min(_N_NEIGHBOURS, index.shape[1])
    edges = np.column_stack([np.repeat(np.arange(n), k), index[:, :k].ravel()])
    return igraph.Graph(n=n, edges=edges, directed=directed), k


@contextlib.contextmanager
def _seeded(igraph: Any, seed: int) -> Iterator[None]:
    # igraph draws from one generator for the whole process; Python's own is its default.
    igraph.set_random_number_generator(random.Random(seed))
    try:
        yield
    finally:
        igraph.set_random_number_generator(random)
