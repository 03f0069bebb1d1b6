"""Log counts of the most variable genes, scaled; and how, so that new cells are scaled alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from ..inputs.expression import dense

# Standard deviations beyond which a gene's value is cut: one outlier must not be what is learned.
_MAX_SCALED = 10.0


def scaled_log_counts(counts: Any, n_genes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the log counts of the most variable genes, (N, n), each with mean 0 and variance 1, and which they are.

    Counts are divided by their cell's sum and multiplied by the median sum before the logarithm of one more.

    Examples
    --------
    >>> x, genes = scaled_log_counts(np.array([[1, 4, 0], [1, 0, 4]]), 2)
    >>> x.tolist(), genes.tolist()
    ([[1.0, -1.0], [-1.0, 1.0]], [1, 2])
    """
    return learned_scaling(counts, n_genes)[:2]


def checked_counts(counts: Any) -> np.ndarray:
    """Return counts, dense, checked."""
    values = dense(counts, np.float64)
    if values.ndim != 2 or not values.size:
        raise InputError(f"the counts have shape {values.shape}; allowed is (cells, genes), at least one of each")
    if not np.isfinite(values).all() or values.min() < 0:
        raise InputError("the counts have negative, infinite or missing values; pass counts, not scaled expression")
    return values


def _logs(values: np.ndarray, total: float) -> np.ndarray:
    totals = values.sum(axis=1, keepdims=True)
    logs: np.ndarray = np.log1p(values / np.where(totals > 0, totals, 1) * total)
    return logs


def learned_scaling(counts: Any, n_genes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what `scaled_log_counts` does, and how they were scaled."""
    values = checked_counts(counts)
    total = float(np.median(values.sum(axis=1)))
    logs = _logs(values, total)
    spread = logs.std(axis=0)
    genes = np.sort(np.argsort(-spread, kind="stable")[:n_genes])
    genes = genes[spread[genes] > 0]
    if not len(genes):
        raise InputError("no gene varies between the cells; there is nothing to encode")
    scaling = np.concatenate([[total], logs[:, genes].mean(axis=0), spread[genes]])
    return scaled(values, genes, scaling), genes, scaling


def scaled(values: np.ndarray, genes: np.ndarray, scaling: np.ndarray) -> np.ndarray:
    """Return log counts of genes, scaled as `learned_scaling` says, (N, genes)."""
    mean, spread = np.split(scaling[1:], 2)
    x = (_logs(values, scaling[0])[:, genes] - mean) / spread
    return np.clip(x, -_MAX_SCALED, _MAX_SCALED).astype(np.float32)
