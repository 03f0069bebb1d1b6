"""Before correcting: is it needed, and is it possible?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from ...errors import InputError
from ...system.rng import seed_from
from ...system.validate import one_of, whole_number
from ..findings import Finding, as_html, as_lines, from_table, plain, to_table
from ..variables import UNLABELLED, Variable, check_names, duplicate_names, other_variables, read_variables
from .association import Association, associate
from .design_checks import against, between_batches, may_be_condition, related, sizes
from .embedding_checks import COMPONENT_COLUMNS, MIXING_COLUMNS, Measured, genes, measure, table_of

_BATCH_COLUMNS = ["batch_key", "level", "n_cells"]
_VERDICTS = {
    "one_batch": "one batch: nothing to correct",
    "not_needed": "correction is not needed",
    "needed": "correction is needed",
    "impossible": "correction is not possible",
    "unknown": "whether correction is needed was not measured",
}


@dataclass(frozen=True, eq=False)
class Check:
    """Whether a correction is needed, and whether it is possible.

    Attributes
    ----------
    verdict
        ``"one_batch"``, ``"not_needed"``, ``"needed"``, ``"impossible"`` (batches confounded with what must stay, or no
        usable batch column), or ``"unknown"`` (possible, but without an embedding the need was not measured).
    summary
        A sentence on whether it is needed and one on whether it is possible.
    findings
        All that was found, in the order of the checks.
    batches
        Cells of each batch: ``batch_key``, ``level``, ``n_cells``.
    associations
        Pairs of columns: ``first``, ``second``, ``cramers_v`` (0..1), ``relation`` (see `association.Relation`; where
        one is nested in the other, it comes first).
    components
        ``component`` (from 0), ``variance_share`` (of the embedding's variance), ``batch_key``, ``explained`` (adjusted
        R^2, 0..1): a row per component and batch column.
    mixing
        Per batch column: ``batch_key``, ``own_batch_excess`` (0 mixed as by chance, 1 every neighbour from the own
        batch), ``within_types`` (the same among cells of one type; nan without labels), ``chance`` (what shuffled
        labels may reach, of the one that decides), ``explained`` (share of the embedding's variance).
    batch_keys, basis, n_cells
        What was checked; `basis` is empty where there was no embedding.
    """

    verdict: str
    summary: str
    findings: tuple[Finding, ...]
    batches: pd.DataFrame
    associations: pd.DataFrame
    components: pd.DataFrame
    mixing: pd.DataFrame
    batch_keys: tuple[str, ...]
    basis: str
    n_cells: int

    @property
    def own_batch_excess(self) -> float:
        """The largest excess of same-batch neighbours over the batch columns; nan where none was measured."""
        return float(self.mixing["own_batch_excess"].max()) if len(self.mixing) else float("nan")

    def to_uns(self) -> dict[str, Any]:
        """Return it as ``adata.uns`` can hold it: text, numbers and tables."""
        return {
            "verdict": self.verdict,
            "summary": self.summary,
            "batch_keys": np.array(self.batch_keys, object),
            "basis": self.basis,
            "n_cells": self.n_cells,
            "findings": to_table(self.findings),
            "batches": self.batches,
            "associations": self.associations,
            "components": self.components,
            "mixing": {"own_batch_excess": self.own_batch_excess, "per_key": self.mixing},
        }

    @classmethod
    def from_uns(cls, stored: Mapping[str, Any]) -> Check:
        """Return what `to_uns` stored."""
        return cls(
            verdict=str(stored["verdict"]),
            summary=str(stored["summary"]),
            findings=tuple(from_table(stored["findings"])),
            batches=stored["batches"],
            associations=stored["associations"],
            components=stored["components"],
            mixing=stored["mixing"]["per_key"],
            batch_keys=tuple(str(key) for key in stored["batch_keys"]),
            basis=str(stored["basis"]),
            n_cells=int(stored["n_cells"]),
        )

    def to_record(self) -> dict[str, Any]:
        """Return it as plain values, tables as lists of rows: for JSON."""
        return plain(self.to_uns())

    def __str__(self) -> str:
        what = f"{self.n_cells:,} cells, batches by {', '.join(map(repr, self.batch_keys))}"
        return "\n".join([what, "", *as_lines(_VERDICTS[self.verdict], self.summary, self.findings)])

    def _repr_html_(self) -> str:
        return as_html(_VERDICTS[self.verdict], self.summary, self.findings)


def check(
    table: pd.DataFrame,
    batch_keys: Sequence[str],
    embedding: np.ndarray | None = None,
    *,
    label_key: str | None = None,
    condition_keys: Sequence[str] = (),
    basis: str = "X_pca",
    var_columns: Iterable[str] = (),
    rng: Any = 0,
    max_cells: int = 20_000,
    missing: Literal["leave_out", "literal"] = "leave_out",
) -> Check:
    """Measure whether batches differ, and whether the difference can be distinguished from biology.

    Arguments and errors are those of `harmonax.tl.check`, for a `table` with one row per cell such as ``adata.obs``, an
    `embedding` (N, d) without NaN (None: only the columns are checked), whose name is `basis`, and the columns of
    ``adata.var``, which show how the variable genes were selected.

    Examples
    --------
    >>> table = pd.DataFrame({"batch": ["a", "b"] * 50, "type": ["T"] * 50 + ["B"] * 50})
    >>> check(table, ["batch"], np.random.default_rng(0).normal(size=(100, 3)), label_key="type").verdict
    'not_needed'
    """
    labels = [label_key] if label_key is not None else []
    max_cells = whole_number(max_cells, "max_cells", minimum=100)
    _check_arguments(table, batch_keys, [*labels, *condition_keys], embedding)
    said = duplicate_names(table)
    literal = one_of(missing, "missing", ("leave_out", "literal")) == "literal"
    batches, found = read_variables(table, batch_keys, literal=literal)
    said += found
    kept, found = read_variables(table, [*labels, *condition_keys], no_label=UNLABELLED)
    said += found
    said += [finding for batch in batches for finding in sizes(batch)]
    said += between_batches(batches)
    said += may_be_condition(batches, condition_keys)
    for variable in kept:
        said += against(batches, variable, "cell types" if variable.name in labels else "conditions")
    rows = [associate(a, b) for i, a in enumerate(batches) for b in (*batches[i + 1 :], *kept) if a.name != b.name]
    others = other_variables(table, {*batch_keys, *labels, *condition_keys})
    more, found = related([batch for batch in batches if len(batch.levels) > 1], others)
    said += found
    types = next((v for v in kept if v.name in labels), None)
    measured = measure(batches, embedding, types, basis=basis, seed=seed_from(rng), max_cells=max_cells)
    said += [*measured.findings, *genes(var_columns)]
    verdict, summary = _verdict(batches, said, measured)
    return Check(
        verdict,
        summary,
        tuple(said),
        table_of([(b.name, *row) for b in batches for row in zip(b.levels, b.counts, strict=True)], _BATCH_COLUMNS),
        table_of([(*row[:3], str(row.relation)) for row in (*rows, *more)], Association._fields),
        table_of(measured.components, COMPONENT_COLUMNS),
        table_of(measured.mixing, MIXING_COLUMNS),
        tuple(batch_keys),
        basis if embedding is not None else "",
        len(table),
    )


def _check_arguments(
    table: pd.DataFrame, batch_keys: Sequence[str], kept: Sequence[str], embedding: np.ndarray | None
) -> None:
    if not len(batch_keys):
        raise InputError("no batch column given; name at least one column of obs")
    for names in (batch_keys, kept):
        for name in names:
            if list(names).count(name) > 1:
                raise InputError(f"column '{name}' is named more than once")
    check_names(table, [*batch_keys, *kept])
    if len(table) == 0:
        raise InputError("there are no cells")
    if embedding is not None and len(embedding) != len(table):
        raise InputError(f"the embedding has {len(embedding)} rows, but there are {len(table)} cells")


def _verdict(batches: Sequence[Variable], said: Sequence[Finding], measured: Measured) -> tuple[str, str]:
    if not batches:
        return "impossible", "No batch column can be used, so nothing can be corrected."
    if all(len(batch.levels) == 1 for batch in batches):
        return "one_batch", "There is one batch only, so there is nothing to correct."
    by_code = {finding.code: finding.message for finding in reversed(said)}
    if "confounded" in by_code:
        # Without a difference between the batches, there is none that could be confounded.
        verdict = "not_needed" if measured.need == "not_needed" else "impossible"
        return verdict, f"{measured.reason} It is not possible: {by_code['confounded']}"
    if "partly_confounded" in by_code:
        possible = f"It is possible only within groups of batches: {by_code['partly_confounded']}"
    elif "inseparable" in by_code:
        possible = f"It is possible only in part: {by_code['inseparable']}"
    elif by_code.keys() & {"shared", "associated", "in_one_batch"}:
        possible = "It is possible: batches share the cell types or conditions that must stay."
    else:
        possible = "Nothing speaks against it, but no cell type or condition tells whether it is possible."
    return measured.need, f"{measured.reason} {possible}"
