"""One run from its data to its files: done, kept, skipped or taken up again, step by step."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..errors import InputError, MissingKeyError, nearest, warn
from ..inputs import expression as counts
from ..inputs.columns import design_from_table
from ..inputs.lazy import is_lazy
from ..pp.correctors import corrector_of
from ..system.extras import need
from . import inputs, meter, outputs, steps
from . import out_of_core as beyond
from . import resume as checkpoint
from .options import WorkflowOptions, leiden_key
from .state import Done, State, Step

if TYPE_CHECKING:
    from anndata import AnnData

_MEASURED = ("n_genes_by_counts", "total_counts", "pct_counts_mt", "harmonax_neighbors_kept", "harmonax_movement")

Progress = bool | Callable[[Done], None] | None


@dataclass
class Job:
    """One run: where the data come from, what is done, where the results go."""

    source: Callable[[], AnnData]
    facts: list[dict[str, Any]]
    options: WorkflowOptions
    out: Path | None = None
    overwrite: bool = False
    progress: Progress = None
    inputs: Sequence[str] = ()
    also_read: Sequence[str] = ()
    command: str = ""
    done: list[Done] = field(default_factory=list)
    intents: dict[str, steps.Intent] = field(default_factory=dict)
    started: float = field(default_factory=time.time)

    def run(self) -> AnnData:
        need("igraph", "workflow")
        need("umap", "workflow")
        if self.options.hvg_flavor.startswith("seurat_v3"):
            need("skmisc", "workflow")
        corrector_of(self.options.corrector).check_installed()
        with checkpoint.working(self.out) as work:
            if work is not None:
                outputs.check_places(self, work)
            state = self._load()
            mark = self._steps(state, work)
            outputs.record(state, self)
            if work is not None:
                outputs.write(state, self, work, mark)
        return state.adata

    @property
    def folder(self) -> Path:
        """Where the results go, in a run that has any."""
        if self.out is None:
            raise ValueError("this run writes no files")
        return self.out

    @property
    def live(self) -> bool:
        """Whether somebody is looking."""
        if self.progress is None:
            return sys.stderr is not None and sys.stderr.isatty()
        return self.progress is True

    def finish(self, done: Done) -> None:
        """Take note of a step, and say so."""
        self.done.append(done)
        meter.tell(done)
        if callable(self.progress):
            self.progress(done)

    def _load(self) -> State:
        clock = meter.Meter()
        with meter.live_line("load", "", self.live):
            adata = self.source()
        _check(adata, self.options)
        _prepare_batches(adata, self.options)
        state = State(adata, self.options, counts.where_counts(adata, self.options.counts_layer), self.live)
        source = adata.X if state.counts is None else counts.matrix(adata, state.counts)
        state.beyond = is_lazy(source)
        self.intents = steps.intents(state)
        if state.beyond:
            _check_beyond(self.options, self.intents)
        levels = ", ".join(f"{adata.obs[key].nunique()} levels of '{key}'" for key in self.options.batch_key)
        note = f"{adata.n_obs:,} cells x {adata.n_vars:,} genes; {levels}{beyond.note(source)}"
        self.finish(Done("load", "done", note, clock.seconds(), clock.peak()))
        return state

    def _steps(self, state: State, work: checkpoint.Work | None) -> str:
        """Do, keep, bring back or skip every step; return the fingerprint of all of them."""
        o = self.options
        start = [o.batch_key, o.counts_layer, o.missing, state.beyond]
        mark = checkpoint.fingerprint(self.facts, start, checkpoint.versions())
        plain = o.to_dict()
        for index, step in enumerate(steps.PLAN):
            intent = self.intents[step.name]
            mark = checkpoint.fingerprint(mark, step.name, intent.status, {name: plain[name] for name in step.reads})
            if intent.status != "done":
                if intent.status == "skipped" and any(self.intents[b].status == "done" for b in step.after):
                    steps.forget(state, step.name)
                self.finish(Done(step.name, intent.status, intent.note))
            else:
                # X is in no checkpoint: normalising is done again.
                found = work.restore(index, mark, state) if work is not None and step.name != "normalise" else None
                self.finish(found if found is not None else self._do(index, step, state, work, mark))
            if step.name == "pca":
                beyond.let_go(state.adata)
        return mark

    def _do(self, index: int, step: Step, state: State, work: checkpoint.Work | None, mark: str) -> Done:
        before = checkpoint.parts_of(state.adata)
        clock = meter.Meter()
        with meter.live_line(step.name, f"[{index + 1}/{len(steps.PLAN)}]", self.live):
            status, note = steps.work(step, state)
        if status == "done" and self.intents[step.name].note:
            note = f"{note} ({self.intents[step.name].note})"
        done = Done(step.name, status, note, clock.seconds(), clock.peak())
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
    for key, what in ((options.label_key, "label"), (options.condition_key, "condition")):
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
    return {"leiden", *map(leiden_key, options.resolutions), *_MEASURED}


def _check_own_columns(adata: AnnData, options: WorkflowOptions) -> None:
    """Refuse columns with a part in the run where the run writes its own, and tell of others it will replace."""
    written = _written(options)
    for key in (*options.batch_key, options.label_key, options.condition_key):
        if key in written:
            raise InputError(f"obs['{key}'] is where the run writes its own results; give that column another name")
    clusters = [name for name in adata.obs if name in written - set(_MEASURED)]
    if (
        clusters
        and "harmonax_workflow" not in adata.uns
        and not set(map(leiden_key, options.resolutions)) <= set(clusters)
    ):
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


def _prepare_batches(adata: AnnData, options: WorkflowOptions) -> None:
    """Make batch columns categorical text, missing labels a level; all other text categorical, as files keep it."""
    for key in options.batch_key:
        design = design_from_table(adata.obs, key, missing=options.missing, allow_many_levels=True)
        adata.obs[key] = pd.Categorical(np.array(design.levels[0], dtype=object)[design.joint])
    with inputs.silent():
        adata.strings_to_categoricals()
