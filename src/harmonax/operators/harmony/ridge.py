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

from ...algorithm.covariates import Products, penalty, slopes
from ...algorithm.regressors import Anchor, kept_columns, penalties
from ...algorithm.ridge import one_variable
from ...losses.checks import varying
from .assignment import Problem, assign, levels_of, moving, one_hot
from .config import BatchCorrectionConfig


class Ridge(NamedTuple):
    """Coefficients per level and covariate, the intercept, and which clusters had none."""

    W: Any  # (B + C, K, d)
    W0: Any  # (K, d)
    skipped: Any  # (K,) bool


class _Strengths(NamedTuple):
    """As much of the engine's parameters as `algorithm` reads for its penalties."""

    ridge: str
    alpha: Any
    ridge_lambda: Any

    @property
    def params(self) -> _Strengths:
        return self


def ridge(config: BatchCorrectionConfig, problem: Problem, Zn: Any, Y: Any, logp: Any, mass: Any) -> Ridge:
    """Return the ridge coefficients that follow from this assignment; mass is (G, B, K)."""
    O, design, present = mass.sum(axis=0), levels_of(config, problem), problem.counts > 0
    cluster_mass = O[: config.levels[0]].sum(axis=0)
    keep, skipped = kept_columns(design, O, config.pruning, jnp)
    # One batch, or one combination of levels: nothing to correct. Exactly so, whatever the labels.
    lone = jnp.stack([present[a:b].sum() <= 1 for a, b in itertools.pairwise(config.offsets)]).all()
    skipped = skipped | (cluster_mass <= 0) | lone
    keep = keep & ~skipped & present[:, None]
    strengths = _Strengths(str(config.ridge), problem.hyper.ridge[0], problem.hyper.ridge)
    # A level that is not kept still needs a solvable row.
    lam = jnp.where(keep, penalties(design, strengths, O, cluster_mass, jnp), 1)
    found = _moments(config, problem, Zn, Y, logp, keep)
    anchor = None
    if found.held is not None:
        mass, moment = found.held
        anchor = Anchor(jnp.where(skipped, 0, mass), jnp.where(skipped[:, None], 0, moment))
    if len(config.all_levels) == 1:
        W, W0 = one_variable(found.S, O, lam, keep, anchor, xp=jnp)
    else:
        W, W0 = _several_variables(found, lam, keep, anchor)
    w = []
    if config.n_covariates:
        d = problem.tiles.Z.shape[-1]
        sums = Products(found.S[:, :, d:] * keep[:, :, None], found.S_all[:, d:], found.products)
        slope, W, W0 = slopes(sums, penalty(strengths, cluster_mass, jnp), W, W0, jnp)
        w = [slope]
    if design.protects:
        # What a protected variable explains is not taken away.
        W = W.at[design.n_batch_levels :].set(0)
    return Ridge(jnp.where(skipped[:, None], 0, jnp.concatenate([W, *w])), W0, skipped)


class _Moments(NamedTuple):
    """Sums over the cells with a kept level that may move; q is d, and the number of covariates more."""

    S: Any  # (B, K, q): R^T [Z, x] of each level's cells
    S_all: Any = None  # (K, q): of all of them
    overlap: Any = None  # (B, B, K): mass of the cells that carry both levels
    active: Any = None  # (K,): their mass
    products: Any = None  # (K, covariates, q): x^T R [Z, x]
    held: Any = None  # (K,) and (K, q): mass and R^T [Z, x] of the reference's cells


def _moments(config: BatchCorrectionConfig, problem: Problem, Zn: Any, Y: Any, logp: Any, keep: Any) -> _Moments:
    n_levels, (K, d) = len(problem.counts), Y.shape
    tiles = problem.tiles
    # With one variable and nothing else, the cells without a kept level have no part in its closed form.
    more = len(config.all_levels) > 1 or config.n_covariates > 0
    batch = slice(config.offsets[-1])

    @jax.checkpoint
    def block(cells: Any, Zn: Any, logp: Any, Y: Any, sigma: Any) -> _Moments:
        X = one_hot(cells.levels, n_levels, Zn.dtype)
        R = assign(Zn, Y, sigma, logp, X, cells.weight)
        values = cells.Z if cells.x is None else jnp.concatenate([cells.Z, cells.x], axis=-1)
        tile = jnp.einsum("tck,tcd->tkd", R, values)
        found, mass = _Moments(jnp.einsum("tb,tkd->bkd", X, tile)), R.sum(axis=1)
        active = (X[:, batch] @ keep[batch].astype(X.dtype) > 0).astype(X.dtype)
        if config.reference:
            moves = moving(config, X)
            held = (1 - moves) @ mass, jnp.einsum("t,tkd->kd", 1 - moves, tile)
            found, active = found._replace(held=held), active * moves[:, None]
        if not more:
            return found
        found = found._replace(
            S=jnp.einsum("tb,tk,tkd->bkd", X, active, tile),
            S_all=jnp.einsum("tk,tkd->kd", active, tile),
            overlap=jnp.einsum("ta,tb,tk->abk", X, X, active * mass),
            active=(active * mass).sum(axis=0),
        )
        if cells.x is None:
            return found
        return found._replace(products=jnp.einsum("tck,tcq,tcd->kqd", R * active[:, None], cells.x, values))

    def step(total: _Moments, xs: Any) -> Any:
        return jax.tree.map(jnp.add, total, block(*xs, Y, problem.hyper.sigma)), None

    q = d + config.n_covariates
    zeros = lambda *size: jnp.zeros(size, Zn.dtype)  # noqa: E731
    begin = _Moments(zeros(n_levels, K, q), held=(zeros(K), zeros(K, q)) if config.reference else None)
    if more:
        begin = begin._replace(S_all=zeros(K, q), overlap=zeros(n_levels, n_levels, K), active=zeros(K))
    if config.n_covariates:
        begin = begin._replace(products=zeros(K, config.n_covariates, q))
    return jax.lax.scan(step, varying(begin, Zn), (tiles, Zn, logp))[0]


def _several_variables(found: _Moments, lam: Any, keep: Any, anchor: Anchor | None) -> tuple[Any, Any]:
    """Solve (M + diag(lambda) - O O^T / a) W = S - O S_all / a for the kept levels, a the mass of their cells.

    W0 = (S_all - sum_b O_b W_b) / a; an anchor's mass and moment add to a and S_all. Shifting Z shifts W0 alone, so
    the right-hand side is that of the centred cells.
    A lambda below rounding of the mass it is added to counts as that rounding: the factor exists always.
    """
    kept = keep.astype(lam.dtype)
    M = found.overlap * kept[:, None] * kept[None, :]
    O = jnp.einsum("bbk->bk", M)
    a, S_all = found.active, found.S_all
    if anchor is not None:
        a, S_all = a + anchor.mass, S_all + anchor.moment
    a = jnp.where(a > 0, a, 1)
    centre = S_all / a[:, None]
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
