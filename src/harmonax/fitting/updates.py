"""One update, compiled: losses, gradients, and whether all of it is finite."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ..errors import InputError
from .terms import Group, Terms


class State(NamedTuple):
    """What a step changes: parameters and optimiser state of each group, and the operator's other variables."""

    params: tuple[Any, ...]
    optimizers: tuple[Any, ...]
    rest: Any
    norms: dict[str, Any]  # of each loss's gradient, a running mean by name, where losses are balanced


class Outcome(NamedTuple):
    """What a step found: the losses, and whether they, and the state that it made, are finite."""

    losses: dict[str, jax.Array]
    losses_finite: jax.Array
    state_finite: jax.Array


Step = Callable[[State, Any, Any, jax.Array, Any], tuple[State, Outcome]]
# How much of a running mean stays at each step.
_REMEMBER = 0.9
NO_NORM = -1.0


def start(operator: Any, groups: Sequence[Group], rules: Sequence[optax.GradientTransformation]) -> tuple[Any, State]:
    """Return an operator's graph and the state at the start.

    Raises
    ------
    InputError
        If a group has no parameters.
    """
    graph, *states = nnx.split(operator, *(group.which for group in groups), ...)
    params, rest = states[:-1], states[-1]
    for group, values in zip(groups, params, strict=True):
        if not jax.tree.leaves(values):
            named = "" if group.name is None else f" in the group '{group.name}'"
            raise InputError(f"{type(operator).__name__} has no parameters to train{named}; see `trainable`")
    optimizers = tuple(rule.init(values) for rule, values in zip(rules, params, strict=True))
    return graph, State(tuple(params), optimizers, rest, {})


def step_function(
    graph: Any,
    groups: Sequence[Group],
    rules: Sequence[optax.GradientTransformation],
    terms: Terms,
    *,
    balanced: bool = False,
) -> Step:
    """Return the step of a fit, to be compiled.

    A function of the state, the cells, the rows of this step (None: all), the run's key and the step's number. Groups
    are updated in turn, each as often as it asks to be.
    """

    def update(index: int, state: State, data: Any, key: jax.Array, number: Any) -> tuple[State, Any]:
        group, last = groups[index], index == len(groups) - 1

        def each(values: Any) -> tuple[dict[str, jax.Array], Any]:
            params = (*state.params[:index], values, *state.params[index + 1 :])
            # Copies: what is not trained may change too, which only variables of this trace may.
            model = nnx.merge(graph, *params, state.rest, copy=True)
            found = terms(model, data, nnx.Rngs(key), group, last=last)
            # Statistics of a normalisation and counters of random streams move on.
            return found, nnx.split(model, *(g.which for g in groups), ...)[-1]

        def objective(values: Any) -> tuple[jax.Array, Any]:
            found, rest = each(values)
            return weighted(found), (found, rest)

        def weighted(found: Any) -> jax.Array:
            return sum((terms.weight(name, number) * value for name, value in found.items()), jnp.zeros(()))

        values, norms = state.params[index], state.norms
        if balanced:
            found, pull, rest = jax.vjp(each, values, has_aux=True)
            total = weighted(found)
            slope, norms = _balanced(found, pull, norms, lambda name: terms.weight(name, number))
        else:
            (total, (found, rest)), slope = jax.value_and_grad(objective, has_aux=True)(values)
        changes, optimizer = rules[index].update(slope, state.optimizers[index], values)
        new = optax.apply_updates(values, changes)
        params = (*state.params[:index], new, *state.params[index + 1 :])
        optimizers = (*state.optimizers[:index], optimizer, *state.optimizers[index + 1 :])
        found["total" if last else f"total of {group.name}"] = total
        return State(params, optimizers, rest, norms), found

    def step(state: State, cells: Any, rows: Any, key: jax.Array, number: Any) -> tuple[State, Outcome]:
        data, key = cells.take(rows), jax.random.fold_in(key, number)
        losses: dict[str, jax.Array] = {}

        def once(index: int, carry: tuple[State, jax.Array], _: None) -> tuple[tuple[State, jax.Array], Any]:
            state, key = carry
            key, used = jax.random.split(key)
            state, found = update(index, state, data, used, number)
            return (state, key), found

        for index, group in enumerate(groups):
            one, carry = functools.partial(once, index), (state, key)
            # Compiled once, as a loop. Norms of balanced losses appear in the first update: no loop can carry them.
            if group.updates > 1 and not balanced:
                carry, found = jax.lax.scan(one, carry, None, length=group.updates)
                losses |= {name: values[-1] for name, values in found.items()}
            else:
                for _ in range(group.updates):
                    carry, found = one(carry, None)
                    losses |= found
            state, key = carry
        return state, Outcome(losses, finite(losses), finite(state))

    return step


def several(step: Step) -> Callable[..., tuple[State, State, Outcome]]:
    """Return a function that makes as many steps as it is given rows and numbers for, compiled as one.

    Of the state, the one before its last update, and cells, rows, key and numbers; returns both states, and the outcome
    of each step. Where one is not finite, the next ones change nothing.
    """

    def run(state: State, former: State, cells: Any, rows: Any, key: jax.Array, numbers: Any) -> Any:
        def one(carry: Any, xs: Any) -> Any:
            state, former, alive = carry
            new, found = step(state, cells, xs[0], key, xs[1])
            # A state whose losses are not finite is not good either: the one before it was.
            good = alive & found.losses_finite & found.state_finite
            back = alive & ~found.losses_finite
            return (_chosen(good, new, _chosen(back, former, state)), _chosen(good, state, former), good), found

        (state, former, _), found = jax.lax.scan(one, (state, former, jnp.asarray(True)), (rows, numbers))
        return state, former, found

    return jax.jit(run)


def _chosen(condition: jax.Array, one: State, other: State) -> State:
    return jax.tree.map(lambda a, b: jax.lax.select(jnp.broadcast_to(condition, jnp.shape(a)), a, b), one, other)


def _balanced(found: Any, pull: Any, norms: dict[str, jax.Array], weight: Callable[[str], Any]) -> tuple[Any, Any]:
    """Return the weighted sum of the losses' gradients, each over a running mean of its norm, and these means."""
    total: Any = None
    norms = dict(norms)
    for name in found:
        chosen = {other: jnp.asarray(1.0 if other == name else 0.0, value.dtype) for other, value in found.items()}
        slope = pull(chosen)[0]
        norm = jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(slope)))
        past = norms.get(name, NO_NORM)
        norms[name] = jnp.where(past < 0, norm, _REMEMBER * past + (1 - _REMEMBER) * norm)
        scale = weight(name) / jnp.where(norms[name] > 0, norms[name], 1)
        part = jax.tree.map(lambda x, s=scale: s * x, slope)
        total = part if total is None else jax.tree.map(jnp.add, total, part)
    return total, norms


def finite(tree: Any) -> jax.Array:
    """Say whether all floats of a tree are finite."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree) if not _is_key(leaf)]
    parts = [jnp.isfinite(leaf).all() for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack(parts).all() if parts else jnp.asarray(True)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", float), jax.dtypes.prng_key)
