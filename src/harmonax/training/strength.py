"""Learned strength: theta, sigma and the ridge penalty by gradient through Harmony, without labels.

A separate loop, not `fit`: one compilation serves all weights of preservation, the best step is returned, not the last,
and sigma is widened where the gradient vanishes at the start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from flax import nnx

from ..errors import InputError
from ..losses import BatchMixingLoss, NeighborhoodPreservationLoss, checks
from ..operators.harmony.checks import check
from ..operators.harmony.operator import BatchCorrectionConfig, DifferentiableHarmony
from ..params import Flavor, HarmonyParams
from ..system.arguments import check_arguments
from ..system.rng import seed_from
from ..system.validate import number, whole_number

_CLIP = 1.0
# A gradient of a smaller norm leads nowhere: sigma is then widened by this factor.
_FLAT = 1e-6
_WIDEN = 2.0


@dataclass(frozen=True)
class StrengthConfig:
    """How strength is learned; checked when made.

    Parameters
    ----------
    n_clusters, n_iterations
        Soft clusters, default 20, and rounds, default 10, of the correction that is differentiated. More clusters
        correct finer groups, more rounds correct more completely; both take more time and memory.
    flavor
        ``"harmony2"``, the default, whose ridge strength is alpha, or ``"harmony1"``, with a fixed ridge_lambda.
    theta, sigma
        Where they begin; defaults 2 and 0.5; theta is one number or one per batch variable. A higher theta mixes more
        strongly, a higher sigma makes clusters softer. sigma begins wide: at Harmony's default of 0.1, batches that lie
        apart fill separate soft clusters, and the gradient vanishes. Where it does, sigma is doubled, a step each time,
        until there is one.
    ridge
        Where alpha, or ridge_lambda, begins: higher corrects less. None: Harmony's defaults, 0.2, or 1.
    preservation
        Weight of `NeighborhoodPreservationLoss` against `BatchMixingLoss`; default 1. Higher values correct more
        gently; lower values mix more strongly.
    n_neighbors
        Size of neighbourhoods in both losses; default 15. Higher values mix, and preserve, wider regions, and take more
        memory.
    steps, learning_rate
        Number of updates of Adam, default 100, and their size, default 0.1, on the logarithms of the strengths. More
        steps come closer to the optimum, and take more time; higher rates learn faster, and may overshoot.
    patience
        Steps without a lower loss after which learning ends; None, the default: it takes all steps. Higher values may
        find a lower one, and take more time.

    Raises
    ------
    InputError
        If a value is outside its allowed range.
    """

    n_clusters: int = 20
    n_iterations: int = 10
    flavor: Flavor = "harmony2"
    theta: float | tuple[float, ...] = 2.0
    sigma: float = 0.5
    ridge: float | None = None
    preservation: float = 1.0
    n_neighbors: int = 15
    steps: int = 100
    learning_rate: float = 0.1
    patience: int | None = None

    def __post_init__(self) -> None:
        check_arguments(StrengthConfig, vars(self))
        for name, low in (("steps", 0), ("n_neighbors", 1)):
            object.__setattr__(self, name, whole_number(getattr(self, name), name, minimum=low))
        if self.patience is not None:
            object.__setattr__(self, "patience", whole_number(self.patience, "patience", minimum=1))
        for name in ("preservation", "learning_rate"):
            object.__setattr__(self, name, number(getattr(self, name), name, minimum=0))

    def operator(self, n_features: int, n_batches: tuple[int, ...], seed: int, **roles: Any) -> DifferentiableHarmony:
        """Return the correction with its strengths where they begin."""
        start = HarmonyParams(flavor=self.flavor)
        name = "alpha" if start.ridge == "dynamic" else "ridge_lambda"
        config = BatchCorrectionConfig(
            n_clusters=self.n_clusters,
            n_features=n_features,
            n_batches=n_batches,
            n_iterations=self.n_iterations,
            flavor=self.flavor,
            theta=self.theta,
            sigma=self.sigma,
            **roles,
            **{name: getattr(start, name) if self.ridge is None else self.ridge},  # type: ignore[arg-type]
        )
        return DifferentiableHarmony(config, rngs=nnx.Rngs(seed_from(seed) % (1 << 32)))


@dataclass(frozen=True, eq=False)
class LearnedStrength:
    """What `learn_strength` found.

    Attributes
    ----------
    operator
        The correction with the strengths of the best step.
    history
        One row per step and one for the end: ``loss``, ``mixing``, ``preservation``, ``theta`` (mean over variables),
        ``sigma``, ``ridge``, and ``slope``, the norm of the gradient.
    best
        The step whose loss was the lowest.
    """

    operator: DifferentiableHarmony
    history: pd.DataFrame
    best: int

    @property
    def params(self) -> HarmonyParams:
        """The engine's parameters for the same correction."""
        return self.operator.harmony_params()


def learn_strength(
    embedding: Any,
    batch_labels: Any,
    config: StrengthConfig | None = None,
    *,
    rng: Any = 0,
    report: Callable[[int, dict[str, float]], None] | None = None,
    reference: Sequence[int] = (),
    protect: Any = None,
    covariates: Any = None,
) -> LearnedStrength:
    """Learn theta, sigma and ridge strength: mixing of batches against preservation of each batch's neighbourhoods.

    The loss is the mean of `BatchMixingLoss` over the batch variables, plus ``config.preservation`` times
    `NeighborhoodPreservationLoss` within the batches. No cell types are looked at. With `protect`, batches are to mix
    among the cells of each protected level.

    Parameters
    ----------
    embedding
        N cells x d.
    batch_labels
        Integers from 0, (N,), or (N, variables).
    config
        How; None: the defaults of `StrengthConfig`.
    rng
        Seed, Generator, SeedSequence or None: of the first centroids and the schedule.
    report
        Called after each step with its number and its row of the history.
    reference, protect, covariates
        Numbers of the levels whose cells stay, numbered through over the variables; levels of what must stay, integers
        from 0, (N,); and numbers whose effect is removed, (N, covariates).

    Returns
    -------
    LearnedStrength
        The strengths of the best step; ``learned.params`` are those that `harmonax.harmonize` takes.

    Raises
    ------
    InputError
        If the data cannot be used, or the very first loss is not finite.

    Examples
    --------
    >>> import numpy as np, harmonax
    >>> gen, batch = np.random.default_rng(0), np.repeat([0, 1], 40)
    >>> Z = gen.normal(size=(80, 5)) + 4 * batch[:, None]
    >>> learned = learn_strength(Z, batch, StrengthConfig(n_clusters=3, steps=5))
    >>> bool(learned.history["mixing"].iloc[learned.best] < -0.9)
    True
    >>> harmonax.harmonize(Z, batch, learned.params, rng=learned.operator.seed, progress=False).embedding.shape
    (80, 5)
    """
    check_arguments(learn_strength, locals())
    config = config if config is not None else StrengthConfig()
    Z, codes = jnp.asarray(embedding, jnp.float32), np.asarray(batch_labels)
    columns = codes[:, None] if codes.ndim == 1 else codes
    if Z.ndim != 2 or columns.shape[0] != Z.shape[0] or not np.issubdtype(codes.dtype, np.integer):
        raise InputError(
            f"the embedding has shape {Z.shape} and the labels {codes.shape} of {codes.dtype}; allowed are (N, d) and "
            "integers (N,) or (N, variables)"
        )
    levels = tuple(int(n) + 1 for n in columns.max(axis=0))
    data = {"embeddings": Z, "batch_labels": jnp.asarray(columns, jnp.int32)}
    roles: dict[str, Any] = {"reference": tuple(reference)}
    if protect is not None:
        data["protect"] = checks.labels("protect", protect, len(Z), 2**31 - 1)
        roles["n_protected"] = int(data["protect"].max(initial=0)) + 1
    if covariates is not None:
        numbers = checks.as_array("covariates", covariates, "numbers")
        data["covariates"] = checks.cells("covariates", numbers[:, None] if numbers.ndim == 1 else numbers)
        roles["n_covariates"] = data["covariates"].shape[-1]
    op = config.operator(Z.shape[1], levels, seed_from(rng), **roles)
    # In traced code values cannot be checked.
    check(op.config, data)
    data["joint"] = jnp.asarray(np.unique(columns, axis=0, return_inverse=True)[1].reshape(-1), jnp.int32)
    graph, params = nnx.split(op)
    best, rows = _descend(graph, params, data, config, report)
    nnx.update(op, best)
    history = pd.DataFrame(rows)
    return LearnedStrength(op, history, int(np.nanargmin(history["loss"])))


def _descend(
    graph: Any, params: Any, data: dict[str, Any], config: StrengthConfig, report: Any
) -> tuple[Any, list[dict[str, float]]]:
    """Run the steps; return the best parameters and the history."""
    optimizer = _optimizer(config.learning_rate)
    moments, best, lowest = optimizer.init(params), params, float("inf")
    rows: list[dict[str, float]] = []
    begun = False
    for step in range(config.steps + 1):
        numbers, after, moments = _step(
            graph, params, moments, data, config.preservation, config.n_neighbors, config.learning_rate
        )
        row = {name: float(value) for name, value in numbers.items()}
        if not np.isfinite(row["loss"]):
            if not rows:
                raise InputError("the loss of the very first step is not finite; scale the embedding to unit variance")
            # What was reached so far stands.
            break
        rows.append({"step": step, **row})
        if row["loss"] < lowest:
            best, lowest = params, row["loss"]
        if report is not None:
            report(step, rows[-1])
        if begun and step - int(np.argmin([seen["loss"] for seen in rows])) >= (config.patience or math.inf):
            break
        begun = begun or row["slope"] > _FLAT
        params = after if begun else _widened(graph, params)
    return best, rows


def _mixing(
    loss: BatchMixingLoss, cells: jax.Array, labels: jax.Array, protect: Any, config: BatchCorrectionConfig
) -> jax.Array:
    """Return the loss, or its mean over the cells where each is taken among the cells of its protected level."""
    if protect is None:
        return loss(cells, labels)
    levels = jnp.arange(config.n_protected)
    each = jax.lax.map(lambda level: loss(cells, labels, protect == level), levels)
    return each @ (protect[:, None] == levels).mean(axis=0)


def _widened(graph: Any, params: Any) -> Any:
    """Return the parameters with sigma doubled: clusters wide enough are shared by the batches."""
    op = nnx.merge(graph, params, copy=True)
    op.log_sigma[...] += math.log(_WIDEN)
    return nnx.state(op)


def _optimizer(learning_rate: float) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(_CLIP), optax.adam(learning_rate))


@partial(jax.jit, static_argnames=("graph", "n_neighbors", "learning_rate"))
def _step(
    graph: Any, params: Any, moments: Any, data: Any, preservation: Any, n_neighbors: int, learning_rate: float
) -> tuple[dict[str, jax.Array], Any, Any]:
    """Return the losses and strengths at `params`, and the parameters one step on; one compilation for all weights."""

    def loss(params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        op = nnx.merge(graph, params)
        Z, labels = data["embeddings"], data["batch_labels"]
        given = {name: value for name, value in data.items() if name != "joint"}
        corrected = op.apply(given, {}, None)[0]["corrected_embeddings"]
        mixing = [
            _mixing(BatchMixingLoss(n_neighbors, n_levels), corrected, labels[:, f], data.get("protect"), op.config)
            for f, n_levels in enumerate(op.config.levels)
        ]
        mixed = sum(mixing) / len(mixing)
        kept = NeighborhoodPreservationLoss(n_neighbors)(corrected, Z, data["joint"])
        total = mixed + preservation * kept
        strengths = {"theta": op.theta.mean(), "sigma": op.sigma.mean(), "ridge": op.ridge.mean()}
        return total, {"loss": total, "mixing": mixed, "preservation": kept, **strengths}

    (_, numbers), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    updates, moments = _optimizer(learning_rate).update(gradient, moments, params)
    numbers["slope"] = jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient)))
    return numbers, optax.apply_updates(params, updates), moments
