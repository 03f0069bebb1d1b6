"""The critic of a Wasserstein GAN for any number of batches (Arjovsky et al. 2017; Gulrajani et al. 2017)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class Critic(nnx.Module):
    """One score per batch, `n_slots` of them: how much a point looks like one of that batch. Two hidden layers.

    Examples
    --------
    >>> Critic(3, 8, 2, rngs=nnx.Rngs(0))(jnp.ones((5, 3))).shape
    (5, 2)
    """

    def __init__(self, n_features: int, hidden_dim: int, n_slots: int, *, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(n_features, hidden_dim, rngs=rngs)
        self.second = nnx.Linear(hidden_dim, hidden_dim, rngs=rngs)
        self.last = nnx.Linear(hidden_dim, n_slots, rngs=rngs)

    def __call__(self, points: jax.Array) -> jax.Array:
        """Return the scores of points, (N, n_features) to (N, n_slots)."""
        hidden = jax.nn.leaky_relu(self.first(points), 0.2)
        return self.last(jax.nn.leaky_relu(self.second(hidden), 0.2))

    def own_scores(self, points: jax.Array, labels: jax.Array) -> jax.Array:
        """Return each point's score for its batch, (N,)."""
        return jnp.take_along_axis(self(points), labels[:, None], axis=1)[:, 0]

    def distance(self, points: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
        """Return by how much a batch's score is higher in that batch than in the mean of the others; mean over batches.

        For a critic of slope 1 at its best, the Wasserstein distance of a batch from the others. 0 for one batch. Of
        points (N, n_features), each cell's batch (N,), and its weight in it (N,), 0 for padding.
        """
        scores = self(points)
        slots = scores.shape[1]
        total = jax.ops.segment_sum(weight, labels, slots)
        there = (total > 0).astype(points.dtype)
        means = jax.ops.segment_sum(weight[:, None] * scores, labels, slots) / jnp.where(total > 0, total, 1.0)[:, None]
        actual = jnp.diagonal(means)
        others = (there @ means - there * actual) / jnp.maximum(there.sum() - 1, 1.0)
        return jnp.where(there.sum() > 1, there @ (actual - others) / jnp.maximum(there.sum(), 1.0), 0.0)

    def steepness(self, points: jax.Array, labels: jax.Array, weight: jax.Array, key: jax.Array) -> jax.Array:
        """Return the mean of max(0, |gradient| - 1)^2 of each cell's score for its batch, on the way to a random cell.

        Only what is too steep is penalised: where batches are mixed, a flat critic is right.
        """
        pick, mix = jax.random.split(key)
        # Padding is never drawn.
        other = points[jax.random.choice(pick, len(points), (len(points),), p=weight / weight.sum())]
        share = jax.random.uniform(mix, (len(points), 1), points.dtype)

        def own_score(point: jax.Array, label: jax.Array) -> jax.Array:
            return self(point[None])[0, label]

        gradient = jax.vmap(jax.grad(own_score))(share * points + (1 - share) * other, labels)
        # The root has no gradient at 0.
        length = jnp.sqrt((gradient**2).sum(axis=1) + 1e-12)
        return (weight @ jax.nn.relu(length - 1) ** 2) / jnp.maximum(weight.sum(), 1.0)
