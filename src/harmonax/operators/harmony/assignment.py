"""The cells of one block, traced: their assignment is a function of Zn and of tables."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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
    counts: Any  # (B,): N_b, of the protected variable's levels too
    pairs: Any  # (batch levels, C): number of cells with both levels, C those of the protected variable; None: none


class Levels(NamedTuple):
    """As much of a `BatchDesign` as `algorithm` reads, from counts that may be traced."""

    offsets: tuple[int, ...]
    n_batch_variables: int
    reference: tuple[int, ...]
    level_counts: Any  # 1 where no cell has the level
    level_shares: Any
    shares_given_protected: Any

    @property
    def n_batch_levels(self) -> int:
        return self.offsets[self.n_batch_variables]

    @property
    def n_levels(self) -> int:
        return self.offsets[-1]

    @property
    def protects(self) -> bool:
        return self.n_levels > self.n_batch_levels


unit = partial(unit_rows, xp=jnp)


def levels_of(config: BatchCorrectionConfig, problem: Problem) -> Levels:
    """Return the levels as the equations of `algorithm` know them."""
    counts, n = problem.counts, config.offsets[-1]
    some = jnp.where(counts > 0, counts, 1)
    given = None if problem.pairs is None else problem.pairs / some[n:]
    share = counts / counts[: config.levels[0]].sum()
    return Levels(config.all_offsets, len(config.levels), config.fixed, some, share, given)


def one_hot(levels: Any, n_levels: int, dtype: Any) -> Any:
    """Return which levels each tile carries, (C, B)."""
    return jax.nn.one_hot(levels, n_levels, dtype=dtype).sum(axis=-2)


def logits(Zn: Any, Y: Any, sigma: Any, logp: Any, X: Any) -> Any:
    """Return l_ik = -D_ik / sigma_k + sum_f logp[b_f(i), k], (C, c, K)."""
    return (2 * jnp.einsum("tcd,kd->tck", Zn, Y) - 2) / sigma + (X @ logp)[:, None, :]


def assign(Zn: Any, Y: Any, sigma: Any, logp: Any, X: Any, weight: Any) -> Any:
    """Return R of one block, (C, c, K); rows of weight 0 are 0."""
    return jax.nn.softmax(logits(Zn, Y, sigma, logp, X), axis=-1) * weight[:, :, None]


def moving(config: BatchCorrectionConfig, X: Any) -> Any:
    """Return 0 for tiles with a reference level, whose cells stay, and 1 for others, (C,)."""
    return 1 - X[:, np.array(config.fixed)].max(axis=1)


def removed(config: BatchCorrectionConfig, cells: Tiles, X: Any, R: Any, W: Any) -> Any:
    """Return what the coefficients W of levels and covariates take from cells with assignments R, (C, c, d)."""
    n_levels = X.shape[1]
    taken = jnp.einsum("tck,tkd->tcd", R, jnp.einsum("tb,bkd->tkd", X, W[:n_levels]))
    if cells.x is not None:
        taken += jnp.einsum("tck,tcq,qkd->tcd", R, cells.x, W[n_levels:])
    return taken * moving(config, X)[:, None, None] if config.reference else taken


def log_partition_of(R: Any, l: Any, sigma: Any) -> Any:
    """Return sum_i (sum_k sigma_k R_ik) ln Z_i."""
    return ((R * sigma).sum(axis=-1) * jax.nn.logsumexp(l, axis=-1)).sum()


def effective_theta(config: BatchCorrectionConfig, theta: Any, counts: Any) -> Any:
    """Shrink theta (B,) of small batches: theta_b (1 - exp(-(N_b / (K tau))^2))."""
    if config.tau == 0:
        return theta
    return theta * -jnp.expm1(-jnp.square(counts / (config.n_clusters * config.tau)))
