"""One update, compiled: losses, gradients, and whether all of it is finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ..errors import InputError
from .minibatches import Cells
from .terms import Group, Terms


class State(NamedTuple):
    """What a step changes: parameters and optimiser state of each group, and the operator's other variables."""

    params: tuple[Any, ...]
    optimizers: tuple[Any, ...]
    rest: Any


class Outcome(NamedTuple):
    """What a step found: the losses, and whether they, and the state that it made, are finite."""

    losses: dict[str, jax.Array]
    losses_finite: jax.Array
    state_finite: jax.Array


Step = Callable[[State, Cells, Any, jax.Array, Any], tuple[State, Outcome]]


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
    return graph, State(tuple(params), optimizers, rest)


def step_function(
    graph: Any, groups: Sequence[Group], rules: Sequence[optax.GradientTransformation], terms: Terms
) -> Step:
    """Return the compiled step of a fit.

    A function of the state, the cells, the rows of this step (None: all), the run's key and the step's number. Groups
    are updated in turn, each as often as it asks to be.
    """

    def update(index: int, state: State, data: Any, key: jax.Array) -> tuple[State, Any]:
        group, last = groups[index], index == len(groups) - 1

        def objective(values: Any) -> tuple[jax.Array, Any]:
            params = (*state.params[:index], values, *state.params[index + 1 :])
            # Copies: what is not trained may change too, which only variables of this trace may.
            model = nnx.merge(graph, *params, state.rest, copy=True)
            total, found = terms(model, data, nnx.Rngs(key), group, last=last)
            # Statistics of a normalisation and counters of random streams move on.
            rest = nnx.split(model, *(g.which for g in groups), ...)[-1]
            return total, (found, rest)

        values = state.params[index]
        (total, (found, rest)), slope = jax.value_and_grad(objective, has_aux=True)(values)
        changes, optimizer = rules[index].update(slope, state.optimizers[index], values)
        new = optax.apply_updates(values, changes)
        params = (*state.params[:index], new, *state.params[index + 1 :])
        optimizers = (*state.optimizers[:index], optimizer, *state.optimizers[index + 1 :])
        found["total" if last else f"total of {group.name}"] = total
        return State(params, optimizers, rest), found

    @jax.jit
    def step(state: State, cells: Cells, rows: Any, key: jax.Array, number: Any) -> tuple[State, Outcome]:
        data, key = cells.take(rows), jax.random.fold_in(key, number)
        losses: dict[str, jax.Array] = {}
        for index, group in enumerate(groups):
            for _ in range(group.updates):
                key, used = jax.random.split(key)
                state, found = update(index, state, data, used)
                losses |= found
        return state, Outcome(losses, finite(losses), finite(state))

    return step


def finite(tree: Any) -> jax.Array:
    """Say whether all floats of a tree are finite."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree) if not _is_key(leaf)]
    parts = [jnp.isfinite(leaf).all() for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack(parts).all() if parts else jnp.asarray(True)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", float), jax.dtypes.prng_key)
