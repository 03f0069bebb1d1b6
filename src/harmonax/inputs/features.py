"""Kinds of features in one table (genes, antibodies, peaks), and some columns of expression that is read in pieces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from .genes import unversioned

GENES = "Gene Expression"
# Where AnnData files say what each feature is.
COLUMNS = ("feature_types", "feature_type")


def kinds_of(var: pd.DataFrame) -> tuple[str, pd.Series] | None:
    """Return the column that says what each feature is, and what it says; None where there is none."""
    column = next((name for name in COLUMNS if name in var), None)
    if column is None:
        return None
    return column, var[column].astype(object).where(var[column].notna(), GENES).astype(str)


def listed_kinds(kinds: pd.Series) -> str:
    """Return how many features there are of each kind, for a message."""
    return ", ".join(f"{n:,} '{name}'" for name, n in kinds.value_counts().items())


def of_the_kinds_of(wanted: Iterable[Any], names: pd.Index, kinds: pd.Series) -> np.ndarray:
    """Return which features are of a kind that has some of the wanted ones.

    A kind whose wanted names another one has, too, is not meant: antibodies are often called as their genes.

    Examples
    --------
    >>> kinds = pd.Series(["Gene Expression", "Gene Expression", "Antibody Capture"])
    >>> of_the_kinds_of(["CD4", "LYZ"], pd.Index(["CD4", "LYZ", "CD4"]), kinds).tolist()
    [True, True, False]
    """
    folded = kinds.str.casefold().to_numpy()
    bare, meant = unversioned(names), set(unversioned(wanted))
    found = {kind: meant.intersection(bare[folded == kind]) for kind in np.unique(folded)}
    # Genes first where there are as many of both.
    rank = sorted(found, key=lambda kind: (-len(found[kind]), kind != GENES.casefold()))
    seen: set[Any] = set()
    for kind in rank:
        if not found[kind] - seen:
            del found[kind]
            continue
        seen |= found[kind]
    return np.isin(folded, list(found))


class Columns:
    """Some columns of expression that gives its rows as ``X[rows]``."""

    def __init__(self, X: Any, columns: np.ndarray) -> None:
        self.shape, self._X, self._columns = (X.shape[0], len(columns)), X, columns

    def __getitem__(self, rows: Any) -> Any:
        return self._X[rows][:, self._columns]
