"""Checks of what `DifferentiableHarmony` is given: shapes always, values outside traced code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ...errors import InputError, MissingKeyError
from ...losses.checks import as_array, known
from ..checks import OTHER_KEYS
from .config import BatchCorrectionConfig


def check(config: BatchCorrectionConfig, data: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Return embeddings (N, F), labels (N, V) int32, mask (N,) bool, and centroids (K, F) or None."""
    Z = _embeddings(config, _entry(data, "embeddings"))
    mask = _mask(data.get("mask"), len(Z))
    labels = _labels(config, _entry(data, "batch_labels"), mask, len(Z))
    _check_cells(config, Z, mask)
    Y = data.get("centroids")
    if Y is not None:
        Y = as_array("data['centroids']", Y, "numbers").astype(Z.dtype)
        shape = (config.n_clusters, config.n_features)
        if Y.shape != shape:
            raise InputError(f"data['centroids'] has shape {Y.shape}; allowed is (n_clusters, n_features) = {shape}")
        if known(Y) and not np.isfinite(np.asarray(Y)).all():
            raise InputError("data['centroids'] has NaN or infinite values")
    return Z, labels, mask, Y


def _entry(data: Mapping[str, Any], key: str) -> Any:
    if not isinstance(data, Mapping):
        raise InputError(f"data is a {type(data).__name__}; allowed is a dictionary of arrays with {key!r}")
    other = OTHER_KEYS.get(key, key)
    if key not in data and other in data:
        return data[other]
    if key not in data:
        raise MissingKeyError(f"data has no {key!r}; it has {', '.join(map(repr, data)) or 'nothing'}")
    return data[key]


def _embeddings(config: BatchCorrectionConfig, Z: Any) -> Any:
    Z = as_array("data['embeddings']", Z, "numbers")
    if Z.ndim != 2 or Z.shape[1] != config.n_features:
        raise InputError(f"data['embeddings'] has shape {Z.shape}; allowed is (cells, n_features={config.n_features})")
    if jnp.issubdtype(Z.dtype, jnp.complexfloating):
        raise InputError(f"data['embeddings'] has dtype {Z.dtype}; allowed are real numbers")
    if len(Z) < max(2, config.n_clusters):
        raise InputError(
            f"data['embeddings'] has {len(Z)} cells; at least n_clusters={config.n_clusters}, and 2, are needed"
        )
    # Half precision would lose the tables.
    return Z.astype(jnp.promote_types(Z.dtype, jnp.float32))


def _mask(mask: Any, n_cells: int) -> Any:
    if mask is None:
        return jnp.ones(n_cells, bool)
    mask = as_array("data['mask']", mask, "booleans, or 0 and 1")
    if jnp.issubdtype(mask.dtype, jnp.integer):
        mask = mask != 0
    if mask.shape != (n_cells,) or mask.dtype != bool:
        raise InputError(f"data['mask'] is {mask.dtype} {mask.shape}; allowed is bool ({n_cells},)")
    return mask


def _labels(config: BatchCorrectionConfig, labels: Any, mask: Any, n_cells: int) -> Any:
    labels = as_array("data['batch_labels']", labels, "integers from 0: number the levels, as pandas.factorize does")
    n_variables = len(config.levels)
    shape = labels.shape
    if labels.ndim == 1:
        labels = labels[:, None]
    if labels.shape != (n_cells, n_variables):
        allowed = f"({n_cells}, {n_variables})" + (f" or ({n_cells},)" if n_variables == 1 else "")
        raise InputError(f"data['batch_labels'] has shape {shape}; allowed is {allowed}, as n_batches says")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(f"data['batch_labels'] has dtype {labels.dtype}; allowed are integers from 0")
    # Unsigned and small integers: compared and numbered through in int32.
    labels = jnp.where(mask[:, None], labels.astype(jnp.int32), 0)
    if known(labels):
        values, top = np.asarray(labels), np.array(config.levels)
        wrong = (values < 0) | (values >= top)
        if wrong.any():
            row, f = (int(i[0]) for i in np.nonzero(wrong))
            raise InputError(
                f"data['batch_labels'] has {values[row, f]} (first: row {row}); allowed are 0 to {top[f] - 1}, "
                f"as n_batches={config.n_batches} says"
            )
    return labels


def _check_cells(config: BatchCorrectionConfig, Z: Any, mask: Any) -> None:
    """Check the values that are known, in NumPy: inside jit, jax.numpy would trace known values too."""
    if not known(mask):
        return
    n_real = int(np.asarray(mask).sum())
    if n_real < max(2, config.n_clusters):
        raise InputError(
            f"data['mask'] leaves {n_real} cells; at least n_clusters={config.n_clusters}, and 2, are needed"
        )
    if not known(Z):
        return
    bad = np.asarray(mask) & ~np.isfinite(np.asarray(Z)).all(axis=1)
    if bad.any():
        raise InputError(
            f"data['embeddings'] has NaN or infinite values in {int(bad.sum())} cells "
            f"(first: row {int(bad.argmax())}); remove or repair them"
        )
