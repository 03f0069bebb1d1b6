"""New cells into the corrected space of a reference that is held fixed (Kang et al. 2021).

Cells of a batch that the reference has are corrected with what was learned for it: soft clusters under that batch's
penalty at the end of the run, and its ridge coefficients. Every other batch gets coefficients of its own, from

    B_k = (X^T diag(R_k) X + N_k e0 e0^T + diag(0, lambda))^-1 (X^T diag(R_k) Zq + e0 C_k^T)

with X = [1, one-hot of batches] and R = softmax(-D / sigma), and Zq -= diag(R_k) X[:, 1:] B_k[1:]. Both are the run's
questions to its own cells (`algorithm/contracts.py`), so new cells may live wherever the reference's could.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from ..algorithm.contracts import Assignment, Cells
from ..algorithm.regressors import Anchor
from ..algorithm.ridge import ridge
from ..algorithm.schedule import FixedPartition
from ..design import BatchDesign
from ..engine.placement import ResourceRequest, make_cells
from ..engine.run import Backend, result_dtype
from ..errors import InputError, warn
from ..inputs.columns import Missing, as_table, check_order, combined, design_from_table
from ..inputs.embedding import Embedding, Kind, read_embedding
from ..inputs.levels import warn_of_strangers
from ..params import HarmonyParams, ResolvedParams
from ..system.arguments import check_arguments
from ..system.cpus import resolve_threads
from ..system.memory import zeros
from ..system.validate import one_of, whole_number
from .tables import ModelTables

KnownBatches = Literal["learned", "new"]
# What joins the names of a cell's batches into one.
BETWEEN = ", "
# Where all coefficients are known, rounds only settle which clusters cells are in; little changes after this many.
_SETTLED = 10
# Nothing changes any more long before.
_MOST_ROUNDS = 1000


@dataclass(frozen=True, eq=False)
class MappedQuery:
    """New cells in the corrected space, (N, d), and how many of them each way was taken for.

    Attributes
    ----------
    embedding
        (N, d): an array, or what was given as `out`.
    batches
        Their batches, with the variables in the model's order.
    known, new
        Cells of each batch that the reference has, and of each that it does not, by `BatchDesign.joint_names`.
    """

    embedding: Any
    batches: BatchDesign
    known: dict[str, int]
    new: dict[str, int]


def map_query(
    model: ModelTables,
    Z: Any,
    batches: Any = None,
    *,
    known_batches: KnownBatches = "learned",
    ridge_lambda: float = 1.0,
    n_iter: int = 2,
    dtype: Any = None,
    out: Any = None,
    n_threads: int | None = None,
    backend: Backend = "auto",
    max_memory: int | str | None = None,
    scratch: Any = None,
    missing: Missing = "error",
    allow_many_levels: bool = False,
) -> MappedQuery:
    """Map new cells into the corrected space of the reference.

    Parameters
    ----------
    model
        Of the reference.
    Z
        New cells in the reference's uncorrected embedding, (N, d): an array, or what gives rows as ``Z[start:stop]``.
    batches
        Their batch labels, as for `harmonize`; None: one batch that the reference does not have.
    known_batches
        ``"learned"``: cells all of whose batches the reference has, in variables of the same names, get the
        correction that was learned there. ``"new"``: a level with the name of one of the reference's is another one.
    ridge_lambda
        Ridge penalty of batches that the reference does not have. Higher values correct them less, lower values more.
    n_iter
        Rounds of assigning and correcting, at most 1,000. 1 is the published method; the second assigns cells to
        clusters without the shift that the first has found, which matters where it is large. Cells of known batches
        alone take 10 at least: their coefficients do not change.
    dtype
        Of the result; None: that of the reference's arithmetic.
    out
        What takes the result as ``out[start:stop] = rows``; None: an array. ``"lazy"``: from the scratch file, where
        the cells live on disk.
    n_threads, backend, max_memory, scratch
        Where the cells live, as in `harmonize`; Dask arrays are not taken.
    missing, allow_many_levels
        How batch columns are read: see `harmonax.pp.harmony_integrate`.

    Returns
    -------
    MappedQuery
        The mapped cells, and which batches were known.

    Raises
    ------
    InputError
        If the embedding or the labels cannot be used.
    """
    check_arguments(map_query, locals())
    one_of(known_batches, "known_batches", get_args(KnownBatches))
    n_iter = whole_number(n_iter, "n_iter", minimum=1, maximum=_MOST_ROUNDS)
    check_order(Z, batches, ("the new cells", "their batch labels"))
    Z = _embedding(Z, model.n_features, backend).source
    how: dict[str, Any] = {"missing": missing, "allow_many_levels": allow_many_levels}
    asked = _batches(batches, Z.shape[0], how)
    if known_batches == "learned":
        asked = _as_model(model, asked)
    layout = _Layout.of(model, asked, known_batches if batches is not None else "new")
    params = HarmonyParams(
        flavor="harmony1", n_clusters=None, ridge_lambda=ridge_lambda, precision=model.params.precision
    )
    resolved = ResolvedParams(
        params, model.n_clusters, model.sigma, *(make(layout.design.carried.n_levels) for make in (np.zeros, np.ones))
    )
    dtype = result_dtype(dtype if dtype is not None else params.precision)
    lazy = isinstance(out, str) and out == "lazy"
    if out is not None and not lazy and tuple(np.shape(out)) != tuple(Z.shape):
        raise InputError(f"out has shape {np.shape(out)}; allowed is that of the embedding, {tuple(Z.shape)}")
    request = ResourceRequest.of(backend, resolve_threads(n_threads), max_memory, scratch, out)
    schedule = FixedPartition(1, np.random.SeedSequence(0))
    placed = make_cells(Z, layout.design.carried, schedule, resolved, request, dtype=dtype)
    cells = placed.cells
    target = None if placed.result_stays else zeros(Z.shape, dtype) if out is None or lazy else out
    assigned = Assignment(model.centroids, layout.log_penalty(model)[None], model.sigma)
    rounds = n_iter if layout.joint_new.any() else max(n_iter, _SETTLED)
    for round_ in range(rounds):
        for block in schedule.all_blocks():
            logp = assigned.logp[block.index]
            cells.sweep(block, assigned.Y, assigned.sigma, logp, moment=False, last=bool(layout.joint_new.any()))
        W = layout.coefficients(model, cells, assigned, params)
        if round_ < rounds - 1:
            cells.correct(assigned, W, moment=False)
    cells.emit(assigned, W, target, moment=False)
    embedding = cells.embedding.astype(dtype) if placed.result_stays else target
    return MappedQuery(embedding, asked, layout.known, layout.new)


@dataclass(frozen=True, eq=False)
class _Layout:
    """The new cells' batches, those of the reference and those that it does not have side by side.

    Of each variable, levels of the reference come first under their own numbers; those of new cells come after them. A
    cell has either only levels of the reference or only new ones.
    """

    design: BatchDesign
    learned: np.ndarray  # (B,): which level of the reference each one is, or -1
    joint_codes: np.ndarray  # (J, F): of the joint levels that are new
    joint_new: np.ndarray  # (J,) bool
    known: dict[str, int]
    new: dict[str, int]

    @classmethod
    def of(cls, model: ModelTables, asked: BatchDesign, known_batches: str) -> _Layout:
        own = asked.joint_levels - asked.offsets[:-1]
        same = known_batches == "learned" and asked.variables == model.variables
        n_learned = [len(levels) for levels in model.levels] if same else [0] * asked.n_variables
        theirs = np.full(own.shape, -1)
        if same:
            for f, levels in enumerate(asked.levels):
                learned_as = _same_level(model.levels[f], levels)
                theirs[:, f] = learned_as[own[:, f]]
                strangers = [name for name, place in zip(levels, learned_as, strict=True) if place < 0]
                warn_of_strangers(asked.variables[f], strangers, model.levels[f])
        is_known: np.ndarray = np.all(theirs >= 0, axis=1)
        codes = np.where(is_known[:, None], theirs, own + np.array(n_learned))
        design = BatchDesign.from_codes(codes[asked.joint])
        # Unnamed levels are called by their codes, and those that no cell carries are left out.
        level = [np.array([int(name) for name in names]) for names in design.levels]
        starts = np.concatenate([[0], np.cumsum(n_learned)])
        learned = [np.where(c < n, c + starts[f], -1) for f, (c, n) in enumerate(zip(level, n_learned, strict=True))]
        joint_new = np.array(
            [level[0][row[0]] >= n_learned[0] for row in design.joint_levels - design.offsets[:-1]], bool
        )
        learned_level = np.concatenate(learned)
        stays = np.flatnonzero(np.isin(learned_level, model.record.get("reference_levels", [])))
        design = replace(design, reference=tuple(stays.tolist()))
        names = asked.joint_names(BETWEEN)
        counts = dict(zip(names, asked.joint_counts.tolist(), strict=True))
        known = {name: counts[name] for name, yes in zip(names, is_known, strict=True) if yes}
        new = {name: n for name, n in counts.items() if name not in known}
        return cls(design, learned_level, design.joint_levels[joint_new], joint_new, known, new)

    def log_penalty(self, model: ModelTables) -> np.ndarray:
        """Return the penalty of each level, (B, K): what the reference's run ended with, none for new ones."""
        learned = self.learned >= 0
        logp = np.where(learned[:, None], model.log_penalty()[np.where(learned, self.learned, 0)], 0.0)
        return np.concatenate([logp, np.zeros((self.design.carried.n_levels - len(logp), logp.shape[1]))])

    def coefficients(self, model: ModelTables, cells: Cells, assigned: Assignment, params: HarmonyParams) -> np.ndarray:
        """Return the ridge coefficients of each level that the cells carry, (B, K, d)."""
        learned = self.learned >= 0
        W = np.where(learned[:, None, None], model.ridge[np.where(learned, self.learned, 0)], 0.0)
        if self.joint_new.any():
            # Sorted joint levels stay sorted where some are left out.
            design = BatchDesign.from_codes(self.joint_codes)
            resolved = ResolvedParams(
                params,
                model.n_clusters,
                model.sigma,
                np.zeros(design.n_levels),
                design.per_level("ridge_lambda", params.ridge_lambda),
            )
            anchor = Anchor(model.cluster_mass, model.cluster_moment)
            S, mass, _ = cells.moments(assigned)
            found = ridge(design, resolved, S[self.joint_new], mass[self.joint_new], anchor)
            W[~learned] = found.W
        # Cells of levels that were held fixed stay, whatever their other levels are.
        return self.design.applied(W)


def _same_level(known: Sequence[str], asked: Sequence[str]) -> np.ndarray:
    """Return which of the reference's levels each one is, or -1; "1.0", as numbers were once called, is "1"."""
    ours, theirs = ([re.sub(r"^(-?\d+)\.0$", r"\1", name) for name in names] for names in (known, asked))
    one_to_one = len(set(ours)) == len(ours) and len(set(theirs)) == len(theirs)
    found: np.ndarray = pd.Index(ours if one_to_one else known).get_indexer(theirs if one_to_one else list(asked))
    return found


def _embedding(Z: Any, n_features: int, backend: str) -> Embedding:
    embedding = read_embedding(Z, min_cells=1)
    if embedding.kind is Kind.DASK or backend == "dask":
        raise InputError("new cells on a Dask cluster are not mapped; pass an array, or one file after another")
    if embedding.shape[1] != n_features:
        raise InputError(f"the new cells have {embedding.shape[1]} features; the model has {n_features}")
    return embedding


def _batches(batches: Any, n_cells: int, how: dict[str, Any]) -> BatchDesign:
    if batches is None:
        return BatchDesign.from_codes(np.zeros(n_cells, np.int64), ["query"], [["query"]])
    if isinstance(batches, BatchDesign):
        design = batches
    else:
        table = as_table(batches)
        design = design_from_table(table, table.columns.tolist(), where="batches", **how)
    if design.n_cells != n_cells:
        raise InputError(f"there are {n_cells} new cells but {design.n_cells} batch labels; they must agree")
    return design


def _as_model(model: ModelTables, asked: BatchDesign) -> BatchDesign:
    """Return the batches with the variables in the model's order, where they are the same."""
    if model.variables == ("+".join(asked.variables),) and asked.n_variables > 1:
        return combined(asked)
    if asked.variables == model.variables or not set(asked.variables) & set(model.variables):
        return asked
    if set(asked.variables) != set(model.variables):
        warn(
            f"the reference's batch variables are {', '.join(model.variables)}, the query's "
            f"{', '.join(asked.variables)}: all of the query's batches are taken as new"
        )
        return asked
    order = [asked.variables.index(name) for name in model.variables]
    codes = (asked.joint_levels - asked.offsets[:-1])[:, order]
    return BatchDesign.from_codes(codes[asked.joint], model.variables, [asked.levels[f] for f in order])


def warn_of_known(mapped: MappedQuery) -> None:
    """Warn where some of the new cells' batches have names of the reference's batches, and some have not."""
    if mapped.known and mapped.new:
        first = ", ".join(f"'{name}'" for name in list(mapped.known)[:3])
        warn(
            f"the reference has batches of the same names as the query's ({first}): those cells get the correction "
            "learned there; if they only share the name, pass known_batches='new'"
        )
