"""Clusters of the graph of neighbours, at several resolutions."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from ...system.extras import need
from ..lisi import quiet

_GRAPH_NEIGHBOURS = 15
_RESOLUTIONS = tuple(0.2 * step for step in range(1, 11))


def leiden(neighbours: Any, seed: int = 0) -> list[np.ndarray]:
    """Return clusters of cells at resolutions 0.2 to 2, from the graph of their 15 nearest."""
    igraph = need("igraph", "workflow")
    with quiet():
        few = neighbours.subset_neighbors(min(_GRAPH_NEIGHBOURS, neighbours.n_neighbors))
        graph = igraph.Graph.Weighted_Adjacency(few.knn_graph_connectivities, mode="max")
    found = []
    for resolution in _RESOLUTIONS:
        igraph.set_random_number_generator(random.Random(seed))
        parts = graph.community_leiden(objective_function="modularity", weights="weight", resolution=resolution)
        found.append(np.asarray(parts.membership))
    return found
