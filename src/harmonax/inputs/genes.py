"""Names of genes as files have them: with the version of an identifier or without it, in upper or lower case."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

# The version of an Ensembl identifier; a dot in a symbol ("AC012345.1") belongs to it.
_VERSION = re.compile(r"^(ENS[A-Z]*\d{6,})\.\d+$", re.IGNORECASE)


def unversioned(names: Iterable[Any]) -> pd.Index:
    """Return names without the version of an Ensembl identifier.

    Examples
    --------
    >>> list(unversioned(["ENSG00000141510.17", "TP53", "AC012345.1"]))
    ['ENSG00000141510', 'TP53', 'AC012345.1']
    """
    return pd.Index([_VERSION.sub(r"\1", str(name)) for name in names], dtype=object)


def find_genes(wanted: Iterable[Any], there: pd.Index) -> tuple[np.ndarray, int]:
    """Return where each gene is among those that are there, or -1, and how many were found without their version."""
    wanted = pd.Index([str(name) for name in wanted], dtype=object)
    column = there.get_indexer(wanted)
    gone = column < 0
    bare, bare_there = unversioned(wanted), unversioned(there)
    if not gone.any() or not bare_there.is_unique or bare.duplicated().any():
        return column, 0
    again = bare_there.get_indexer(bare)
    found = gone & (again >= 0)
    return np.where(found, again, column), int(found.sum())


def remedy(wanted: Iterable[Any], there: Iterable[Any]) -> str:
    """Return how names that do not agree could be made to, or "" where nothing is known."""
    ours, theirs = unversioned(wanted), unversioned(there)
    share = lambda a, b: len(a.intersection(b)) / max(1, len(a))  # noqa: E731
    direct, folded = share(ours, theirs), share(_folded(ours), _folded(theirs))
    if folded <= direct + 0.1:
        return ""
    upper = np.mean([name == name.upper() for name in ours]) > 0.5
    how = "var_names.str.upper()" if upper else "var_names.str.capitalize()"
    return (
        f"{folded:.0%} would agree in another case: where both are of one species, set var_names = {how}; human genes "
        "are written CD3E, mouse genes Cd3e"
    )


def _folded(names: pd.Index) -> pd.Index:
    return pd.Index([name.casefold() for name in names], dtype=object).unique()
