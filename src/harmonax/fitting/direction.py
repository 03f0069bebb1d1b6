"""Losses with the wrong sign, such as a mixing loss negated by hand: minimising them takes batches apart."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ..errors import MissingExtraError, warn
from ..evaluation.entropy import chance_entropy, neighbourhood_entropy
from ..evaluation.neighbours import sample
from .terms import Terms, scalar

# What the cells and their batches may be called.
_CELLS, _BATCHES = ("embeddings", "features"), ("batch_labels", "batch_ids")
# Permutations of the batches, cells whose neighbourhoods are looked at, and how many neighbours.
_SHUFFLES, _LOOKED_AT, _NEAR = 4, 1000, 15
# Mixing, as a share of what chance gives, whose loss is told, and below which batches lie apart.
_LOST, _APART = 0.02, 0.05


class Direction:
    """Whether a fit took batches apart, and a loss that asked for it.

    A loss is asked for if it is lower of the uncorrected cells with their own batches than with permuted ones: in that
    nothing differs but how mixed they are. Only then is the correction looked at, before and after the fit.
    """

    def __init__(self, graph: Any, state: Any, terms: Terms, batch: Mapping[str, Any], own: Sequence[str]) -> None:
        self._batch, self._named = batch, _rewarding_apart(terms, batch, own)
        self._apply = jax.jit(lambda state, batch: _corrected(graph, state, batch))
        self._before = self._mixing(state) if self._named else None

    def warn_of(self, state: Any) -> None:
        """Warn where the fit, which ended in this state, went the wrong way."""
        before, after = self._before, self._mixing(state) if self._before is not None else None
        if before is not None and after is not None and (after < before - _LOST or after < _APART):
            warn(
                f"the loss '{self._named[0]}' is lower where batches lie apart, and the fit followed it: of the mixing "
                f"that chance gives, corrected cells have {after:.0%}, and had {before:.0%} before. Losses are "
                "minimised, those of mixing too: do not negate them"
            )

    def _mixing(self, state: Any) -> float | None:
        """Return how mixed the corrected cells are, as a share of what chance gives; None where it cannot be told."""
        Z, there = self._apply(state, self._batch), _there(self._batch)
        if Z is None or not np.isfinite(Z := np.asarray(Z).reshape(len(Z), -1)[there]).all():
            return None
        codes = _codes(self._batch)[there]
        rows = sample(len(codes), _LOOKED_AT, 0)
        if len(rows) <= 2 * _NEAR or len(np.unique(codes[rows])) < 2:
            return None
        try:
            by_chance = chance_entropy(Z[rows], codes[rows], np.random.default_rng(0), k=_NEAR)
            return neighbourhood_entropy(Z[rows], codes[rows], k=_NEAR) / by_chance
        except MissingExtraError:
            return None


def _corrected(graph: Any, state: Any, batch: Mapping[str, Any]) -> Any:
    model = nnx.merge(graph, *state.params, state.rest, copy=True)
    model.eval()
    return model.apply(batch, {}, None)[0].get("corrected_embeddings")


def _rewarding_apart(terms: Terms, batch: Mapping[str, Any], own: Sequence[str]) -> list[str]:
    """Return those of these losses that are lower with the cells' own batches than with permuted ones."""
    names = [name for name in own if name in terms.of_result and _positive(terms.weights.get(name, 1.0))]
    cells, key = (next((name for name in known if name in batch), None) for known in (_CELLS, _BATCHES))
    if not names or cells is None or key is None:
        return []

    # Not compiled as one: what is compiled within serves the next fit, too.
    def values(labels: Any) -> dict[str, float]:
        result, found = {**batch, "corrected_embeddings": batch[cells], key: labels}, {}
        for name in names:
            # One that needs more of the operator's result than the cells cannot be asked so, however it says that.
            with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
                found[name] = float(scalar(name, terms.of_result[name](result)))
        return found

    labels, there, gen = _labels(batch), np.flatnonzero(_there(batch)), np.random.default_rng(0)
    told = [values(batch[key])]
    for _ in range(_SHUFFLES):
        shuffled = labels.copy()
        shuffled[there] = labels[gen.permutation(there)]
        told.append(values(jnp.asarray(shuffled)))
    rise = {name: np.array([each.get(name, np.nan) for each in told[1:]]) - own for name, own in told[0].items()}
    return [name for name, by in rise.items() if by.min() > 3 * np.ptp(by) + 1e-3 * abs(told[0][name])]


def _positive(weight: Any) -> bool:
    """Return whether a loss counts as it is; of one with a negative weight the user was told before."""
    return callable(weight) or weight > 0


def _labels(batch: Mapping[str, Any]) -> np.ndarray:
    return np.asarray(next(batch[name] for name in _BATCHES if name in batch))


def _there(batch: Mapping[str, Any]) -> np.ndarray:
    return np.asarray(batch.get("mask", np.ones(len(_labels(batch)))), bool)


def _codes(batch: Mapping[str, Any]) -> np.ndarray:
    labels = _labels(batch)
    return np.unique(labels.reshape(len(labels), -1), axis=0, return_inverse=True)[1].ravel()
