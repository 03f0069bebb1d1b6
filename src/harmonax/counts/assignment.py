"""Soft clusters of a correction, made once more from its record, and the batches whose effects are removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from ..adata import stored_params, stored_run
from ..design import BatchDesign
from ..engine.run import harmonize
from ..errors import InputError, MissingKeyError, nearest, warn
from ..inputs.columns import design_from_table
from ..inputs.embedding import read_obsm
from ..inputs.roles import batch_columns, role_columns
from ..params import HarmonyParams
from ..result import HarmonyResult
from .model import Batches

if TYPE_CHECKING:
    from anndata import AnnData

# Parts of a cell below this share of its largest are left out; the others then sum to one.
_LEAST = 0.01
# Cells that are made sparse at a time.
_ROWS = 1 << 16
# As far may a correction be from what is stored of it, as a share of the embedding's largest value.
_ALIKE = 1e-3


def soft_clusters(
    adata: AnnData, batch_key: str | Sequence[str] | None, assignment: Any, n_threads: int
) -> tuple[Callable[[np.ndarray], Batches], list[str]]:
    """Return what makes the cells of the model from their totals, and the batch columns.

    Parameters
    ----------
    adata
        N cells; of it ``obs``, the embeddings and ``uns["harmonax"]`` are read.
    batch_key
        Batch columns; None: those of the last run.
    assignment
        (N, K), a name in ``obsm``, or a result; None: that of the last run, which is repeated.
    n_threads
        Of the run.

    Raises
    ------
    InputError
        If no run is recorded, or repeating it does not give the stored embedding.
    """
    run = stored_run(adata.uns)
    keys, read = batch_columns(run, batch_key)
    own = keys == [str(key) for key in read["keys"]]
    how, roles = _roles(adata, run, read)
    stays = roles["protect"]
    design = design_from_table(adata.obs, keys, **(how if own else {}))
    if design.n_joint < 2:
        names = ", ".join(design.variables)
        warn(f"{names}: every cell has the same batch: nothing to correct, the counts are returned unchanged")
        R: Any = np.ones((adata.n_obs, 1))
    elif assignment is None:
        _check_recorded(run)
        ran = design if own else design_from_table(adata.obs, [str(key) for key in read["keys"]], **how)
        R = _repeated(adata, run, ran, roles, n_threads)
    else:
        R = _given(adata, assignment)
    if own and (reference := _reference(run.get("reference"))):
        design = design.keeping(reference)
    return lambda totals: _cells(R, totals, design, None if stays is None else stays.joint, run), keys


def _roles(adata: AnnData, run: Mapping[str, Any], read: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return how a run read its batch columns, and its protected and numeric ones."""
    how: dict[str, Any] = {n: read[n] for n in ("combine_keys", "missing", "allow_many_levels") if n in read}
    protect, numeric = ([str(name) for name in of] for of in (read.get("protect", []), run.get("covariates", [])))
    return how, role_columns(adata.obs, protect or None, numeric or None, "obs", how)


def _reference(table: Mapping[str, Any] | None) -> dict[str, list[str]] | None:
    if table is None:
        return None
    found: dict[str, list[str]] = {}
    for key, level in zip(table["batch_key"], table["level"], strict=True):
        found.setdefault(str(key), []).append(str(level))
    return found


def _check_recorded(run: Mapping[str, Any]) -> None:
    """Refuse where no run of Harmony is recorded."""
    if "params" not in run or "seed" not in run:
        raise InputError(
            "uns['harmonax'] records no correction by Harmony, whose soft clusters are needed: run "
            "harmonax.pp.harmony_integrate first, or pass assignment"
        )


def _repeated(
    adata: AnnData, run: Mapping[str, Any], design: BatchDesign, roles: dict[str, Any], n_threads: int
) -> np.ndarray:
    """Run the last correction again; refuse one that gives another embedding than is stored."""
    result = harmonize(
        read_obsm(adata, str(run["basis"])),
        design,
        HarmonyParams(**stored_params(run["params"])),
        reference=_reference(run.get("reference")),
        **roles,
        rng=int(run["seed"]),
        n_threads=n_threads,
        progress=False,
    )
    stored = read_obsm(adata, str(run["adjusted_basis"])).array()
    made = np.asarray(result.embedding)
    if stored.shape != made.shape or np.abs(stored - made).max() > _ALIKE * np.abs(made).max():
        raise InputError(
            f"the run that uns['harmonax'] records does not give obsm['{run['adjusted_basis']}']: cells, batches or "
            "embeddings were changed since; run harmonax.pp.harmony_integrate again, or pass assignment"
        )
    return result.assignments()


def _given(adata: AnnData, assignment: Any) -> Any:
    """Return soft clusters that were passed, of shape (N, K)."""
    if isinstance(assignment, HarmonyResult):
        assignment = assignment.assignments()
    elif isinstance(assignment, str):
        if assignment not in adata.obsm:
            raise MissingKeyError(f"obsm has no '{assignment}'; {nearest(assignment, adata.obsm.keys())}")
        assignment = adata.obsm[assignment]
    R: Any = assignment.tocsr() if sparse.issparse(assignment) else np.asarray(assignment)
    if R.ndim != 2 or R.shape[0] != adata.n_obs or R.dtype.kind not in "fiub":
        raise InputError(f"assignment has shape {R.shape}; allowed are numbers of shape ({adata.n_obs}, clusters)")
    values = np.asarray(R.data if sparse.issparse(R) else R)
    if not np.isfinite(values).all() or (values < 0).any() or (np.asarray(R.sum(axis=1)) <= 0).any():
        raise InputError("assignment must have the parts of each cell in each cluster: none below 0, in no row only 0")
    return R


def _cells(R: Any, totals: np.ndarray, design: BatchDesign, protected: np.ndarray | None, run: Any) -> Batches:
    """Return the cells of the model; protected levels divide every cluster."""
    parts = [_without_small(R[start : start + _ROWS]) for start in range(0, R.shape[0], _ROWS)]
    R = sparse.vstack(parts, format="csr")
    if protected is not None:
        R = _divided(R, protected)
    B, K = design.n_joint, R.shape[1]
    by_batch = _divided(R, design.joint)
    mass = np.asarray(by_batch.sum(axis=0, dtype=np.float64)).reshape(B, K)
    threshold = dict(run.get("params", {})).get("batch_prune_threshold", 0.0)
    there = mass / design.joint_counts[:, None] > float(threshold)
    # An effect is a difference between batches, of which a reference has none.
    keep = there & (there.sum(axis=0) > 1) & ~design.fixed[:, None]
    share = np.bincount(design.joint, totals, B) / totals.sum()
    return Batches(R, by_batch, totals / totals.mean(), keep, share)


def _without_small(R: Any) -> sparse.csr_matrix:
    """Return some cells' parts in the clusters, without small ones; they sum to one."""
    R = _rows_to_one(sparse.csr_matrix(R, dtype=np.float64, copy=True))
    largest = R.max(axis=1).toarray().ravel()
    R.data[R.data < _LEAST * np.repeat(largest, np.diff(R.indptr))] = 0
    R.eliminate_zeros()
    return _rows_to_one(R).astype(np.float32)


def _rows_to_one(R: sparse.csr_matrix) -> sparse.csr_matrix:
    sums = np.asarray(R.sum(axis=1)).ravel()
    return sparse.csr_matrix((R.data / np.repeat(sums, np.diff(R.indptr)), R.indices, R.indptr), R.shape)


def _divided(R: sparse.csr_matrix, level: np.ndarray) -> sparse.csr_matrix:
    """Return R with its columns once per level: a cell of level l has them from column l K on."""
    columns = R.indices + np.repeat(level, np.diff(R.indptr)) * R.shape[1]
    return sparse.csr_matrix((R.data, columns, R.indptr), (R.shape[0], R.shape[1] * (int(level.max()) + 1)))
