"""How long each step of a run will take and with how much memory, from the sizes that its input's files tell.

A step takes a fixed time and more for every value, cell or pair of cells that it goes through. The rates are CPU
seconds of `benchmarks/job.py` on the machine of docs/performance.md; on others they are in proportion.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

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
    """CPU seconds: of any run, per 10^6 values, per 10^3 cells; the share that threads divide; bytes held."""

    start: float
    values: float = 0.0
    cells: float = 0.0
    shared: float = 0.0
    bytes_per_value: float = 16.0
    bytes_per_cell: float = 3000.0


# CPU seconds per 10^6 values; 10^3 cells x 10^6 pairs of genes; 10^9 genes^3; 10^6 pairs of cells; 10^3 cells.
_CHOICE, _GRAM, _EIGEN, _PAIRS = 0.03, 0.03, 0.2, 0.0025
_ROUND, _LEIDEN = 0.25, 0.06
_APPROXIMATE = _Cost(42.0, cells=0.2)
# What Python and its libraries hold by themselves.
_PROCESS = 450 << 20
_COSTS = {
    "load": _Cost(0.5, 0.02, bytes_per_value=10),
    "qc": _Cost(0.3, 0.03, bytes_per_value=20),
    "normalise": _Cost(0.2, 0.01, bytes_per_value=24),
    "hvg": _Cost(0.0),
    "pca": _Cost(0.5, shared=0.9, bytes_per_value=19),
    "check": _Cost(2.0, cells=0.02, shared=0.5),
    "harmony": _Cost(0.1, cells=0.016, shared=0.9),
    "neighbors": _Cost(5.0, cells=0.03),
    "umap": _Cost(3.0),
    "umap_uncorrected": _Cost(0.5, cells=0.03),
    "leiden": _Cost(0.3, bytes_per_cell=9000),
    "markers": _Cost(3.0, 0.35, shared=0.5, bytes_per_cell=9000),
    "evaluate": _Cost(20.0, cells=0.1, shared=0.5),
    "diagnose": _Cost(5.0, cells=0.1, shared=0.5),
    "figures": _Cost(2.0, cells=0.02),
    "report": _Cost(2.0, cells=0.02),
    "write": _Cost(0.2, 0.2),
}


def forecast(
    paths: Sequence[str] | str, options: WorkflowOptions | None = None, *, n_threads: int | None = None
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
    o = options if options is not None else WorkflowOptions()
    names = [str(paths)] if isinstance(paths, (str, Path)) else [str(path) for path in paths]
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
    cost, values, cells = _COSTS[step], size.values / 1e6, size.cells / 1e3
    shared, alone = _more(step, size, o)
    cpu = cost.start + cost.values * values + cost.cells * cells
    shared, alone = shared + cpu * cost.shared, alone + cpu * (1 - cost.shared)
    held = float(size.values * cost.bytes_per_value)
    if size.beyond:
        held = min(held, float(parse_size(o.max_memory) or held)) if STEPS.index("harmony") > _place(step) else 0.0
    return Forecast(
        step, alone + shared / threads, alone + shared, int(_PROCESS + held + size.cells * cost.bytes_per_cell)
    )


def _place(step: str) -> int:
    return STEPS.index(step) if step in STEPS else -1 if step == "load" else len(STEPS)


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
