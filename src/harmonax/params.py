"""The parameters of a run, as one frozen value that is checked when made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .design import BatchDesign
from .errors import InputError
from .system.arguments import check_arguments
from .system.validate import number, one_of, whole_number

Flavor = Literal["harmony2", "harmony1"]
# The tolerance that no change is below.
NEVER = -1.0
# What each flavor allows: kinds of ridge penalty, the default first, and pruning. What it does: `algorithm/flavors.py`.
_RIDGES: dict[Flavor, tuple[str, ...]] = {"harmony2": ("dynamic", "fixed"), "harmony1": ("fixed",)}
_PRUNES: dict[Flavor, bool] = {"harmony2": True, "harmony1": False}
Floats = float | Sequence[float] | np.ndarray


@dataclass(frozen=True)
class HarmonyParams:
    """Parameters of Harmony, checked when made.

    Parameters
    ----------
    flavor
        ``"harmony2"`` (Patikas et al. 2026) or ``"harmony1"`` (Korsunsky et al. 2019).
    n_clusters
        Number of soft clusters K. None: ``min(100, N / 30)``, at least 2. More clusters correct finer groups of cells
        separately, and take more time; with fewer, distinct cell types share one correction.
    max_iter_harmony, max_iter_clustering
        Maximum number of rounds, and of clustering passes in a round. Raise them where a run ends before it has
        converged; lower values take less time.
    tol_harmony, tol_clustering
        Relative change of the objective below which rounds and passes stop. Higher values stop earlier, lower values
        take more rounds and passes. Any negative value, such as the -inf of older scripts, never stops: all rounds are
        run; it is kept as -1.
    sigma
        Width of the soft clusters; one number or one per cluster. Higher values spread each cell over more clusters,
        so that corrections vary more smoothly; lower values come closer to hard clusters.
    theta
        Strength of the diversity penalty: one number, one per batch variable, or one per level of all variables
        in turn. Higher values mix batches more strongly within clusters, also where their cells differ by biology;
        0 removes the penalty, not the ridge correction: cells still move.
    tau
        Protects small batches: their theta is multiplied by ``1 - exp(-(N_b / (K tau))^2)``. Higher values protect
        larger batches too; 0 switches it off.
    ridge
        ``"dynamic"`` (lambda = alpha E, harmony2 only) or ``"fixed"`` (lambda = ridge_lambda). None: the
        flavor's default.
    ridge_lambda
        Fixed ridge penalty, > 0: one number, one per batch variable, or one per level. Higher values correct less,
        above all where a batch has few cells in a cluster; lower values correct more.
    alpha
        Dynamic ridge penalty relative to the expected mass, > 0. Higher values correct less, lower values more.
    batch_prune_threshold
        A level is left out of a cluster's correction where less than this share of its cells is there
        (harmony2). Higher values leave out more levels; None: no pruning.
    correction_method
        ``"fast"`` (closed form, or Schur complement and Cholesky) or ``"original"`` (one explicit solve per cluster).
    block_proportion
        Share of the cells reassigned at a time, in (0, 1]. Lower values update the penalty more often in a pass,
        and take a little more time.
    precision
        Arithmetic of the cells, ``"float32"`` or, with twice the memory, ``"float64"``. Tables are always float64.

    Raises
    ------
    InputError
        If a value is outside its allowed range.

    Examples
    --------
    >>> from harmonax import HarmonyParams
    >>> HarmonyParams(theta=[2, 1], max_iter_harmony=20).theta
    (2.0, 1.0)
    """

    flavor: Flavor = "harmony2"
    n_clusters: int | None = None
    max_iter_harmony: int = 50
    max_iter_clustering: int = 200
    tol_harmony: float = 1e-4
    tol_clustering: float = 1e-5
    sigma: float | tuple[float, ...] = 0.1
    theta: float | tuple[float, ...] = 2.0
    tau: float = 0.0
    ridge: Literal["dynamic", "fixed"] | None = None
    ridge_lambda: float | tuple[float, ...] = 1.0
    alpha: float = 0.2
    batch_prune_threshold: float | None = 1e-5
    correction_method: Literal["fast", "original"] = "fast"
    block_proportion: float = 0.05
    precision: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        one_of(self.flavor, "flavor", tuple(_RIDGES))
        one_of(self.correction_method, "correction_method", ("fast", "original"))
        one_of(self.precision, "precision", ("float32", "float64"))
        if self.n_clusters is not None:
            put("n_clusters", whole_number(self.n_clusters, "n_clusters", minimum=1))
        put("max_iter_harmony", whole_number(self.max_iter_harmony, "max_iter_harmony", minimum=1))
        put("max_iter_clustering", whole_number(self.max_iter_clustering, "max_iter_clustering", minimum=1))
        for name in ("tol_harmony", "tol_clustering"):
            put(name, _tolerance(name, getattr(self, name)))
        put("tau", number(self.tau, "tau", minimum=0))
        # Absurdly large values would overflow float32 tables.
        put("sigma", _numbers("sigma", self.sigma, 0.0, exclusive=True, high=1e10))
        put("theta", _numbers("theta", self.theta, 0.0, high=1e10))
        put("ridge_lambda", _numbers("ridge_lambda", self.ridge_lambda, 0.0, exclusive=True, high=1e30))
        put("alpha", number(self.alpha, "alpha", minimum=0, exclusive=True))
        if self.batch_prune_threshold is not None:
            put("batch_prune_threshold", number(self.batch_prune_threshold, "batch_prune_threshold", minimum=0))
        share = number(self.block_proportion, "block_proportion", minimum=0, maximum=1, exclusive=True)
        put("block_proportion", share)
        if self.ridge is None:
            put("ridge", _RIDGES[self.flavor][0])
        one_of(self.ridge, "ridge", ("dynamic", "fixed"))
        if self.ridge not in _RIDGES[self.flavor]:
            others = ", ".join(name for name, ridges in _RIDGES.items() if self.ridge in ridges)
            raise InputError(
                f"ridge={self.ridge!r} belongs to {others}; {self.flavor} has a {_RIDGES[self.flavor][0]} ridge_lambda"
            )

    @property
    def pruning(self) -> float | None:
        """The prune threshold in force; None where the flavor does not prune."""
        return self.batch_prune_threshold if _PRUNES[self.flavor] else None

    def without_effect(self) -> list[str]:
        """Return the parameters that differ from their default without having an effect, by flavor and ridge.

        Examples
        --------
        >>> from harmonax import harmony1
        >>> harmony1(alpha=0.5, tau=5).without_effect()
        ['alpha']
        """
        unused = ["alpha"] if self.ridge == "fixed" else ["ridge_lambda"]
        if not _PRUNES[self.flavor]:
            unused.append("batch_prune_threshold")
        return [name for name in unused if getattr(self, name) != getattr(HarmonyParams, name)]

    def n_blocks(self, n_cells: int) -> int:
        """Return the number of blocks the cells are cut into."""
        n_cells = whole_number(n_cells, "n_cells", minimum=1)
        # round, not floor: 1 // 0.05 is 19 in floating point.
        return max(1, round(min(n_cells, 1.0 / self.block_proportion)))

    def resolve(self, design: BatchDesign) -> ResolvedParams:
        """Return the per-cluster and per-level arrays for this data."""
        check_arguments(HarmonyParams.resolve, locals())
        n_cells = design.n_cells
        n_clusters = self.n_clusters if self.n_clusters is not None else max(2, min(100, round(n_cells / 30)))
        if n_clusters > n_cells:
            raise InputError(f"n_clusters={n_clusters} is more than the {n_cells} cells; pass at most {n_cells}")
        sigma = np.asarray(self.sigma, np.float64)
        if sigma.ndim and sigma.size not in (1, n_clusters):
            raise InputError(f"sigma has {sigma.size} values; allowed are 1 or one per cluster ({n_clusters})")
        theta = design.per_level("theta", self.theta)
        if self.tau > 0:
            theta = theta * -np.expm1(-((design.level_counts / (n_clusters * self.tau)) ** 2))
        return ResolvedParams(
            params=self,
            n_clusters=n_clusters,
            sigma=np.broadcast_to(sigma, (n_clusters,)).astype(np.float64),
            theta=theta,
            ridge_lambda=design.per_level("ridge_lambda", self.ridge_lambda),
        )

    def replace(self, **changes: Any) -> HarmonyParams:
        """Return a copy with some values changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, for JSON and ``adata.uns``."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


@dataclass(frozen=True)
class ResolvedParams:
    """`HarmonyParams` together with what they become on one data set."""

    params: HarmonyParams
    n_clusters: int
    sigma: np.ndarray  # (K,)
    theta: np.ndarray  # (B,), after tau
    ridge_lambda: np.ndarray  # (B,)


def harmony1(**changes: Any) -> HarmonyParams:
    """Return the parameters of Harmony as published in 2019."""
    return HarmonyParams(flavor="harmony1", **changes)


def harmony2(**changes: Any) -> HarmonyParams:
    """Return the parameters of Harmony2, the default."""
    return HarmonyParams(flavor="harmony2", **changes)


def _tolerance(name: str, value: Any) -> float:
    """Return a tolerance; of the negative ones, which no change is below, -1."""
    if isinstance(value, (float, np.floating)) and value == -math.inf:
        return NEVER
    found = number(value, name)
    return found if found >= 0 else NEVER


def _numbers(
    name: str, value: Any, low: float, *, exclusive: bool = False, high: float = math.inf
) -> float | tuple[float, ...]:
    how: dict[str, Any] = {"minimum": low, "maximum": high, "exclusive": exclusive}
    if np.ndim(value) == 0:
        return number(value, name, **how)
    if np.ndim(value) > 1 or len(value) == 0:
        raise InputError(f"{name} must be one number or a flat, non-empty list; got shape {np.shape(value)}")
    return tuple(number(v, name, **how) for v in value)
