"""Plain arrays in, `HarmonyResult` out: what every front calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from .algorithm.harmony import Fit, Harmony
from .algorithm.seeding import seed_centroids, unit
from .columns import as_table, design_from_table
from .design import BatchDesign
from .errors import InputError, warn
from .params import HarmonyParams, ResolvedParams
from .progress import reporter
from .randomness import seed_from
from .result import HarmonyResult, History, Status
from .schedule import FixedPartition
from .threads import resolve_threads

Backend = Literal["auto", "memory", "dense"]
_BACKENDS = get_args(Backend)
_CHECK_ROWS = 1 << 16
# Tables (moments per combination of levels, penalties per block) above this many bytes are refused.
_MOST_TABLES = 8 << 30
# Squares of values up to here, summed over the features, stay finite in float32.
_LARGEST = 1e15
# ... and from here on do not vanish.
_SMALLEST = 1e-15


def harmonize(
    Z: Any,
    batches: Any,
    params: HarmonyParams | None = None,
    *,
    rng: Any = None,
    dtype: Any = None,
    n_threads: int | None = None,
    backend: Backend = "auto",
    combine_keys: bool = False,
    missing: Literal["error", "level"] = "error",
    allow_many_levels: bool = False,
    progress: bool | Callable[[int, int, float], None] | None = None,
) -> HarmonyResult:
    """Remove batch effects from an embedding.

    Parameters
    ----------
    Z
        Embedding, such as principal components, (N, d). Never changed.
    batches
        Batch labels of the N cells: an array (N,) or (N, F), a table or a dictionary with one column per variable,
        or a `BatchDesign`.
    params
        What to run; None: `HarmonyParams` as they come (Harmony2, at most 50 rounds).
    rng
        Seed, Generator, SeedSequence or None. The same seed gives the same bits, whatever the number of threads.
    dtype
        Of the returned embedding; None: that of the arithmetic (``params.precision``).
    n_threads
        Threads; None: the CPUs this process may use.
    backend
        Where the cells live: ``"memory"`` (native kernels), ``"dense"`` (plain NumPy, the reference; small N), or
        ``"auto"``.
    combine_keys, missing, allow_many_levels
        How batch columns are read: see `harmonax.pp.harmony_integrate`.
    progress
        Show a progress line on stderr; None: where that is a terminal. Or a function called after each pass with
        (round, pass, objective).

    Returns
    -------
    HarmonyResult
        With the corrected embedding (N, d) and how it was reached.

    Raises
    ------
    InputError
        If the embedding or the labels cannot be used.

    Notes
    -----
    Korsunsky et al. 2019, Nature Methods 16:1289; Patikas et al. 2026 (Harmony2).

    Examples
    --------
    >>> import numpy as np, harmonax
    >>> gen = np.random.default_rng(0)
    >>> batch = np.repeat(["a", "b"], 100)
    >>> Z = gen.normal(size=(200, 5)) + (batch == "b")[:, None]
    >>> result = harmonax.harmonize(Z, batch, rng=0)
    >>> result.embedding.shape
    (200, 5)
    """
    params = params if params is not None else HarmonyParams()
    Z = check_embedding(Z)
    how = {"combine_keys": combine_keys, "missing": missing, "allow_many_levels": allow_many_levels}
    design = batches if isinstance(batches, BatchDesign) else _read_batches(batches, how)
    if design.n_cells != len(Z):
        raise InputError(
            f"the embedding has {len(Z)} cells but the batch labels have {design.n_cells}; they must agree"
        )
    resolved = params.resolve(design)
    seed = seed_from(rng)
    if backend not in _BACKENDS:
        raise InputError(f"backend={backend!r} is not known; allowed are {', '.join(map(repr, _BACKENDS))}")
    n_threads = resolve_threads(n_threads)
    dtype = _result_dtype(dtype if dtype is not None else params.precision)
    for name in params.idle():
        warn(f"{name} has no effect with flavor='{params.flavor}' and ridge='{params.ridge}'")
    if design.n_joint == 1:
        warn(f"{', '.join(design.variables)}: {Status.SINGLE_BATCH.advice}")
        none = np.empty((0, Z.shape[1]))
        return HarmonyResult(Z.astype(dtype), Status.SINGLE_BATCH, History(), none, params, design, seed, {}, [], none)
    _check_tables(design, resolved, Z.shape[1])
    schedule_seed, centroid_seed = np.random.SeedSequence(seed).spawn(2)
    schedule = FixedPartition(params.n_blocks(len(Z)), schedule_seed)
    cells, described = _place(Z, design, schedule, params, n_threads, backend)
    Y = seed_centroids(cells, resolved.n_clusters, np.random.default_rng(centroid_seed))
    out = np.empty(Z.shape, dtype)
    with reporter(progress, params) as report:
        fit = Harmony(cells, design, schedule, resolved).run(Y, out, report)
    return _result(fit, cells, out, params, design, seed, described)


def _check_tables(design: BatchDesign, resolved: ResolvedParams, n_features: int) -> None:
    """Refuse batch variables whose tables would not be small."""
    moments = design.n_joint * resolved.n_clusters * n_features
    penalties = resolved.params.n_blocks(design.n_cells) * design.n_levels * resolved.n_clusters
    # With several variables each cluster has a ridge system, and that its factors.
    systems = 4 * (1 + design.n_levels) ** 2 if design.n_variables > 1 else 0
    size = 8 * (2 * moments + 3 * penalties + systems)
    if size > _MOST_TABLES:
        raise InputError(
            f"{', '.join(design.variables)}: {design.n_levels} levels in {design.n_joint} combinations need tables of "
            f"{size / 2**30:.0f} GiB; allowed are {_MOST_TABLES >> 30} GiB: use fewer batch variables, coarser ones, "
            "or fewer clusters"
        )


def _read_batches(batches: Any, how: dict[str, Any]) -> BatchDesign:
    table = as_table(batches)
    return design_from_table(table, table.columns.tolist(), where="batches", **how)


def _result(
    fit: Fit,
    cells: Any,
    out: np.ndarray,
    params: HarmonyParams,
    design: BatchDesign,
    seed: int,
    described: dict[str, Any],
) -> HarmonyResult:
    return HarmonyResult(
        embedding=out,
        status=fit.status,
        history=fit.history,
        centroids=fit.assigned.Y,
        params=params,
        design=design,
        seed=seed,
        backend=described,
        notes=fit.notes,
        next_centroids=np.where(fit.correction.skipped[:, None], fit.assigned.Y, unit(fit.correction.W0)),
        cluster_mass=fit.mass,
        _assignments=lambda: cells.assignments(fit.assigned),
    )


def check_embedding(Z: Any, what: str = "the embedding", cells: Sequence[Any] | None = None) -> np.ndarray:
    """Return Z as a 2-D float array without copying one that is; refuse what cannot be corrected.

    Parameters
    ----------
    Z
        Array, DataFrame or sparse matrix, (N, d).
    what, cells
        What messages call it, and the names of its cells.
    """
    array = as_array(Z, what)
    if array.ndim != 2:
        raise InputError(f"{what} has shape {array.shape}; allowed is (cells, features)")
    if array.dtype not in (np.dtype("float32"), np.dtype("float64")):
        # float16 and byte-swapped float32 fit into float32, which is half the memory.
        array = array.astype(np.float32 if array.dtype.kind == "f" and array.itemsize <= 4 else np.float64)
    if len(array) < 2:
        raise InputError(f"{what} has {len(array)} cells; at least 2 are needed")
    if array.shape[1] == 0:
        raise InputError(f"{what} has no features")
    bad, first, largest = 0, -1, 0.0
    for start in range(0, len(array), _CHECK_ROWS):
        slab = array[start : start + _CHECK_ROWS]
        # One maximum settles most slabs without an N x d array; NaN and infinity pass through it.
        top = float(np.abs(slab).max())
        if np.isfinite(top):
            largest = max(largest, top)
            continue
        rows = np.flatnonzero(~np.isfinite(slab).all(axis=1))
        bad += len(rows)
        first = start + int(rows[0]) if first < 0 else first
    if bad:
        which = f"cell '{cells[first]}'" if cells is not None else f"row {first}"
        raise InputError(f"{what} has NaN or infinite values in {bad} cells (first: {which}); remove or repair them")
    if largest > _LARGEST:
        raise InputError(f"{what} has values up to {largest:.1e}; allowed is up to {_LARGEST:.0e}: rescale it")
    if 0 < largest < _SMALLEST:
        raise InputError(f"{what} has no value above {largest:.1e}; allowed is from {_SMALLEST:.0e} on: rescale it")
    return array


def as_array(Z: Any, what: str) -> np.ndarray:
    """Return anything array-like as an array of real numbers."""
    try:
        if hasattr(Z, "to_numpy"):
            # pandas keeps its nullable numbers as objects unless told otherwise.
            array = np.asarray(Z)
            array = Z.to_numpy(np.float64, na_value=np.nan) if array.dtype == object else array
        else:
            array = np.asarray(Z.toarray() if hasattr(Z, "toarray") else Z)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} is not an array of numbers: {error}") from None
    if array.dtype.kind not in "fiub":
        raise InputError(f"{what} has dtype {array.dtype}; allowed are real numbers")
    return array


def _result_dtype(dtype: Any) -> np.dtype:
    try:
        known = np.dtype(dtype)
    except TypeError:
        raise InputError(f"dtype={dtype!r} is not known; allowed are float32 and float64") from None
    if known not in (np.dtype("float32"), np.dtype("float64")):
        raise InputError(f"dtype={known} is not known; allowed are float32 and float64")
    return known


def _place(
    Z: np.ndarray,
    design: BatchDesign,
    schedule: FixedPartition,
    params: HarmonyParams,
    n_threads: int,
    backend: Backend,
) -> tuple[Any, dict[str, Any]]:
    if backend == "dense":
        from .cells.dense import DenseCells

        return DenseCells(Z, design, schedule), {"cells": "dense"}
    from .cells.memory import MemoryCells

    cells = MemoryCells(Z, design, schedule, precision=params.precision, n_threads=n_threads)
    return cells, {"cells": "memory", "instruction_set": cells.instruction_set, "n_threads": cells.n_threads}
