"""The tables of a fitted model, and what follows from them alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..algorithm.penalty import expected, log_penalty
from ..algorithm.seeding import unit
from ..errors import InputError
from ..inputs.embedding import as_array
from ..params import HarmonyParams
from .novelty import Novelty
from .projection import Projection
from .reference import Reference


@dataclass(frozen=True, eq=False)
class ModelTables:
    """What `HarmonyModel` is made of, which also says what each table is: K clusters, B levels, d features."""

    centroids: np.ndarray  # (K, d)
    sigma: np.ndarray  # (K,)
    cluster_mass: np.ndarray  # (K,)
    cluster_moment: np.ndarray  # (K, d)
    ridge: np.ndarray  # (B, K, d)
    level_mass: np.ndarray  # (B, K)
    theta: np.ndarray  # (B,)
    level_counts: np.ndarray  # (B,)
    n_cells: int
    variables: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    params: HarmonyParams
    record: dict[str, Any] = field(default_factory=dict)
    projection: Projection | None = None
    novelty: Novelty | None = None
    reference: Reference | None = None

    @property
    def n_clusters(self) -> int:
        return len(self.centroids)

    @property
    def n_features(self) -> int:
        return self.centroids.shape[1]

    def log_penalty(self) -> np.ndarray:
        """Return the penalty of each level at the end of the run, in log space, (B, K)."""
        E = expected(self.level_counts / self.n_cells, self.cluster_mass)
        return log_penalty(self.params.flavor, self.level_mass, E, self.theta)

    def cluster_means(self) -> np.ndarray:
        """Return the mean corrected cell of each cluster that has cells, (at most K, d)."""
        there = self.cluster_mass > 0
        return self.cluster_moment[there] / self.cluster_mass[there, None]

    def nearest_cluster(self, Z: np.ndarray) -> np.ndarray:
        """Return the likeliest soft cluster of each cell in the corrected space, (N,)."""
        Z = as_array(Z, "the embedding")
        if Z.ndim != 2 or Z.shape[1] != self.n_features:
            raise InputError(f"the embedding has shape {Z.shape}; allowed is (cells, {self.n_features})")
        toward = unit(np.asarray(Z, np.float32)) @ self.centroids.T.astype(np.float32)
        if np.ptp(self.sigma) > 0:
            toward = (toward - 1) / self.sigma.astype(np.float32)
        nearest: np.ndarray = toward.argmax(axis=1)
        return nearest
