"""Too little corrected, or too much? Measured per cell, per group, and against a correction of nothing.

The measure of too much is what happens *within* batches. A batch effect moves the cells of a batch, or those of one
type in it, together; neighbours within a batch that are neighbours no longer were torn apart by the correction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..before.embedding_checks import ASKED, levels_apart, matters
from ..findings import Finding, as_html, as_lines, from_table, plain, to_table
from ..mixing import explained_by_batch, own_batch_excess, stand_for
from ..neighbours import MAX_CELLS, Neighbourhoods, sample, share_kept
from . import rules as judge
from .case import Case
from .markers import marker_table
from .measured import APART, Measured, turned
from .merges import doubtful_merges, torn_states
from .null import Correct, Null, calibrate
from .rare import every_type
from .states import batch_table, composition_states, group_table, linked_batches, one_batch_states
from .structure import alignment, moved_share, movement
from .types import as_table, blurred, by_themselves, order_within

# Excess of same-batch neighbours from which a single batch counts as apart still.
FAR = 0.5
# What is left is in doubt sooner than it is known to be no batch effect. On kang, onek1k, cytof and pancreas,
# batches that differ in their proportions had every batch in every state, and up to 0.31 of the excess inside; batches
# that lie apart had at most three quarters of the cells in shared states, or half of the excess or more.
_DOUBT: dict[str, Any] = {"cells": 50, "most_inside": 0.5}
# Share of the cells that need labels for mixing to be measured within types.
_LABELLED = 0.5


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What a correction did, and whether that was too little, too much, or right.

    Attributes
    ----------
    verdict
        "fine"; "caution" (look at the findings); "over_corrected"; "under_corrected"; "not_needed" (there was no batch
        effect); "impossible" (batch and biology cannot be told apart).
    summary
        The verdict in a sentence.
    findings
        What was measured, with advice.
    numbers
        ``neighbours_kept`` (mean over cells, as `harmonax.tl.evaluate` has it), same-batch neighbours in excess
        (``excess_before``, ``excess_after``: 0 mixed as by chance, 1 apart), variance explained by batch
        (``explained_before``, ``explained_after``), squared ``movement`` as a share of the variance, and
        ``movement_apart``, the mean move apart from the batch (nan where the embeddings have other widths). With
        several batch variables, excess and variance are those of the one whose batches lay furthest apart, as
        `harmonax.tl.evaluate` has them for it; neighbours are sought within their combinations, there as well.
    null
        The distortion where there was nothing to correct; None where it was not measured.
    mixing, batches, groups, one_batch_states, markers, types
        Tables: per batch variable, per batch, per group, per state
        that one batch alone has, per marker gene, per cell type and batch (see `rare.every_type`).
    kept, moved
        Per cell, (N,): share of same-batch neighbours kept (nan where a sample was taken), and movement.
    """

    verdict: str
    summary: str
    findings: list[Finding]
    numbers: dict[str, float]
    null: Null | None
    mixing: pd.DataFrame
    batches: pd.DataFrame
    groups: pd.DataFrame
    one_batch_states: pd.DataFrame
    markers: pd.DataFrame
    types: pd.DataFrame = field(default_factory=lambda: as_table([]))
    about: dict[str, Any] = field(default_factory=dict)
    kept: np.ndarray = field(repr=False, default_factory=lambda: np.empty(0))
    moved: np.ndarray = field(repr=False, default_factory=lambda: np.empty(0))

    def to_uns(self) -> dict[str, Any]:
        """Return everything but the values per cell, as files keep it."""
        return {
            "verdict": self.verdict,
            "summary": self.summary,
            "findings": to_table(self.findings),
            "numbers": dict(self.numbers),
            "null": self.null.to_dict() if self.null is not None else {},
            "mixing": self.mixing,
            "batches": self.batches,
            "clusters": self.groups,
            "one_batch_states": self.one_batch_states,
            "markers": self.markers,
            "types": self.types,
            **self.about,
        }

    def to_record(self) -> dict[str, Any]:
        """Return the same as plain values, tables as lists of rows: for JSON."""
        return plain(self.to_uns())

    @classmethod
    def from_uns(cls, stored: Mapping[str, Any]) -> Diagnosis:
        """Return the diagnosis that `to_uns` stored, without the values per cell."""
        null = dict(stored["null"])
        tables = {"mixing", "batches", "clusters", "one_batch_states", "markers", "types"}
        parts = {"verdict", "summary", "findings", "numbers", "null", *tables}
        return cls(
            verdict=str(stored["verdict"]),
            summary=str(stored["summary"]),
            findings=from_table(stored["findings"]),
            numbers={name: float(value) for name, value in stored["numbers"].items()},
            null=Null(str(null.pop("batch")), int(null.pop("n_cells")), **null) if null else None,
            mixing=stored["mixing"],
            batches=stored["batches"],
            groups=stored["clusters"],
            one_batch_states=stored["one_batch_states"],
            markers=stored["markers"],
            # Not there before version 0.2.
            types=stored.get("types", as_table([])),
            about={name: value for name, value in stored.items() if name not in parts},
        )

    def __str__(self) -> str:
        return "\n".join(as_lines(self.verdict.replace("_", "-"), self.summary, self.findings))

    def _repr_html_(self) -> str:
        return as_html(self.verdict.replace("_", "-"), self.summary, self.findings)


def diagnose(case: Case, *, correct: Correct | None = None, max_cells: int = 20_000, seed: int) -> Diagnosis:
    """Measure what a correction did.

    Parameters
    ----------
    case
        The cells, before and after.
    correct
        The correction itself, for the null calibration; None: that is left out.
    max_cells
        Of more cells a sample of this size is taken for all that needs neighbours; which ones were kept is asked of
        12,000 at most.
    seed
        Draws the samples and the halves of the null calibration.
    """
    n, rng = len(case.before), np.random.default_rng(seed)
    rows = sample(n, max_cells, seed)
    comparable = case.before.shape == case.after.shape
    moved = movement(case.before, case.after, case.batch) if comparable else np.full(n, np.nan)
    part = case.take(rows)
    before, after = (Neighbourhoods(Z, part.batch) for Z in (part.before, part.after))
    kept, asked = np.full(n, np.nan), sample(n, min(max_cells, MAX_CELLS), seed)
    few = np.searchsorted(rows, asked)
    kept[asked] = share_kept(before.take(few).own, after.take(few).own)
    null = calibrate(part.before, part.batch, part.levels, correct, rng) if correct is not None else None
    labels = part.labels if part.labels is not None else np.full(len(rows), "")
    named = part.labels if part.groups is None else part.groups
    groups = np.full(len(rows), "all cells") if named is None else named
    states = one_batch_states(part.before, labels, part.batch, part.levels, after.all)
    markers = pd.DataFrame(columns=["cell_type", "gene", "before", "after"])
    if part.expression is not None:
        markers = marker_table((before.all, after.all), labels, part.expression, part.markers)
    n_labelled, n_linked = linked_batches(labels, part.batch)
    batches = batch_table(part.batch, part.levels, kept[rows])
    # Within types where enough of them are in several batches: then the batches may hold different numbers of each.
    within = labels if n_linked < n_labelled and (labels != "").mean() > _LABELLED else None
    within_unknown = n_labelled < 2
    groups_alike, composition = _alike(before, within, rng)
    mixing = _mixing(part, before, after, groups_alike, seed)
    if composition:
        mixing["needed"] = False
    # What is left, where no types are known, may be other proportions of cells.
    ask = within is None and not composition and bool((mixing["after"] > APART).any())
    types = every_type(before, after, labels, part.levels)
    furthest, codes = _furthest(part, mixing)
    clusters = group_table(groups, part.batch, part.before, kept[rows], moved[rows], after.all, codes)
    same_axes, alike, weights = alignment(part.before, part.after, part.batch, len(part.levels))
    type_moves = np.full(len(clusters), np.nan)
    if same_axes and part.labels is not None and part.groups is None:
        # Components that are only weighed anew are no move.
        moves = movement(part.before, part.after * weights, part.batch)
        type_moves = np.array([moves[groups == name].mean() for name in clusters["group"]])
    numbers = _numbers(part, furthest, codes, kept[asked], moved)
    measured = Measured(
        numbers=numbers,
        mixing=mixing,
        null=null,
        groups=clusters,
        states=states,
        markers=markers,
        n_levels=len(np.unique(part.batch)),
        batches=batches,
        n_labelled=n_labelled,
        n_linked=n_linked,
        status=case.status,
        last_change=case.last_change,
        hvg_per_batch=case.hvg_per_batch,
        types=types,
        composition=composition,
        proportions_left=ask and composition_states(part.after, part.batch, after.all, rng, **_DOUBT)[1],
        doubtful=doubtful_merges(part.before, part.batch, part.levels, after.all, part.groups)
        if within_unknown
        else None,
        torn_states=torn_states(part.before, part.batch, part.levels, kept[rows], named),
        known_method=case.known_method,
        type_moves=type_moves,
        turned=turned(alike, part.levels),
        sweep=case.sweep,
        # Of Harmony's embeddings the neighbours kept decide.
        blurred=float("nan") if case.known_method else blurred(before, after, labels),
        order_within=float("nan") if case.known_method else order_within(before, after, labels),
    )
    verdict, summary, findings = judge.judge(measured)
    about = {"n_cells": n, "n_used": len(rows)}
    tables = (mixing, batches, clusters, states, markers, types)
    return Diagnosis(verdict, summary, findings, numbers, null, *tables, about, kept, moved)


def _alike(
    before: Neighbourhoods, labels: np.ndarray | None, rng: np.random.Generator
) -> tuple[np.ndarray | None, bool]:
    """Return groups of cells that are alike, -1 for none, and whether batches differ in their shares of these only."""
    if labels is not None:
        return np.unique(labels, return_inverse=True)[1] - int((labels == "").any()), False
    return composition_states(before.embedding, before.batch, before.all, rng)


def _mixing(
    part: Case, before: Neighbourhoods, after: Neighbourhoods, groups: np.ndarray | None, seed: int
) -> pd.DataFrame:
    """Return how far the batches of each variable lie apart, before and after."""
    rows = []
    for name, codes in (part.variables or {"batch": part.batch}).items():
        present, own = np.unique(codes, return_inverse=True)
        # Drawn as the check draws them, so that both say the same number.
        gen = np.random.default_rng(seed)
        asked = stand_for(own, ASKED, gen)
        start, end = (
            own_batch_excess(of.embedding, own, gen, groups=groups, asked=asked, near=of.all) for of in (before, after)
        )
        counts = np.bincount(own)
        lone = [levels_apart(e, counts) if len(counts) > 1 else np.zeros(1, bool) for e in (start, end)]
        needed = len(counts) > 1 and (matters(start) or lone[0].any())
        # Batches that are apart by more than half of what could be; also those that were not before.
        far = lone[1] & (by_themselves(part.after, own, groups) > FAR)
        names = ", ".join(_level_name(part, name, present[i]) for i in np.flatnonzero(far))
        chance = max(start.chance, end.chance)
        rows.append((name, start.overall, end.overall, chance, needed, int(lone[0].sum()), int(lone[1].sum()), names))
    columns = ["batch_key", "before", "after", "chance", "needed", "levels_apart_before", "levels_apart_after", "far"]
    table = pd.DataFrame(rows, columns=columns, index=[str(i) for i in range(len(rows))])
    return table.astype({"batch_key": object, "far": object})


def _level_name(part: Case, variable: str, code: int) -> str:
    """Return the name of a batch; with several variables, the variable and the number of its level."""
    return part.levels[code] if len(part.variables) < 2 else f"{variable} {code}"


def _furthest(part: Case, mixing: pd.DataFrame) -> tuple[pd.Series, np.ndarray]:
    """Return the row of the variable whose batches lay furthest apart, and its codes, (N,)."""
    row = mixing.iloc[int(np.argmax(mixing["before"].fillna(-np.inf)))]
    codes = (part.variables or {"batch": part.batch})[row["batch_key"]]
    return row, np.unique(codes, return_inverse=True)[1]


def _numbers(
    part: Case, furthest: pd.Series, codes: np.ndarray, kept: np.ndarray, moved: np.ndarray
) -> dict[str, float]:
    """Return the numbers of a diagnosis, `codes` being the batches of the row `furthest` of mixing."""
    explained = [float(np.prod(explained_by_batch(Z, codes), axis=0).sum()) for Z in (part.before, part.after)]
    return {
        "neighbours_kept": float(np.nanmean(kept)) if np.isfinite(kept).any() else float("nan"),
        "excess_before": float(furthest["before"]),
        "excess_after": float(furthest["after"]),
        "explained_before": explained[0],
        "explained_after": explained[1],
        "movement": moved_share(np.asarray(part.before, np.float64), np.asarray(part.after, np.float64))
        if part.before.shape == part.after.shape
        else float("nan"),
        "movement_apart": float(moved.mean()),
    }
