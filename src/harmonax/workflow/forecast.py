"""How long each step of a run will take and with how much memory, from the sizes that its input's files tell.

A step takes a fixed time and more for every value, cell or pair of cells that it goes through. The rates are CPU
seconds of `benchmarks/job.py` on the machine of docs/performance.md; on others they are in proportion.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..system.arguments import check_arguments
from ..system.cpus import resolve_threads
from ..system.memory import human, parse_size
from .embed import EXACT_UP_TO, SMALL_MAP
from .extent import Extent, extent
from .options import STEPS, WorkflowOptions
from .steps import up_to


class Forecast(NamedTuple):
    """What a step will take: seconds by the clock, on all CPUs, memory that the process holds; or why nothing."""

    step: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    note: str = ""


class _Cost(NamedTuple):
    """CPU seconds: of any run, per 10^6 values, per 10^3 cells; the share that threads divide; memory.

    Of memory, what Python, its libraries and tables of genes take (MiB), and bytes per value and per cell beside it.
    """

    start: float
    values: float = 0.0
    cells: float = 0.0
    shared: float = 0.0
    process: int = 730
    bytes_per_value: float = 16.6
    bytes_per_cell: float = 200.0


# CPU seconds per 10^6 values; 10^3 cells x 10^6 pairs of genes; 10^9 genes^3; 10^6 pairs of cells; 10^3 cells.
_CHOICE, _GRAM, _EIGEN, _PAIRS = 0.03, 0.031, 0.12, 0.0025
_ROUND, _LEIDEN = 0.21, 0.05
# Embeddings, graph and columns of a cell.
_BYTES_PER_CELL = 1200
_APPROXIMATE = _Cost(42.0, cells=0.2)
# From the runs of `benchmarks/job.py` on 10,000 and 100,000 cells.
_COSTS = {
    "load": _Cost(0.3, 0.024, process=500, bytes_per_value=8.6),
    "qc": _Cost(0.1, 0.028, process=480, bytes_per_value=21.3),
    "normalise": _Cost(0.0, 0.018, process=480, bytes_per_value=24.5),
    "hvg": _Cost(0.0, process=540),
    "pca": _Cost(0.0, process=910),
    "check": _Cost(1.8, cells=0.017, shared=0.8),
    "harmony": _Cost(0.5, cells=0.012, shared=0.8),
    "neighbors": _Cost(4.3, cells=0.025),
    "umap": _Cost(0.5),
    "umap_uncorrected": _Cost(0.3, cells=0.025),
    "leiden": _Cost(0.0, bytes_per_cell=5600),
    "markers": _Cost(0.0, 0.3, shared=0.7, process=930, bytes_per_cell=7200),
    "evaluate": _Cost(23.0, cells=0.35, shared=0.2, process=1070, bytes_per_cell=1500),
    "diagnose": _Cost(8.5, cells=0.1, shared=0.2, process=1070, bytes_per_cell=1500),
    "figures": _Cost(1.2, cells=0.02, process=1070, bytes_per_cell=1300),
    "report": _Cost(0.3, cells=0.03, process=1050, bytes_per_cell=5000),
    "write": _Cost(0.1, 0.165, process=1050, bytes_per_cell=1300),
}


def forecast(
    paths: Sequence[str | Path] | str | Path, options: WorkflowOptions | None = None, *, n_threads: int | None = None
) -> list[Forecast]:
    """Return what each step of `run_files` will take; no expression is read, and nothing is written.

    Parameters
    ----------
    paths, options
        As for `run_files`.
    n_threads
        Threads; None: those of the options, by default all that there are.

    Returns
    -------
    list of Forecast
        One for each step, in their order, with "load", "figures", "report" and "write". Results of an earlier run that
        this one would keep are counted as if they were made again.

    Raises
    ------
    InputError
        If a file is missing or lacks the counts.
    FileFormatError
        If a file is truncated, corrupt or of another kind.

    Examples
    --------
    >>> from harmonax.workflow import forecast
    >>> sum(step.seconds for step in forecast("counts.h5ad"))  # doctest: +SKIP
    """
    check_arguments(forecast, locals())
    o = options if options is not None else WorkflowOptions()
    names = [str(paths)] if isinstance(paths, (str, Path)) else [str(path) for path in paths]
    if not names:
        raise InputError("no input; name at least one file")
    size = extent(names, o.counts_layer, parse_size(o.max_memory))
    threads = resolve_threads(n_threads if n_threads is not None else o.n_threads)
    given = up_to(o.start_from) if o.start_from not in (None, "counts") else set()
    made = []
    for step in ("load", *STEPS, "figures", "report", "write"):
        if step in o.skip:
            made.append(Forecast(step, note="skipped, as asked"))
        elif step in given:
            made.append(Forecast(step, note=f"not done: it starts from {o.start_from}"))
        elif step == "markers" and size.beyond:
            made.append(Forecast(step, note="skipped: the expression is beyond memory"))
        else:
            made.append(_step(step, size, o, threads))
    return made


def _step(step: str, size: Extent, o: WorkflowOptions, threads: int) -> Forecast:
    cost, held = _COSTS[step], float(size.values)
    if size.beyond:
        # Pieces of it up to the PCA, and nothing from there on.
        early = step == "load" or step in STEPS[: STEPS.index("check")]
        held = min(held, (parse_size(o.max_memory) or 0) / cost.bytes_per_value) if early else 0.0
    through = size.values if held else 0
    shared, alone = _more(step, size, o)
    cpu = cost.start + cost.values * through / 1e6 + cost.cells * size.cells / 1e3
    shared, alone = shared + cpu * cost.shared, alone + cpu * (1 - cost.shared)
    # In memory, these lie in what earlier steps gave back.
    own = cost.bytes_per_cell + (_BYTES_PER_CELL if size.beyond else 0.0)
    peak = (cost.process << 20) + held * cost.bytes_per_value + size.cells * own
    return Forecast(step, alone + shared / threads, alone + shared, int(peak))


def _more(step: str, size: Extent, o: WorkflowOptions) -> tuple[float, float]:
    """Return the CPU seconds of what is not in proportion to values or cells: those that threads divide, and others."""
    cells, genes = size.cells / 1e3, min(o.n_top_genes, size.genes) / 1e3
    if step == "hvg" and size.genes > o.n_top_genes:
        return 0.0, _CHOICE * size.values / 1e6
    if step == "pca":
        return _GRAM * cells * genes**2, _EIGEN * genes**3
    if step == "leiden":
        return 0.0, _LEIDEN * cells * len(o.resolutions)
    shared = alone = 0.0
    if step in ("neighbors", "umap_uncorrected"):
        exact = size.cells <= EXACT_UP_TO
        shared, alone = (_PAIRS * cells**2, 0.0) if exact else (0.0, _APPROXIMATE.start + _APPROXIMATE.cells * cells)
    if step in ("umap", "umap_uncorrected"):
        alone += _ROUND * cells * (5 if size.cells <= SMALL_MAP else 1)
    return shared, alone


def as_text(paths: Sequence[str], options: WorkflowOptions) -> str:
    """Return what `forecast` says as a table, and the sum of the times."""
    size, steps = extent(paths, options.counts_layer, parse_size(options.max_memory)), forecast(paths, options)
    where = ", beyond memory" if size.beyond else ""
    lines = [f"estimate for {size.cells:,} cells x {size.genes:,} genes, {size.values:,} stored values{where}:"]
    for step in steps:
        took = step.note or f"{step.seconds:>10,.0f} s{human(step.peak_memory_bytes):>12}"
        lines.append(f"{step.step:<18}{took}")
    seconds, peak = sum(step.seconds for step in steps), max(step.peak_memory_bytes for step in steps)
    return "\n".join([*lines, f"{'in all':<18}{seconds:>10,.0f} s{human(peak):>12}"])
