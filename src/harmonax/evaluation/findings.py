"""One thing that was measured: how serious it is, what it means, what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from enum import StrEnum

import pandas as pd


class Level(StrEnum):
    """How serious a finding is, mildest first."""

    GOOD = "good"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """A measured fact.

    Attributes
    ----------
    code
        Name that programs can rely on, such as "tiny_batches".
    level
        How serious it is.
    message
        What was measured, with its number, in one sentence.
    advice
        What to do about it, or nothing.
    """

    code: str
    level: Level
    message: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.level}: {self.message}" + (f" {self.advice}" if self.advice else "")


def most_serious(findings: Iterable[Finding]) -> Level:
    """Return the level of the most serious finding; GOOD where there is none."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.GOOD)


def to_table(findings: Sequence[Finding]) -> pd.DataFrame:
    """Return findings as a table that files can hold; its columns are those of `Finding`."""
    names = [field.name for field in fields(Finding)]
    rows = [tuple(str(value) for value in astuple(finding)) for finding in findings]
    index = [str(i) for i in range(len(rows))]
    return pd.DataFrame(rows, columns=names, index=index, dtype=object)


def from_table(table: pd.DataFrame) -> list[Finding]:
    """Return the findings of a table made by `to_table`.

    Examples
    --------
    >>> findings = [Finding("one", Level.NOTE, "one batch only")]
    >>> from_table(to_table(findings)) == findings
    True
    """
    rows = table.astype(str).itertuples(index=False)
    return [Finding(str(row.code), Level(row.level), str(row.message), str(row.advice)) for row in rows]
