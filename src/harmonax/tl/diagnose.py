"""``harmonax.tl.diagnose``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..adata import stored_params, stored_run
from ..design import BatchDesign
from ..engine.run import harmonize
from ..errors import InputError, MissingKeyError, nearest
from ..evaluation.after.case import Case
from ..evaluation.after.diagnose import Diagnosis
from ..evaluation.after.diagnose import diagnose as diagnose_case
from ..evaluation.labels import UNLABELLED
from ..inputs.columns import Missing, design_from_table
from ..inputs.embedding import either_spelling, read_obsm
from ..inputs.expression import dense, layer_of
from ..inputs.roles import batch_columns
from ..params import HarmonyParams
from ..system.arguments import check_arguments
from ..system.rng import seed_from
from ..system.validate import expect_anndata, whole_number

if TYPE_CHECKING:
    from anndata import AnnData


def diagnose(
    adata: AnnData,
    batch_key: str | Sequence[str] | None = None,
    *,
    label_key: str | None = None,
    group_key: str | None = None,
    markers: Mapping[str, Sequence[str]] | None = None,
    basis: str | None = None,
    adjusted_basis: str | None = None,
    layer: str | None = None,
    correct: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    null: bool = True,
    unlabelled: Collection[str] = UNLABELLED,
    max_cells: int = 20_000,
    rng: Any = 0,
    key_added: str = "harmonax_diagnosis",
) -> Diagnosis:
    """Measure whether a correction did too little, too much, or the right thing.

    Within a batch, a correction has nothing to do: neighbours there that are neighbours no longer were torn apart.
    Between batches, cells should mix as far as the batches hold the same cells. And where there is nothing to correct
    (one batch, split at random), nothing should happen.

    Parameters
    ----------
    adata
        N cells with an embedding before and after the correction.
    batch_key
        Batch columns of ``adata.obs``; None: those of the last `harmonax.pp.harmony_integrate`.
    label_key
        Column of cell types, if they are known. Without it, a type that only one batch has cannot be distinguished
        from a batch effect, and batches with different cells look as if they were too little corrected.
    group_key
        Column by which results are shown; None: `label_key`, else ``"leiden"`` if that exists.
    markers
        Genes by cell type, ``{"B cells": ["MS4A1", "CD79A"]}``: do they still separate their types? Needs `label_key`.
    basis, adjusted_basis
        Embeddings in ``adata.obsm`` before and after, (N, d) and (N, any), of any method; None: those of the last run,
        else ``"X_pca"`` and ``"X_pca_harmony"``.
    layer
        Layer with the expression of the markers; None: ``adata.X``. Whole numbers are taken for counts.
    correct
        The correction, for the null calibration: a function of an embedding (n, d) and the batch of each cell (n,)
        that returns the corrected embedding. None: Harmony with the parameters of the last run.
    null
        Split one batch at random and correct the halves.
    unlabelled
        Names in `label_key` that mean that the type is not known.
    max_cells
        With more cells, neighbours are measured on a random sample of this size (which ones were kept: on 12,000 at
        most, as `harmonax.tl.evaluate`). Higher values are more exact, and take more time and memory.
    rng
        Seed, Generator, SeedSequence or None.
    key_added
        Where in ``adata.uns`` the result goes.

    Returns
    -------
    Diagnosis
        Also written to ``adata.uns[key_added]``, ``adata.obs["harmonax_neighbors_kept"]`` (share of each cell's
        neighbours within its batch that stayed, nan outside the sample) and ``adata.obs["harmonax_movement"]`` (how far
        it moved apart from its batch, in units of a batch's spread).

    Raises
    ------
    MissingKeyError
        If a column, an embedding or a marker gene is not there.
    InputError
        If no batch column is known, or markers are given without cell types.

    Examples
    --------
    >>> import anndata, harmonax, numpy as np, pandas as pd
    >>> gen = np.random.default_rng(0)
    >>> batch = np.repeat(["a", "b"], 200)
    >>> obs = pd.DataFrame({"batch": batch}, index=[f"cell{i}" for i in range(400)])
    >>> Z = gen.normal(size=(400, 5)) + 3 * (batch == "b")[:, None]
    >>> adata = anndata.AnnData(obs=obs, obsm={"X_pca": Z})
    >>> harmonax.pp.harmony_integrate(adata, "batch", max_iter_harmony=50, theta=4, rng=0)
    >>> diagnosis = harmonax.tl.diagnose(adata)
    >>> diagnosis.numbers["excess_before"] > 0.9, diagnosis.numbers["excess_after"] < 0.5
    (True, True)
    """
    check_arguments(diagnose, locals())
    expect_anndata(adata)
    max_cells = whole_number(max_cells, "max_cells", minimum=30)
    run = stored_run(adata.uns)
    basis = basis or str(run.get("basis", "X_pca"))
    adjusted_basis = adjusted_basis or str(run.get("adjusted_basis", "X_pca_harmony"))
    basis, adjusted_basis = (either_spelling(adata.obsm.keys(), name) for name in (basis, adjusted_basis))
    keys, read = batch_columns(run, batch_key)
    missing: Missing = "literal" if read.get("missing") == "literal" else "level"
    many = bool(read.get("allow_many_levels", False))
    design = design_from_table(adata.obs, keys, missing=missing, allow_many_levels=many)
    before, after = (_embedding(adata, name) for name in (basis, adjusted_basis))
    labels = None if label_key is None else _names(adata, label_key, unlabelled)
    group_key = group_key if group_key is not None else "leiden" if "leiden" in adata.obs and labels is None else None
    # Only a run of harmonax says how it ended and with what parameters.
    ours = adjusted_basis == run.get("adjusted_basis")
    case = Case(
        before=before,
        after=after,
        batch=design.joint,
        levels=level_names(design),
        variables=dict(zip(design.variables, _codes(design), strict=True)),
        labels=labels,
        groups=None if group_key is None else _names(adata, group_key, ()),
        expression=_expression(adata, markers, layer, label_key),
        markers=dict(markers or {}),
        status=str(run.get("status", "")) if ours else "",
        last_change=float(run.get("last_change", np.nan)) if ours else float("nan"),
        hvg_per_batch="highly_variable_nbatches" in adata.var if "highly_variable" in adata.var else None,
        known_method=ours and "params" in run,
        sweep=run.get("sweep") if ours else None,
    )
    seed = seed_from(rng)
    if correct is None and ours:
        correct = harmony_as(run["params"], np.random.default_rng(seed))
    found = diagnose_case(case, correct=correct if null else None, max_cells=max_cells, seed=seed)
    found.about.update(
        basis=basis,
        adjusted_basis=adjusted_basis,
        batch_keys=np.array(design.variables, object),
        label_key=label_key or "",
        group_key=group_key or label_key or "",
    )
    adata.uns[key_added] = found.to_uns()
    adata.obs["harmonax_neighbors_kept"] = found.kept
    adata.obs["harmonax_movement"] = found.moved
    return found


def _embedding(adata: AnnData, basis: str) -> np.ndarray:
    first = "; run harmonax.pp.harmony_integrate first" if basis == "X_pca_harmony" else ""
    return read_obsm(adata, basis, first).array()


def _names(adata: AnnData, key: str, unlabelled: Collection[str]) -> np.ndarray:
    """Return a column as text, "" where it is missing or not known."""
    if key not in adata.obs:
        raise MissingKeyError(f"obs has no column '{key}'; {nearest(key, adata.obs.columns)}")
    column = adata.obs[key]
    names = column.astype(str).str.strip()
    none = {str(word).strip().casefold() for word in unlabelled}
    return np.where(column.isna() | names.str.casefold().isin(none), "", names).astype(str)


def _codes(design: BatchDesign) -> np.ndarray:
    """Return each cell's level of each variable, (variables, N)."""
    return (design.joint_levels[design.joint] - design.offsets[:-1]).T


def level_names(design: BatchDesign) -> list[str]:
    """Return, per combination of levels, the names of its levels."""
    rows = ([design.levels[f][level - design.offsets[f]] for f, level in enumerate(row)] for row in design.joint_levels)
    return ["|".join(names) for names in rows]


def harmony_as(params: Mapping[str, Any], gen: np.random.Generator) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return Harmony with the parameters of a run, for one batch variable."""
    given = stored_params(params)
    for name in ("theta", "sigma", "ridge_lambda"):
        # Values per variable, level or cluster do not fit another data set.
        if isinstance(given.get(name), (list, tuple)):
            given[name] = float(np.mean(given[name]))

    asked = given.get("n_clusters")

    def correct(embedding: np.ndarray, batch: np.ndarray) -> np.ndarray:
        # As many clusters as were asked for may be too many for one batch.
        given["n_clusters"] = None if asked is None else min(int(asked), max(2, len(embedding) // 2))
        return harmonize(embedding, batch.astype(str), HarmonyParams(**given), rng=gen, progress=False).embedding

    return correct


def _expression(
    adata: AnnData, markers: Mapping[str, Sequence[str]] | None, layer: str | None, label_key: str | None
) -> pd.DataFrame | None:
    """Return the markers' expression in all cells; whole numbers are counts, and become their log per 10,000."""
    if not markers:
        return None
    if label_key is None:
        raise InputError("markers are genes of cell types: pass label_key, the column that holds the types")
    X = layer_of(adata, layer)[0]
    genes = list(dict.fromkeys(gene for listed in markers.values() for gene in listed))
    types = adata.obs[label_key].astype(str).unique() if label_key in adata.obs else []
    absent = [name for name in markers if name not in types]
    if absent:
        raise MissingKeyError(f"obs['{label_key}'] has no cell type '{absent[0]}'; {nearest(absent[0], types)}")
    unknown = [gene for gene in genes if gene not in adata.var_names]
    if unknown:
        raise MissingKeyError(f"var_names has no '{unknown[0]}'; {nearest(unknown[0], adata.var_names)}")
    values = X[:, np.sort(adata.var_names.get_indexer(genes))]
    order = np.argsort(np.argsort(adata.var_names.get_indexer(genes)))
    expression = dense(values, np.float64)[:, order]
    return pd.DataFrame(logarithms(expression, X), columns=genes)


def logarithms(expression: np.ndarray, X: Any) -> np.ndarray:
    """Return expression as it is, or where it is counts the logarithms of its share of all in X, per 10,000."""
    if not np.array_equal(expression, np.round(expression)) or expression.min() < 0:
        return expression
    totals = np.asarray(X[:].sum(axis=1), np.float64).reshape(-1, 1)
    logs: np.ndarray = np.log1p(expression / np.maximum(totals, 1) * 1e4)
    return logs
