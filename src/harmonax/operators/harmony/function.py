"""Harmony as a pure function of arrays: what `DifferentiableHarmony` calls, for any other framework of JAX."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...errors import NotConvergedError
from ...losses.checks import known
from ...system.validate import whole_number
from .assignment import Hyper
from .checks import check
from .config import BatchCorrectionConfig
from .correction import Given, corrected, residual
from .seeding import Schedule, draw, seed_centroids
from .tiles import TileShape, tile_shape


def harmony(
    embeddings: Any,
    batch_labels: Any,
    config: BatchCorrectionConfig,
    *,
    theta: Any = None,
    sigma: Any = None,
    ridge: Any = None,
    centroids: Any = None,
    mask: Any = None,
    seed: int = 0,
    protect: Any = None,
    covariates: Any = None,
) -> dict[str, jax.Array]:
    """Correct cells: pure, and differentiable in the embedding and every strength.

    Parameters
    ----------
    embeddings
        N cells x F.
    batch_labels
        Integers from 0, (N,) or (N, n_variables).
    config
        What to run; of its values, those of the strengths stand where the next arguments are None.
    theta, sigma, ridge
        Strengths, arrays shaped as the configuration's values, which may be traced: the penalty, the width before the
        temperature, and alpha or the fixed ridge_lambda. Higher theta mixes more strongly, higher sigma makes clusters
        softer, a higher ridge corrects less. They must stay positive: learn their logarithms.
    centroids
        (K, F) to begin from; None: seeded from the data.
    mask
        Which cells count, (N,); the others come back as they came.
    seed
        What all randomness follows from, an integer outside traced code.
    protect
        Levels of what must stay, such as a condition, integers from 0, (N,): needs ``config.n_protected``.
    covariates
        Numbers whose effect is removed, (N, ``config.n_covariates``).

    Returns
    -------
    dict
        ``corrected_embeddings`` (N, F), ``cluster_assignments`` (N, K), and what `DifferentiableHarmony.apply` says.

    Raises
    ------
    InputError
        If shapes do not fit or, outside traced code, values are not usable.
    NotConvergedError
        If implicit differentiation finds no fixed point.

    Examples
    --------
    >>> labels = jnp.arange(60) % 2
    >>> cells = jax.random.normal(jax.random.key(0), (60, 4)) + labels[:, None]
    >>> config = BatchCorrectionConfig(n_clusters=3, n_features=4, n_batches=2, n_iterations=2)
    >>> width = lambda sigma: harmony(cells, labels, config, sigma=sigma)["corrected_embeddings"].std()
    >>> bool(jax.grad(width)(0.3) != 0)
    True
    """
    data = {"embeddings": embeddings, "batch_labels": batch_labels, "mask": mask, "centroids": centroids}
    data |= {"protect": protect, "covariates": covariates}
    return run(config, data, {"theta": theta, "sigma": sigma, "ridge": ridge}, seed)


def run(config: BatchCorrectionConfig, data: Any, strengths: Any, seed: int) -> dict[str, jax.Array]:
    """Return what `harmony` returns, of data and strengths by name; a strength of None is the configuration's."""
    found = corrected(*_prepared(config, data, strengths, seed))
    _refuse_no_fixed_point(config, found.get("fixed_point_change"))
    return found


def linear_residual(config: BatchCorrectionConfig, data: Any, strengths: Any, seed: int, rng: int) -> float:
    """Return how well the implicit gradient's equation is solved: see `DifferentiableHarmony.linear_residual`."""
    return float(residual(*_prepared(config, data, strengths, seed), jax.random.key(rng)))


def seeded(config: BatchCorrectionConfig, data: Any, seed: int) -> jax.Array:
    """Return the first centroids (K, F) that these data are seeded with."""
    Z, _, mask, _, _ = check(config, data)
    schedule = _schedule(config, len(Z), seed)
    return _seeded(config.n_clusters, Z, mask, schedule.sample, schedule.first)


def _prepared(
    config: BatchCorrectionConfig, data: Any, strengths: Any, seed: int
) -> tuple[BatchCorrectionConfig, TileShape, Given]:
    """Return what a correction is compiled for, and what it is a function of: checked arrays, tables, the schedule."""
    Z, labels, mask, Y, x = check(config, data)
    schedule = _schedule(config, len(Z), whole_number(seed, "seed", minimum=0))
    shape = tile_shape(schedule.block, schedule.orders.shape[-1], config.all_levels, config.n_features)
    return config.structure, shape, Given(Z, labels, mask, _tables(config, strengths, Z.dtype), Y, schedule, x)


def _schedule(config: BatchCorrectionConfig, n_cells: int, seed: int) -> Schedule:
    n_blocks = config.params.n_blocks(n_cells)
    return draw(seed, n_cells, n_blocks, config.n_clusters, config.n_iterations, config.n_passes)


def _tables(config: BatchCorrectionConfig, strengths: Any, dtype: Any) -> Hyper:
    """Spread the strengths over levels and clusters."""
    begin = {"theta": config.theta, "sigma": config.sigma}
    begin["ridge"] = config.alpha if config.ridge == "dynamic" else config.ridge_lambda
    given = {name: value if strengths[name] is None else strengths[name] for name, value in begin.items()}
    theta, sigma, ridge = (jnp.ravel(jnp.asarray(given[name])).astype(dtype) for name in ("theta", "sigma", "ridge"))
    n_levels = config.offsets[-1]
    which = np.zeros(n_levels, int) if config.ridge == "dynamic" else config.index_per_level("ridge_lambda")
    return Hyper(
        theta=theta[config.index_per_level("theta")],
        sigma=jnp.broadcast_to(sigma * config.temperature, (config.n_clusters,)),
        ridge=ridge[which],
    )


def _refuse_no_fixed_point(config: BatchCorrectionConfig, change: Any) -> None:
    allowed = config.tol_fixed_point
    if change is not None and known(change) and not float(change) <= allowed:
        raise NotConvergedError(
            f"after {config.n_iterations} rounds another one moves a unit-length cell by {float(change):.1e}; "
            f"implicit differentiation allows {allowed:.1e}: raise n_iterations, or use differentiation='unrolled'"
        )


_seeded = partial(jax.jit, static_argnums=0)(
    lambda n_clusters, Z, mask, sample, first: seed_centroids(Z, mask, sample, first, n_clusters)
)
