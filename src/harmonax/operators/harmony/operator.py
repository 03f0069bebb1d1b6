"""Harmony as a differentiable operator: the engine's answer, with gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ...errors import InputError
from ...losses.checks import known, poisoned
from ...params import HarmonyParams
from ...system.arguments import check_arguments
from ...system.rng import seed_from
from .config import BatchCorrectionConfig
from .function import linear_residual, run, seeded


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
        The integer from which all of the run's randomness is derived; None where the operator was made in traced code.
        It is part of the state, as ``nnx.Variable`` `seed_halves`, so that an operator restored from a state is the
        same. The schedule that follows from it is drawn outside traced code: read `seed` once after restoring and
        before ``nnx.jit``, which otherwise returns NaN. Optimisers are for ``nnx.Param`` only.

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
        bits = jax.random.bits(rngs.params(), dtype=jnp.uint32)
        # As floats, which hold 16 bits exactly: a gradient for the whole state then exists, and is 0 here.
        self.seed_halves = nnx.Variable(jnp.stack([bits >> 16, bits & 0xFFFF]).astype(jnp.float32))
        self._seed = int(bits) if known(bits) else None
        learnt = lambda name, value: nnx.Param(jnp.zeros(np.shape(value))) if name in config.learn else None  # noqa: E731
        self.log_theta = learnt("theta", config.theta)
        self.log_sigma = learnt("sigma", config.sigma)
        self.log_ridge = learnt("ridge", config.alpha if config.ridge == "dynamic" else config.ridge_lambda)
        shape = (config.n_clusters, config.n_features)
        self.centroids = nnx.Param(jax.random.normal(rngs.params(), shape)) if config.learnable_centroids else None

    @property
    def seed(self) -> int | None:
        """The integer from which all of the run's randomness is derived."""
        halves = self.seed_halves[...]
        if known(halves):
            high, low = np.asarray(halves, np.float64)
            if not (high % 1 == low % 1 == 0 and min(high, low) >= 0 and max(high, low) < 1 << 16):
                raise InputError(
                    f"seed_halves holds {high}, {low}; allowed are whole numbers below 65536: optimise nnx.Param only"
                )
            seed = (int(high) << 16) | int(low)
            if seed != self._seed:
                # Not a change of what the module is, so allowed at any level of tracing.
                object.__setattr__(self, "_seed", seed)
        return self._seed

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
            nothing; optionally ``centroids`` (K, F) to begin from; with `n_protected` ``protect`` (N,), integers from
            0, and with `n_covariates` ``covariates`` (N, n_covariates). Never changed.
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
        seed = self._known_seed()
        found = run(self.config, self._begun(data), self._strengths, seed)
        halves = self.seed_halves[...]
        if not known(halves):
            same = (halves == jnp.asarray([seed >> 16, seed & 0xFFFF], halves.dtype)).all()
            found = {name: poisoned(value, same) if value.ndim else value for name, value in found.items()}
        return {**data, **found}, state, metadata

    def harmony_params(self) -> HarmonyParams:
        """Return the engine's parameters with the values learned so far (not inside traced code).

        Examples
        --------
        >>> from harmonax.operators import BatchCorrectionConfig, DifferentiableHarmony
        >>> DifferentiableHarmony(BatchCorrectionConfig(n_batches=2, temperature=2.0)).harmony_params().sigma
        0.47
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
        seed = seed_from(rng) % (1 << 32)
        return linear_residual(self.config, self._begun(data), self._strengths, self._known_seed(), seed)

    def seed_from(self, data: dict[str, Any]) -> None:
        """Set the learnable centroids to those that this data would be seeded with.

        Raises
        ------
        InputError
            If the centroids are not learnable, or the data cannot be used.
        """
        if self.centroids is None:
            raise InputError("the centroids are not learnable; pass learnable_centroids=True to the configuration")
        self.centroids[...] = seeded(self.config, data, self._known_seed()).astype(self.centroids[...].dtype)

    @property
    def _strengths(self) -> dict[str, jax.Array]:
        return {"theta": self.theta, "sigma": self.sigma, "ridge": self.ridge}

    def _begun(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the data with the learned centroids, where these are learned and no others are given."""
        if self.centroids is None or not isinstance(data, Mapping) or data.get("centroids") is not None:
            return data
        return {**data, "centroids": self.centroids[...]}

    def _known_seed(self) -> int:
        if (seed := self.seed) is None:
            raise InputError("the operator was made in traced code; read its `seed` outside of it before it is used")
        return seed


def _strength(start: float | tuple[float, ...], log: nnx.Param | None) -> jax.Array:
    """Return start x exp(log): exactly the start while log is 0, and positive whatever it becomes."""
    if log is None:
        return jnp.asarray(start, jnp.result_type(float))
    return jnp.asarray(start, log[...].dtype) * jnp.exp(log[...])
