"""``harmonax.tl.random_split``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..adata import stored_run
from ..design import BatchDesign
from ..errors import InputError, nearest
from ..evaluation.after.null import FEWEST_CELLS, one_batch
from ..evaluation.after.random_split import RandomSplit, measure
from ..inputs.columns import design_from_table
from ..inputs.embedding import read_obsm
from ..inputs.expression import dense, layer_of
from ..inputs.roles import batch_columns
from ..params import HarmonyParams
from ..system.arguments import check_arguments
from ..system.rng import seed_from
from ..system.validate import expect_anndata, whole_number
from .diagnose import harmony_as, level_names, logarithms

if TYPE_CHECKING:
    from anndata import AnnData


def random_split(
    adata: AnnData,
    batch_key: str | Sequence[str] | None = None,
    *,
    batch: str | None = None,
    correct: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    basis: str | None = None,
    layer: str | None = None,
    n_splits: int = 3,
    max_cells: int = 3000,
    rng: Any = 0,
    key_added: str = "harmonax_random_split",
) -> RandomSplit:
    """Split one batch at random into two, correct these, and measure what changed: there was nothing to correct.

    Whatever a correction changes here, it invented; where there are batch effects, it will do so as well.

    Parameters
    ----------
    adata
        N cells with an uncorrected embedding.
    batch_key
        Batch columns of ``adata.obs``; None: those of the last `harmonax.pp.harmony_integrate`.
    batch
        The batch to split; with several columns, their levels joined by ``|``. None: the largest.
    correct
        The correction: a function of an embedding (n, d) and the half of each cell (n,), 0 or 1, that returns the
        corrected embedding (n, any). None: Harmony with the parameters of the last run, else the defaults.
    basis
        Embedding in ``adata.obsm``; None: that of the last run, else ``"X_pca"``.
    layer
        Layer with the expression for the genes; None: ``adata.X``. Whole numbers are taken for counts.
    n_splits
        How often it is split; more tell chance from the rule, and take more time.
    max_cells
        Of a larger batch a random sample. Higher values show finer changes; time grows with the square.
    rng
        Seed, Generator, SeedSequence or None.
    key_added
        Where in ``adata.uns`` the result goes.

    Returns
    -------
    RandomSplit
        Its table has a row per split:

        ``neighbours_kept``
            Share of a cell's 15 nearest in its half that still are among them; 1 without fault.
        ``displacement``
            How far the 15 nearest of all cells fell back in the order of distance; 0 without fault, 1 as by chance.
        ``movement``
            Squared length of all moves as a share of the variance; 0 without fault, nan for another width.
        ``cluster_concordance``
            Adjusted Rand index of the Leiden clusters (resolution 1) before and after; ``concordance_again`` is that
            of two runs of Leiden before, with other seeds: more cannot be had.
        ``genes_called``
            Share of tests in which the 2,000 most variable genes differ between the halves of a cluster after the
            correction (Welch's t-test, 5 % false discoveries); ``genes_called_before`` the same of the clusters before.
            nan if the data have no expression.

    Raises
    ------
    MissingKeyError
        If a column or the embedding is not there.
    InputError
        If no batch column is known, there is no batch of that name, or it has fewer than 60 cells.
    MissingExtraError
        If scikit-learn or igraph are not installed.

    Examples
    --------
    >>> import anndata, harmonax, numpy as np, pandas as pd
    >>> gen = np.random.default_rng(0)
    >>> obs = pd.DataFrame({"batch": ["a"] * 200 + ["b"] * 100}, index=[f"cell{i}" for i in range(300)])
    >>> adata = anndata.AnnData(obs=obs, obsm={"X_pca": gen.normal(size=(300, 5))})
    >>> still = harmonax.tl.random_split(adata, "batch", correct=lambda Z, half: Z)
    >>> still.mean[["neighbours_kept", "displacement", "cluster_concordance"]].tolist()
    [1.0, 0.0, 1.0]
    """
    check_arguments(random_split, locals())
    expect_anndata(adata)
    run = stored_run(adata.uns)
    keys, read = batch_columns(run, batch_key)
    design = design_from_table(adata.obs, keys, missing="level", allow_many_levels=bool(read.get("allow_many_levels")))
    seed = seed_from(rng)
    gen, code = np.random.default_rng(seed), _code(design, batch)
    rows = one_batch(design.joint, code, whole_number(max_cells, "max_cells", minimum=FEWEST_CELLS), gen)
    name = level_names(design)[code]
    if len(rows) < FEWEST_CELLS:
        raise InputError(f"batch '{name}' has {len(rows)} cells; at least {FEWEST_CELLS} are needed for two halves")
    Z = np.asarray(read_obsm(adata, basis or str(run.get("basis", "X_pca"))).array()[rows], np.float64)
    correct = correct or harmony_as(run.get("params", HarmonyParams().to_dict()), np.random.default_rng(seed))
    table = measure(Z, correct, gen, whole_number(n_splits, "n_splits", minimum=1), _expression(adata, layer, rows))
    found = RandomSplit(name, len(rows), table)
    adata.uns[key_added] = found.to_uns()
    return found


def _code(design: BatchDesign, batch: str | None) -> int:
    names = level_names(design)
    if batch is None:
        return int(np.bincount(design.joint, minlength=len(names)).argmax())
    if batch not in names:
        raise InputError(f"there is no batch '{batch}'; {nearest(batch, names)}")
    return names.index(batch)


def _expression(adata: AnnData, layer: str | None, rows: np.ndarray) -> np.ndarray | None:
    if layer is None and (adata.X is None or not adata.n_vars):
        return None
    X = layer_of(adata, layer)[0][rows]
    return logarithms(dense(X, np.float64), X)
