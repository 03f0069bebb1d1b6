"""Arrays and tables of other libraries, told by what they can do, since none of those libraries is imported here."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError, warn

ALLOWED = "an array, a DataFrame, a sparse matrix or a tensor of (cells, features)"


def as_numpy(value: Any, what: str) -> Any:
    """Return a tensor (torch, cupy, JAX) or a masked array as an array of NumPy; all else as it is.

    Raises
    ------
    InputError
        If a value is masked, or the tensor's values cannot be had, such as those of a function that is being traced.
    """
    if isinstance(value, np.ma.MaskedArray):
        n_masked = int(np.ma.count_masked(value))
        if n_masked:
            raise InputError(f"{what} has {n_masked} masked values; fill or drop them: {what}.filled(...)")
        return value.data
    if isinstance(value, (np.ndarray, np.generic, pd.DataFrame, pd.Series)) or not _is_tensor(value):
        return value
    if getattr(value, "requires_grad", False):
        warn(f"{what} is a tensor with a gradient: it is detached; harmonax.operators has corrections with gradients")
    try:
        return _values(value)
    except (TypeError, ValueError, RuntimeError) as error:
        if "Trac" in type(error).__name__:
            said = "it is being traced; harmonax.operators has corrections that can be"
        else:
            said = str(error).partition("\n")[0]
        raise InputError(f"{what} is a {type(value).__name__} that is not an array of numbers: {said}") from None


def as_table(value: Any, name: str = "batch") -> Any:
    """Return a table or a column of polars or pyarrow as pandas'; all else as it is."""
    if isinstance(value, (pd.DataFrame, pd.Series, pd.Categorical, pd.Index, Mapping, np.ndarray)):
        return value
    if hasattr(value, "to_pydict"):  # a table of pyarrow
        return pd.DataFrame(value.to_pydict())
    if hasattr(value, "to_dict") and hasattr(value, "get_columns"):  # a table of polars
        return pd.DataFrame(value.to_dict(as_series=False))
    for method in ("to_pylist", "to_list"):  # a column of pyarrow, of polars
        if hasattr(value, method) and not hasattr(value, "detach"):
            label = getattr(value, "name", None)
            return pd.Series(getattr(value, method)(), name=label if isinstance(label, str) and label else name)
    return as_numpy(value, name) if _is_tensor(value) else value


def as_rows(X: Any) -> Any:
    """Return what may be a table of numbers as it is; refuse what is not a table at all."""
    # Of sparse matrices, of which one kind is a dictionary, scikit-learn says more itself.
    like_a_table = hasattr(X, "__array__") or hasattr(X, "__len__")
    if not hasattr(X, "tocsr") and (isinstance(X, (Mapping, Set)) or not like_a_table):
        raise InputError(f"X is a {type(X).__name__}; allowed is an array or a table of shape (n_cells, n_features)")
    return X


def of_numbers(array: np.ndarray, what: str) -> np.ndarray:
    """Return an array of objects, all of them numbers, as one of numbers; any other array as it is."""
    if array.ndim == 0:
        kind = type(array.item()).__name__ if array.dtype == object else array.dtype
        raise InputError(f"{what} is a single value ({kind}); allowed is {ALLOWED}")
    if array.dtype != object:
        return array
    if any(isinstance(v, (str, bytes)) for v in array.ravel()):
        raise InputError(f"{what} has text among its values; allowed are real numbers")
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{what} has values that are not numbers; allowed are real numbers") from None


def _is_tensor(value: Any) -> bool:
    """Return whether something is an array of another library, which is in memory or on a device."""
    if (
        hasattr(value, "to_numpy")
        or hasattr(value, "toarray")
        or not (hasattr(value, "shape") and hasattr(value, "dtype"))
    ):
        return False
    if hasattr(value, "__dask_graph__"):
        return False
    try:
        np.dtype(value.dtype)
    except TypeError:
        return hasattr(value, "__array__") or hasattr(value, "__dlpack__")
    on_device = callable(getattr(value, "get", None)) and not isinstance(value, Mapping)
    return on_device or hasattr(value, "__dlpack__") or hasattr(value, "__jax_array__")


def _values(tensor: Any) -> np.ndarray:
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        # NumPy has no such type.
        tensor = tensor.float() if "bfloat16" in str(tensor.dtype) else tensor
    try:
        array = np.asarray(tensor)
    except TypeError:
        # cupy's way to say that it must be asked.
        if not callable(getattr(tensor, "get", None)):
            raise
        array = np.asarray(tensor.get())
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
