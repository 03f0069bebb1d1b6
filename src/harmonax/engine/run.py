"""An embedding and batch labels in, `HarmonyResult` out: what every interface calls."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from ..algorithm.flavors import FLAVORS
from ..algorithm.harmony import Harmony
from ..algorithm.schedule import FixedPartition
from ..algorithm.seeding import seed_centroids, unit
from ..cells import BACKENDS, BackendName
from ..design import BatchDesign
from ..errors import InputError, warn
from ..inputs.columns import Missing, as_table, check_order, design_from_table
from ..inputs.covariates import with_covariates
from ..inputs.embedding import Kind, kind_of, read_embedding
from ..inputs.roles import named_roles, with_roles
from ..inputs.rows import slabs
from ..inputs.values import end_digest
from ..params import HarmonyParams, ResolvedParams
from ..result import HarmonyResult, History, Status
from ..system.arguments import check_arguments
from ..system.cpus import resolve_threads
from ..system.memory import human, zeros
from ..system.progress import reporter
from ..system.rng import seed_from
from .budget import table_size
from .older import named_one_by_one
from .placement import ResourceRequest, make_cells
from .reference import held, restore

Backend = Literal["auto", BackendName]
# Tables (moments per combination of levels, penalties per block) above this many bytes are refused.
MAX_TABLES = 8 << 30


def harmonize(
    Z: Any,
    batches: Any,
    params: HarmonyParams | str | Sequence[str] | None = None,
    *,
    batch_key: str | Sequence[str] | None = None,
    reference: Any = None,
    protect: Any = None,
    covariates: Any = None,
    rng: Any = None,
    dtype: Any = None,
    n_threads: int | None = None,
    backend: Backend = "auto",
    max_memory: int | str | None = None,
    scratch: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    out: Any = None,
    combine_keys: bool = False,
    missing: Missing = "error",
    allow_many_levels: bool = False,
    progress: bool | Callable[[int, int, float], None] | None = None,
    **older: Any,
) -> HarmonyResult:
    """Remove batch effects from an embedding.

    Parameters
    ----------
    Z
        Embedding, such as principal components, (N, d). Never changed. Anything else that gives rows as
        ``Z[start:stop]``, such as a data set of HDF5 or Zarr, is read in pieces where the cells live on disk. A Dask
        array stays on its cluster.
    batches
        Batch labels of the N cells: an array (N,) or (N, F), a table or a dictionary with one column per variable,
        or a `BatchDesign`.
    params
        What to run; None: the defaults of `HarmonyParams` (Harmony2, at most 50 rounds). A name, or several, is taken
        as `batch_key`, which was harmony-pytorch's third argument.
    batch_key
        Columns of `batches`, where that is a table with others too. None: all of its columns.
    reference
        Level or levels whose cells stay where they are, to the last bit; the others are brought to them. With several
        batch variables a dictionary of levels by variable; a cell with one of these levels stays.
    protect
        Biology that must stay, such as a condition: labels as `batches`, or names of columns of it where that is a
        table. Batch effects are estimated at equal condition, and mixing is judged within conditions. Several columns
        protect their combinations. What a condition with one batch only has of its own cannot be told from that batch.
    covariates
        Numeric columns whose effect is removed beside that of the batches, such as depth or a cell-cycle score: (N,) or
        (N, C) numbers, a table of them, or names of columns of `batches` where that is a table. Each is centred and
        scaled to unit variance, and has a slope of its own in each cluster; it is not mixed. Where all cells are of one
        batch nothing is done.
    rng
        Seed, Generator, SeedSequence or None. The same seed gives the same bits, whatever the number of threads.
    dtype
        Of the returned embedding; None: that of the arithmetic (``params.precision``).
    n_threads
        Number of threads; None: the CPUs this process may use. More threads take less time; the result does not depend
        on it.
    backend
        Where the cells live: ``"memory"`` or ``"disk"`` (native kernels; the same bits), ``"dask"`` (the workers of a
        cluster; Z must be a Dask array), ``"jax"`` (a GPU, a TPU), ``"dense"`` (plain NumPy, the reference; small N),
        or ``"auto"``: the cluster for a Dask array where there is a client, memory where it suffices, else disk.
    max_memory
        Maximum memory of this process, in bytes or such as ``"4G"``; None: all that is free. With more than the cells
        need, Harmony2 keeps the distances of a round, and passes take a quarter of the time; with less the cells live
        on disk. The bits are the same.
    scratch
        Directory of the scratch file when the cells live on disk, which takes 2 N d values; None: ``$TMPDIR``, or
        ``/var/tmp``.
    checkpoint
        Directory for the tables of every round. Called again with the same arguments, a stopped run resumes
        after its last round, with the same bits.
    out
        What takes the result as ``out[start:stop] = rows``, such as a data set of HDF5 or Zarr, and becomes
        ``result.embedding``; None: an array, or a Dask array for cells on a cluster. ``"lazy"``: where the cells live
        on disk, ``result.embedding`` gives rows as ``[start:stop]`` from the scratch file.
    combine_keys, missing, allow_many_levels
        How batch columns are read: see `harmonax.pp.harmony_integrate`.
    progress
        Show a progress line on stderr; None: where that is a terminal. Or a function called after each pass with
        (round, pass, objective).
    **older
        Parameters by their names in `HarmonyParams`, which change those of `params`, and harmony-pytorch's
        ``random_state``, ``n_jobs``, ``verbose`` and ``use_gpu``.

    Returns
    -------
    HarmonyResult
        With the corrected embedding (N, d) and how it was reached.

    Raises
    ------
    InputError
        If the embedding or the labels cannot be used, a level or column is not there, or `max_memory` does not
        suffice.
    OutputError
        If the scratch file or the checkpoint cannot be written.

    Notes
    -----
    Korsunsky et al. 2019, Nature Methods 16:1289; Patikas et al. 2026 (Harmony2). `reference`, `protect` and
    `covariates` are additions: docs/algorithm.md.

    Examples
    --------
    >>> import numpy as np, harmonax
    >>> gen = np.random.default_rng(0)
    >>> batch = np.repeat(["a", "b"], 100)
    >>> Z = gen.normal(size=(200, 5)) + (batch == "b")[:, None]
    >>> result = harmonax.harmonize(Z, batch, rng=0)
    >>> result.embedding.shape
    (200, 5)
    >>> fixed = harmonax.harmonize(Z, batch, reference="a", dtype=float, rng=0)
    >>> bool((fixed.embedding[:100] == Z[:100]).all())
    True
    """
    check_arguments(harmonize, locals())
    if params is not None and not isinstance(params, HarmonyParams):
        if batch_key is not None:
            raise InputError(f"params={params!r} is not HarmonyParams, and batch_key names the columns already")
        params, batch_key = None, params
    params = params if params is not None else HarmonyParams()
    if older:
        params, asked = named_one_by_one(params, {"rng": rng, "n_threads": n_threads, "progress": progress}, older)
        rng, n_threads, progress = asked["rng"], asked["n_threads"], asked["progress"]
    if backend not in (allowed := ("auto", *BACKENDS)):
        raise InputError(f"backend={backend!r} is not known; allowed are {', '.join(map(repr, allowed))}")
    threads = resolve_threads(n_threads)
    request = ResourceRequest.of(backend, n_threads, max_memory, scratch, out)
    kept = _checkpoint(checkpoint)
    given, (Z, digest) = Z, _embedding(Z, hashed=kept is not None)
    how = {"combine_keys": combine_keys, "missing": missing, "allow_many_levels": allow_many_levels}
    check_order(given, batches)
    design = batches if isinstance(batches, BatchDesign) else _read_batches(batches, batch_key, how)
    if design.n_cells != Z.shape[0]:
        raise InputError(
            f"the embedding has {Z.shape[0]} cells but the batch labels have {design.n_cells}; they must agree"
        )
    plain, design = design, with_roles(design, batches, reference, protect, how)
    whole, bound_by = Z, None
    if covariates is not None:
        design, whole, bound_by = with_covariates(design, Z, batches, covariates, digest)
    resolved = params.resolve(design)
    seed = kept.seed if kept is not None and kept.seed is not None and rng is None else seed_from(rng)
    dtype = result_dtype(dtype if dtype is not None else params.precision)
    lazy = isinstance(out, str) and out == "lazy"
    if out is not None and not lazy and tuple(np.shape(out)) != tuple(Z.shape):
        raise InputError(f"out has shape {np.shape(out)}; allowed is that of the embedding, {tuple(Z.shape)}")
    for name in params.without_effect():
        warn(f"{name} has no effect with flavor='{params.flavor}' and ridge='{params.ridge}'")
    if plain.n_joint == 1:
        return _unchanged(Z, plain, params, seed, zeros(Z.shape, dtype) if out is None or lazy else out)
    _check_tables(design.carried, resolved, whole.shape[1], threads)
    schedule_seed, centroid_seed = np.random.SeedSequence(seed).spawn(2)
    schedule = FixedPartition(params.n_blocks(design.n_cells), schedule_seed)
    cache = not FLAVORS[params.flavor].moves_centroids
    fed = digest if whole is Z else None
    placed = make_cells(whole, design.carried, schedule, resolved, request, dtype=dtype, cache=cache, digest=fed)
    cells = placed.cells
    sha256 = end_digest(digest, plain) if digest is not None else None
    bound = sha256 if digest is None or design is plain else end_digest(digest, design, bound_by)
    seeding = np.random.default_rng(centroid_seed)
    target = None if placed.result_stays else zeros(Z.shape, dtype) if out is None or lazy else out
    # The result may take the place of the embedding.
    kept_cells = held(Z, target, design)
    with contextlib.closing(cells), kept if kept is not None else contextlib.nullcontext():
        run = (params, seed, str(bound), schedule.n_blocks, resolved.sigma, placed.description)
        past = kept.begin(*run) if kept is not None else []
        Y = past[-1].assigned.Y if past else seed_centroids(cells, resolved.n_clusters, seeding)
        with ThreadPoolExecutor(threads) as pool, reporter(progress, params.max_iter_harmony) as report:
            keep = kept.keep if kept is not None else lambda ended: None
            loop = Harmony(cells, design, schedule, resolved, threads, pool.map)
            fit = loop.run(Y, target, report, past, keep)
    if design.reference and target is not None:
        restore(target, Z, kept_cells, design)
    levels = slice(design.n_batch_levels)
    return HarmonyResult(
        embedding=cells.embedding.astype(dtype) if placed.result_stays else target,
        status=fit.status,
        history=fit.history,
        centroids=fit.assigned.Y,
        params=params,
        design=plain,
        seed=seed,
        backend=placed.description,
        notes=fit.notes,
        next_centroids=np.where(fit.correction.skipped[:, None], fit.assigned.Y, unit(fit.correction.W0)),
        cluster_mass=fit.mass[levels],
        ridge=fit.correction.W[levels],
        slopes=fit.correction.W[len(fit.correction.W) - len(design.covariates) :],
        moment=fit.moment,
        data_sha256=sha256,
        roles=named_roles(design),
        _assignments=lambda: cells.assignments(fit.assigned),
    )


def _checkpoint(directory: str | os.PathLike[str] | None) -> Any:
    if directory is None:
        return None
    from .checkpoint import Checkpoint

    return Checkpoint(directory)


def _embedding(Z: Any, *, hashed: bool) -> tuple[Any, Any]:
    """Return the embedding, checked as far as it is in memory, and the hash its values go into, if any."""
    embedding = read_embedding(Z)
    return embedding.source, embedding.digest() if hashed or not embedding.in_memory else None


def _unchanged(Z: Any, design: BatchDesign, params: HarmonyParams, seed: int, out: Any) -> HarmonyResult:
    """Return the input: with one batch there is nothing to correct."""
    warn(f"{', '.join(design.variables)}: {Status.SINGLE_BATCH.advice}")
    if kind_of(Z) is Kind.DASK:
        out = Z.astype(out.dtype)
    else:
        for start, rows in slabs(Z):
            out[start : start + len(rows)] = rows
    none = np.empty((0, Z.shape[1]))
    return HarmonyResult(out, Status.SINGLE_BATCH, History(), none, params, design, seed, {}, [], none)


def _check_tables(design: BatchDesign, resolved: ResolvedParams, n_features: int, n_threads: int) -> None:
    """Refuse batch variables whose tables would not be small."""
    size = table_size(design, resolved, n_features, n_threads)
    if size > MAX_TABLES:
        raise InputError(
            f"{', '.join(design.variables)}: {design.n_levels} levels in {design.n_joint} combinations need tables of "
            f"{human(size)}; allowed are {human(MAX_TABLES)}: use fewer batch variables, coarser ones, "
            "or fewer clusters"
        )


def _read_batches(batches: Any, batch_key: str | Sequence[str] | None, how: dict[str, Any]) -> BatchDesign:
    table = as_table(batches)
    return design_from_table(table, table.columns.tolist() if batch_key is None else batch_key, where="batches", **how)


def result_dtype(dtype: Any) -> np.dtype:
    """Return the dtype of a result, float32 or float64."""
    try:
        known = np.dtype(dtype)
    except TypeError:
        raise InputError(f"dtype={dtype!r} is not known; allowed are float32 and float64") from None
    if known not in (np.dtype("float32"), np.dtype("float64")):
        raise InputError(f"dtype={known} is not known; allowed are float32 and float64")
    return known
