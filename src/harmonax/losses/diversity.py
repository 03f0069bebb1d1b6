"""How spread out each cell's assignment to clusters is."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from . import checks


class ShannonDiversityLoss(nnx.Module):
    """Mean Shannon entropy of the cells' assignments: mean of -sum_k p_k ln p_k, in nats, in [0, ln K].

    0 where every cell belongs to one cluster, ln K where all belong to all alike. Shares of 0 count for 0 and have
    gradient 0, although the derivative has no bound there.

    Parameters
    ----------
    rngs
        Not used; every module takes it.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> round(float(ShannonDiversityLoss()(jnp.array([[0.5, 0.5], [1.0, 0.0]]))), 4)
    0.3466
    """

    def __init__(self, *, rngs: nnx.Rngs | None = None) -> None:
        pass

    def __call__(self, assignments: Any, mask: Any = None) -> jax.Array:
        """Return the loss, a scalar.

        Parameters
        ----------
        assignments
            Share of each cell that belongs to each cluster, (N, K); rows sum to one.
        mask
            Which cells count, (N,); None: all.

        Raises
        ------
        InputError
            If these are not valid shares.
        """
        mask = checks.cell_mask(mask, checks.rows_of(assignments))
        p = checks.shares("assignments", assignments, mask)
        return checks.mean_over(-(p * jnp.log(jnp.where(p > 0, p, 1))).sum(axis=1), mask)


class SimpsonDiversityLoss(nnx.Module):
    """Mean Simpson index of the cells' assignments: mean of sum_k p_k^2, in [1/K, 1].

    1 where every cell belongs to one cluster, 1/K where all belong to all alike: the lower, the more diverse.

    Parameters
    ----------
    rngs
        Not used; every module takes it.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> float(SimpsonDiversityLoss()(jnp.array([[0.5, 0.5], [1.0, 0.0]])))
    0.75
    """

    def __init__(self, *, rngs: nnx.Rngs | None = None) -> None:
        pass

    def __call__(self, assignments: Any, mask: Any = None) -> jax.Array:
        """Return the loss, a scalar; parameters and errors as in `ShannonDiversityLoss`."""
        mask = checks.cell_mask(mask, checks.rows_of(assignments))
        p = checks.shares("assignments", assignments, mask)
        return checks.mean_over((p**2).sum(axis=1), mask)
