"""The parameters of a differentiable correction, as one frozen value that is checked when made."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ...algorithm.flavors import FLAVORS, FlavorRules
from ...errors import InputError
from ...params import Flavor, HarmonyParams
from ...system.arguments import check_arguments
from ...system.validate import listed, number, one_of, whole_number

LEARNABLE = ("theta", "sigma", "ridge")


@dataclass(frozen=True)
class BatchCorrectionConfig:
    """Parameters of `DifferentiableHarmony`, checked when made.

    Parameters
    ----------
    n_clusters
        Number of soft clusters K. More clusters correct finer groups of cells separately, and take more time and
        memory.
    n_features
        Number of features F of the embedding.
    n_batches
        Required. Number of levels of the batch variable, or one number per variable. Labels run from 0 to that
        number - 1; levels that no cell carries change nothing.
    n_iterations
        Number of rounds; with `early_stop`, the maximum. More rounds correct more completely, and take more time and,
        with unrolled gradients, memory.
    theta, sigma
        Strength of the diversity penalty, default 2, and width of the soft clusters, default 0.235; see
        `HarmonyParams`. A higher theta mixes batches more strongly; a higher sigma makes the clusters softer, a lower
        one harder. Where they are learned, these are the values they start from. A theta of 0 stays 0. See the notes
        for why sigma and alpha do not start where the engine's do.
    temperature
        The effective width is sigma x temperature: higher values soften all clusters, lower values harden them. Not
        learned.
    flavor, tau, ridge, ridge_lambda, alpha, batch_prune_threshold, block_proportion
        As in `HarmonyParams`, but for alpha, which is 0.01. Higher ridge_lambda and alpha correct less. Tables have the
        cells' precision: with several variables of which one is nested in another, and a fixed ridge_lambda below a
        thousandth of a cluster's mass, float32 is exact to about 1e-7 x mass / lambda only (the dynamic ridge is not
        concerned); use x64 there.
    n_passes
        Number of clustering passes in a round; with `early_stop`, the maximum. More passes bring the clusters closer to
        their optimum, and take more time; fewer leave them less settled.
    learn
        Which of ``"theta"``, ``"sigma"`` and ``"ridge"`` (alpha, or the fixed ridge_lambda) are learnable parameters.
    learnable_centroids
        Make the first centroids a learnable parameter too, instead of seeding them from the data of every call.
    differentiation
        ``"unrolled"``: the gradient of the rounds that were run. ``"implicit"``: the gradient at the fixed point of a
        round, in the memory of one round; refused where the rounds have not converged. Both in forward and in reverse
        mode, and so for second derivatives.
    early_stop
        For inference: stop as the engine does, by `tol_harmony` and `tol_clustering`. Has no gradient: asked for one,
        it raises an `InputError`. Forward-mode derivatives work.
    linear_solver
        With ``"implicit"``, how the linear equation behind the gradient is solved: ``"fixed_point"``, the default,
        repeats it, which converges as the rounds did; ``"gmres"`` and ``"bicgstab"`` need fewer rounds' derivatives
        where they converge slowly. Where it is not solved, the gradient is NaN; `DifferentiableHarmony.linear_residual`
        says how well it is.
    tol_harmony, tol_clustering
        Relative change of the objective below which rounds and passes stop, with `early_stop`. Higher values stop
        earlier, lower values take more rounds and passes.
    tol_fixed_point
        With ``"implicit"``: largest change that one more round may make to a unit-length cell. Lower values demand more
        rounds, and make the gradient more exact; higher values accept a rougher one.
    reference
        Levels whose cells stay where they are, bit for bit, by number; with several variables numbered through, so that
        those of the second come after those of the first. The other cells are brought to them.
    n_protected
        Number of levels of what must stay, such as a condition, which each cell has in ``data["protect"]``; 0, the
        default: nothing is protected.
    n_covariates
        Number of columns of ``data["covariates"]``, numbers whose effect is removed; they are standardised over the
        cells that may move.

    Raises
    ------
    InputError
        If a value is outside its allowed range.

    Notes
    -----
    The engine's defaults are sigma 0.1 and alpha 0.2. With the first, batches that lie far apart fill clusters of
    their own, where nothing is corrected and every gradient is 0, so that learning cannot begin. With the second, a
    sixth of a shift between batches is left. ``sigma=0.1, alpha=0.2`` gives what `harmonax.harmonize` gives by
    default, and at equal parameters the two agree always: see `DifferentiableHarmony.harmony_params`.

    The defaults here were chosen on five small examples of batches that lie apart (the two tutorials' data): for
    10 seeds each, sigma 0.232 to 0.237 mixes all of them to at least 0.95 of chance within types. Below, batches whose
    shift points where types differ do not meet (0.87 at 0.23); above, batches of unequal proportions of types are
    pulled together (0.83 at 0.25). Of 40 other made-up examples (100 to 800 cells, 2 to 5 batches, shifts of scale 1 to
    3, 1 to 4 types, 5 to 20 clusters) they mix 24 of the 25 whose types lie in different directions to at least 0.95 of
    chance, with all types apart, and 6 of the 15 whose types differ by their distance from the origin alone, which
    Harmony, comparing directions, cannot tell apart. They are where learning begins, not what suits all data.

    Examples
    --------
    >>> from harmonax.operators import BatchCorrectionConfig
    >>> BatchCorrectionConfig(n_features=30, n_batches=(3, 2), theta=(2.0, 1.0)).levels
    (3, 2)
    """

    n_clusters: int = 20
    n_features: int = 50
    n_batches: int | tuple[int, ...] | None = None
    n_iterations: int = 10
    theta: float | tuple[float, ...] = 2.0
    sigma: float | tuple[float, ...] = 0.235
    temperature: float = 1.0
    flavor: Flavor = "harmony2"
    n_passes: int = 4
    tau: float = 0.0
    ridge: Literal["dynamic", "fixed"] | None = None
    ridge_lambda: float | tuple[float, ...] = 1.0
    alpha: float = 0.01
    batch_prune_threshold: float | None = 1e-5
    block_proportion: float = 0.05
    learn: str | tuple[str, ...] = LEARNABLE
    learnable_centroids: bool = False
    differentiation: Literal["unrolled", "implicit"] = "unrolled"
    linear_solver: Literal["fixed_point", "gmres", "bicgstab"] = "fixed_point"
    early_stop: bool = False
    tol_harmony: float = 1e-4
    tol_clustering: float = 1e-5
    tol_fixed_point: float = 1e-3
    reference: int | tuple[int, ...] = ()
    n_protected: int = 0
    n_covariates: int = 0

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        if self.n_batches is None:
            raise InputError("n_batches is required: the number of levels of the batch variable, or one per variable")
        several = isinstance(self.n_batches, (Sequence, np.ndarray))
        levels = tuple(self.n_batches) if several else (self.n_batches,)  # type: ignore[arg-type]
        if not levels:
            raise InputError("n_batches is empty; give the number of levels of every batch variable")
        levels = tuple(whole_number(n, "n_batches", minimum=1, maximum=2**31) for n in levels)
        put("n_batches", levels if several else levels[0])
        for name in ("n_features", "n_clusters"):
            put(name, whole_number(getattr(self, name), name, minimum=1))
        shared = self._params()
        for name in ("theta", "sigma", "ridge_lambda", "alpha", "tau", "ridge", "tol_harmony", "tol_clustering"):
            put(name, getattr(shared, name))
        put("n_iterations", shared.max_iter_harmony)
        put("n_passes", shared.max_iter_clustering)
        put("batch_prune_threshold", shared.batch_prune_threshold)
        put("block_proportion", shared.block_proportion)
        for name in ("temperature", "tol_fixed_point"):
            put(name, number(getattr(self, name), name, minimum=0, exclusive=True))
        check_arguments(BatchCorrectionConfig, vars(self))
        put("learn", tuple(listed(self.learn)))
        unknown = [name for name in self.learn if name not in LEARNABLE]
        if unknown:
            raise InputError(f"learn has {unknown[0]!r}; allowed are {', '.join(map(repr, LEARNABLE))}")
        self._check_roles()
        one_of(self.differentiation, "differentiation", ("unrolled", "implicit"))
        one_of(self.linear_solver, "linear_solver", ("fixed_point", "gmres", "bicgstab"))
        if self.early_stop and self.differentiation == "implicit":
            raise InputError("early_stop has no gradient: leave it off with differentiation='implicit'")
        if np.ndim(self.sigma) and np.size(self.sigma) not in (1, self.n_clusters):
            raise InputError(
                f"sigma has {np.size(self.sigma)} values; allowed are 1 or one per cluster ({self.n_clusters})"
            )
        for name in ("theta", "ridge_lambda"):
            self.index_per_level(name)

    def _params(self) -> HarmonyParams:
        names = (
            "flavor n_clusters theta sigma tau ridge ridge_lambda alpha batch_prune_threshold "
            "block_proportion tol_harmony tol_clustering"
        )
        shared = {name: getattr(self, name) for name in names.split()}
        return HarmonyParams(max_iter_harmony=self.n_iterations, max_iter_clustering=self.n_passes, **shared)

    def _check_roles(self) -> None:
        for name in ("n_protected", "n_covariates"):
            object.__setattr__(self, name, whole_number(getattr(self, name), name, minimum=0, maximum=2**31))
        named = self.reference if isinstance(self.reference, (Sequence, np.ndarray)) else (self.reference,)
        most = self.offsets[-1] - 1
        reference = sorted({whole_number(n, "reference", minimum=0, maximum=most) for n in named})
        if any(set(range(a, b)) <= set(reference) for a, b in itertools.pairwise(self.offsets)):
            raise InputError("reference: every cell has one of these levels, so none may move; name fewer levels")
        object.__setattr__(self, "reference", tuple(reference))

    @property
    def fixed(self) -> tuple[int, ...]:
        """The reference's levels."""
        return self.reference if isinstance(self.reference, tuple) else (self.reference,)

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Number of levels of every batch variable."""
        return self.n_batches if isinstance(self.n_batches, tuple) else (int(self.n_batches or 0),)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each variable's levels begin in a table over all levels, with their number B at the end."""
        return (0, *(int(n) for n in np.cumsum(self.levels)))

    @cached_property
    def all_levels(self) -> tuple[int, ...]:
        """Number of levels of every batch variable, and of the protected one, which comes last."""
        return (*self.levels, self.n_protected) if self.n_protected else self.levels

    @cached_property
    def all_offsets(self) -> tuple[int, ...]:
        """Where each variable's levels begin, the protected one's too, with their number at the end."""
        return (0, *(int(n) for n in np.cumsum(self.all_levels)))

    @cached_property
    def rules(self) -> FlavorRules:
        """What the flavor does."""
        return FLAVORS[self.flavor]

    @cached_property
    def pruning(self) -> float | None:
        """The prune threshold in force; None where the flavor does not prune."""
        return self._params().pruning

    @property
    def params(self) -> HarmonyParams:
        """The engine's parameters for the same run. With tolerances 0 it stops only where an objective repeats."""
        stop = (self.tol_harmony, self.tol_clustering) if self.early_stop else (0.0, 0.0)
        sigma = np.multiply(self.sigma, self.temperature).tolist()
        return self._params().replace(sigma=sigma, tol_harmony=stop[0], tol_clustering=stop[1])

    @cached_property
    def structure(self) -> BatchCorrectionConfig:
        """This configuration without the values that are data to traced code, so that they compile nothing anew."""
        values: dict[str, Any] = {"theta": 1.0, "sigma": 1.0, "ridge_lambda": 1.0, "alpha": 1.0, "temperature": 1.0}
        return dataclasses.replace(self, **values, learn=LEARNABLE, learnable_centroids=False, tol_fixed_point=1.0)

    def index_per_level(self, name: str) -> np.ndarray:
        """Return which of the values given for `name` each of the B levels has, (B,)."""
        one_of(name, "name", ("theta", "ridge_lambda"))
        size, n_levels, n_variables = np.size(getattr(self, name)), self.offsets[-1], len(self.levels)
        if size == n_levels:
            return np.arange(n_levels)
        if size == n_variables:
            return np.repeat(np.arange(n_variables), self.levels)
        if size == 1:
            return np.zeros(n_levels, np.int64)
        raise InputError(
            f"{name} has {size} values; allowed are 1, one per batch variable ({n_variables}) "
            f"or one per level of all variables ({n_levels})"
        )
