"""The cells of one block, traced: their assignment is a function of Zn and of tables."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...algorithm.seeding import unit as unit_rows
from .config import BatchCorrectionConfig
from .tiles import Tiles


class Hyper(NamedTuple):
    """The learnable strengths as tables."""

    theta: Any  # (B,), after tau
    sigma: Any  # (K,), times the temperature
    ridge: Any  # (B,): alpha, or the fixed lambda


class Problem(NamedTuple):
    """The cells and strengths, which stay the same over the rounds."""

    tiles: Tiles
    hyper: Hyper
    counts: Any  # (B,): N_b


unit = partial(unit_rows, xp=jnp)


def shares(problem: Problem, config: BatchCorrectionConfig) -> Any:
    """Return Pr_b = N_b / N, (B,)."""
    return problem.counts / problem.counts[: config.levels[0]].sum()


def one_hot(levels: Any, n_levels: int, dtype: Any) -> Any:
    """Return which levels each tile carries, (C, B)."""
    return jax.nn.one_hot(levels, n_levels, dtype=dtype).sum(axis=-2)


def logits(Zn: Any, Y: Any, sigma: Any, logp: Any, X: Any) -> Any:
    """Return l_ik = -D_ik / sigma_k + sum_f logp[b_f(i), k], (C, c, K)."""
    return (2 * jnp.einsum("tcd,kd->tck", Zn, Y) - 2) / sigma + (X @ logp)[:, None, :]


def assign(Zn: Any, Y: Any, sigma: Any, logp: Any, X: Any, weight: Any) -> Any:
    """Return R of one block, (C, c, K); rows of weight 0 are 0."""
    return jax.nn.softmax(logits(Zn, Y, sigma, logp, X), axis=-1) * weight[:, :, None]


def objective_sums(R: Any, l: Any, sigma: Any) -> Any:
    """Return sum_i (sum_k sigma_k R_ik) ln Z_i and sum_ik sigma_k R_ik ln R_ik."""
    log_z = jax.nn.logsumexp(l, axis=-1, keepdims=True)
    weighted = R * sigma
    return jnp.stack([(weighted.sum(axis=-1, keepdims=True) * log_z).sum(), (weighted * (l - log_z)).sum()])


def effective_theta(config: BatchCorrectionConfig, theta: Any, counts: Any) -> Any:
    """Shrink theta (B,) of small batches: theta_b (1 - exp(-(N_b / (K tau))^2))."""
    if config.tau == 0:
        return theta
    return theta * -jnp.expm1(-jnp.square(counts / (config.n_clusters * config.tau)))
