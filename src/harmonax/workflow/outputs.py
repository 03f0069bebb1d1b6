"""The files of a run: made in its work folder, then moved to their places, all or none of them."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import io
from ..errors import OutputError
from ..pp.correctors import corrector_of
from ..system.memory import human
from . import meter, steps, summaries
from .inputs import silent
from .job import Job
from .prepare import scanpy
from .resume import Work, versions
from .state import Done, State

if TYPE_CHECKING:
    from anndata import AnnData

RESULT = "integrated.h5ad"
FIGURES = ("figures/evaluation.png", "figures/umap.png", "figures/markers.png")
# In the order in which they take their places: the result is there when all that goes with it is.
NAMES = (*FIGURES, "metrics.tsv", "versions.yml", "harmonax_mqc.json", "report.html", "run.json", RESULT)


def check_places(job: Job, work: Work) -> None:
    """Refuse, before any work, a folder in which the results have no place."""
    overwrite = _may_overwrite(job, work)
    for name in NAMES:
        place = job.folder / name
        if name in FIGURES:
            if place.exists() and not overwrite:
                raise OutputError(f"{place} exists already; choose another folder, or pass --overwrite")
            continue
        try:
            io.check_destination(place, inputs=[*job.inputs, *job.also_read], overwrite=overwrite)
        except OutputError as error:
            raise OutputError(str(error).replace("choose another name", "choose another folder")) from None


def _may_overwrite(job: Job, work: Work) -> bool:
    # What a run left that was killed while its files took their places, the result last, is its own.
    return job.overwrite or (bool(work.publishing) and not (job.folder / RESULT).exists())


def record(state: State, job: Job) -> None:
    """Keep in ``uns["harmonax_workflow"]`` how each step went."""
    adata = state.adata
    earlier = adata.uns.get("harmonax_workflow", {})
    kept = {name: earlier[name] for name in ("genes", "cells", "types", "quality") if name in earlier}
    kept.setdefault("genes", {"n_genes_before": adata.n_vars, "n_genes_after": adata.n_vars})
    marks, known = steps.fingerprints(state), earlier.get("fingerprints", {})
    done = {step.step for step in job.done if step.status == "done"}
    adata.uns["harmonax_workflow"] = {
        **kept,
        "steps": summaries.steps_table(job.done),
        # Of what others made there is none: only by these is a result kept the next time.
        "fingerprints": {k: v for k, v in marks.items() if k in done or known.get(k) == v},
        "options": json.dumps(job.options.to_dict()),
        "versions": versions(),
        "command": job.command,
        "started": datetime.datetime.fromtimestamp(job.started, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "inputs": _texts([fact.get("path", "memory") for fact in job.facts]),
    }


def _texts(values: list[str]) -> Any:
    import numpy as np

    return np.array(values, dtype=object) if values else np.array([], dtype=str)


def write(state: State, job: Job, work: Work, mark: str) -> None:
    """Make all files, then move them to their places."""
    made = work.folder / "out"
    (made / "figures").mkdir(parents=True, exist_ok=True)
    adata = state.adata
    needed = _size(adata)
    io.check_space(job.folder / RESULT, needed)
    _timed(job, "figures", lambda: _figures(adata, made, job))
    _timed(job, "report", lambda: _report(adata, made / "report.html", job))
    _timed(job, "write", lambda: _data(adata, made, job))
    files = [name for name in NAMES if (made / name).exists()] + ["run.json"]
    io.write_json(made / "run.json", summaries.run_json(adata, job, sorted(files)))
    overwrite = _may_overwrite(job, work)
    work.begin_publishing(mark)
    _publish(made, job.folder, overwrite, needed)


def _timed(job: Job, name: str, work: Callable[[], str]) -> None:
    clock = meter.Meter()
    with meter.live_line(name, "", job.live):
        note = work()
    job.finish(Done(name, "done", note, **clock.took()))


def _data(adata: AnnData, made: Path, job: Job) -> str:
    from ..io.annotated import nullable_strings

    summaries.write_metrics(made / "metrics.tsv", adata)
    summaries.write_versions(made / "versions.yml")
    summaries.write_multiqc(made / "harmonax_mqc.json", adata, job)
    with silent(), nullable_strings():
        adata.write_h5ad(made / RESULT, compression="gzip", compression_opts=1)
    return f"{job.folder / RESULT}"


def _report(adata: AnnData, path: Path, job: Job) -> str:
    from ..report import write_report

    o = job.options
    # Quality control may have removed some, and of expression beyond memory there is none left.
    genes = [gene for gene in o.genes if gene in adata.var_names and adata.X is not None]
    columns = [name for name in o.color_by if name in adata.obs]
    write_report(adata, path, color_by=columns or None, genes=genes or None, rng=o.seed)
    return human(path.stat().st_size)


def _publish(made: Path, out: Path, overwrite: bool, needed: int) -> None:
    names = [name for name in NAMES if (made / name).exists()]
    figures = out / "figures"
    was_there = figures.is_dir()
    figures.mkdir(exist_ok=True)
    places = [Path(os.path.realpath(out / name)) for name in names]
    try:
        with io.whole_or_nothing(*places, overwrite=overwrite, needed=needed) as parts:
            for name, part in zip(names, parts, strict=True):
                os.replace(made / name, part)
        # An earlier run may have made a figure that this one has not.
        for name in set(NAMES) - set(names):
            (out / name).unlink(missing_ok=True)
    except BaseException:
        if not was_there:
            with contextlib.suppress(OSError):
                figures.rmdir()
        raise


def _size(adata: AnnData) -> int:
    """Return about how many bytes the data set takes on the disk."""
    arrays = [adata.X, *(value for name, value in adata.layers.items() if name is not None)]
    arrays += [*adata.obsm.values(), *adata.obsp.values()]
    size = 0
    for value in arrays:
        value = getattr(value, "data", value) if hasattr(value, "indptr") else value
        size += int(getattr(value, "nbytes", 0)) * (2 if hasattr(value, "indptr") else 1)
    return size


def _figures(adata: AnnData, made: Path, job: Job) -> str:
    import matplotlib.pyplot as plt

    drawn = []
    with silent(), plt.rc_context({"figure.dpi": 100, "savefig.dpi": 150}):
        for name, draw in (("evaluation", _evaluation), ("umap", _umaps), ("markers", _dot_plot)):
            if draw(adata, made / f"figures/{name}.png", job.options):
                drawn.append(name)
            plt.close("all")
    return ", ".join(drawn)


def _evaluation(adata: AnnData, path: Path, options: Any) -> bool:
    if "harmonax_evaluation" not in adata.uns:
        return False
    from ..pl.metrics import metrics

    metrics(adata, show=False, save=path)
    return True


def _umaps(adata: AnnData, path: Path, options: Any) -> bool:
    from ..pl.embedding import embedding
    from ..pl.views import BEFORE_AFTER

    labels = [options.label_key] if options.label_key else []
    # Where a UMAP was skipped, the first two dimensions of the embeddings themselves.
    both = all(name in adata.obsm for name in BEFORE_AFTER)
    bases = BEFORE_AFTER if both else ("X_pca", corrector_of(options.corrector).adjusted_basis)
    clusters = [] if "leiden" in options.skip else ["leiden"]
    embedding(adata, [*options.batch_key, *labels, *clusters], bases=bases, show=False, save=path)
    return True


def _dot_plot(adata: AnnData, path: Path, options: Any) -> bool:
    if "rank_genes_groups" not in adata.uns:
        return False
    import matplotlib.pyplot as plt

    scanpy().pl.rank_genes_groups_dotplot(
        adata, n_genes=3, show=False, dendrogram=False, standard_scale="var", use_raw=False
    )
    plt.gcf().savefig(path, bbox_inches="tight")
    return True
