"""The ridge correction as traced code (docs/algorithm.md, "Ridge correction of cluster k").

One variable: the closed form of `algorithm/ridge.py`. Several: that file's system, with the intercept eliminated and Z
centred in each cluster, because tables here may be float32, where eliminating the intercept is what cancels.
`tests/operators/test_differentiable_harmony.py` compares the two.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...algorithm.penalty import expected
from ...algorithm.regressors import kept_levels
from ...algorithm.ridge import one_variable
from ...losses.checks import varying
from .assignment import Problem, assign, one_hot, shares
from .config import BatchCorrectionConfig


class Ridge(NamedTuple):
    """Coefficients per level, the intercept, and which clusters had none."""

    W: Any  # (B, K, d)
    W0: Any  # (K, d)
    skipped: Any  # (K,) bool


class _Levels(NamedTuple):
    """As much of a design as `kept_levels` reads."""

    level_counts: Any
    offsets: tuple[int, ...]


def ridge(config: BatchCorrectionConfig, problem: Problem, Zn: Any, Y: Any, logp: Any, mass: Any) -> Ridge:
    """Return the ridge coefficients that follow from this assignment; mass is (G, B, K)."""
    O, counts = mass.sum(axis=0), problem.counts
    cluster_mass = O[: config.levels[0]].sum(axis=0)
    present = counts > 0
    safe = _Levels(jnp.where(present, counts, 1), config.offsets)
    keep, skipped = kept_levels(safe, O, config.pruning, jnp)
    # One batch, or one combination of levels: nothing to correct. Exactly so, whatever the labels.
    lone = jnp.stack([present[a:b].sum() <= 1 for a, b in itertools.pairwise(config.offsets)]).all()
    skipped = skipped | (cluster_mass <= 0) | lone
    keep = keep & ~skipped & present[:, None]
    lam = problem.hyper.ridge[:, None]
    lam = lam * expected(shares(problem, config), cluster_mass) if config.ridge == "dynamic" else lam
    # A level that is not kept still needs a solvable row.
    lam = jnp.where(keep, lam, 1)
    found = _moments(config, problem, Zn, Y, logp, keep)
    if len(config.levels) == 1:
        W, W0 = one_variable(found.S, O, lam, keep, xp=jnp)
    else:
        W, W0 = _several_variables(config, found, lam, keep)
    return Ridge(jnp.where(skipped[:, None], 0, W), W0, skipped)


class _Moments(NamedTuple):
    S: Any  # (B, K, d): R^T Z of each level's cells
    S_all: Any  # (K, d): of the cells with a kept level
    overlap: Any  # (B, B, K): mass of the cells that carry both levels
    active: Any  # (K,): mass of the cells with a kept level


def _moments(config: BatchCorrectionConfig, problem: Problem, Zn: Any, Y: Any, logp: Any, keep: Any) -> _Moments:
    n_levels, (K, d) = len(problem.counts), Y.shape
    several = len(config.levels) > 1

    @jax.checkpoint
    def block(cells: Any, Zn: Any, logp: Any, Y: Any, sigma: Any) -> _Moments:
        X = one_hot(cells.levels, n_levels, Zn.dtype)
        R = assign(Zn, Y, sigma, logp, X, cells.weight)
        tile = jnp.einsum("tck,tcd->tkd", R, cells.Z)
        S = jnp.einsum("tb,tkd->bkd", X, tile)
        if not several:
            return _Moments(S, None, None, None)
        mass = R.sum(axis=1)
        active = (X @ keep.astype(X.dtype) > 0).astype(X.dtype)
        overlap = jnp.einsum("ta,tb,tk->abk", X, X, mass)
        return _Moments(S, jnp.einsum("tk,tkd->kd", active, tile), overlap, (active * mass).sum(axis=0))

    def step(total: _Moments, xs: Any) -> Any:
        return jax.tree.map(jnp.add, total, block(*xs, Y, problem.hyper.sigma)), None

    zeros = lambda *size: jnp.zeros(size, Zn.dtype)  # noqa: E731
    more = (zeros(K, d), zeros(n_levels, n_levels, K), zeros(K)) if several else (None, None, None)
    begin = varying(_Moments(zeros(n_levels, K, d), *more), Zn)
    return jax.lax.scan(step, begin, (problem.tiles, Zn, logp))[0]


def _several_variables(config: BatchCorrectionConfig, found: _Moments, lam: Any, keep: Any) -> tuple[Any, Any]:
    """Solve (M + diag(lambda) - O O^T / a) W = S - O S_all / a for the kept levels, a the mass of their cells.

    W0 = (S_all - sum_b O_b W_b) / a. Shifting Z shifts W0 alone, so the right-hand side is that of the centred cells.
    A lambda below rounding of the mass it is added to counts as that rounding: the factor exists always.
    """
    kept = keep.astype(lam.dtype)
    M = found.overlap * kept[:, None] * kept[None, :]
    O = jnp.einsum("bbk->bk", M)
    a = jnp.where(found.active > 0, found.active, 1)
    centre = found.S_all / a[:, None]
    b = kept[:, :, None] * (found.S - O[:, :, None] * centre)
    A = M - O[:, None] * O[None, :] / a
    # Scaled to a unit diagonal: masses of levels differ by orders of magnitude.
    scale = jax.lax.rsqrt(jnp.einsum("bbk->bk", A) + lam)
    relative = jnp.maximum(lam * scale * scale, 16 * jnp.finfo(lam.dtype).eps)
    A = A * scale[:, None] * scale[None, :] + jnp.eye(len(A), dtype=A.dtype)[:, :, None] * relative
    x = jax.vmap(lambda A, b: jax.scipy.linalg.solve(A, b, assume_a="pos"), in_axes=(2, 1), out_axes=1)(
        A, b * scale[:, :, None]
    )
    W = x * scale[:, :, None]
    W0 = centre - (O[:, :, None] * W).sum(axis=0) / a[:, None]
    return W, W0
