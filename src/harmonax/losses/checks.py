"""Checks of what losses are given: shapes always, values where they are known (not under jit, grad or vmap)."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError


def also_called(**others: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let callers name arguments as other libraries do: ``also_called(batch_ids="batch_labels")``."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            return function(*arguments, **{others.get(name, name): value for name, value in named.items()})

        # Its globals stay those of the function's module, as for a function that is not wrapped: tools look there.
        of_module = FunctionType(call.__code__, function.__globals__, function.__name__, None, call.__closure__)
        return wraps(function)(of_module)

    return decorate


def as_array(name: str, values: Any, allowed: str) -> jax.Array:
    """Return an array of JAX; what it cannot hold, such as text, is refused by name."""
    try:
        return jnp.asarray(values)
    except (TypeError, ValueError, OverflowError):
        if isinstance(values, jax.core.Tracer):
            raise
        kind = getattr(values, "dtype", type(values).__name__)
        raise InputError(f"{name} has dtype {kind}; allowed are {allowed}") from None


def known(array: Any) -> bool:
    """Return whether the values of an array are known: not while JAX traces."""
    return not isinstance(array, jax.core.Tracer)


def cells(name: str, array: Any, mask: jax.Array | None = None, *, like: jax.Array | None = None) -> jax.Array:
    """Return a cells x features array as floats; rows that `mask` leaves out become zero, whatever they held.

    Raises
    ------
    InputError
        If it is not two-dimensional, has another shape than `like`, or holds NaN or infinity.
    """
    array = as_array(name, array, "numbers")
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"{name} has shape {array.shape}; allowed is (cells, features), at least one of each")
    if like is not None and array.shape != like.shape:
        raise InputError(f"{name} has shape {array.shape}; the other arrays have {like.shape}: all must agree")
    array = array.astype(jnp.promote_types(array.dtype, jnp.float32))
    if mask is not None:
        array = jnp.where(mask[:, None], array, 0)
    if known(array):
        wrong = ~np.isfinite(np.asarray(array)).all(axis=1)
        if wrong.any():
            raise InputError(
                f"{name} has NaN or infinity in {int(wrong.sum())} cells (first: row {int(wrong.argmax())}); "
                "leave those cells out or repair them"
            )
    return array


def several_cells(name: str, array: Any, mask: jax.Array | None = None) -> jax.Array:
    """Return cells as `cells` does, where cells are compared with others: one alone is refused.

    Raises
    ------
    InputError
        If there are fewer than 2, or as for `cells`.
    """
    array = cells(name, array, mask)
    if len(array) < 2:
        raise InputError(f"{name} has 1 cell, and cells are compared with others: at least 2 are needed (batch_size)")
    return array


def labels(name: str, codes: Any, n_cells: int, n_labels: int, mask: jax.Array | None = None) -> jax.Array:
    """Return one integer label per cell; -1, which is not a label, for cells that `mask` leaves out.

    Raises
    ------
    InputError
        If there is not one label per cell, they are not integers, or one is not in 0..n_labels-1.
    """
    codes = as_array(name, codes, f"integers from 0 to {n_labels - 1}: number the levels, as pandas.factorize does")
    if codes.shape != (n_cells,):
        raise InputError(f"{name} has shape {codes.shape}; allowed is ({n_cells},), one label per cell")
    if not jnp.issubdtype(codes.dtype, jnp.integer):
        raise InputError(f"{name} has dtype {codes.dtype}; allowed are integers from 0 to {n_labels - 1}")
    if mask is not None:
        codes = jnp.where(mask, codes, -1)
    if known(codes):
        values = np.asarray(codes)
        wrong = (values >= n_labels) | ((values < 0) & (True if mask is None else np.asarray(mask)))
        if wrong.any():
            first = int(wrong.argmax())
            raise InputError(
                f"{name} has {int(wrong.sum())} labels out of range (first: {int(values[first])} in row {first}); "
                f"allowed are 0 to {n_labels - 1}: number them anew, or say how many there are"
            )
    return codes


def shares(name: str, array: Any, mask: jax.Array | None = None, *, n_cells: int | None = None) -> jax.Array:
    """Return a cells x clusters array of shares, whose rows sum to one.

    Raises
    ------
    InputError
        If the shape is wrong, a share is negative, or a row does not sum to one within 1 %.
    """
    n_rows = rows_of(array := as_array(name, array, "numbers"))
    if n_cells is not None and n_rows != n_cells:
        raise InputError(f"{name} has {n_rows} rows, but there are {n_cells} cells; allowed is one row per cell")
    array = cells(name, array, mask)
    if known(array):
        values = np.asarray(array)
        wrong = (values < 0).any(axis=1) | (np.abs(values.sum(axis=1) - 1) > 0.01)
        wrong &= True if mask is None else np.asarray(mask)
        if wrong.any():
            raise InputError(
                f"{name} has {int(wrong.sum())} rows that are not shares (first: row {int(wrong.argmax())}); "
                "allowed are values of at least 0 that sum to 1 in each row, such as a softmax"
            )
    return array


def cell_mask(mask: Any, n_cells: int) -> jax.Array | None:
    """Return which cells count, as booleans; None where all do.

    Raises
    ------
    InputError
        If there is not one value per cell, or no cell counts.
    """
    if mask is None:
        return None
    mask = as_array("mask", mask, "booleans, or 0 and 1").astype(bool)
    if mask.shape != (n_cells,):
        raise InputError(f"mask has shape {mask.shape}; allowed is ({n_cells},), one value per cell")
    if known(mask) and not np.asarray(mask).any():
        raise InputError("mask leaves out every cell; at least one must count")
    return mask


def varying(tree: Any, like: jax.Array) -> Any:
    """Mark constants as varying over the devices that `like` varies over: carries of loops inside shard_map must be."""
    return jax.tree.map(lambda x: x + jnp.zeros_like(like, shape=(), dtype=x.dtype), tree)


def rows_of(array: Any) -> int:
    """Return the number of rows, 0 for a scalar: the length that a mask must have, before the array is checked."""
    shape = jnp.shape(array)
    return shape[0] if shape else 0


def mean_over(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Return the mean over the cells that count."""
    if mask is None:
        return values.mean()
    return jnp.where(mask, values, 0).sum() / jnp.maximum(mask.sum(), 1)


def usable(array: jax.Array) -> Any:
    """Say whether all values are finite; True where they are known, and so were checked."""
    return True if known(array) else jnp.isfinite(array).all()


def in_range(codes: jax.Array, n_labels: int, mask: jax.Array | None = None) -> Any:
    """Say whether all labels of cells that count are in 0..n_labels-1; True where they are known."""
    if known(codes):
        return True
    right = (codes >= 0) & (codes < n_labels)
    return (right if mask is None else right | ~mask).all()


def poisoned(value: jax.Array, *conditions: Any) -> jax.Array:
    """Return the value, or NaN, with a gradient of NaN, where a condition does not hold.

    Traced code cannot raise; a plausible number made from what cannot be used would be believed.
    """
    doubtful = [condition for condition in conditions if condition is not True]
    return value * jnp.where(jnp.stack(doubtful).all(), 1, jnp.nan).astype(value.dtype) if doubtful else value
