"""Which losses a fit minimises, and their weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ..errors import InputError, MissingKeyError, nearest, warn
from .presets import WEIGHTS

Loss = Callable[..., Any]
Weight = float | Callable[[Any], Any]  # or a schedule: a function of the step


@dataclass(frozen=True)
class Group:
    """Parameters that are updated together."""

    name: str | None  # what the operator calls them; None where it has one group only
    which: Any  # the filter of Flax NNX that finds them
    updates: int = 1  # how often they are updated in a step


def groups_of(operator: Any, trainable: Any) -> list[Group]:
    """Return the groups of parameters of an operator, in the order of their updates.

    An operator whose parts learn in turn, such as a critic and a generator, has a method ``training_groups()`` that
    returns a dict: name -> (filter, updates a step); its ``training_losses`` then takes the name as third argument.
    """
    if not hasattr(operator, "training_groups"):
        return [Group(None, trainable)]
    return [Group(name, which, int(updates)) for name, (which, updates) in operator.training_groups().items()]


@dataclass(frozen=True)
class Terms:
    """The losses by name, with their weights."""

    of_result: Mapping[str, Loss]  # functions of the operator's result
    of_model: Mapping[str, Loss]  # functions of the operator and the data
    weights: Mapping[str, Weight]  # by name; 1 where none is given

    def weight(self, name: str, step: Any) -> Any:
        """Return a loss's weight at a step."""
        weight = self.weights.get(name, 1.0)
        return weight(step) if callable(weight) else weight

    def __call__(
        self, model: Any, data: Mapping[str, Any], rngs: nnx.Rngs, group: Group, *, last: bool
    ) -> dict[str, jax.Array]:
        """Return each loss, unweighted; the user's losses belong to the last group."""
        found: dict[str, Any] = {}
        if hasattr(model, "training_losses"):
            arguments = (data, rngs) if group.name is None else (data, rngs, group.name)
            found |= model.training_losses(*arguments)
        if last:
            if self.of_result:
                result = model.apply(data, {}, None)[0]
                found |= {name: loss(result) for name, loss in self.of_result.items()}
            found |= {name: loss(model, data) for name, loss in self.of_model.items()}
        return {name: scalar(name, value) for name, value in found.items()}


def scalar(name: str, value: Any) -> jax.Array:
    """Return a loss as a scalar, or refuse it by its name."""
    value = jnp.asarray(value)
    if value.shape != ():
        raise InputError(f"the loss '{name}' returned shape {value.shape}; allowed is a scalar: take its mean or sum")
    return value


def read_terms(operator: Any, losses: Mapping[str, Loss] | None, weights: Mapping[str, Weight] | str | None) -> Terms:
    """Sort losses by what they are called with, and look up weights.

    Raises
    ------
    InputError
        If there is nothing to minimise, a loss takes neither one argument nor two, or a weight is not finite.
    MissingKeyError
        If a preset, or the loss that a weight is for, is unknown.
    """
    losses = dict(losses or {})
    has_losses = hasattr(operator, "training_losses")
    if not losses and not has_losses:
        raise InputError("there is no loss to minimise; pass losses={'name': function of the operator's result}")
    of_result = {name: loss for name, loss in losses.items() if _arguments(name, loss) == 1}
    of_model = {name: loss for name, loss in losses.items() if name not in of_result}
    if isinstance(weights, str):
        if weights not in WEIGHTS:
            raise MissingKeyError(f"there are no weights named '{weights}'; {nearest(weights, WEIGHTS)}")
        missing = [name for name in WEIGHTS[weights] if name not in losses]
        if missing:
            raise MissingKeyError(
                f"weights='{weights}' weigh a loss '{missing[0]}' that was not passed; {nearest(missing[0], losses)}"
            )
        weights = WEIGHTS[weights]
    weights = {name: value if callable(value) else float(value) for name, value in (weights or {}).items()}
    for name, value in weights.items():
        if not np.isfinite(float(value(0)) if callable(value) else value):
            raise InputError(f"the weight of '{name}' is {value}; allowed is a finite number")
        if not callable(value) and value < 0:
            warn(f"the weight of '{name}' is {value:g}: that loss is maximised; losses here are minimised, mixing too")
        if name not in losses and not has_losses:
            raise MissingKeyError(f"there is a weight for '{name}' but no such loss; {nearest(name, losses)}")
    return Terms(of_result, of_model, weights)


def _arguments(name: str, loss: Loss) -> int:
    """Return with how many arguments a loss is called."""
    advice = "allowed is a function of the operator's result, or of (operator, data)"
    if not callable(loss):
        raise InputError(f"losses['{name}'] is {type(loss).__name__}; {advice}")
    if type(loss).__module__.startswith("harmonax.losses"):
        raise InputError(
            f"losses['{name}'] is a {type(loss).__name__}, which does not know where its arrays are; {advice}: "
            'lambda result: loss(result["corrected_embeddings"], ...), or harmonax.training.correction_losses'
        )
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(loss).parameters.values()
    wanted = [p for p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty]
    if len(wanted) not in (1, 2):
        raise InputError(f"losses['{name}'] takes {len(wanted)} arguments; {advice}")
    return len(wanted)
