"""The scanpy interface: AnnData in, AnnData out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..adata import uns_record
from ..compat.names import merge, params_of
from ..engine.run import Backend, harmonize
from ..errors import InputError
from ..inputs.columns import Missing, design_from_table
from ..inputs.embedding import either_spelling, read_obsm
from ..inputs.roles import role_columns
from ..params import Flavor, Floats
from ..result import HarmonyResult, announce
from ..system.arguments import check_arguments
from ..system.log import chosen_threads
from ..system.validate import entry_name, expect_anndata, listed

if TYPE_CHECKING:
    from anndata import AnnData


def harmony_integrate(
    adata: AnnData,
    key: str | Sequence[str],
    *,
    basis: str = "X_pca",
    adjusted_basis: str | None = "X_pca_harmony",
    dtype: Any = np.float64,
    flavor: Flavor = "harmony2",
    n_clusters: int | None = None,
    max_iter_harmony: int = 10,
    max_iter_clustering: int | None = 200,
    tol_harmony: float | None = 1e-4,
    tol_clustering: float | None = 1e-5,
    sigma: Floats = 0.1,
    theta: Floats | None = 2.0,
    tau: float = 0,
    ridge_lambda: Floats = 1.0,
    alpha: float = 0.2,
    batch_prune_threshold: float | None = 1e-5,
    correction_method: Literal["fast", "original"] = "fast",
    block_proportion: float = 0.05,
    rng: Any = None,
    precision: Literal["float32", "float64"] = "float32",
    n_threads: int | None = None,
    backend: Backend = "auto",
    max_memory: int | str | None = None,
    scratch: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    combine_keys: bool = False,
    missing: Missing = "error",
    allow_many_levels: bool = False,
    reference: Any = None,
    protect: str | Sequence[str] | None = None,
    covariates: str | Sequence[str] | None = None,
    ridge: Literal["dynamic", "fixed"] | None = None,
    save_model: str | os.PathLike[str] | bool | None = None,
    save_labels: str | Sequence[str] | None = None,
    progress: bool | Callable[[int, int, float], None] | None = None,
    **harmonypy: Any,
) -> None:
    """Remove batch effects from an embedding of an AnnData, with Harmony.

    Takes the arguments of ``scanpy.pp.harmony_integrate``, and those of ``scanpy.external.pp.harmony_integrate`` and
    harmonypy under their own names.

    Parameters
    ----------
    adata
        N cells with an embedding. A view becomes a copy of its own when the result is written, as with scanpy; of a
        file opened with ``backed=``, `X` is not touched.
    key
        Column of ``adata.obs`` that says which batch a cell is from, or several. Several are modelled as separate
        variables whose penalties multiply.
    basis
        Embedding in ``adata.obsm``, (N, d): an array, a DataFrame or a sparse matrix. Of a Dask array, with a
        `distributed.Client` there, the cells stay on the cluster, and the result is a Dask array. "X_pca" finds "pca"
        too, and the reverse.
    adjusted_basis
        Where in ``adata.obsm`` the corrected embedding goes; None: `basis` with "_harmony" after it.
    dtype
        Of the result only; `precision` is that of the arithmetic.
    flavor
        ``"harmony2"``, or ``"harmony1"`` for the method as published in 2019.
    n_clusters
        Number of soft clusters K. None: ``min(100, N / 30)``, at least 2. More clusters correct finer groups of cells
        separately, and take more time; with fewer, distinct cell types share one correction.
    max_iter_harmony
        Maximum number of rounds of clustering and correction. The default of 10 often ends before convergence, which
        the log line and ``adata.uns["harmonax"]`` report with the remaining change: raise it then. Lower values take
        less time.
    max_iter_clustering, tol_harmony, tol_clustering
        Maximum number of clustering passes in a round, and the relative changes of the objective below which rounds
        and passes stop: higher tolerances stop earlier. None: the values of the flavor's reference program (4, 1e-2 and
        1e-3 for harmony2; 200, 1e-4 and 1e-5 for harmony1), as in scanpy.
    sigma
        Width of the soft clusters: one number or one per cluster. Higher values spread each cell over more clusters,
        so that corrections vary more smoothly; lower values come closer to hard clusters.
    theta
        Strength of the diversity penalty: one number, one per column, or one per level of all columns in turn. Higher
        values mix batches more strongly within clusters, also where their cells differ by biology; 0 removes the
        penalty, not the ridge correction: cells still move.
    tau
        Protects small batches: their theta is multiplied by ``1 - exp(-(N_b / (K tau))^2)``. Higher values protect
        larger batches too; 0 switches it off.
    ridge_lambda
        Fixed ridge penalty: one number, one per column, or one per level. Higher values correct less, above all where a
        batch has few cells in a cluster; lower values correct more. For harmony2 a value other than 1.0 means
        ``ridge="fixed"``; for 1.0 itself say ``ridge="fixed"``.
    alpha
        Dynamic ridge penalty of harmony2, relative to the expected number of cells. Higher values correct less, lower
        values more.
    batch_prune_threshold
        harmony2 leaves a batch out of a cluster's correction where less than this share of its cells is there. Higher
        values leave out more batches; None: never.
    correction_method
        ``"fast"`` or ``"original"`` (one explicit solve per cluster); equal to rounding.
    block_proportion
        Share of the cells reassigned at a time, in (0, 1]. Lower values update the penalty more often in a pass, and
        take a little more time.
    rng
        Seed, Generator, SeedSequence or None. `random_state` is the older name.
    precision
        Arithmetic of the cells, ``"float32"`` or ``"float64"``, which takes twice the memory. Everything summed over
        cells is float64.
    n_threads
        Number of threads. None: ``scanpy.settings.n_jobs`` where scanpy is loaded and that was changed from its
        default, else the CPUs this process may use. More take less time; the result does not depend on it.
    backend
        Where the cells live: ``"memory"`` or ``"disk"`` (native kernels; the same bits), ``"dask"`` (the workers of a
        cluster), ``"jax"`` (a GPU, a TPU), ``"dense"`` (plain NumPy, the reference; small N), or ``"auto"``.
    max_memory, scratch, checkpoint
        As in `harmonax.harmonize`: the maximum memory to hold, such as ``"4G"``; where a scratch file goes; a directory
        for the tables of every round, from which a stopped run resumes.
    combine_keys
        Join several columns into one variable with a level per observed combination.
    missing
        ``"error"`` refuses missing and infinite labels, and text that stands for them ("nan", "NA", ""); ``"level"``
        makes them a batch of their own; ``"literal"`` takes such text as a batch's name.
    allow_many_levels
        Accept a column that looks like a measurement or like cell barcodes.
    reference
        Level or levels of `key` whose cells stay where they are; the others are brought to them. With several columns a
        dictionary of levels by column.
    protect
        Column of ``adata.obs`` with biology that must stay, such as the condition, or several (their combinations).
        Batch effects are estimated, and mixing is judged, within it.
    covariates
        Numeric column of ``adata.obs`` whose effect is removed beside that of the batches, such as the depth or a
        cell-cycle score, or several. Each has a slope of its own in each cluster; a log scale suits depth.
    ridge
        ``"dynamic"`` (the default of harmony2) or ``"fixed"``.
    save_model
        Keep what was learned, for `harmonax.tl.map_query`: a file, ``.h5`` or ``.zarr`` (an earlier model there is
        replaced), or True: ``adata.uns["harmonax_model"]``. Loadings in ``varm["PCs"]`` that reproduce `basis` from X
        go with it.
    save_labels
        Columns of ``adata.obs`` to keep in the model with the corrected cells, for label transfer.
        `HarmonyModel.with_reference` adds labels that come later.
    progress
        Show a progress line on stderr; None: where that is a terminal. Or a function called after each pass with
        (round, pass, objective).
    **harmonypy
        ``lamb`` (given: ``ridge="fixed"``), ``nclust``, ``block_size``, ``max_iter_kmeans``, ``epsilon_cluster``,
        ``epsilon_harmony``, ``batch_prop_cutoff``, ``random_state``, ``ncores`` (0: all CPUs) and ``verbose`` (False:
        no progress and no log line). The defaults remain those above.

    Returns
    -------
    None
        Writes ``adata.obsm[adjusted_basis]``, (N, d), and ``adata.uns["harmonax"]``: parameters, status, history,
        versions and seed of the last run.

    Raises
    ------
    MissingKeyError
        If a column or the basis is not there.
    InputError
        If a parameter, the embedding or the labels cannot be used, or one parameter is given under two names.
    TypeError
        If a keyword is unknown.

    Warns
    -----
    HarmonaxWarning
        If there is one batch only (the embedding is then copied unchanged), or a parameter is set that the flavor does
        not use.

    Notes
    -----
    Korsunsky et al. 2019, Nature Methods 16:1289; Patikas et al. 2026 (Harmony2). One line says how the run ended,
    through ``logging.getLogger("harmonax")``: a warning where `max_iter_harmony` stopped it, else information. Where
    scanpy is loaded, ``scanpy.settings.verbosity`` decides what is shown.

    Examples
    --------
    >>> import anndata, harmonax, numpy as np, pandas as pd
    >>> gen = np.random.default_rng(0)
    >>> batch = np.repeat(["a", "b"], 100)
    >>> obs = pd.DataFrame({"batch": batch}, index=[f"cell{i}" for i in range(200)])
    >>> adata = anndata.AnnData(obs=obs, obsm={"X_pca": gen.normal(size=(200, 5)) + (batch == "b")[:, None]})
    >>> harmonax.pp.harmony_integrate(adata, "batch", max_iter_harmony=50, rng=0)
    >>> adata.obsm["X_pca_harmony"].shape
    (200, 5)
    >>> adata.uns["harmonax"]["status"]
    'converged'
    """
    check_arguments(harmony_integrate, locals())
    asked = {name: value for name, value in locals().items() if name not in ("adata", "key", "harmonypy")}
    options = merge(asked, harmonypy, harmony_integrate)
    params = params_of(options)
    expect_anndata(adata, instead="for arrays there is harmonax.harmonize")
    basis = either_spelling(adata.obsm.keys(), basis)
    adjusted_basis = adjusted_basis if adjusted_basis is not None else f"{basis}_harmony"
    check_target(adata, adjusted_basis)
    keep = _model_place(adata, save_model, save_labels)
    how: dict[str, Any] = {
        "combine_keys": combine_keys,
        "missing": missing,
        "allow_many_levels": allow_many_levels,
    }
    design = design_from_table(adata.obs, key, **how)
    roles = role_columns(adata.obs, protect, covariates, "obs", how)
    result = harmonize(
        read_obsm(adata, basis),
        design,
        params,
        reference=reference,
        **roles,
        rng=options["rng"],
        dtype=dtype,
        n_threads=options["n_threads"] if options["n_threads"] is not None else chosen_threads(),
        backend=backend,
        max_memory=max_memory,
        scratch=scratch,
        checkpoint=checkpoint,
        progress=options["progress"],
    )
    adata.obsm[adjusted_basis] = result.embedding
    columns = {"keys": [str(name) for name in listed(key)]} | how
    if protect is not None:
        columns["protect"] = [str(name) for name in listed(protect)]
    adata.uns["harmonax"] = uns_record(result, basis, adjusted_basis, columns)
    if keep is not None:
        keep(result, basis)
    if harmonypy.get("verbose", True):
        announce(result)


def _model_place(
    adata: AnnData, save_model: Any, save_labels: str | Sequence[str] | None
) -> Callable[[HarmonyResult, str], None] | None:
    """Return a function that keeps the model of a run, or None; refuse a place that cannot take it, before any work."""
    if save_model is None or save_model is False:
        if save_labels is not None:
            raise InputError("save_labels go into a model: say where with save_model")
        return None
    from ..mapping.build import check_labels, model_of
    from ..mapping.serialise import UNS, check_place, to_dict

    labels = check_labels(adata.obs, save_labels)
    if save_model is not True:
        own = getattr(adata, "filename", None)
        check_place(save_model, inputs=[str(own)] if own else [], overwrite=True)

    def keep(result: HarmonyResult, basis: str) -> None:
        model = model_of(result, adata, basis, adata.obs[labels])
        if save_model is True:
            adata.uns[UNS] = to_dict(model)
        else:
            model.save(save_model, overwrite=True)

    return keep


def check_target(adata: Any, adjusted_basis: str, what: str = "adata") -> None:
    """Refuse an AnnData that a result cannot be written to."""
    expect_anndata(adata, what, instead="for arrays there is harmonax.harmonize")
    if adata.is_view and adata.isbacked:
        raise InputError(f"{what} is a view of a file, which cannot be written to; pass {what}.to_memory()")
    entry_name(adjusted_basis, "adjusted_basis")
