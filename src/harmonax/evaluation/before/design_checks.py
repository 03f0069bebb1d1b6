"""Findings from the columns alone: sizes of batches, and what they are confounded with."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from ..findings import Finding, Level, listed
from ..variables import Variable
from .association import Association, Relation, associate, count, cramers_v, design_rank, linked, linked_groups

# Fewer cells than the neighbours that are measured: little can be said of such a batch, nor learned from it.
TINY = 30
_UNBALANCED, _VERY_UNBALANCED = 10, 100
# From this Cramer's V on, correcting for one column removes a good part of the other as well.
_STRONG = 0.5
# The rank of a design with more levels than this takes long.
_MAX_LEVELS = 2000


def sizes(batch: Variable) -> list[Finding]:
    """Return the findings on the numbers of cells per batch."""
    counts, name = batch.counts, batch.name
    said = []
    if batch.n_empty:
        text = f"{batch.n_empty} categories of '{name}' have no cell."
        said.append(Finding("empty_levels", Level.NOTE, text, "They are ignored."))
    if len(counts) == 1:
        text = f"'{name}' has one level only, '{batch.levels[0]}': there is nothing to correct."
        return [*said, Finding("one_batch", Level.NOTE, text, "Name the column that tells the batches apart.")]
    single, tiny = counts == 1, (counts > 1) & (counts < TINY)
    if single.any():
        text = f"{int(single.sum())} batches of '{name}' are one cell: {_level_names(batch, single)}."
        why = "One cell does not tell a batch effect from its own state: join such batches with others, or drop them."
        said.append(Finding("singleton_batches", Level.WARNING, text, why))
    if tiny.any():
        text = f"{int(tiny.sum())} batches of '{name}' have fewer than {TINY} cells: {_level_names(batch, tiny)}."
        why = "Their effect is estimated from a few cells per cell type: distrust what happens to them, or drop them."
        said.append(Finding("tiny_batches", Level.WARNING, text, why))
    ratio = counts.max() / counts.min()
    span = f"'{name}' has {len(counts)} batches of {counts.min():,} to {counts.max():,} cells"
    if ratio >= _UNBALANCED:
        level = Level.WARNING if ratio >= _VERY_UNBALANCED else Level.NOTE
        advice = "Look at the small ones in the corrected embedding: the large ones decide where cells go."
        said.append(Finding("unbalanced_batches", level, f"{span}: the largest is {ratio:.0f} times as large.", advice))
    elif not said:
        said.append(Finding("batch_sizes", Level.GOOD, f"{span}."))
    return said


def between_batches(batches: Sequence[Variable]) -> list[Finding]:
    """Return the findings on batch columns that repeat others."""
    said, within = [], defaultdict(list)
    for a, b in combinations(batches, 2):
        found = associate(a, b)
        if found.relation is Relation.IDENTICAL:
            text = f"the batch columns '{a.name}' and '{b.name}' are the same grouping."
            said.append(Finding("batches_identical", Level.WARNING, text, "Name one of them."))
        elif found.relation is Relation.NESTED:
            within[found.first].append(found.second)
    for name, outer in within.items():
        text = f"the batch column '{name}' is nested: each of its levels is in one level of {_listed(outer)}."
        advice = f"'{name}' alone says as much; name both only for different strengths of correction."
        said.append(Finding("batches_nested", Level.WARNING, text, advice))
    if said or len(batches) < 2 or sum(len(b.levels) for b in batches) > _MAX_LEVELS:
        return said
    lost = 1 + sum(len(b.levels) - 1 for b in batches) - design_rank(batches)
    if lost:
        text = (
            f"{lost} of the batch columns' effects follow from the others: levels of different columns always go along."
        )
        advice = "Their effects cannot be told apart; name fewer columns, or pass combine_keys=True."
        return [Finding("batches_inseparable", Level.WARNING, text, advice)]
    text = "the effects of the batch columns can be told apart."
    return [Finding("batches_separable", Level.GOOD, text)]


def against(batches: Sequence[Variable], other: Variable, kind: str) -> list[Finding]:
    """Return how far the batches are confounded with what must stay: `kind` is "cell types" or "conditions".

    The codes, from the worst to the best: "confounded", "partly_confounded", "inseparable", "associated",
    "in_one_batch" and "shared".
    """
    said = [finding for batch in batches if len(batch.levels) > 1 for finding in _against_one(batch, other, kind)]
    several = [batch for batch in batches if len(batch.levels) > 1]
    n_levels = sum(len(v.levels) for v in (*several, other))
    if len(several) < 2 or n_levels > _MAX_LEVELS or any("confounded" in finding.code for finding in said):
        return said
    # Only cells with a label count on both sides, or a lack of labels would look like a lack of rank.
    shared = [Variable(b.name, np.where(other.codes >= 0, b.codes, -1), b.levels) for b in several]
    lost = design_rank(shared) + np.count_nonzero(other.counts) - 1 - design_rank([*shared, other])
    if lost:
        text = f"{lost} of the differences between the {kind} '{other.name}' follow from the batch columns together."
        advice = "Correcting for all these columns takes those differences along: name fewer."
        said.append(Finding("inseparable", Level.WARNING, text, advice))
    return said


def _against_one(batch: Variable, other: Variable, kind: str) -> list[Finding]:
    counts = count(batch, other)
    counts, kept = counts[:, counts.any(axis=0)], np.array(other.levels)[counts.any(axis=0)]
    n_batches, names = int(counts.any(axis=1).sum()), f"'{batch.name}' and the {kind} '{other.name}'"
    if n_batches < 2:
        text = f"only one batch of '{batch.name}' has labels in '{other.name}': they say nothing about confounding."
        return [Finding("labels_missing", Level.NOTE, text, "Label the other batches to have this checked.")]
    if len(kept) < 2:
        return [Finding("one_level", Level.NOTE, f"'{other.name}' has one level only.", "It says nothing here.")]
    links = linked(counts)
    groups = linked_groups(links)
    n_groups, v = int(groups.max()) + 1, cramers_v(counts)
    if n_groups == n_batches:
        text = f"{names} are confounded: no two batches share one (Cramer's V {v:.2f} of 1)."
        if batch.name == other.name:
            text = f"'{batch.name}' is named as batch and as what must stay: correcting for it removes it."
        return [Finding("confounded", Level.PROBLEM, text, _CONFOUNDED[kind])]
    if n_groups > 1:
        apart = " | ".join(_level_names(batch, groups == g, 3) for g in range(min(n_groups, 4)))
        text = f"{names} are partly confounded: {n_groups} groups of batches share none with each other ({apart})."
        return [Finding("partly_confounded", Level.PROBLEM, text, _PARTLY[kind])]
    said = []
    if v >= _STRONG:
        text = f"{names} go strongly together (Cramer's V {v:.2f} of 1)."
        said.append(Finding("associated", Level.WARNING, text, _ASSOCIATED[kind]))
    single = links.sum(axis=0) == 1
    if single.any():
        text = f"{int(single.sum())} of the {kind} '{other.name}' are in one batch of '{batch.name}' only: "
        text += f"{_listed(kept[single])}."
        advice = "Check afterwards that they were not merged with others (diagnose)."
        said.append(Finding("in_one_batch", Level.WARNING, text, advice))
    elif not said:
        text = f"all {kind} '{other.name}' are in several batches of '{batch.name}' (Cramer's V {v:.2f} of 1)."
        said.append(Finding("shared", Level.GOOD, text))
    return said


def may_be_condition(batches: Sequence[Variable], conditions: Sequence[str]) -> list[Finding]:
    """Return the question whether a batch column is what will be compared, where its levels are named as such."""
    if conditions:
        return []
    return [
        Finding(
            "batch_may_be_condition",
            Level.NOTE,
            f"is '{batch.name}' ({_listed(batch.levels, 3)}) also what you want to compare? Its levels are named like "
            "conditions.",
            "If so, correct only to find the same cell types in all of them, compare them on uncorrected counts, and "
            "name the column as condition_key.",
        )
        for batch in batches
        if len(batch.levels) > 1 and any(_CONDITION.search(level.casefold()) for level in batch.levels)
    ]


def related(batches: Sequence[Variable], others: Sequence[Variable]) -> tuple[list[Association], list[Finding]]:
    """Return how other columns are associated with the batches, and a note on those that follow them."""
    rows, said = [], []
    for batch in batches:
        own = [associate(batch, other) for other in others]
        rows += own
        words = [_related(batch, found) for found in own]
        if any(words):
            text = f"other columns go along with '{batch.name}': {'; '.join(w for w in words if w)}."
            advice = (
                "If one is a cell type or a condition, name it (label_key, condition_key): correcting may remove it."
            )
            said.append(Finding("related_columns", Level.NOTE, text, advice))
    return rows, said


def _related(batch: Variable, found: Association) -> str:
    other = found.first if found.second == batch.name else found.second
    if found.relation is Relation.IDENTICAL:
        return f"'{other}' is the same grouping"
    if found.relation is Relation.NESTED:
        if other == found.first:
            return f"each level of '{other}' is in one batch"
        return f"each batch is in one level of '{other}'"
    return f"'{other}' (Cramer's V {found.cramers_v:.2f})" if found.cramers_v >= _STRONG else ""


def _level_names(variable: Variable, which: np.ndarray, limit: int = 5) -> str:
    return _listed(np.array(variable.levels, object)[which], limit)


def _listed(names: Sequence[str] | np.ndarray, limit: int = 5) -> str:
    return listed((f"'{name}'" for name in names), limit)


# Words that name what is compared, not where cells were measured.
_CONDITION = re.compile(
    r"(?<![a-z])(ctrl|control|stim\w*|unstim\w*|treat\w*|untreated|vehicle|dmso|placebo|drug|healthy|normal|disease\w*|"
    r"tum(?:ou)?r|patient|case|wt|wild.?type|ko|knock.?out|mutant|pre|post|infected|mock)(?![a-z])"
)
_CONFOUNDED = {
    "cell types": "Whether the batches differ by method or by biology cannot be computed: add a batch that has cell "
    "types of several of them, or analyse them one by one.",
    "conditions": "Correcting removes the condition with the batch. Compare conditions on uncorrected counts; correct, "
    "if at all, only to find the same cell types under every condition.",
}
_PARTLY = {
    "cell types": "Correct within such a group only: between them, method and biology cannot be told apart.",
    "conditions": "Differences between conditions across these groups are removed with the batches: compare them on "
    "uncorrected counts, with the batch as the unit of replication.",
}
_ASSOCIATED = {
    "cell types": "The batches have very different cells: check afterwards that no types were merged (diagnose).",
    "conditions": "Correcting takes part of the condition along: compare conditions on uncorrected counts.",
}
