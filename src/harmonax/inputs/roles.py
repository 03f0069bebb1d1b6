"""Which columns of a table play a part: the batches, levels that are a reference, and what is protected."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..design import BatchDesign
from ..errors import InputError, warn
from ..system.validate import listed
from .columns import as_table, design_from_table
from .covariates import numeric_columns
from .levels import level_names, native


def with_roles(design: BatchDesign, batches: Any, reference: Any, protect: Any, how: dict[str, Any]) -> BatchDesign:
    """Return the design with what must stay; `batches` is the table, if any, that protected columns may be named of.

    Raises
    ------
    InputError
        If a level, a variable or a column is not there, or nothing may move.
    """
    if reference is not None:
        design = design.keeping(reference_levels(reference, design))
    if protect is not None:
        design = design.protecting(protect_design(protect, batches, how))
        _say_where_confounded(design)
    return design


def named_roles(design: BatchDesign) -> dict[str, Any]:
    """Return what stays, and covariates, by name, for the record of a run; nothing where nothing was asked for."""
    roles: dict[str, Any] = {}
    if design.reference:
        of = [int(np.searchsorted(design.offsets, level, side="right")) - 1 for level in design.reference]
        names = [design.levels[f][level - design.offsets[f]] for f, level in zip(of, design.reference, strict=True)]
        # A table: a column may have any name, a key in a file may not.
        roles["reference"] = {"batch_key": [design.variables[f] for f in of], "level": names}
    if design.covariates:
        roles["covariates"] = list(design.covariates)
    return roles | ({"protect": design.variables[-1]} if design.protects else {})


def named_levels(texts: Sequence[str], keys: Sequence[str]) -> dict[str, list[str]] | None:
    """Return reference levels by column from texts "LEVEL", of the only batch column, or "COLUMN=LEVEL".

    Examples
    --------
    >>> named_levels(["a", "b"], ["batch"]), named_levels(["lab=a"], ["lab", "donor"]), named_levels([], ["lab"])
    ({'batch': ['a', 'b']}, {'lab': ['a']}, None)
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        column, _, level = text.partition("=")
        if column in keys and level:
            found.setdefault(column, []).append(level)
        elif len(keys) == 1:
            found.setdefault(keys[0], []).append(text)
        else:
            raise InputError(f"reference {text!r}: there are several batch columns; say which, as in {keys[0]}={text}")
    return found or None


def reference_levels(reference: Any, design: BatchDesign) -> dict[str, list[str]]:
    """Return the names of levels by variable, from a level, several, or a mapping of these.

    Without a mapping a level is that of the one variable which has it.
    """
    if isinstance(reference, Mapping):
        found = {str(name): _names(levels) for name, levels in reference.items()}
    else:
        found = {}
        for level in _names(reference):
            having = [name for name, own in zip(design.variables, design.levels, strict=True) if level in own]
            if len(having) > 1:
                raise InputError(
                    f"reference: {', '.join(having)} have a level '{level}'; pass a dictionary of levels by variable"
                )
            found.setdefault(having[0] if having else design.variables[0], []).append(level)
    if not any(found.values()):
        raise InputError("reference names no level; leave it out, or name at least one")
    return found


def _names(levels: Any) -> list[str]:
    # A file would be read, line by line.
    if isinstance(levels, (str, bytes)) or not hasattr(levels, "__iter__") or hasattr(levels, "read"):
        levels = [levels]
    return level_names(native(pd.Series(list(levels), dtype=object)))


def protected_columns(table: pd.DataFrame, names: Any, where: str, how: dict[str, Any]) -> BatchDesign:
    """Read protected columns of a table as batch columns are read, each as a variable of its own."""
    return design_from_table(table, names, where=where, **how | {"combine_keys": False})


def role_columns(table: pd.DataFrame, protect: Any, covariates: Any, where: str, how: dict[str, Any]) -> dict[str, Any]:
    """Return protected and numeric columns of a table as `harmonax.harmonize` takes them; None: not asked for."""
    return {
        "protect": None if protect is None else protected_columns(table, protect, where, how),
        "covariates": None if covariates is None else numeric_columns(table, covariates, where),
    }


def protect_design(protect: Any, batches: Any, how: dict[str, Any]) -> BatchDesign:
    """Read protected labels: a design, columns of the table `batches` by name, or labels of their own."""
    if isinstance(protect, BatchDesign):
        return protect
    if isinstance(batches, (pd.DataFrame, Mapping)):
        table = as_table(batches)
        names = [protect] if isinstance(protect, str) else protect
        known = lambda name: isinstance(name, Hashable) and name in table.columns  # noqa: E731
        if isinstance(protect, str) or (isinstance(names, (list, tuple)) and all(map(known, names))):
            return protected_columns(table, names, "batches", how)
    table = as_table(protect)
    if table.columns.tolist() == ["batch"]:
        table.columns = ["protected"]
    return protected_columns(table, table.columns.tolist(), "protect", how)


def _say_where_confounded(design: BatchDesign) -> None:
    """Warn of protected levels that have one batch only."""
    batches = np.unique(design.joint_levels[:, -1], return_counts=True)
    alone = [design.levels[-1][level - design.n_batch_levels] for level, n in zip(*batches, strict=True) if n == 1]
    if alone:
        names = ", ".join(alone[:5]) + (f" and {len(alone) - 5} more" if len(alone) > 5 else "")
        warn(
            f"protect: {design.variables[-1]} {names}: cells of one batch only; what is particular to them cannot be "
            "told from that batch, and stays"
        )


def batch_columns(run: Mapping[str, Any], batch_key: Any) -> tuple[list[str], dict[str, Any]]:
    """Return the batch columns, those of the last run where none is given, and how that run read its own.

    Raises
    ------
    InputError
        If neither names one.
    """
    read = dict(run.get("columns", {"keys": run.get("batch_keys", [])}))
    keys = listed(batch_key) if batch_key is not None else [str(key) for key in read["keys"]]
    if not len(keys):
        raise InputError("no batch column given, and uns['harmonax'] names none; pass batch_key")
    return keys, read
