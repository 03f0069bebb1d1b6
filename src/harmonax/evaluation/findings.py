"""One thing that was measured: how serious it is, what it means, what to do about it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from enum import StrEnum
from html import escape
from typing import Any

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


def as_lines(verdict: str, summary: str, findings: Iterable[Finding]) -> list[str]:
    """Return a verdict and its findings as lines to read, most serious first."""
    lines = [f"Verdict: {verdict}", *_wrapped(summary, ""), ""]
    for finding in by_severity(findings):
        mark = finding.level.upper() if finding.level is Level.PROBLEM else finding.level
        lines += _wrapped(f"{mark:>7}  {_capital(finding.message)}", " " * 9)
        lines += _wrapped(f"{'':7}  -> {finding.advice}", " " * 12) if finding.advice else []
    return lines


def as_html(verdict: str, summary: str, findings: Iterable[Finding]) -> str:
    """Return a verdict and its findings for a notebook, most serious first; all text is escaped."""
    rows = "".join(
        f"<tr><td>{escape(finding.level)}</td><td style='text-align:left'>{escape(_capital(finding.message))}"
        f"{'<br><em>' + escape(finding.advice) + '</em>' if finding.advice else ''}</td></tr>"
        for finding in by_severity(findings)
    )
    return f"<div><strong>{escape(verdict)}</strong><p>{escape(summary)}</p><table>{rows}</table></div>"


def listed(parts: Iterable[str], limit: int = 5) -> str:
    """Return the first of these, and how many more there are."""
    names = list(parts)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with the most serious first, else in their order."""
    order = list(Level)
    return sorted(findings, key=lambda finding: -order.index(finding.level))


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


def plain(value: Any) -> Any:
    """Return what ``to_uns`` made as plain values, tables as lists of rows: for JSON."""
    if isinstance(value, pd.DataFrame):
        return value.to_dict("records")
    return {name: plain(part) for name, part in value.items()} if isinstance(value, dict) else value


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _capital(text: str) -> str:
    # A sentence may begin with a name of Python's, such as obs['batch'].
    return text if "[" in text.split(" ")[0] else text[:1].upper() + text[1:]
