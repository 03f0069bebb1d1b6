"""Columns of a table as levels and codes; one that cannot be what it is named as becomes a finding, not an error."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..errors import InputError, MissingKeyError, nearest
from ..inputs.columns import absent, design_from_table
from ..inputs.levels import native
from .findings import Finding, Level

# What annotators write where they know no label.
UNLABELLED = frozenset(
    {"", "missing", "n/a", "na", "nan", "none", "unannotated", "unassigned", "undefined", "unknown"}
    | {"unlabeled", "unlabelled"}
)
# Maximum number of other columns of the table that are checked, of the levels of one, and of those of whole numbers.
_MAX_COLUMNS, _MAX_LEVELS, _MAX_NUMBERS = 30, 200, 20


@dataclass(frozen=True, eq=False)
class Variable:
    """A column of labels."""

    name: str  # of the column
    codes: np.ndarray  # level of each cell, 0..levels-1; -1 where it has none, (N,)
    levels: tuple[str, ...]  # names of the levels, each with at least one cell
    n_empty: int = 0  # categories that no cell has

    @property
    def counts(self) -> np.ndarray:
        """Cells of each level."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.levels))


def check_names(table: pd.DataFrame, names: Collection[str], where: str = "obs") -> None:
    """Refuse columns that are not there, or there twice."""
    for name in names:
        if name not in table.columns:
            raise MissingKeyError(f"{where} has no column '{name}'; {nearest(name, table.columns)}")
        if isinstance(table[name], pd.DataFrame):
            raise InputError(f"{where} has {table[name].shape[1]} columns called '{name}'; rename all but one")


def read_variable(
    table: pd.DataFrame, name: str, *, no_label: Collection[str] = (), literal: bool = False
) -> Variable | Finding:
    """Return a column as a variable, or the finding that says why it cannot be one.

    `no_label` are the names, in lower case, of labels that mean that the label is not known; for `literal` see
    `columns.absent`.

    Examples
    --------
    >>> read_variable(pd.DataFrame({"batch": ["b", None, "a"]}), "batch").codes
    array([ 1, -1,  0])
    """
    column = native(table[name])
    rows = np.flatnonzero(~absent(column, literal=literal))
    if not len(rows):
        return Finding("unusable_column", Level.PROBLEM, f"'{name}' has no label at all.", "Name another column.")
    try:
        design = design_from_table(pd.DataFrame({name: column.array[rows]}), name, missing="literal")
    except InputError as error:
        said = str(error).partition("; ")[0]
        return Finding(
            "unusable_column", Level.PROBLEM, f"{said}.", "Name a column whose values groups of cells share."
        )
    known = np.array([level.strip().casefold() not in no_label for level in design.levels[0]])
    if not known.any():
        return Finding("unusable_column", Level.PROBLEM, f"'{name}' has no label at all.", "Name another column.")
    codes = np.full(len(table), -1)
    codes[rows] = np.where(known, np.cumsum(known) - 1, -1)[design.joint]
    levels = tuple(level for level, kept in zip(design.levels[0], known, strict=True) if kept)
    n_empty = len(column.cat.categories) - len(known) if isinstance(column.dtype, pd.CategoricalDtype) else 0
    return Variable(name, codes, levels, n_empty)


def read_variables(
    table: pd.DataFrame, names: Sequence[str], *, no_label: Collection[str] = (), literal: bool = False
) -> tuple[list[Variable], list[Finding]]:
    """Return the columns that can be used, and what is wrong with them or the others.

    Cells without a label are a problem, unless the names that stand for none are given: then some are expected.
    """
    variables, said = [], []
    for name in names:
        variable = read_variable(table, name, no_label=no_label, literal=literal)
        if isinstance(variable, Finding):
            said.append(variable)
            continue
        variables.append(variable)
        gaps = variable.codes < 0
        if gaps.any():
            first = table.index[int(np.argmax(gaps))]
            text = f"{int(gaps.sum()):,} cells ({gaps.mean():.1%}) have no label in '{name}' (first: '{first}')."
            fill = "Fill the labels, drop those cells, or make them a batch of their own: missing='level'."
            known = (Level.NOTE, "They are left out here.") if no_label else (Level.PROBLEM, fill)
            said.append(Finding("missing_labels", known[0], text, known[1]))
    return variables, said


def duplicate_names(table: pd.DataFrame) -> list[Finding]:
    """Return a finding where cells share a name."""
    twice = table.index[table.index.duplicated()]
    if not len(twice):
        return []
    text = f"{len(twice)} cells have a name that another has (first: '{twice[0]}')."
    advice = "Make them unique before joining tables by name: adata.obs_names_make_unique()."
    return [Finding("duplicate_names", Level.WARNING, text, advice)]


def other_variables(table: pd.DataFrame, named: Collection[str]) -> list[Variable]:
    """Return the table's other columns that hold groups of cells, the first 30 of them."""
    found: list[Variable] = []
    for name in table.columns:
        column = table[name]
        if name in named or isinstance(column, pd.DataFrame) or not _may_be_labels(column):
            continue
        variable = read_variable(table, name, no_label=UNLABELLED)
        if isinstance(variable, Variable) and 2 <= len(variable.levels) <= _MAX_LEVELS:
            found.append(variable)
        if len(found) == _MAX_COLUMNS:
            break
    return found


def _may_be_labels(column: pd.Series) -> bool:
    if isinstance(column.dtype, pd.CategoricalDtype) or pd.api.types.is_bool_dtype(column.dtype):
        return True
    if pd.api.types.is_integer_dtype(column.dtype):
        return column.nunique() <= _MAX_NUMBERS
    return column.dtype == object or pd.api.types.is_string_dtype(column.dtype)
