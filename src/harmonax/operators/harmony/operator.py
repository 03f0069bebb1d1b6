"""Harmony as a differentiable operator: the engine's answer, with gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ...errors import InputError, NotConvergedError
from ...losses.checks import known
from ...params import HarmonyParams
from ...system.arguments import check_arguments
from ...system.rng import seed_from
from .assignment import Hyper
from .checks import check
from .config import BatchCorrectionConfig
from .correction import Given
from .correction import corrected as _correct
from .correction import residual as _residual
from .seeding import Schedule, draw, seed_centroids
from .tiles import TileShape, tile_shape


class DifferentiableHarmony(nnx.Module):
    """Batch correction by Harmony with gradients for the embedding and for every strength.

    The forward pass is that of `harmonax.harmonize` with `harmony_params()` and ``rng=op.seed``: same equations, same
    first centroids, same schedule. The number of rounds and passes is fixed. The defaults of `sigma` and `alpha` are
    not the engine's; see the notes of `BatchCorrectionConfig`.

    Parameters
    ----------
    config
        What to run.
    rngs
        Its ``params`` stream gives `seed`; None: ``nnx.Rngs(0)``. The same seed, data and parameters give the same
        result at every call.

    Attributes
    ----------
    log_theta, log_sigma, log_ridge
        ``nnx.Param``: logarithm of each strength relative to the configuration's value, so it begins at 0 and the
        strength stays positive. Shaped as the configuration's value. None where it is not learned.
    centroids
        ``nnx.Param`` (K, F) with `learnable_centroids`, scaled to unit length in use; else None. Random directions
        until `seed_from` sets them from data.
    seed
        The integer from which all of the run's randomness is derived.

    Notes
    -----
    Memory of the gradient: about one embedding per round up to a dozen rounds, and about ``2 sqrt(n_iterations)``
    above; assignments (N, K) are computed again, a block at a time. Korsunsky et al. 2019, Nature Methods 16:1289;
    Patikas et al. 2026 (Harmony2).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from harmonax.operators import BatchCorrectionConfig, DifferentiableHarmony
    >>> labels = jnp.arange(60) % 2
    >>> cells = jax.random.normal(jax.random.key(0), (60, 4)) + labels[:, None]
    >>> config = BatchCorrectionConfig(n_clusters=3, n_features=4, n_batches=2, n_iterations=2)
    >>> op = DifferentiableHarmony(config, rngs=nnx.Rngs(0))
    >>> result, _, _ = op.apply({"embeddings": cells, "batch_labels": labels}, {}, None)
    >>> result["corrected_embeddings"].shape, result["cluster_assignments"].shape
    ((60, 4), (60, 3))
    """

    def __init__(self, config: BatchCorrectionConfig, *, rngs: nnx.Rngs | None = None) -> None:
        check_arguments(DifferentiableHarmony.__init__, locals())
        rngs = rngs if rngs is not None else nnx.Rngs(0)
        self.config = config
        self.seed = int(jax.random.bits(rngs.params(), dtype=jnp.uint32))
        learnt = lambda name, value: nnx.Param(jnp.zeros(np.shape(value))) if name in config.learn else None  # noqa: E731
        self.log_theta = learnt("theta", config.theta)
        self.log_sigma = learnt("sigma", config.sigma)
        self.log_ridge = learnt("ridge", config.alpha if config.ridge == "dynamic" else config.ridge_lambda)
        shape = (config.n_clusters, config.n_features)
        self.centroids = nnx.Param(jax.random.normal(rngs.params(), shape)) if config.learnable_centroids else None

    @property
    def theta(self) -> jax.Array:
        """Strength of the diversity penalty, before tau; shaped as in the configuration."""
        return _strength(self.config.theta, self.log_theta)

    @property
    def sigma(self) -> jax.Array:
        """Width of the soft clusters, before the temperature; shaped as in the configuration."""
        return _strength(self.config.sigma, self.log_sigma)

    @property
    def ridge(self) -> jax.Array:
        """Ridge strength: alpha, or the fixed ridge_lambda; shaped as in the configuration."""
        value = self.config.alpha if self.config.ridge == "dynamic" else self.config.ridge_lambda
        return _strength(value, self.log_ridge)

    def apply(
        self,
        data: dict[str, Any],
        state: Any = None,
        metadata: Any = None,
        random_params: Any = None,
        stats: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any], Any, Any]:
        """Correct a batch of cells.

        Parameters
        ----------
        data
            ``embeddings`` (N, F); ``batch_labels`` (N,), or (N, n_variables), integers from 0; optionally ``mask``
            (N,) bool, False for padding, whose cells are returned as they came, with assignments 0, and influence
            nothing; optionally ``centroids`` (K, F) to begin from. Never changed.
        state, metadata
            Passed through.
        random_params, stats
            Accepted for the convention of operators, and not used.

        Returns
        -------
        tuple
            The data with ``corrected_embeddings`` (N, F) and ``cluster_assignments`` (N, K), rows that sum to 1; state;
            metadata. With `early_stop` also ``n_rounds`` and ``converged``; with implicit differentiation
            ``fixed_point_change``, the largest change that another round would make to a unit-length cell. In traced
            code, which cannot raise, labels out of range and values that are not finite make all results NaN.

        Raises
        ------
        InputError
            If shapes do not fit or, outside traced code, values are not usable.
        NotConvergedError
            If implicit differentiation finds no fixed point (inside jit: see ``fixed_point_change``).
        """
        found = _correct(*self._given(data))
        self._refuse_no_fixed_point(found.get("fixed_point_change"))
        return {**data, **found}, state, metadata

    def harmony_params(self) -> HarmonyParams:
        """Return the engine's parameters with the values learned so far (not inside traced code).

        Examples
        --------
        >>> from harmonax.operators import BatchCorrectionConfig, DifferentiableHarmony
        >>> DifferentiableHarmony(BatchCorrectionConfig(n_batches=2, temperature=2.0)).harmony_params().sigma
        0.5
        """
        base = self.config.params
        learnt: dict[str, Any] = {}
        if self.log_theta is not None:
            learnt["theta"] = base.theta * np.exp(np.asarray(self.log_theta[...], np.float64))
        if self.log_sigma is not None:
            learnt["sigma"] = base.sigma * np.exp(np.asarray(self.log_sigma[...], np.float64))
        if self.log_ridge is not None:
            name = "alpha" if self.config.ridge == "dynamic" else "ridge_lambda"
            learnt[name] = getattr(base, name) * np.exp(np.asarray(self.log_ridge[...], np.float64))
        return base.replace(**learnt)

    def linear_residual(self, data: dict[str, Any], rng: int = 0) -> float:
        """Return how well the linear equation behind the implicit gradient is solved, for a random right-hand side.

        Parameters
        ----------
        data
            As for `apply`.
        rng
            Seed of the right-hand side.

        Returns
        -------
        float
            Norm of what is left over the norm of the right-hand side: near rounding where it is solved. Above 0.01
            gradients are NaN.
        """
        return float(_residual(*self._given(data), jax.random.key(seed_from(rng) % (1 << 32))))

    def seed_from(self, data: dict[str, Any]) -> None:
        """Set the learnable centroids to those that this data would be seeded with.

        Raises
        ------
        InputError
            If the centroids are not learnable, or the data cannot be used.
        """
        if self.centroids is None:
            raise InputError("the centroids are not learnable; pass learnable_centroids=True to the configuration")
        Z, _, mask, _ = check(self.config, data)
        schedule = self._schedule(len(Z))
        Y = _seeded(self.config.n_clusters, Z, mask, schedule.sample, schedule.first)
        self.centroids[...] = Y.astype(self.centroids[...].dtype)

    def _given(self, data: dict[str, Any]) -> tuple[BatchCorrectionConfig, TileShape, Given]:
        """Check the data; return what a correction is compiled for, and what it is a function of."""
        Z, labels, mask, Y = check(self.config, data)
        if Y is None and self.centroids is not None:
            Y = self.centroids[...]
        schedule = self._schedule(len(Z))
        shape = tile_shape(schedule.block, schedule.orders.shape[-1], self.config.levels, self.config.n_features)
        return self.config.structure, shape, Given(Z, labels, mask, self._tables(Z.dtype), Y, schedule)

    def _tables(self, dtype: Any) -> Hyper:
        """Spread the strengths over levels and clusters."""
        config = self.config
        theta, sigma, ridge = (jnp.ravel(value).astype(dtype) for value in (self.theta, self.sigma, self.ridge))
        n_levels = config.offsets[-1]
        which = np.zeros(n_levels, int) if config.ridge == "dynamic" else config.index_per_level("ridge_lambda")
        return Hyper(
            theta=theta[config.index_per_level("theta")],
            sigma=jnp.broadcast_to(sigma * config.temperature, (config.n_clusters,)),
            ridge=ridge[which],
        )

    def _refuse_no_fixed_point(self, change: Any) -> None:
        allowed = self.config.tol_fixed_point
        if change is not None and known(change) and not float(change) <= allowed:
            raise NotConvergedError(
                f"after {self.config.n_iterations} rounds another one moves a unit-length cell by {float(change):.1e}; "
                f"implicit differentiation allows {allowed:.1e}: raise n_iterations, or use differentiation='unrolled'"
            )

    def _schedule(self, n_cells: int) -> Schedule:
        config = self.config
        n_blocks = config.params.n_blocks(n_cells)
        return draw(self.seed, n_cells, n_blocks, config.n_clusters, config.n_iterations, config.n_passes)


def _strength(start: float | tuple[float, ...], log: nnx.Param | None) -> jax.Array:
    """Return start x exp(log): exactly the start while log is 0, and positive whatever it becomes."""
    if log is None:
        return jnp.asarray(start, jnp.result_type(float))
    return jnp.asarray(start, log[...].dtype) * jnp.exp(log[...])


_seeded = partial(jax.jit, static_argnums=0)(
    lambda n_clusters, Z, mask, sample, first: seed_centroids(Z, mask, sample, first, n_clusters)
)
