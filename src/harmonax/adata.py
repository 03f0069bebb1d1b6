"""A run's record as ``adata.uns`` can hold it: written to .h5ad or .zarr and read back, it is the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .result import HarmonyResult


def uns_record(
    result: HarmonyResult, basis: str, adjusted_basis: str, columns: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what ``adata.uns["harmonax"]`` says about a run.

    `HarmonyResult.record`, with the names of both embeddings, the cells of each level in each soft cluster
    (``cluster_mass``, rows as in ``levels``), and with the levels as the columns of a table: a batch
    column may have any name, a key in a file may not. `columns` says how the batch columns were read: ``keys``,
    ``combine_keys``, ``missing`` and ``allow_many_levels``.
    """
    design = result.design
    record = result.record() | {"basis": basis, "adjusted_basis": adjusted_basis}
    record["levels"] = {
        "batch_key": [name for name, own in zip(design.variables, design.levels, strict=True) for _ in own],
        "level": [level for own in design.levels for level in own],
        "n_cells": design.level_counts.astype(np.int64),
    }
    if columns is not None:
        record["columns"] = dict(columns)
    return storable(record) | {"cluster_mass": result.cluster_mass}


def stored_run(uns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a run that `uns` has; nothing where it has none, or something else under that name."""
    record = uns.get("harmonax")
    return dict(record) if isinstance(record, Mapping) else {}


def stored_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a recorded run as `HarmonyParams` takes them: a record has arrays, and no None."""
    given = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in params.items()}
    return {"batch_prune_threshold": None} | given


def storable(value: Any) -> Any:
    """Return nested plain values as files keep them: no None, lists as arrays, integers that fit.

    Examples
    --------
    >>> storable({"tol": 0.1, "sizes": [1, 2], "unset": None})
    {'tol': 0.1, 'sizes': array([1, 2])}
    """
    if isinstance(value, dict):
        return {str(k): storable(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        # Text as objects, since that is how it comes back; an empty list of anything as no numbers.
        return np.array(value, object if any(isinstance(v, str) for v in value) else None)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    return value
