"""New cells, from their expression or an embedding: mapped cells, labels and novelty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from ..design import BatchDesign
from ..errors import InputError, warn
from ..inputs.features import Columns, kinds_of, listed_kinds, of_the_kinds_of
from ..inputs.rows import slabs
from ..system.memory import parse_size, resident
from ..system.validate import entry_name, number
from .expression import Expression
from .model import HarmonyModel
from .novelty import UNLIKE, score_distance, score_genes
from .projection import Matched, Projected
from .symphony import BETWEEN, MappedQuery, map_query, warn_of_known

NOVELTY, NOVEL, UNKNOWN = "harmonax_novelty", "harmonax_novel", "unknown"
# Fewer cells than this are not averaged with their neighbours, which would be unlike them; more would take much memory.
_MIN_SMOOTHED, _MAX_SMOOTHED = 50, 200_000
# Size of the pieces in which mapped cells are labelled and scored.
_SLAB_BYTES = 4 << 20
# Share of novel cells from which there is a warning.
_WORTH_A_WARNING = 0.05


@dataclass(frozen=True)
class QueryOptions:
    """What to find out about new cells, and how."""

    labels: Sequence[str] | None = None  # columns of the reference's labels; None: all that the model keeps
    # Refuse new cells with a smaller share of the reference's genes; lower values accept less exact projections.
    min_genes: float = 0.5
    # Below it a label is "unknown"; higher values leave more cells unknown, and fewer labels wrong.
    min_confidence: float = 0.5
    target_sum: float | None = None  # what the query's cells were normalised to, where its numbers do not show it
    how: dict[str, Any] = field(default_factory=dict)  # further arguments of `map_query`

    def __post_init__(self) -> None:
        for name in ("min_genes", "min_confidence"):
            object.__setattr__(self, name, number(getattr(self, name), name, minimum=0, maximum=1))
        if self.target_sum is not None:
            total = number(self.target_sum, "target_sum", minimum=0, exclusive=True)
            object.__setattr__(self, "target_sum", total)
        if self.labels is not None:
            object.__setattr__(self, "labels", list(dict.fromkeys(self.labels)))


@dataclass(frozen=True, eq=False)
class Mapped:
    """New cells in the reference."""

    # projected, embedding: before and after correction, (N, d).
    projected: Any
    embedding: Any
    # One row per cell: ``harmonax_novelty`` (1: as the median cell of the reference), ``harmonax_novel``, and of each
    # label ``NAME_mapped`` ("unknown" where novel or not confident), ``NAME_nearest`` (whatever fits best) and
    # ``NAME_confidence``.
    columns: pd.DataFrame
    record: dict[str, Any]  # genes found, batches, novel cells, soft clusters, versions


def check_places(*names: str) -> None:
    """Refuse names of embeddings that no file may have, or that would write over each other."""
    for name in names:
        entry_name(name, "basis")
    if len(set(names)) < len(names):
        raise InputError(
            f"the mapped and the uncorrected cells cannot both be '{names[0]}': name one of them otherwise"
        )


def project(
    model: HarmonyModel, X: Any, var: pd.DataFrame, wanted: QueryOptions, *, what: str = "X"
) -> tuple[Projected, Matched, Expression]:
    """Return the embedding of new cells, as rows that are computed when they are read, and what it is made of.

    `var` has the features of X as its index; of several kinds, those of the model's kind are taken.
    """
    if model.projection is None:
        raise InputError("the model has no loadings: give the query's embedding in the reference's components (basis=)")
    X, genes, aside = _of_one_kind(model, X, var)
    matched = model.projection.match(genes, wanted.min_genes)
    expression = Expression(model.projection, X, what, wanted.target_sum)
    expression.check_share(matched.column)
    notes = [*aside, *expression.notes]
    if len(matched.missing):
        n, of = len(matched.missing), len(matched.column)
        missing = f"{n} of the reference's {of} genes ({n / of:.1%}) are missing from the query: taken as its mean"
        notes.insert(0, missing)
    if notes:
        warn(". ".join(notes))
    return matched.project(expression), matched, expression


def _of_one_kind(model: HarmonyModel, X: Any, var: pd.DataFrame) -> tuple[Any, pd.Index, list[str]]:
    """Return expression and names of the features of the model's kind, and a word on the others."""
    names, found = pd.Index(np.asarray(var.index, str)), kinds_of(var)
    if found is None or found[1].str.casefold().nunique() < 2:
        return X, names, []
    keep = of_the_kinds_of(model.projection.genes, names, found[1])  # type: ignore[union-attr]
    if keep.all() or not keep.any():
        return X, names, []
    aside = f"{int((~keep).sum()):,} of the query's {len(keep):,} features are left aside, of kinds that the reference "
    word = f"{aside}does not have: {listed_kinds(found[1][~keep])} in var['{found[0]}']"
    return Columns(X, np.flatnonzero(keep)), names[keep], [word]


def map_cells(
    model: HarmonyModel,
    Z: Any,
    design: BatchDesign | None,
    wanted: QueryOptions,
    matched: Matched | None = None,
    X: Any = None,
) -> Mapped:
    """Map new cells, transfer labels to them, and measure how unlike the reference they are.

    Z is the uncorrected embedding, (N, d), an array or rows to be read, and `design` the batches; None: one. `matched`
    and X (`Expression`) are what the embedding was projected from, if it was.
    """
    names = list(model.reference.labels) if model.reference is not None else []
    if wanted.labels is not None:
        if model.reference is None and len(wanted.labels):
            raise InputError("the model keeps no cells to hand labels from: save it with labels, or see with_reference")
        names = list(wanted.labels)
        for name in names:
            model.reference.column(name)  # type: ignore[union-attr]
    mapped = map_query(model, Z, design, **wanted.how)
    warn_of_known(mapped)
    n = Z.shape[0]
    found: dict[str, list[Any]] = {}
    cluster = np.empty(n, np.int32)
    for start, rows in slabs(mapped.embedding, _SLAB_BYTES):
        cluster[start : start + len(rows)] = model.nearest_cluster(rows)
        for name in names:
            found.setdefault(name, []).append(model.reference.transfer(rows, name))  # type: ignore[union-attr]
    batch = _batch_names(mapped.batches)
    scores, novel, shift = _novelty(model, mapped, Z, batch, matched, X, parse_size(wanted.how.get("max_memory")))
    # Nothing is known of them: where they lie says no more than where the reference's zeros do.
    empty = X.empty if isinstance(X, Expression) else np.zeros(n, bool)
    columns = {NOVELTY: scores, NOVEL: novel | empty} if scores is not None else {}
    # A batch that is unlike the reference as a whole may have another protocol, or other cells: nothing says which.
    doubtful = columns[NOVEL] | (shift.to_numpy() >= UNLIKE)[batch.codes] if scores is not None else empty
    for name, pieces in found.items():
        table = pd.concat(pieces, ignore_index=True)
        labels = table["label"].to_numpy(object)
        columns[f"{name}_nearest"] = pd.Categorical(labels)
        unsure = (table["confidence"].to_numpy() < wanted.min_confidence) | doubtful
        columns[f"{name}_mapped"] = pd.Categorical(np.where(unsure, UNKNOWN, labels))
        columns[f"{name}_confidence"] = np.where(empty, 0.0, table["confidence"])
    record = _record(model, mapped, matched, wanted) | _seen(model, columns, cluster, shift, names)
    if isinstance(X, Expression):
        record["normalisation"] = X.record()
    _warn_of_novelty(record)
    if empty.any():
        record["cells_without_counts"] = int(empty.sum())
        warn(
            f"{int(empty.sum()):,} of the {n:,} new cells (first: row {int(np.argmax(empty))}) have no count in any of "
            f"the reference's genes: nothing tells what they are. They are novel, their labels '{UNKNOWN}'; drop them"
        )
    return Mapped(Z, mapped.embedding, pd.DataFrame(columns, index=pd.RangeIndex(n)), record)


def _novelty(
    model: HarmonyModel,
    mapped: MappedQuery,
    Z: Any,
    batch: pd.Categorical,
    matched: Matched | None,
    X: Any,
    max_memory: int | None,
) -> tuple[Any, Any, Any]:
    if model.novelty is None:
        return None, None, None
    if model.novelty.kind == "genes":
        if matched is None:
            return None, None, None
        near = np.asarray(Z[:]) if _has_room(Z.shape[0], len(matched.column), max_memory) else None
        scores = score_genes(model.novelty, matched, X, near)
        novelty = model.novelty if near is not None else replace(model.novelty, quantiles=model.novelty.alone)
    else:
        reference, means = model.reference, model.cluster_means()
        pieces = [
            score_distance(model.novelty, reference, means, rows) for _, rows in slabs(mapped.embedding, _SLAB_BYTES)
        ]
        scores, novelty = np.concatenate(pieces), model.novelty
    novel, shift = novelty.novel(scores, batch, mapped.known)
    return novelty.relative(scores), novel, shift


def _has_room(n: int, n_genes: int, max_memory: int | None) -> bool:
    """Return whether cells' expression is averaged with their neighbours', for which it must be in memory."""
    return _MIN_SMOOTHED <= n <= _MAX_SMOOTHED and (max_memory is None or resident() + 8 * n * n_genes <= max_memory)


def _batch_names(design: BatchDesign) -> pd.Categorical:
    """Return the batch of each cell, one name for a combination of levels."""
    codes, unique = pd.factorize(np.array(design.joint_names(BETWEEN), object))
    return pd.Categorical.from_codes(codes[design.joint], unique)


def _record(model: HarmonyModel, mapped: MappedQuery, matched: Matched | None, wanted: QueryOptions) -> dict[str, Any]:
    from ..system.version import __version__

    record: dict[str, Any] = {
        "reference": {"n_cells": model.n_cells, "n_clusters": model.n_clusters, "n_features": model.n_features},
        "known_batches": {"batch": list(mapped.known), "n_cells": list(mapped.known.values())},
        "new_batches": {"batch": list(mapped.new), "n_cells": list(mapped.new.values())},
        "min_confidence": wanted.min_confidence,
        "version": __version__,
    }
    if matched is not None:
        record["genes"] = {"reference": len(matched.column), "missing": len(matched.missing)}
    return record


def _seen(
    model: HarmonyModel, columns: dict[str, Any], cluster: np.ndarray, shift: pd.Series | None, names: Sequence[str]
) -> dict[str, Any]:
    """Return a summary of the columns."""
    size = np.bincount(cluster, minlength=model.n_clusters)
    seen: dict[str, Any] = {"clusters": {"cluster": np.arange(model.n_clusters), "n_cells": size}}
    if shift is not None:
        mean = lambda values: np.bincount(cluster, values, model.n_clusters) / np.maximum(size, 1)  # noqa: E731
        seen["clusters"] |= {"novelty": mean(columns[NOVELTY]), "novel": mean(columns[NOVEL].astype(float))}
        kind = model.novelty.kind  # type: ignore[union-attr]
        seen["novelty"] = {
            "kind": kind,
            "novel": float(columns[NOVEL].mean()),
            "batch": shift.index.astype(str).tolist(),
            "shift": shift.to_numpy(),
        }
    counts = {name: pd.Series(columns[f"{name}_mapped"]).value_counts() for name in names}
    seen["labels"] = {
        name: {"label": n.index.astype(str).tolist(), "n_cells": n.to_numpy()} for name, n in counts.items()
    }
    return seen


def _warn_of_novelty(record: dict[str, Any]) -> None:
    novelty = record.get("novelty")
    if novelty is None:
        return
    if novelty["novel"] >= _WORTH_A_WARNING:
        warn(f"{novelty['novel']:.0%} of the new cells are unlike anything in the reference; see obs['{NOVEL}']")
    unlike = [(b, s) for b, s in zip(novelty["batch"], novelty["shift"], strict=True) if s >= UNLIKE]
    if unlike:
        worst, times = max(unlike, key=lambda pair: pair[1])
        others = f" and {len(unlike) - 1} more" if len(unlike) > 1 else ""
        warn(
            f"batch '{worst}'{others} as a whole is unlike the reference (novelty {times:.1f} times that of its own "
            "cells): another protocol, or other cells? Its labels are 'unknown'; what is nearest is beside them"
        )
