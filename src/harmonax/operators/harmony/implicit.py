"""The gradient at the fixed point of a round, by the implicit function theorem: the memory of one round.

At s = round(s, p) the cotangent g of s gives p the cotangent (d round / dp)^T u, with u = g + (d round / ds)^T u. That
equation is solved by repeating it, which converges as fast as the rounds themselves did. Every round uses the first
one's orders of blocks: with orders redrawn there would be no fixed point to differentiate at.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .assignment import Hyper, Problem
from .config import BatchCorrectionConfig
from .rounds import State, first_state, one_round
from .tiles import Tiles

# The solution of the linear equation stops where it changes by less than this, or after so many rounds' derivatives.
_TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
_MAX_STEPS = 1000


def rounds_to_fixed_point(config: BatchCorrectionConfig, problem: Problem, Y: Any, orders: Any) -> tuple[State, Any]:
    """Return the end state, and the largest change that the last round made to a unit-length cell."""
    learnt = (problem.tiles.Z, problem.hyper)
    fixed = (problem.tiles.weight, problem.tiles.levels, problem.counts)
    state = _rounds(config, learnt, fixed, jax.lax.stop_gradient(Y), orders)
    before, learnt = jax.lax.stop_gradient((state, learnt))
    after = _round(config, learnt, fixed, before, orders)
    return state, jnp.abs(after.Zn - before.Zn).max()


def _round(config: BatchCorrectionConfig, learnt: tuple[Any, Hyper], fixed: Any, state: State, orders: Any) -> State:
    return one_round(config, _problem(learnt, fixed), state, orders[0])


def _problem(learnt: tuple[Any, Hyper], fixed: Any) -> Problem:
    (Z, hyper), (weight, levels, counts) = learnt, fixed
    return Problem(Tiles(Z, weight, levels), hyper, counts)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rounds(config: BatchCorrectionConfig, learnt: tuple[Any, Hyper], fixed: Any, Y: Any, orders: Any) -> State:
    step = lambda state, _: (_round(config, learnt, fixed, state, orders), None)  # noqa: E731
    return jax.lax.scan(step, first_state(_problem(learnt, fixed), Y), None, length=len(orders))[0]


def _forward(config: BatchCorrectionConfig, learnt: Any, fixed: Any, Y: Any, orders: Any) -> tuple[State, Any]:
    state = _rounds(config, learnt, fixed, Y, orders)
    return state, (learnt, fixed, orders, state)


def _backward(config: BatchCorrectionConfig, kept: Any, g: State) -> tuple[Any, None, None, None]:
    learnt, fixed, orders, state = kept
    pull = jax.vjp(lambda learnt, state: _round(config, learnt, fixed, state, orders), learnt, state)[1]
    tolerance = _TOLERANCE[str(state.Zn.dtype)]
    size = lambda tree: sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(tree))  # noqa: E731

    def again(carry: Any) -> Any:
        u, _, n = carry
        new = jax.tree.map(jnp.add, g, pull(u)[1])
        change = size(jax.tree.map(jnp.subtract, new, u))
        return new, change > tolerance**2 * size(new), n + 1

    u, _, _ = jax.lax.while_loop(lambda carry: carry[1] & (carry[2] < _MAX_STEPS), again, (g, True, 0))
    return pull(u)[0], None, None, None


_rounds.defvjp(_forward, _backward)
