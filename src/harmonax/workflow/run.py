"""The whole job: counts to a corrected, clustered, evaluated data set and its report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InputError
from ..inputs.lazy import is_lazy
from ..system.arguments import check_arguments
from ..system.extras import need
from ..system.memory import parse_size
from ..system.rng import seed_from
from ..system.validate import expect_anndata, one_of
from . import inputs
from . import out_of_core as beyond
from .execute import execute
from .job import Job, Progress
from .options import WorkflowOptions

if TYPE_CHECKING:
    from anndata import AnnData

# The key that names of files make where none is given.
_FILE_KEY = "batch"


def run(
    adata: AnnData,
    batch_key: str | Sequence[str],
    *,
    options: WorkflowOptions | None = None,
    out: str | Path | None = None,
    label_key: str | None = None,
    rng: Any = None,
    progress: Progress = None,
    overwrite: bool = False,
    **changes: Any,
) -> AnnData:
    """Take counts to a corrected embedding, clusters, markers, and a judgement of them.

    Quality control, normalisation, highly variable genes, PCA, check, Harmony, neighbours, UMAP, Leiden, markers,
    evaluation, diagnosis. What a run with the same settings has left in `adata` is kept; what others made is used where
    `start_from` says so.

    Parameters
    ----------
    adata
        N cells with raw counts in X, in ``layers["counts"]`` or elsewhere (`counts_layer`); not changed.
    batch_key
        Column of ``obs`` that says which batch a cell is from, or several.
    options
        What to do; None: `WorkflowOptions` as they come.
    out
        Folder for the files that `run_files` makes. None: none are made.
    label_key
        Column of ``obs`` with cell types, for evaluation and diagnosis.
    rng
        Seed, Generator or SeedSequence; None: that of the options, 0 unless it is given.
    progress
        Show on stderr what is being done; None: where that is a terminal. Or a function called after each step with
        how it went (`Done`).
    overwrite
        Replace the results of a finished run in `out`.
    **changes
        Single options of `WorkflowOptions` and `harmonax.HarmonyParams`, such as ``min_genes=500, theta=1``.

    Returns
    -------
    AnnData
        ``layers["counts"]``, log-normalised ``X``; ``obsm`` with ``X_pca``, ``X_pca_harmony``, ``X_umap`` and
        ``X_umap_uncorrected``; ``obs`` with ``leiden`` and ``leiden_0.3`` and so on; ``uns`` with
        ``rank_genes_groups``, ``harmonax``, ``harmonax_check``, ``harmonax_evaluation``, ``harmonax_diagnosis`` and
        ``harmonax_workflow``: how each step went, in how many seconds, with how much memory. Batch columns are
        categorical.

    Raises
    ------
    InputError
        If the data or the options cannot be used.
    MissingExtraError
        If the extra ``workflow`` is not installed.
    OutputError
        If `out` cannot be written or has the results of another run.

    Examples
    --------
    >>> import anndata, numpy as np, pandas as pd
    >>> from harmonax.workflow import run
    >>> gen = np.random.default_rng(0)
    >>> X = gen.poisson(gen.gamma(1.0, size=(1, 300)), size=(200, 300)).astype("float32")
    >>> obs = pd.DataFrame({"batch": np.repeat(["a", "b"], 100)}, index=[f"cell{i}" for i in range(200)])
    >>> counts = anndata.AnnData(X, obs=obs)
    >>> made = run(counts, "batch", min_genes=50, skip=("evaluate", "diagnose"))
    >>> sorted(made.obsm)
    ['X_pca', 'X_pca_harmony', 'X_umap', 'X_umap_uncorrected']
    """
    check_arguments(run, locals())
    expect_anndata(adata, parts=("obs", "var", "obsm", "uns", "layers"), instead="for files there is run_files")
    base = options if options is not None else WorkflowOptions()
    if rng is not None:
        changes.setdefault("seed", seed_from(rng) % 2**32)
    asked = base.replace(batch_key=batch_key, **changes)
    if label_key is not None:
        asked = asked.replace(label_key=label_key)
    facts = [_facts_of(adata)] if out is not None else []
    job = Job(lambda: _own_copy(adata), facts, asked, out=_path(out), overwrite=overwrite, progress=progress)
    return execute(job)


def run_files(
    paths: Sequence[str | Path] | str | Path,
    out: str | Path,
    batch_key: str | Sequence[str] | None = None,
    *,
    batch_from: Literal["file"] | None = None,
    options: WorkflowOptions | None = None,
    progress: Progress = None,
    overwrite: bool = False,
    also_read: Sequence[str] = (),
    command: str = "",
    **changes: Any,
) -> AnnData:
    """Run the workflow on files, and write what comes of it into a folder.

    Makes ``integrated.h5ad``, ``report.html``, ``metrics.tsv``, ``run.json``, ``versions.yml``, ``harmonax_mqc.json``
    and ``figures/``, all or none of them. A call that was interrupted is taken up again by the same call, which works
    in ``.harmonax-work`` inside the folder until it is done.

    Parameters
    ----------
    paths
        ``.h5ad``, ``.zarr``, 10x ``.h5`` or 10x folders; several are joined.
    out
        Folder for the results; made if it is missing.
    batch_key
        Columns of ``obs`` with the batches. None: ``"batch"``, made of the names of several files.
    batch_from
        ``"file"``: the (first) batch column is made of the files' names.
    options, progress, overwrite, **changes
        As in `run`.
    also_read
        Further files that must not be written over, such as a configuration.
    command
        What was typed, for the record.

    Returns
    -------
    AnnData
        What was written.

    Raises
    ------
    InputError
        If a file, its data or the options cannot be used.
    OutputError
        If `out` cannot be written or has the results of another run.

    Examples
    --------
    >>> from harmonax.workflow import run_files
    >>> run_files(["ctrl.h5ad", "stim.h5ad"], "results")  # doctest: +SKIP
    """
    check_arguments(run_files, locals())
    names = [paths] if isinstance(paths, (str, Path)) else [str(path) for path in paths]
    names = inputs.samples([str(name) for name in names])
    base = options if options is not None else WorkflowOptions()
    asked = base.replace(**({"batch_key": batch_key} if batch_key is not None else {}), **changes)
    made_key, implied = _file_key(names, asked, batch_from)
    if made_key is not None and not asked.batch_key:
        asked = asked.replace(batch_key=made_key)

    facts = [inputs.facts(name) | {"names_are": made_key or ""} for name in names]
    how: dict[str, Any] = {
        "replace": not implied,
        "room": parse_size(asked.max_memory),
        "feature_type": asked.feature_type,
    }
    source = lambda: inputs.read_inputs(names, made_key, **how)  # noqa: E731
    return execute(Job(source, facts, asked, _path(out), overwrite, progress, names, also_read, command))


def _file_key(paths: Sequence[str], options: WorkflowOptions, batch_from: str | None) -> tuple[str | None, bool]:
    """Return the column that the files' names make, if any, and whether nobody asked for it."""
    if batch_from is not None:
        one_of(batch_from, "batch_from", ("file",))
    if not paths:
        raise InputError("no input; name at least one file")
    if batch_from == "file":
        if len(paths) == 1:
            raise InputError("batch_from='file' needs several files: one file would be one batch")
        return (options.batch_key[0] if options.batch_key else _FILE_KEY), False
    if options.batch_key:
        return None, False
    if len(paths) == 1:
        raise InputError("no batch column given; name at least one column of obs (--batch-key)")
    return _FILE_KEY, True


def _path(out: str | Path | None) -> Path | None:
    return None if out is None else Path(out)


def _own_copy(adata: AnnData) -> AnnData:
    own = beyond.own(adata) if adata.isbacked else adata.copy()
    return inputs.unique_names(own, "adata")


def _facts_of(adata: AnnData) -> dict[str, Any]:
    """Return what tells these data from others."""
    digest = need("joblib", "workflow").hash
    X = (str(adata.filename), inputs.facts(str(adata.filename))["modified"]) if adata.isbacked else _known(adata.X)
    layers = {name: _known(value) for name, value in adata.layers.items()}
    parts = [X, adata.obs, adata.var, dict(adata.obsm), layers, dict(adata.obsp), dict(adata.uns)]
    return {"kind": "memory", "cells": adata.n_obs, "genes": adata.n_vars, "hash": digest(parts)}


def _known(matrix: Any) -> Any:
    """Return what stands for a matrix: itself, or what Dask knows of one that it makes."""
    return need("dask.base", "dask").tokenize(matrix) if is_lazy(matrix) else matrix


def command_line() -> str:
    """Return what was typed, fit to be typed again."""
    return shlex.join(["harmonax", *sys.argv[1:]])
