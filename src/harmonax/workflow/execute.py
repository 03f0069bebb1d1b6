"""A run from its data to its files: each step done, kept, skipped or taken up again."""

from __future__ import annotations

import contextlib
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from ..errors import InputError, MissingExtraError, MissingKeyError, nearest, warn
from ..inputs import expression as counts
from ..inputs.columns import design_from_table
from ..inputs.covariates import numeric_columns
from ..inputs.lazy import is_lazy
from ..inputs.roles import named_levels
from ..io import Unchanged
from ..pp.correctors import corrector_of
from ..system.extras import need
from . import features, inputs, meter, outputs, steps
from . import out_of_core as beyond
from . import resume as checkpoint
from .job import Job
from .options import WorkflowOptions, leiden_key
from .state import Done, State, Step

if TYPE_CHECKING:
    from anndata import AnnData

_MEASURED = ("n_genes_by_counts", "total_counts", "pct_counts_mt", "harmonax_neighbors_kept", "harmonax_movement")

Intents = dict[str, steps.Intent]


def execute(job: Job) -> AnnData:
    """Do, keep, bring back or skip every step of a run; write its files; return the data."""
    if "leiden" not in job.options.skip and find_spec("igraph") is None:
        raise MissingExtraError(
            "igraph, which finds the clusters and is GPL, is not installed; pip install igraph, or leave the clusters "
            "and their markers out: skip='leiden' (--skip leiden)"
        )
    need("umap", "workflow")
    if job.options.hvg_flavor.startswith("seurat_v3"):
        need("skmisc", "workflow")
    corrector_of(job.options.corrector).check_installed()
    unchanged = Unchanged(*job.inputs)
    with checkpoint.working(job.out) as work:
        if work is not None:
            outputs.check_places(job, work)
        with unchanged:
            state, intents = _load(job)
        # Expression beyond memory is read at every step.
        with unchanged if state.beyond else contextlib.nullcontext():
            mark = _steps(job, intents, state, work)
        outputs.record(state, job)
        if work is not None:
            outputs.write(state, job, work, mark)
    return state.adata


def _load(job: Job) -> tuple[State, Intents]:
    clock = meter.Meter()
    with meter.live_line("load", "", job.live):
        adata = job.source()
    adata = features.choose(adata, job.options.feature_type)
    _check(adata, job.options)
    _prepare_batches(adata, job.options)
    _plain_sparse(adata)
    where = counts.where_counts(adata, job.options.counts_layer, decimals=job.options.decimals)
    state = State(adata, job.options, where, job.live)
    source = adata.X if state.counts is None else counts.matrix(adata, state.counts)
    state.beyond = is_lazy(source)
    intents = steps.intents(state)
    if state.beyond:
        if not features.are_genes(job.options):
            raise InputError(f"feature_type='{job.options.feature_type}' needs its counts in memory; raise max_memory")
        _check_beyond(job.options, intents)
    levels = ", ".join(f"{adata.obs[key].nunique()} levels of '{key}'" for key in job.options.batch_key)
    note = f"{adata.n_obs:,} cells x {adata.n_vars:,} genes; {levels}{beyond.note(source)}"
    job.finish(Done("load", "done", note, **clock.took()))
    return state, intents


def _steps(job: Job, intents: Intents, state: State, work: checkpoint.Work | None) -> str:
    """Do, keep, bring back or skip every step; return the fingerprint of all of them."""
    o = job.options
    mark = checkpoint.fingerprint(job.facts, o.missing, state.beyond, checkpoint.versions())
    plain = o.to_dict()
    for index, step in enumerate(steps.PLAN):
        intent = intents[step.name]
        mark = checkpoint.fingerprint(mark, step.name, intent.status, {name: plain[name] for name in step.reads})
        if intent.status != "done":
            if intent.status == "skipped" and any(intents[b].status == "done" for b in step.after):
                steps.forget(state, step.name)
            job.finish(Done(step.name, intent.status, intent.note))
        else:
            # X is in no checkpoint: normalising is done again.
            found = work.restore(index, mark, state) if work is not None and step.name != "normalise" else None
            job.finish(found if found is not None else _do(job, index, step, intent, state, work, mark))
        if step.name == "pca":
            beyond.let_go(state.adata)
    return mark


def _do(
    job: Job, index: int, step: Step, intent: steps.Intent, state: State, work: checkpoint.Work | None, mark: str
) -> Done:
    before = checkpoint.parts_of(state.adata)
    clock = meter.Meter()
    with meter.live_line(step.name, f"[{index + 1}/{len(steps.PLAN)}]", job.live):
        status, note = steps.work(step, state)
    if status == "done" and intent.note:
        note = f"{note} ({intent.note})"
    done = Done(step.name, status, note, **clock.took())
    if work is not None and step.name != "normalise":
        work.save(index, mark, done, state, before)
    return done


def _check(adata: AnnData, options: WorkflowOptions) -> None:
    """Refuse, before any work, what would fail later."""
    if adata.n_obs < 2:
        raise InputError(f"there are {adata.n_obs} cells; at least 2 are needed")
    design = design_from_table(
        adata.obs,
        list(options.batch_key),
        combine_keys=options.combine_keys,
        missing=options.missing,
        allow_many_levels=options.allow_many_levels,
    )
    if (levels := named_levels(options.reference, options.batch_key)) is not None:
        design.keeping(levels)
    for name in options.protect:
        inputs.column(adata, name, "protect")
    # QC writes some itself.
    if there := [name for name in options.covariates if name not in _MEASURED]:
        numeric_columns(adata.obs, there, "obs")
    for key, what in ((options.label_key, "label"), *((key, "condition") for key in options.condition_keys)):
        if key is not None:
            inputs.column(adata, key, what)
            if key in options.batch_key:
                raise InputError(f"'{key}' is a batch column and cannot be the {what} column too")
    _check_own_columns(adata, options)
    for gene in options.genes:
        if gene not in adata.var_names:
            raise MissingKeyError(f"var_names has no gene '{gene}' for the maps; {nearest(gene, adata.var_names)}")
    for name in options.color_by:
        if name not in adata.obs and name not in _written(options):
            raise MissingKeyError(f"obs has no column '{name}' to colour by; {nearest(name, adata.obs.columns)}")
    if options.markers and options.label_key is None:
        raise InputError("markers are genes of cell types: pass label_key (--label-key), the column of the types")
    for name in options.compare:
        if name not in adata.obsm:
            raise MissingKeyError(f"obsm has no '{name}' to compare; {nearest(name, adata.obsm.keys())}")
    # Lists that do not fit the batches; of sigma and K, only the cells left by quality control tell.
    options.harmony.replace(n_clusters=None, sigma=0.1).resolve(design)


def _written(options: WorkflowOptions) -> set[str]:
    """Return the columns of obs that the run makes."""
    clusters = () if "leiden" in options.skip else ("leiden", *map(leiden_key, options.resolutions))
    return {*clusters, *_MEASURED}


def _check_own_columns(adata: AnnData, options: WorkflowOptions) -> None:
    """Refuse columns with a part in the run where the run writes its own, and tell of others it will replace."""
    written = _written(options)
    for key in (*options.batch_key, options.label_key, *options.condition_keys):
        if key in written:
            raise InputError(f"obs['{key}'] is where the run writes its own results; give that column another name")
    clusters = [name for name in adata.obs if name in written - set(_MEASURED)]
    if clusters and "harmonax_workflow" not in adata.uns and options.start_from != "leiden":
        warn(f"obs['{clusters[0]}'] of the input is replaced by the run's own clusters")


def _check_beyond(options: WorkflowOptions, intents: dict[str, steps.Intent]) -> None:
    """Refuse what cannot be done with expression beyond memory, and tell of what is left out."""
    if corrector_of(options.corrector).needs == "expression" and intents["harmony"].status == "done":
        raise InputError(
            f"corrector='{options.corrector}' needs the expression in memory, and it is beyond it; raise max_memory "
            "(--max-memory), or use 'harmony'"
        )
    if options.hvg_flavor.startswith("seurat_v3") and intents["hvg"].status == "done":
        raise InputError(
            f"hvg_flavor='{options.hvg_flavor}' needs all counts in memory, and they are beyond it; "
            "use 'seurat' or 'cell_ranger'"
        )
    for name in ("genes", "markers"):
        if getattr(options, name):
            warn(f"{name} are left out: the expression is beyond memory")


def _plain_sparse(adata: AnnData) -> None:
    """Make sparse arrays matrices, which scanpy's quality control needs."""
    if isinstance(adata.X, sparse.sparray):
        adata.X = sparse.csr_matrix(adata.X)
    for name, layer in adata.layers.items():
        if isinstance(layer, sparse.sparray):
            adata.layers[name] = sparse.csr_matrix(layer)
    if adata.raw is not None and isinstance(adata.raw.X, sparse.sparray):
        raw = adata.raw.to_adata()
        raw.X = sparse.csr_matrix(raw.X)
        adata.raw = raw


def _prepare_batches(adata: AnnData, options: WorkflowOptions) -> None:
    """Make batch columns categorical text, missing labels a level; all other text categorical, as files keep it."""
    for key in options.batch_key:
        design = design_from_table(adata.obs, key, missing=options.missing, allow_many_levels=True)
        adata.obs[key] = pd.Categorical(np.array(design.levels[0], dtype=object)[design.joint])
    with inputs.silent():
        adata.strings_to_categoricals()
