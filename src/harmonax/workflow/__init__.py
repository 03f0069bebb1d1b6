"""The whole job: from raw counts to a corrected, clustered, evaluated data set and its report.

    options.py      everything a run can be told
    inputs.py       .h5ad, .zarr and 10x output, one or several joined
    out_of_core.py  counts beyond memory, as Dask arrays
    steps.py        the steps in their order; which of them a run does, by fingerprints of what the data have
      prepare.py      quality control, normalisation, genes, PCA
        components.py   PCA from the genes' covariance
      embed.py        Harmony, neighbours, UMAP, Leiden, markers
        nearest.py      exact neighbours
      assess.py       check, evaluation, diagnosis
    resume.py       what an interrupted run leaves for the next
    forecast.py     what each step will take, by the sizes that extent.py reads of the files (--dry-run)
    meter.py        seconds, memory, lines on stderr
    outputs.py      the files, whole or not at all
      summaries.py    tables and records among them
    job.py          one run as a value: its data, its options, its folder, how each step went
    execute.py      a run from its data to its files: each step done, kept, skipped or taken up again
    run.py          `run` and `run_files`

A front over scanpy, umap-learn, igraph and the rest of this package, which do the work.
"""

from __future__ import annotations

from .forecast import Forecast, forecast
from .options import OPTIONAL, STEPS, WorkflowOptions
from .run import run, run_files
from .state import Done

__all__ = ["OPTIONAL", "STEPS", "Done", "Forecast", "WorkflowOptions", "forecast", "run", "run_files"]
