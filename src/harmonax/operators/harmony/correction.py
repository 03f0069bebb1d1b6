"""One correction, compiled: cells into tiles, rounds, and back to rows."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...losses.checks import poisoned
from .assignment import Hyper, Problem, effective_theta, unit
from .config import BatchCorrectionConfig
from .early_stop import forward_only, rounds_until_converged
from .implicit import linear_residual, rounds_to_fixed_point
from .rounds import State, all_rounds, emit, first_state, one_round
from .seeding import Schedule, seed_centroids
from .tiles import TileShape, lay_out, pick_up, slots


class Given(NamedTuple):
    """The cells, and all else that their correction is a function of."""

    Z: jax.Array  # (N, F)
    labels: jax.Array  # (N, variables), the protected one last
    mask: jax.Array  # (N,)
    strengths: Hyper
    Y: jax.Array | None  # (K, F): the first centroids; None: they are seeded
    schedule: Schedule
    x: jax.Array | None = None  # (N, covariates)


@partial(jax.jit, static_argnums=(0, 1))
def corrected(config: BatchCorrectionConfig, shape: TileShape, given: Given) -> dict[str, jax.Array]:
    """Return the corrected embedding (N, F), R (N, K), and how the rounds ended."""
    Z, labels, mask = given[:3]
    # Accelerators would otherwise multiply float32 with fewer bits.
    with jax.default_matmul_precision("highest"):
        problem, Y, slot = _problem(config, shape, given)
        state, report = _run(config, problem, Y, given.schedule.orders)
        cells, R = emit(config, problem, state)
        cells, Z = jnp.where(mask[:, None], pick_up(cells, slot), Z), jnp.where(mask[:, None], Z, 0)
        top = jnp.asarray(config.all_levels)
        right = [jnp.isfinite(Z).all(), ((labels >= 0) & (labels < top)).all()]
        right += [] if given.x is None else [jnp.isfinite(jnp.where(mask[:, None], given.x, 0)).all()]
        found = {"corrected_embeddings": cells, "cluster_assignments": pick_up(R, slot)}
        found = {name: poisoned(value, *right) for name, value in found.items()}
        return (forward_only(found) if config.early_stop else found) | report


def _problem(config: BatchCorrectionConfig, shape: TileShape, given: Given) -> tuple[Problem, jax.Array, jax.Array]:
    """Return the cells in tiles with the strengths, the first centroids, and each cell's place."""
    Z, labels, mask, strengths, Y, schedule, x = given
    weight = mask.astype(Z.dtype)
    # NaN in padding must not reach a sum.
    Z = jnp.where(mask[:, None], Z, 0)
    Y = seed_centroids(Z, mask, schedule.sample, schedule.first, config.n_clusters) if Y is None else unit(Y)
    slot = slots(shape, schedule.block, labels)
    x = None if x is None else _standardised(config, x, labels, mask)
    tiles = lay_out(shape, slot, Z, labels, weight, config.all_offsets, x)
    each = [jax.nn.one_hot(labels[:, f], n, dtype=Z.dtype) for f, n in enumerate(config.all_levels)]
    counts = jnp.concatenate([weight @ carried for carried in each])
    strengths = strengths._replace(theta=effective_theta(config, strengths.theta, counts[: config.offsets[-1]]))
    pairs = None
    if config.n_protected:
        protected = each[-1] * weight[:, None]
        pairs = jnp.concatenate([carried.T @ protected for carried in each[:-1]])
    return Problem(tiles, strengths, counts, pairs), Y.astype(Z.dtype), slot


def _standardised(config: BatchCorrectionConfig, x: Any, labels: Any, mask: Any) -> Any:
    """Return `inputs.covariates.standardised` of the cells that may move, traced; 0 for the others."""
    numbered = labels + jnp.asarray(config.all_offsets[:-1], labels.dtype)
    moves = mask & ~jnp.isin(numbered, np.array(config.fixed, np.int32)).any(axis=1)
    n = jnp.maximum(moves.sum(), 1)
    x = jnp.where(moves[:, None], x, 0)
    x = jnp.where(moves[:, None], x - x.sum(axis=0) / n, 0)
    variance = jnp.square(x).sum(axis=0) / n
    return x / jnp.sqrt(jnp.where(variance > 0, variance, 1))


@partial(jax.jit, static_argnums=(0, 1))
def residual(config: BatchCorrectionConfig, shape: TileShape, given: Given, key: jax.Array) -> jax.Array:
    """Return the relative residual of the implicit gradient's equation."""
    problem, Y, _ = _problem(config, shape, given)
    return linear_residual(config, problem, Y, given.schedule.orders, key)


def _run(config: BatchCorrectionConfig, problem: Problem, Y: Any, orders: Any) -> tuple[State, dict[str, Any]]:
    """Return the end state, and a report of how it was reached."""
    if config.early_stop:
        state, n_rounds, converged = rounds_until_converged(config, problem, first_state(problem, Y), orders)
        return state, {"n_rounds": n_rounds, "converged": converged}
    if config.differentiation == "implicit":
        state, change = rounds_to_fixed_point(config, problem, Y, orders)
        return state, {"fixed_point_change": change}
    return all_rounds(partial(one_round, config, problem), first_state(problem, Y), orders), {}
