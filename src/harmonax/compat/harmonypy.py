"""harmonypy's interface: `run_harmony` with its signature, and a result with its attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..algorithm.seeding import unit
from ..engine.run import Backend, harmonize
from ..errors import InputError
from ..inputs.arrays import as_numpy
from ..inputs.arrays import as_table as as_pandas
from ..inputs.columns import Missing, as_table, check_order, design_from_table
from ..inputs.embedding import Embedding, as_array, read_embedding
from ..inputs.roles import role_columns
from ..params import Floats
from ..result import HarmonyResult, Status, announce
from ..system.arguments import check_arguments
from .names import HARMONYPY, OLDER, merge, params_of


class HarmonypyResult:
    """A result with harmonypy's attributes; cells are rows, as in harmonypy 2.

    Attributes
    ----------
    Z_corr, Z_orig, Z_cos
        Corrected and original embedding, and the corrected one with rows of unit length, (N, d) float64.
    R
        Soft assignments, (N, K) float64; computed when first asked for. (N, 0) for a single batch.
    Y
        Centroids after the last correction, (d, K) float64.
    K
        Number of clusters.
    objective_harmony
        J_0 and the objective at the end of every round.
    objective_kmeans
        J_0 and the objective after every clustering pass.
    kmeans_rounds
        Number of passes in each round.
    details
        The `HarmonyResult`: status, seed, parameters and everything else.
    """

    def __init__(self, details: HarmonyResult, original: np.ndarray) -> None:
        self.details = details
        self._original = original

    @property
    def Z_corr(self) -> np.ndarray:
        return self.details.embedding

    @cached_property
    def Z_orig(self) -> np.ndarray:
        return np.array(self._original, np.float64)

    @cached_property
    def Z_cos(self) -> np.ndarray:
        return unit(self.Z_corr)

    @cached_property
    def R(self) -> np.ndarray:
        R = self.details.assignments()
        return np.asarray(R, np.float64) if self.K else np.empty((len(self.Z_corr), 0))

    @property
    def Y(self) -> np.ndarray:
        return np.ascontiguousarray(self.details.next_centroids.T)

    @property
    def K(self) -> int:
        return self.details.n_clusters

    @property
    def objective_harmony(self) -> list[float]:
        return [] if self._nothing_done else [float(v) for v in self.details.history.rounds]

    @property
    def objective_kmeans(self) -> list[float]:
        history = self.details.history
        return [] if self._nothing_done else [float(history.initial), *history.total]

    @property
    def kmeans_rounds(self) -> list[int]:
        return list(self.details.history.passes)

    def result(self) -> np.ndarray:
        """Return Z_corr."""
        return self.Z_corr

    def __repr__(self) -> str:
        n, d = self.Z_corr.shape
        return f"HarmonypyResult({n} cells x {d}, K={self.K}: {self.details.summary()})"

    @property
    def _nothing_done(self) -> bool:
        return self.details.status is Status.SINGLE_BATCH


def run_harmony(
    data_mat: Any,
    meta_data: pd.DataFrame | Mapping[str, Any],
    vars_use: str | Sequence[str],
    theta: Floats | None = None,
    lamb: Floats | None = None,
    sigma: Floats = 0.1,
    nclust: int | None = None,
    tau: float = 0,
    block_size: float = 0.05,
    max_iter_harmony: int = 10,
    max_iter_kmeans: int = 4,
    epsilon_cluster: float = 1e-3,
    epsilon_harmony: float = 1e-2,
    alpha: float = 0.2,
    batch_prop_cutoff: float | None = 1e-5,
    verbose: bool = True,
    random_state: Any = 0,
    ncores: int = 0,
    *,
    reference: Any = None,
    protect: str | Sequence[str] | None = None,
    covariates: str | Sequence[str] | None = None,
    precision: Literal["float32", "float64"] = "float32",
    n_threads: int | None = None,
    backend: Backend = "auto",
    combine_keys: bool = False,
    missing: Missing = "error",
    allow_many_levels: bool = False,
    ridge: Literal["dynamic", "fixed"] | None = None,
    progress: bool | Callable[[int, int, float], None] | None = None,
    plot_convergence: Any = None,
    reference_values: Any = None,
    cluster_prior: Any = None,
    cluster_fn: Any = None,
    device: Any = None,
    do_pca: Any = None,
) -> HarmonypyResult:
    """Run Harmony2 with harmonypy's arguments and defaults.

    The defaults are harmonypy's own (4 passes a round, a tolerance of 1e-2), so that its users get its answer; they
    often stop early. `harmonax.harmonize` and `harmonax.pp.harmony_integrate` have tighter ones.

    Parameters
    ----------
    data_mat
        Embedding, (N, d) or (d, N): array or DataFrame. Where both sides are N it is taken as cells x features.
    meta_data
        One row per cell: a DataFrame, or a dictionary of columns.
    vars_use
        Batch column or columns of `meta_data`; several are separate variables whose penalties multiply.
    theta
        Strength of the diversity penalty: one number, one per column, or one per level of all columns. None: 2. Higher
        values mix batches more strongly; 0 removes the penalty, not the correction.
    lamb
        Fixed ridge penalty: one number, one per column, or one per level. None, or -1 as in harmonypy: dynamic. Higher
        values correct less, lower values more.
    sigma
        Width of the soft clusters: one number or one per cluster. Higher values spread each cell over more clusters.
    nclust
        Number of clusters K. None: ``min(100, N / 30)``, at least 2. More clusters correct finer groups of cells.
    tau
        Protects small batches: their theta is multiplied by ``1 - exp(-(N_b / (K tau))^2)``. Higher values protect
        larger batches too; 0 switches it off.
    block_size
        Share of the cells reassigned at a time, in (0, 1]. Lower values update the penalty more often in a pass.
    max_iter_harmony, max_iter_kmeans
        Maximum number of rounds, and of clustering passes in a round. Raise them where a run ends before it has
        converged; lower values take less time.
    epsilon_cluster, epsilon_harmony
        Relative changes of the objective below which passes and rounds stop. Higher values stop earlier.
    alpha
        Dynamic ridge penalty, relative to the expected number of cells. Higher values correct less, lower values more.
    batch_prop_cutoff
        A batch is left out of a cluster's correction where less than this share of its cells is there. Higher values
        leave out more batches; None: never.
    verbose
        Show a progress line where stderr is a terminal, and log how the run ended. False: neither.
    random_state
        Seed, Generator, SeedSequence, or None for a fresh seed.
    ncores
        Number of threads; 0: the CPUs this process may use. More take less time; the result does not depend on it.
    reference, protect, covariates, precision, n_threads, backend, combine_keys, missing, allow_many_levels, ridge,
    progress
        As in `harmonax.pp.harmony_integrate`; `n_threads` and `progress` replace `ncores` and `verbose`.
    reference_values
        Older name of `reference`.
    plot_convergence, cluster_prior, cluster_fn, device, do_pca
        What scripts carry from earlier versions: taken where it changes nothing, else answered with today's way.

    Returns
    -------
    HarmonypyResult
        With ``Z_corr`` (N, d). Code written for harmonypy before 0.1, where it was (d, N), says ``ho.Z_corr.T``: there
        the ``.T`` must go.

    Raises
    ------
    MissingKeyError
        If a column is not there; a ValueError and a KeyError.
    InputError
        If a parameter, the embedding or the labels cannot be used; a ValueError.

    Notes
    -----
    Korsunsky et al. 2019, Nature Methods 16:1289; Patikas et al. 2026 (Harmony2).

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from harmonax import run_harmony
    >>> gen = np.random.default_rng(0)
    >>> meta = pd.DataFrame({"batch": np.repeat(["a", "b"], 100)})
    >>> ho = run_harmony(gen.normal(size=(200, 5)) + (meta[["batch"]] == "b").to_numpy(), meta, "batch")
    >>> ho.Z_corr.shape, ho.Y.shape == (5, ho.K)
    ((200, 5), True)
    """
    check_arguments(run_harmony, locals())
    asked = locals()
    older = {name: value for name, value in asked.items() if name in OLDER}
    ours = {name: value for name, value in asked.items() if name not in HARMONYPY and name not in OLDER}
    theirs = {name: value for name, value in asked.items() if name in HARMONYPY}
    if n_threads is not None and ncores == 0:
        del theirs["ncores"]
    if progress is not None and verbose:
        del theirs["verbose"]
    if reference_values is None:
        del theirs["reference_values"]
    options = merge(ours, theirs | older, run_harmony)
    table = _table(meta_data)
    embedding = _cells_by_features(data_mat, table)
    design = design_from_table(
        table,
        vars_use,
        where="meta_data",
        combine_keys=combine_keys,
        missing=missing,
        allow_many_levels=allow_many_levels,
    )
    how: dict[str, Any] = {"missing": missing, "allow_many_levels": allow_many_levels}
    result = harmonize(
        embedding,
        design,
        params_of(options),
        reference=options["reference"],
        **role_columns(table, protect, covariates, "meta_data", how),
        rng=options["rng"],
        dtype=np.float64,
        n_threads=options["n_threads"],
        backend=backend,
        progress=options["progress"],
    )
    if verbose:
        announce(result)
    return HarmonypyResult(result, embedding.array())


def _table(meta_data: Any) -> pd.DataFrame:
    meta_data = as_pandas(meta_data)
    if not isinstance(meta_data, (pd.DataFrame, Mapping)):
        raise InputError(f"meta_data is a {type(meta_data).__name__}; allowed are a DataFrame or a dict of columns")
    return as_table(meta_data)


def _cells_by_features(data_mat: Any, table: pd.DataFrame) -> Embedding:
    """Return the embedding with cells as rows, whichever way round it came."""
    data = as_numpy(data_mat, "data_mat")
    data = data if hasattr(data, "shape") and hasattr(data, "T") else as_array(data, "data_mat")
    n_cells, shape = len(table), tuple(data.shape)
    if len(shape) != 2 or n_cells not in shape:
        raise InputError(f"data_mat has shape {shape} but meta_data has {n_cells} cells; one side must be the cells")
    across = shape[0] != n_cells
    data = data.T if across else data
    if isinstance(data, pd.DataFrame):
        check_order(data, table, ("data_mat", "meta_data"))
    return read_embedding(data, what="data_mat", cells=table.index).load()
