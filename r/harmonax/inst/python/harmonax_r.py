"""What the R package calls: cells and batch columns are read from R's own memory, the result is written to it.

Errors and warnings come back as values, for R to signal as conditions. KeyboardInterrupt goes through: reticulate makes
it R's own interrupt.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from harmonax.interop import (
    HarmonaxError,
    HarmonaxWarning,
    HarmonyResult,
    Status,
    checkpoint_has_seed,
    corrected_counts,
    design_from_table,
    harmonize,
    model_of,
    model_path,
    params_of,
    reference_levels,
    role_columns,
    slabs,
)

# R's matrices are stored by columns: they are transposed this many rows at a time, which stay in the cache.
_ROWS = 2048


class Outcome:
    """A result, or the error instead of it, with the warnings on the way."""

    def __init__(self) -> None:
        self.rows: Any = None
        self.stays: np.ndarray | None = None  # cells of a reference
        self.size = 0  # of corrected counts: how many are not 0
        self.result: HarmonyResult | None = None
        self.record: dict[str, Any] = {}
        self.summary, self.converged = "", True
        self.error: str | None = None
        self.kinds: list[str] = []
        self.warnings: list[str] = []


def correct(
    cells: Mapping[str, Any],
    columns: list[Mapping[str, Any]],
    options: dict[str, Any],
    progress: Callable[[str], None] | None = None,
    keep: bool = False,
) -> Outcome:
    """Correct an embedding of R; `deliver` writes the result to R's memory.

    Parameters
    ----------
    cells
        Address of the embedding, and its shape; ``across``: one column per cell.
    columns
        Batch columns: names, addresses, lengths and levels.
    options
        Parameters of Harmony and of the run, under harmonax's names.
    progress
        Called with a line of text after each round.
    keep
        Keep the `HarmonyResult`, and with it the cells' working copies.
    """
    outcome = Outcome()
    with _caught(outcome):
        run = {k: options.pop(k) for k in ("rng", "n_threads", "backend", "max_memory", "scratch") if k in options}
        how = {k: options.pop(k) for k in ("combine_keys", "missing", "allow_many_levels") if k in options}
        model = model_path(options.pop("save_model", None))
        checkpoint, drawn = options.pop("checkpoint", None), options.pop("drawn", False)
        if drawn and checkpoint is not None and checkpoint_has_seed(checkpoint):
            run["rng"] = None
        stays = {"reference": options.pop("reference", None)}
        protect, covariates = (_listed(options.pop(name, None)) for name in ("protect", "covariates"))
        params = params_of(options)
        table = pd.DataFrame({spec["name"]: _column(spec) for spec in columns}, copy=False)
        batches = [name for name in table.columns if name not in (*protect, *covariates)]
        design = design_from_table(table, batches, where="meta_data", **how)
        stays |= role_columns(table, protect or None, covariates or None, "meta_data", how)
        shape = int(cells["n_cells"]), int(cells["n_features"])
        # Where memory is short, rows are read from R's memory and the result stays in the scratch file. Else it takes
        # the place of the rows, which the native cells do not need once they are laid out.
        backend = run.get("backend", "auto")
        lean = run.get("max_memory") is not None or backend == "disk"
        Z = _as_stored(cells, shape) if lean else _rows(cells, shape, params.precision)
        result = harmonize(
            Z,
            design,
            params,
            **stays,
            out="lazy" if lean else Z if backend in ("auto", "memory") else None,
            checkpoint=checkpoint,
            progress=_line(progress, params.max_iter_harmony) if progress is not None else False,
            **run,
        )
        if model is not None:
            model_of(result).save(model, overwrite=True)
        outcome.rows = result.embedding
        if stays["reference"] is not None:
            kept = design.keeping(reference_levels(stays["reference"], design))
            outcome.stays = kept.fixed[kept.joint]
        outcome.record, outcome.summary = _plain(result.record()), result.summary()
        outcome.converged = result.status is not Status.MAX_ITERATIONS
        outcome.result = result if keep else None
    return outcome


def deliver(outcome: Outcome, address: str, cells: Mapping[str, Any]) -> Outcome:
    """Write the corrected embedding to R's memory, (N, d) by columns, and release it.

    A call of its own, so that R makes room for it when the engine's memory is free again. Cells of a reference get
    the values that R has of them, whatever the engine's precision.
    """
    delivered = Outcome()
    with _caught(delivered):
        target = _view(address, outcome.rows.shape, np.float64, "F")
        for start, rows in slabs(outcome.rows):
            _transpose(rows, target[start : start + len(rows)])
        if outcome.stays is not None:
            target[outcome.stays] = _as_stored(cells, target.shape)[outcome.stays]
        outcome.rows = None
    return delivered


def counts(
    genes: Mapping[str, Any], columns: list[Mapping[str, Any]], clusters: Mapping[str, Any], options: dict[str, Any]
) -> Outcome:
    """Correct counts of R; `deliver_counts` writes the result to R's memory.

    Parameters
    ----------
    genes
        A sparse matrix of R, whose columns are cells: addresses of ``i``, ``p`` and ``x``, and its sizes.
    columns
        Batch columns, as for `correct`.
    clusters
        Address of the soft assignments, clusters x cells by columns, and their number.
    options
        Of `harmonax.pp.correct_counts`.
    """
    outcome = Outcome()
    with _caught(outcome):
        n_cells, size = int(genes["n_cells"]), int(genes["size"])
        i, p = _view(genes["i"], (size,), np.int32), _view(genes["p"], (n_cells + 1,), np.int32)
        X = sparse.csr_matrix((_view(genes["x"], (size,), np.float64), i, p), (n_cells, int(genes["n_genes"])))
        table = pd.DataFrame({spec["name"]: _column(spec) for spec in columns})
        R = _view(clusters["data"], (n_cells, int(clusters["size"])), np.float64)
        outcome.rows = corrected_counts(X, table, R, **options)
        outcome.rows.sort_indices()
        outcome.size = outcome.rows.nnz
    return outcome


def deliver_counts(outcome: Outcome, place: Mapping[str, Any]) -> Outcome:
    """Write corrected counts to a sparse matrix of R that has room for them."""
    delivered = Outcome()
    with _caught(delivered):
        made, outcome.rows = outcome.rows, None
        for name, values, kind in (
            ("i", made.indices, np.int32),
            ("p", made.indptr, np.int32),
            ("x", made.data, float),
        ):
            _view(place[name], values.shape, kind)[:] = values
    return delivered


def assignments(result: HarmonyResult, address: str) -> Outcome:
    """Write R, (N, K) by rows, to R's memory: there it is a matrix of K x N."""
    outcome = Outcome()
    with _caught(outcome):
        _view(address, (result.design.n_cells, result.n_clusters), np.float64, "C")[:] = result.assignments()
    return outcome


def tables(result: HarmonyResult) -> dict[str, Any]:
    """Return the small tables of a result as flat lists: centroids (d, K), mass and level sizes (levels)."""
    design = result.design
    return {
        "Y": np.asarray(result.next_centroids).ravel().tolist(),
        "mass": np.asarray(result.cluster_mass).ravel().tolist(),
        "level_counts": design.level_counts.tolist(),
        "levels": [f"{v}={name}" for v, own in zip(design.variables, design.levels, strict=True) for name in own],
        "first": len(design.levels[0]),
    }


@contextmanager
def _caught(outcome: Outcome) -> Iterator[None]:
    """Turn errors and harmonax's warnings into values."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", HarmonaxWarning)
        try:
            yield
        except HarmonaxError as error:
            outcome.error = str(error)
            outcome.kinds = [kind.__name__ for kind in type(error).__mro__ if issubclass(kind, HarmonaxError)]
        except Exception as error:
            # What reticulate makes of a jump of R that crosses Python, which an interrupt is where R sees it first.
            if str(error) == "(Unknown exception occurred)":
                raise KeyboardInterrupt from None
            outcome.error = f"{type(error).__name__}: {error}"
    outcome.warnings = [str(warning.message) for warning in seen]


def _view(address: str, shape: tuple[int, ...], dtype: Any, order: Any = "C") -> np.ndarray:
    """Return R's memory as an array; R keeps it alive during the call."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    memory = (ctypes.c_char * size).from_address(int(address))
    return np.frombuffer(memory, kind).reshape(shape, order=order)


def _as_stored(cells: Mapping[str, Any], shape: tuple[int, int]) -> np.ndarray:
    """Return R's embedding where it is, cells as rows."""
    return _view(cells["data"], shape, np.float64, "C" if cells["across"] else "F")


def _rows(cells: Mapping[str, Any], shape: tuple[int, int], precision: str) -> np.ndarray:
    """Return a copy of the embedding in the engine's precision, row by row, as the engine gathers cells.

    It rounds to its precision first, so that rounding here changes no bit.
    """
    rows = np.empty(shape, precision)
    with np.errstate(over="ignore"):
        _transpose(_as_stored(cells, shape), rows)
    return rows


def _transpose(source: np.ndarray, target: np.ndarray) -> None:
    for start in range(0, len(source), _ROWS):
        target[start : start + _ROWS] = source[start : start + _ROWS]


def _column(spec: Mapping[str, Any]) -> Any:
    """Return a batch column: a factor's codes and levels, or numbers."""
    size = int(spec["size"])
    if spec["levels"] is None:
        return _view(spec["address"], (size,), np.float64 if spec["real"] else np.int32)
    codes = _view(spec["address"], (size,), np.int32)
    # R counts from 1; its NA is the smallest integer.
    return pd.Categorical.from_codes(np.where(codes > 0, codes - 1, -1), categories=list(spec["levels"]))


def _listed(names: Any) -> list[str]:
    """Return R's vector of names, of which one alone comes as text."""
    return [] if names is None else [names] if isinstance(names, str) else list(names)


def _line(show: Callable[[str], None], max_rounds: int) -> Callable[[int, int, float], None]:
    """Return a function that the engine calls after each pass; it reports a round to R when the next one begins.

    The last round is in the line that says how the run ended.
    """
    before = (1, float("nan"))

    def report(round_: int, pass_: int, objective: float) -> None:
        nonlocal before
        if round_ != before[0]:
            show(f"Harmony {before[0]}/{max_rounds}: objective {before[1]:.6g}")
        before = (round_, objective)

    return report


def _plain(value: Any) -> Any:
    """Return nested values as Python's own: reticulate would need NumPy's interface for the others."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value
