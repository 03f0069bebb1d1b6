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


def check(config: BatchCorrectionConfig, data: Mapping[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
    """Return embeddings (N, F), labels (N, V) int32, mask (N,), and centroids (K, F) and covariates (N, C) or None.

    The last column of the labels is the protected variable's, where there is one.
    """
    Z = _embeddings(config, _entry(data, "embeddings"))
    mask = _mask(data.get("mask"), len(Z))
    labels = _labels(config, _entry(data, "batch_labels"), mask, len(Z))
    if config.n_protected or data.get("protect") is not None:
        labels = jnp.concatenate([labels, _protected(config, _entry(data, "protect"), mask, len(Z))], axis=1)
    x = None
    if config.n_covariates or data.get("covariates") is not None:
        x = _covariates(config, _entry(data, "covariates"), mask, len(Z)).astype(Z.dtype)
    _check_cells(config, Z, mask)
    Y = data.get("centroids")
    if Y is not None:
        Y = as_array("data['centroids']", Y, "numbers").astype(Z.dtype)
        shape = (config.n_clusters, config.n_features)
        if Y.shape != shape:
            raise InputError(f"data['centroids'] has shape {Y.shape}; allowed is (n_clusters, n_features) = {shape}")
        if known(Y) and not np.isfinite(np.asarray(Y)).all():
            raise InputError("data['centroids'] has NaN or infinite values")
    return Z, labels, mask, Y, x


def _entry(data: Mapping[str, Any], key: str) -> Any:
    if not isinstance(data, Mapping):
        raise InputError(f"data is a {type(data).__name__}; allowed is a dictionary of arrays with {key!r}")
    other = OTHER_KEYS.get(key, key)
    if key not in data and other in data:
        return data[other]
    if key not in data or data[key] is None:
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
    return _in_range("batch_labels", labels, config.levels, f"n_batches={config.n_batches}")


def _in_range(name: str, labels: Any, levels: tuple[int, ...], says: str) -> Any:
    if known(labels):
        values, top = np.asarray(labels), np.array(levels)
        wrong = (values < 0) | (values >= top)
        if wrong.any():
            row, f = (int(i[0]) for i in np.nonzero(wrong))
            raise InputError(
                f"data['{name}'] has {values[row, f]} (first: row {row}); allowed are 0 to {top[f] - 1}, as {says} says"
            )
    return labels


def _protected(config: BatchCorrectionConfig, labels: Any, mask: Any, n_cells: int) -> Any:
    labels = as_array("data['protect']", labels, "integers from 0: number the levels, as pandas.factorize does")
    if not config.n_protected:
        raise InputError("data has 'protect', but the configuration no n_protected: give the number of its levels")
    if labels.shape != (n_cells,) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(f"data['protect'] is {labels.dtype} {labels.shape}; allowed are integers ({n_cells},)")
    labels = jnp.where(mask, labels.astype(jnp.int32), 0)[:, None]
    return _in_range("protect", labels, (config.n_protected,), f"n_protected={config.n_protected}")


def _covariates(config: BatchCorrectionConfig, x: Any, mask: Any, n_cells: int) -> Any:
    x = as_array("data['covariates']", x, "numbers")
    if not config.n_covariates:
        raise InputError("data has 'covariates', but the configuration no n_covariates: give their number")
    x = x[:, None] if x.ndim == 1 else x
    if x.shape != (n_cells, config.n_covariates) or jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise InputError(
            f"data['covariates'] is {x.dtype} {x.shape}; allowed are real numbers ({n_cells}, {config.n_covariates})"
        )
    if known(x) and known(mask):
        bad = np.asarray(mask) & ~np.isfinite(np.asarray(x)).all(axis=1)
        if bad.any():
            raise InputError(
                f"data['covariates'] has NaN or infinite values in {int(bad.sum())} cells (first: row "
                f"{int(bad.argmax())}); remove or repair them"
            )
    return x


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
