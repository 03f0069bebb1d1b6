"""The gradient at the fixed point of a round, by the implicit function theorem: the memory of one round.

At s = round(s, p) a change dp moves the fixed point by ds = (d round / ds) ds + (d round / dp) dp; reverse mode solves
the transposed equation. Solved by repeating it, it converges as fast as the rounds themselves did. Every round uses the
first one's orders of blocks: with orders redrawn there would be no fixed point to differentiate at.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ...losses.checks import poisoned
from .assignment import Hyper, Problem
from .config import BatchCorrectionConfig
from .rounds import State, first_state, one_round
from .tiles import Tiles

# The solution of the linear equation stops where it changes by less than this, or after so many rounds' derivatives.
_TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
_MAX_STEPS = 1000
# A relative residual above this is not a solution.
_SOLVED = 1e-2

Linear = Callable[[Any], Any]


def rounds_to_fixed_point(config: BatchCorrectionConfig, problem: Problem, Y: Any, orders: Any) -> tuple[State, Any]:
    """Return the end state, and the largest change that the last round made to a unit-length cell."""
    learnt, fixed = _parts(problem)
    state = _rounds(config, learnt, fixed, jax.lax.stop_gradient(Y), orders)
    before, learnt = jax.lax.stop_gradient((state, learnt))
    after = _round(config, learnt, fixed, before, orders)
    return state, jnp.abs(after.Zn - before.Zn).max()


def _parts(problem: Problem) -> tuple[tuple[Any, Any, Hyper], Any]:
    """Return what has a gradient, and what has none."""
    tiles = problem.tiles
    return (tiles.Z, tiles.x, problem.hyper), (tiles.weight, tiles.levels, problem.counts, problem.pairs)


def _round(
    config: BatchCorrectionConfig, learnt: tuple[Any, Any, Hyper], fixed: Any, state: State, orders: Any
) -> State:
    return one_round(config, _problem(learnt, fixed), state, orders[0])


def _problem(learnt: tuple[Any, Any, Hyper], fixed: Any) -> Problem:
    (Z, x, hyper), (weight, levels, counts, pairs) = learnt, fixed
    return Problem(Tiles(Z, weight, levels, x), hyper, counts, pairs)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _rounds(config: BatchCorrectionConfig, learnt: tuple[Any, Any, Hyper], fixed: Any, Y: Any, orders: Any) -> State:
    step = lambda state, _: (_round(config, learnt, fixed, state, orders), None)  # noqa: E731
    return jax.lax.scan(step, first_state(_problem(learnt, fixed), Y), None, length=len(orders))[0]


@_rounds.defjvp
def _tangent(config: BatchCorrectionConfig, primals: Any, tangents: Any) -> tuple[State, State]:
    learnt, fixed, _, orders = primals
    state = _rounds(config, *primals)
    moved = jax.jvp(lambda learnt: _round(config, learnt, fixed, state, orders), (learnt,), tangents[:1])[1]
    matvec, unravel = _equation(config, learnt, fixed, orders, state)
    solve = partial(_solve, config.linear_solver)
    # One vector: parts that do not move would be constants, which the transposed equation does not allow.
    b = ravel_pytree(moved)[0]
    return state, unravel(jax.lax.custom_linear_solve(matvec, b, solve, transpose_solve=solve))


def _equation(config: BatchCorrectionConfig, learnt: Any, fixed: Any, orders: Any, state: State) -> tuple[Linear, Any]:
    """Return v -> v - (d round / ds) v, of states as vectors, and what makes a state of a vector."""
    push = jax.linearize(lambda state: _round(config, learnt, fixed, state, orders), state)[1]
    unravel = ravel_pytree(state)[1]
    return lambda v: v - ravel_pytree(push(unravel(v)))[0], unravel


def linear_residual(config: BatchCorrectionConfig, problem: Problem, Y: Any, orders: Any, key: Any) -> Any:
    """Return |A^T u - g| / |g| of the solution that reverse mode finds for a random g."""
    learnt, fixed = _parts(problem)
    state = _rounds(config, learnt, fixed, Y, orders)
    flat = ravel_pytree(state)[0]
    g = jax.random.normal(key, flat.shape, flat.dtype)
    transposed = jax.linear_transpose(_equation(config, learnt, fixed, orders, state)[0], flat)
    pull = lambda v: transposed(v)[0]  # noqa: E731
    return _residual(pull, _solution(config.linear_solver, pull, g), g)


def _solve(name: str, matvec: Linear, b: Any) -> Any:
    """Return the solution, or NaN where it is none: a wrong gradient looks like a right one."""
    u = _solution(name, matvec, b)
    return poisoned(u, _residual(matvec, u, b) < _SOLVED)


def _solution(name: str, matvec: Linear, b: Any) -> Any:
    tolerance = _TOLERANCE[str(b.dtype)]
    if name != "fixed_point":
        return getattr(jax.scipy.sparse.linalg, name)(matvec, b, tol=tolerance, maxiter=_MAX_STEPS)[0]

    def again(carry: Any) -> Any:
        u, _, n = carry
        change = b - matvec(u)
        return u + change, jnp.square(change).sum() > tolerance**2 * jnp.square(u + change).sum(), n + 1

    start = (b, jnp.asarray(True), jnp.asarray(0))
    return jax.lax.while_loop(lambda carry: carry[1] & (carry[2] < _MAX_STEPS), again, start)[0]


def _residual(matvec: Linear, u: Any, b: Any) -> Any:
    size, left = jnp.square(b).sum(), jnp.square(matvec(u) - b).sum()
    return jnp.where(size > 0, jnp.sqrt(left / jnp.where(size > 0, size, 1)), 0)
