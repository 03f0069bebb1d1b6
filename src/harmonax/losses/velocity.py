"""Whether cells go where their velocity says."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ..system.validate import number
from . import checks
from .clustering import length


class VelocityConsistencyLoss(nnx.Module):
    """Disagreement, in direction and in length, of the predicted step v dt with the step to the future state.

    With p = v dt and s = future - x::

        cosine_weight    * mean over cells of 1 - cos(p, s), in [0, 2]
      + magnitude_weight * mean of (|p| - |s|)^2 / mean of |s|^2

    0 where x + v dt is the future. Neither part depends on the data's unit. A step without length has no direction:
    it agrees with another such (0), and is at right angles to all else (1).

    Parameters
    ----------
    dt
        Time from now to the future, above 0. Raising it lengthens the predicted steps.
    cosine_weight, magnitude_weight
        Weights of the two parts, at least 0: raise one to count direction, or length, more.
    rngs
        Not used; every module takes it.

    Raises
    ------
    InputError
        If a parameter, or what the loss is called with, cannot be used.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> x, v = jnp.zeros((2, 2)), jnp.array([[10.0, 0.0], [0.0, 10.0]])
    >>> loss = VelocityConsistencyLoss()
    >>> float(loss(x, v, x + 0.1 * v)), float(loss(x, v, x - 0.1 * v))
    (0.0, 2.0)
    """

    def __init__(
        self,
        dt: float = 0.1,
        cosine_weight: float = 1.0,
        magnitude_weight: float = 1.0,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        self.dt = number(dt, "dt", minimum=0, exclusive=True)
        self.cosine_weight = number(cosine_weight, "cosine_weight", minimum=0)
        self.magnitude_weight = number(magnitude_weight, "magnitude_weight", minimum=0)

    def __call__(self, expression: Any, velocity: Any, future_expression: Any, mask: Any = None) -> jax.Array:
        """Return the loss, a scalar of at least 0.

        Parameters
        ----------
        expression, velocity, future_expression
            State, its change a unit of time, and the state `dt` later: N cells x genes each.
        mask
            Which cells count, (N,); None: all.
        """
        mask = checks.cell_mask(mask, checks.rows_of(expression))
        x = checks.cells("expression", expression, mask)
        predicted = self.dt * checks.cells("velocity", velocity, mask, like=x)
        step = checks.cells("future_expression", future_expression, mask, like=x) - x
        lengths = length(predicted), length(step)
        moving = (lengths[0] > 0) & (lengths[1] > 0)
        resting = (lengths[0] == 0) & (lengths[1] == 0)
        both = jnp.where(moving, lengths[0] * lengths[1], 1)
        cosine = jnp.where(moving, (predicted * step).sum(axis=1) / both, resting.astype(x.dtype))
        wrong = checks.mean_over((lengths[0] - lengths[1]) ** 2, mask)
        expected = checks.mean_over(lengths[1] ** 2, mask)
        magnitude = wrong / jnp.where(expected > 0, expected, 1)
        value = self.cosine_weight * checks.mean_over(1 - cosine, mask) + self.magnitude_weight * magnitude
        return checks.poisoned(value, checks.usable(predicted), checks.usable(step))
