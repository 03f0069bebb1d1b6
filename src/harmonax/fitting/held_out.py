"""Losses of cells that are not learned from, and losses that padding changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ..errors import warn
from .terms import Group, Terms

Evaluate = Callable[[Any, Mapping[str, Any], Any], dict[str, jax.Array]]
# Of the history's names.
PREFIX = "held_out "


def evaluation(graph: Any, groups: Sequence[Group], terms: Terms) -> Evaluate:
    """Return a compiled function of the state, data and the step's number: each loss, and their weighted sum.

    The model is in its mode of evaluation, where layers such as dropout have one; what it draws is the same each time.
    """

    @jax.jit
    def evaluate(state: Any, data: Mapping[str, Any], number: Any) -> dict[str, jax.Array]:
        model = nnx.merge(graph, *state.params, state.rest, copy=True)
        model.eval()
        found = terms(model, data, nnx.Rngs(0), groups[-1], last=True)
        total = sum((terms.weight(name, number) * value for name, value in found.items()), jnp.zeros(()))
        return found | {"total": total}

    return evaluate


def warn_of_padding(evaluate: Evaluate, state: Any, batch: Mapping[str, Any], own: Sequence[str]) -> None:
    """Warn of losses that change with what padding holds; `own` are the names of those that are looked at.

    Does nothing where the batch has no padding.
    """
    mask = np.asarray(batch.get("mask", True), bool)
    if not own or mask.all() or not mask.any():
        return
    seen = []
    for offset in (0.0, 1.0):
        data = {name: _refilled(array, mask, offset) for name, array in batch.items()}
        seen.append(jax.device_get(evaluate(state, data | {"mask": jnp.asarray(mask)}, 0)))
    wrong = [
        name for name in own if not np.allclose(seen[0][name], seen[1][name], rtol=1e-4, atol=1e-6, equal_nan=True)
    ]
    if wrong:
        warn(
            f"the loss '{wrong[0]}' changes with what padding holds: minibatches are filled up to one size, and "
            "data['mask'] says which cells count; weigh by result['mask'], or take a batch_size that divides the cells"
        )


def _refilled(array: jax.Array, mask: np.ndarray, offset: float) -> jax.Array:
    """Return the array with padding that is a copy of the first cell that counts, moved by an offset."""
    if not array.ndim or len(array) != len(mask):
        return array
    filled = array[jnp.where(mask, jnp.arange(len(mask)), int(mask.argmax()))]
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return filled
    return jnp.where(mask.reshape(-1, *[1] * (array.ndim - 1)), filled, filled + offset)
