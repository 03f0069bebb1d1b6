"""Soft k-means that fits and applies, and that gradients pass through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ..errors import InputError
from ..system.arguments import check_arguments
from ..system.validate import number, whole_number
from .checks import read_mask, read_values


@dataclass(frozen=True)
class SoftClusteringConfig:
    """Parameters of `SoftKMeansClustering`, checked when made.

    Parameters
    ----------
    n_clusters
        Number of clusters, K; default 10. More clusters separate finer groups of cells, and take more time; with fewer,
        distinct groups share one.
    n_features
        Features of the embedding, F; default 50.
    temperature
        Width of the assignments, in squared units of the embedding; default 1. Higher values spread each cell over more
        clusters; lower values come closer to hard clusters, and to k-means.
    learnable_centroids
        Make the centroids parameters (``nnx.Param``), which `nnx.grad` and `harmonax.training.fit` find; else they
        are constants that only `SoftKMeansClustering.fit` sets.

    Raises
    ------
    InputError
        If a value is outside its allowed range.

    Examples
    --------
    >>> SoftClusteringConfig(n_clusters=5).n_features
    50
    """

    n_clusters: int = 10
    n_features: int = 50
    temperature: float = 1.0
    learnable_centroids: bool = True

    def __post_init__(self) -> None:
        for name in ("n_clusters", "n_features"):
            object.__setattr__(self, name, whole_number(getattr(self, name), name, minimum=1))
        object.__setattr__(self, "temperature", number(self.temperature, "temperature", minimum=0, exclusive=True))
        if not isinstance(self.learnable_centroids, bool):
            raise InputError(f"learnable_centroids={self.learnable_centroids!r} must be True or False")


class SoftKMeansClustering(nnx.Module):
    """Soft k-means: cells belong to clusters by ``softmax_k(-|x_i - c_k|^2 / temperature)``.

    That is the posterior of a mixture of equal spherical Gaussians of variance ``temperature / 2``, whose centroids
    `fit` finds by k-means++ (Arthur and Vassilvitskii 2007) and expectation maximisation. Before `fit` they are random.

    Parameters
    ----------
    config
        Sizes and temperature.
    rngs
        The centroids before `fit`, standard normal.

    Attributes
    ----------
    centroids
        (K, F): ``nnx.Param`` where ``learnable_centroids``, else a plain ``nnx.Variable``.

    Examples
    --------
    >>> embeddings = jnp.array([[0.0, 0], [0, 1], [9, 9], [9, 8]])
    >>> kmeans = SoftKMeansClustering(SoftClusteringConfig(n_clusters=2, n_features=2), rngs=nnx.Rngs(0))
    >>> result, _, _ = kmeans.fit({"embeddings": embeddings}).apply({"embeddings": embeddings}, {}, None)
    >>> labels = result["cluster_labels"]
    >>> bool((labels[0] == labels[1]) & (labels[2] == labels[3]) & (labels[0] != labels[2]))
    True
    """

    def __init__(self, config: SoftClusteringConfig, *, rngs: nnx.Rngs) -> None:
        check_arguments(SoftKMeansClustering.__init__, locals())
        self.config = config
        kind = nnx.Param if config.learnable_centroids else nnx.Variable
        self.centroids = kind(jax.random.normal(rngs.params(), (config.n_clusters, config.n_features)))

    def apply(self, data: Mapping[str, Any], state: Any, metadata: Any, *_: Any) -> tuple[dict[str, Any], Any, Any]:
        """Assign cells to the centroids as they are.

        Parameters
        ----------
        data
            ``embeddings`` (N, F); ``mask`` (N,), false for padding, is optional. Never changed.
        state, metadata
            Passed through.

        Returns
        -------
        tuple
            The data with ``cluster_assignments`` (N, K), whose rows sum to 1 (to 0 for padding), ``cluster_labels``
            (N,) int, the likeliest cluster (-1 for padding), and ``centroids`` (K, F). Then state and metadata.

        Raises
        ------
        MissingKeyError
            If there are no embeddings.
        InputError
            If a shape is wrong or, outside jit, a value is not finite.
        """
        points, weight = self._read(data)
        centroids = self.centroids[...]
        assignments = _assignments(points, centroids, self.config.temperature) * weight[:, None]
        found = {
            "cluster_assignments": assignments,
            "cluster_labels": jnp.where(weight > 0, jnp.argmax(assignments, axis=1), -1),
            "centroids": centroids,
        }
        return {**data, **found}, state, metadata

    def loss(self, data: Mapping[str, Any]) -> jax.Array:
        """Return what `fit` lowers: the mean of ``-temperature ln sum_k exp(-|x_i - c_k|^2 / temperature)``, a scalar.

        With hard assignments (a small temperature) it is the mean squared distance to the nearest centroid.
        """
        points, weight = self._read(data)
        return _mean_free_energy(points, weight, self.centroids[...], self.config.temperature)

    def fit(
        self, data: Mapping[str, Any], *, max_iter: int = 100, tol: float = 1e-6, n_init: int = 4, rng: int = 0
    ) -> SoftKMeansClustering:
        """Set the centroids to those of the best of several runs, whether or not they are learnable.

        Parameters
        ----------
        data
            As for `apply`.
        max_iter
            Maximum number of rounds of expectation maximisation in a run. Raise it where runs end before they have
            settled; lower values take less time.
        tol
            A run ends when `loss` changes by less than this share of the data's variance. Higher values stop earlier.
        n_init
            Number of runs, each with a separate seeding. More runs find better optima, and take more time.
        rng
            Seed: the same gives the same centroids.

        Returns
        -------
        SoftKMeansClustering
            This one.

        Raises
        ------
        InputError
            If there are fewer cells than clusters, or as for `apply`.
        """
        max_iter = whole_number(max_iter, "max_iter", minimum=1, maximum=2**31 - 1)
        n_init = whole_number(n_init, "n_init", minimum=1, maximum=1000)
        tol, seed = (
            number(tol, "tol", minimum=0, exclusive=True),
            whole_number(rng, "rng", minimum=0, maximum=2**32 - 1),
        )
        points, weight = self._read(data)
        n_cells = int((weight > 0).sum())
        if n_cells < self.config.n_clusters:
            raise InputError(f"there are {n_cells} cells for {self.config.n_clusters} clusters; lower n_clusters")
        keys = jax.random.split(jax.random.key(seed), n_init)
        n_clusters = self.config.n_clusters
        runs = [_fit_once(points, weight, key, self.config.temperature, n_clusters, max_iter, tol) for key in keys]
        best = min(runs, key=lambda run: float(run[1]))
        self.centroids[...] = best[0].astype(self.centroids[...].dtype)
        return self

    def _read(self, data: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
        points = read_values(data, "embeddings", self.config.n_features)
        weight = read_mask(data, points)
        # Padding may hold anything, NaN included; 0 times that would be NaN.
        return jnp.where(weight[:, None] > 0, points, 0.0), weight


def _squared(points: jax.Array, centroids: jax.Array) -> jax.Array:
    """Return squared distances, (N, K). Products, not differences: those would be N x K x F."""
    products = (points**2).sum(axis=1)[:, None] + (centroids**2).sum(axis=1) - 2 * points @ centroids.T
    return jnp.maximum(products, 0.0)


def _assignments(points: jax.Array, centroids: jax.Array, temperature: float) -> jax.Array:
    # |x|^2 is the same for all clusters; without it, far from the origin, nothing cancels in the softmax.
    return jax.nn.softmax((2 * points @ centroids.T - (centroids**2).sum(axis=1)) / temperature, axis=1)


def _mean_free_energy(points: jax.Array, weight: jax.Array, centroids: jax.Array, temperature: float) -> jax.Array:
    energy = -temperature * jax.nn.logsumexp(-_squared(points, centroids) / temperature, axis=1)
    return (weight @ energy) / jnp.maximum(weight.sum(), 1.0)


def _seeds(points: jax.Array, weight: jax.Array, key: jax.Array, n_clusters: int) -> jax.Array:
    """Return k-means++ seeds, (K, F): each drawn in proportion to the squared distance from those before."""
    first, others = jnp.split(jax.random.split(key, n_clusters), [1])
    start = points[jax.random.categorical(first[0], jnp.log(weight))]

    def add(nearest: jax.Array, draw: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Where all cells sit on seeds, any cell will do.
        odds = jnp.where((nearest * weight).sum() > 0, nearest * weight, weight)
        seed = points[jax.random.categorical(draw, jnp.log(odds))]
        return jnp.minimum(nearest, _squared(points, seed[None])[:, 0]), seed

    seeds = jax.lax.scan(add, _squared(points, start[None])[:, 0], others)[1]
    return jnp.concatenate([start[None], seeds])


def _step(points: jax.Array, weight: jax.Array, centroids: jax.Array, temperature: float) -> tuple[jax.Array, Any]:
    """One round: the new centroids, and the loss of those before."""
    shares = _assignments(points, centroids, temperature) * weight[:, None]
    mass = shares.sum(axis=0)
    # A cluster without cells stays where it is.
    moved = jnp.where(mass[:, None] > 1e-6, shares.T @ points / jnp.maximum(mass, 1e-6)[:, None], centroids)
    return moved, _mean_free_energy(points, weight, centroids, temperature)


# Steps so far, centroids, the loss before the last step, and the one before that.
_Descent = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


@partial(jax.jit, static_argnames="n_clusters")
def _fit_once(
    points: jax.Array, weight: jax.Array, key: jax.Array, temperature: float, n_clusters: int, max_iter: int, tol: float
) -> tuple[jax.Array, jax.Array]:
    """Return the centroids of one run, and their loss."""
    # About the mean: products of large numbers would lose small distances.
    mean = weight @ points / weight.sum()
    points = (points - mean) * weight[:, None]
    enough = tol * (weight @ (points**2).sum(axis=1)) / weight.sum()

    def unfinished(at: _Descent) -> jax.Array:
        number, _, before, now = at
        return (number < max_iter) & (before - now >= enough)

    def advance(at: _Descent) -> _Descent:
        number, centroids, _, before = at
        moved, now = _step(points, weight, centroids, temperature)
        return number + 1, moved, before, now

    start = jnp.asarray(0), _seeds(points, weight, key, n_clusters), jnp.asarray(jnp.inf, points.dtype)
    highest = jnp.asarray(jnp.finfo(points.dtype).max)
    centroids = jax.lax.while_loop(unfinished, advance, (*start, highest))[1]
    return centroids + mean, _mean_free_energy(points, weight, centroids, temperature)
