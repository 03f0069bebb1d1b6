"""Checks of what the neural operators are given: shapes always, values unless JAX is tracing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError, MissingKeyError, nearest
from ..losses.checks import as_array, in_range, known, poisoned

# Number of batches that there is room for where n_batches is not given.
ROOM = 64
# What other libraries call the same.
OTHER_KEYS = {"embeddings": "features", "batch_labels": "batch_ids"}


class Cells(NamedTuple):
    """Cells as an operator computes with them."""

    values: jax.Array  # expression or embedding, (N, features), floating point
    labels: jax.Array  # batch of each cell, (N,) int
    weight: jax.Array  # 1 for cells that count, 0 for padding, (N,)


def read_cells(data: Mapping[str, Any], name: str, n_features: int, n_batches: int | None) -> Cells:
    """Return the cells of `data`: ``data[name]``, ``data["batch_labels"]`` and, where given, ``data["mask"]``.

    Raises
    ------
    MissingKeyError
        If an entry is missing.
    InputError
        If a shape is wrong or, outside jit, a value is not finite or a label out of range.
    """
    values = read_values(data, name, n_features)
    given = _entry(data, "batch_labels")
    labels = as_array("batch_labels", given, "whole numbers from 0: number the levels, as pandas.factorize does")
    if labels.shape != values.shape[:1]:
        raise InputError(f"batch_labels has shape {labels.shape}; allowed is ({len(values)},), one label per cell")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(f"batch_labels holds {labels.dtype}; allowed are whole numbers from 0")
    weight = read_mask(data, values)
    # Padding may hold anything, NaN included; 0 times that would be NaN.
    values = jnp.where(weight[:, None] > 0, values, 0.0)
    labels = jnp.where(weight > 0, labels, 0).astype(jnp.int32)
    room = ROOM if n_batches is None else n_batches
    # Traced code cannot raise: all that is computed from these cells is then NaN.
    values = poisoned(values, in_range(labels, room))
    if known(labels) and len(labels):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= room:
            more = "; give n_batches= in the configuration" if n_batches is None else ""
            raise InputError(f"batch_labels runs from {low} to {high}; allowed is 0 to {room - 1}{more}")
    return Cells(values, labels, weight)


def read_values(data: Mapping[str, Any], name: str, n_features: int) -> jax.Array:
    """Return ``data[name]``, (N, n_features), as floating point; raises as `read_cells` does."""
    values = as_array(name, _entry(data, name), "numbers")
    if values.ndim != 2 or values.shape[1] != n_features:
        raise InputError(f"{name} has shape {values.shape}; allowed is (cells, {n_features}), as configured")
    if not jnp.issubdtype(values.dtype, jnp.floating):
        values = values.astype(jnp.float32)
    mask = data.get("mask")
    if known(values) and (mask is None or known(mask)):
        wrong = ~np.isfinite(np.asarray(values)).all(axis=1)
        if mask is not None:
            wrong &= np.asarray(mask, bool) if np.shape(mask) == wrong.shape else True
        if wrong.any():
            raise InputError(
                f"{name} has NaN or infinity in {int(wrong.sum())} cells (first: row {int(np.argmax(wrong))}); "
                "fill them or leave those cells out"
            )
    return values


def read_mask(data: Mapping[str, Any], values: jax.Array) -> jax.Array:
    """Return ``data["mask"]`` as 1 for cells that count and 0 for padding, (N,); all 1 where there is none."""
    mask = data.get("mask")
    if mask is None:
        return jnp.ones(values.shape[0], values.dtype)
    mask = as_array("mask", mask, "booleans, or 0 and 1")
    if mask.shape != values.shape[:1]:
        raise InputError(f"mask has shape {mask.shape}; allowed is ({len(values)},), true for cells that count")
    return (mask != 0).astype(values.dtype)


def _entry(data: Mapping[str, Any], name: str) -> Any:
    if not isinstance(data, Mapping):
        raise InputError(f"data is a {type(data).__name__}; allowed is a dictionary of arrays with '{name}'")
    if name not in data and OTHER_KEYS.get(name, name) in data:
        return data[OTHER_KEYS[name]]
    if name not in data:
        raise MissingKeyError(f"data has no '{name}'; {nearest(name, data)}")
    return data[name]
