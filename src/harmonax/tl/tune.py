"""``harmonax.tl.tune``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..adata import storable
from ..engine.run import harmonize
from ..errors import InputError
from ..evaluation.neighbours import sample
from ..evaluation.scores.choice import Judge
from ..inputs.columns import Missing, design_from_table
from ..inputs.embedding import either_spelling, read_obsm
from ..inputs.roles import role_columns
from ..params import Flavor, HarmonyParams
from ..pp import harmony_integrate
from ..result import HarmonyResult
from ..system.arguments import check_arguments
from ..system.extras import need
from ..system.log import chosen_threads, say
from ..system.progress import line
from ..system.rng import seed_from
from ..system.validate import whole_number
from .trial import Court, best_of, candidates, learnt_from

if TYPE_CHECKING:
    from os import PathLike

    from anndata import AnnData

    from ..training.strength import LearnedStrength

DEFAULTS = "defaults"
# Cells that are learned from, and steps without a lower loss after which learning ends.
_LEARNED_FROM, _PATIENCE = 1000, 5


@dataclass(frozen=True, eq=False)
class Tuning:
    """What `tune` found.

    Attributes
    ----------
    params
        The engine's parameters that were chosen, and with which ``obsm[adjusted_basis]`` was made.
    chosen
        Their row in the table.
    table
        A row for the defaults, one for each run of `harmonax.tl.sweep` by its name there, and one per weight of
        preservation: ``preservation`` (the weight), ``theta`` (comma between several), ``sigma``, ``alpha``
        (``ridge_lambda`` for harmony1), ``mixing``, ``kept``, ``structure`` and ``score``, all from 0 to 1,
        higher is better, and ``verdict``, of the exact engine's result.
    history
        Losses and strengths at each step of learning, for all weights (``run``).
    """

    params: HarmonyParams
    chosen: str
    table: pd.DataFrame
    history: pd.DataFrame

    def __str__(self) -> str:
        ridge = "alpha" if self.params.ridge == "dynamic" else "ridge_lambda"
        strengths = {name: getattr(self.params, name) for name in ("theta", "sigma", ridge)}
        lines = [f"chosen: {self.chosen} ({', '.join(f'{k} {_shown(v)}' for k, v in strengths.items())})"]
        return "\n".join([*lines, self.table.round(3).to_string()])

    def pareto(self, *, show: bool | None = None, save: str | PathLike[str] | None = None, ax: Any = None) -> Any:
        """Draw what the score is made of, mixing against structure; see `harmonax.pl.pareto`."""
        from ..pl import pareto

        return pareto(self.table, "mixing", "structure", chosen=self.chosen, show=show, save=save, ax=ax)

    def to_uns(self) -> dict[str, Any]:
        """Return plain values and tables, as ``adata.uns`` holds them."""
        params = {k: v for k, v in self.params.to_dict().items() if v is not None}
        table = self.table.rename_axis("run").reset_index()
        return {"chosen": self.chosen, "params": storable(params), "table": table, "history": self.history}


def tune(
    adata: AnnData,
    batch_key: str | Sequence[str],
    *,
    basis: str = "X_pca",
    adjusted_basis: str = "X_pca_harmony",
    weights: float | Sequence[float] = (0.3, 1.0, 3.0, 10.0),
    steps: int = 30,
    learning_rate: float = 0.1,
    max_cells: int = 2000,
    n_clusters: int | None = None,
    max_iter_harmony: int = 50,
    flavor: Flavor = "harmony2",
    combine_keys: bool = False,
    missing: Missing = "error",
    allow_many_levels: bool = False,
    reference: Any = None,
    protect: str | Sequence[str] | None = None,
    covariates: str | Sequence[str] | None = None,
    n_threads: int | None = None,
    rng: Any = 0,
    progress: bool | Callable[[str, int, int], None] | None = None,
    key_added: str = "harmonax_tune",
) -> Tuning:
    """Learn how strongly to correct, without labels, and correct with it.

    Theta, sigma and the ridge penalty are learned by gradient through Harmony on a sample of the cells: batches should
    mix (`BatchMixingLoss`) and each batch should keep its neighbourhoods (`NeighborhoodPreservationLoss`), once for
    each weight of the second. The exact engine then runs on all cells with each of the results, with the defaults, and
    with what `harmonax.tl.sweep` tries. The choice is made as there: the run with the highest score, the mean of mixing
    and structure, if it is higher than the defaults' by more than chance. `harmonax.tl.sweep` takes less time.

    Parameters
    ----------
    adata
        N cells with an embedding.
    batch_key
        Batch columns of ``adata.obs``. With several, each has a theta.
    basis, adjusted_basis
        Embedding in ``adata.obsm`` to correct, (N, d), and where the result goes.
    weights
        Weights of preservation, one run of learning each; higher is gentler.
    steps, learning_rate
        Of learning: at most so many steps of Adam on the logarithms of the strengths (it ends after five that lower the
        loss no more), and how far one goes.
    max_cells
        Of more cells, a sample of this size is judged, and at most 1,000 of it are learned from. Higher values take
        more time and judge more surely.
    n_clusters
        Number of soft clusters. None: as `harmonax.pp.harmony_integrate` for all cells; in learning at most a tenth
        of the sample.
    max_iter_harmony
        Maximum number of rounds of the engine.
    flavor
        ``"harmony2"``, which learns alpha, or ``"harmony1"``, which learns ridge_lambda.
    combine_keys, missing, allow_many_levels
        How batch columns are read: see `harmonax.pp.harmony_integrate`.
    reference, protect, covariates
        As in `harmonax.pp.harmony_integrate`, for learning and for every run. Mixing is judged among cells of one
        protected level.
    n_threads
        Threads of the engine; None: as `harmonax.pp.harmony_integrate`.
    rng
        Seed, Generator, SeedSequence or None.
    progress
        None: a line on stderr where that is a terminal. A function is called with the name of a run, step, steps. True
        and False: always, never.
    key_added
        Where in ``adata.uns`` the table, the history and the choice go.

    Returns
    -------
    Tuning
        Also written to ``adata.uns[key_added]``; the embedding and its record as by `harmonax.pp.harmony_integrate`.

    Raises
    ------
    MissingKeyError
        If a column or the basis is not there.
    InputError
        If the embedding, the labels or a parameter cannot be used, or there is one batch only.
    MissingExtraError
        If JAX or scikit-learn are not installed: ``pip install 'harmonax[jax,workflow]'``.

    Notes
    -----
    Mixing, structure and neighbours kept are those of `harmonax.tl.sweep`. Where batches hold different cell types,
    mixing them is wrong, and no label-free score can know: look at ``tuning.table``, and give higher `weights`.

    Examples
    --------
    >>> import anndata, harmonax, numpy as np, pandas as pd
    >>> gen = np.random.default_rng(0)
    >>> batch = np.repeat(["a", "b"], 40)
    >>> obs = pd.DataFrame({"batch": batch}, index=[f"cell{i}" for i in range(80)])
    >>> Z = gen.normal(size=(80, 5)) + 4 * (batch == "b")[:, None]
    >>> adata = anndata.AnnData(obs=obs, obsm={"X_pca": Z})
    >>> tuning = tune(adata, "batch", weights=1.0, steps=5, n_clusters=3)
    >>> bool(tuning.table["mixing"].max() > 0.9), adata.obsm["X_pca_harmony"].shape
    (True, (80, 5))
    """
    check_arguments(tune, locals())
    need("sklearn", "workflow")
    strength = need("harmonax.training.strength", "jax")
    columns: dict[str, Any] = {"combine_keys": combine_keys, "missing": missing, "allow_many_levels": allow_many_levels}
    design = design_from_table(adata.obs, batch_key, **columns)
    if design.n_joint == 1:
        raise InputError(f"{', '.join(design.variables)}: every cell has the same batch; there is nothing to tune")
    roles = {"reference": reference} | role_columns(adata.obs, protect, covariates, "obs", columns)
    preservation = _weights(weights)
    basis = either_spelling(adata.obsm.keys(), basis)
    embedding = read_obsm(adata, basis).load()
    Z = embedding.array()
    start = HarmonyParams(flavor=flavor, n_clusters=n_clusters, max_iter_harmony=max_iter_harmony)
    start = start.replace(n_clusters=start.resolve(design).n_clusters)
    seed = seed_from(rng)
    within = None if protect is None else roles["protect"].joint
    judge = Judge.of(Z, design.joint, whole_number(max_cells, "max_cells", minimum=30), seed, within)
    court = Court(adata, batch_key, basis, adjusted_basis, None, judge, columns)
    # Time grows with the square of the cells that are learned from.
    some = judge.rows[sample(len(judge.rows), _LEARNED_FROM, seed)]
    given = learnt_from(design, some, roles)
    learned: dict[str, LearnedStrength] = {}
    how: dict[str, Any] = {"rng": seed, "n_threads": n_threads or chosen_threads()}

    def attempt(params: HarmonyParams) -> tuple[HarmonyResult, dict[str, Any], Any]:
        run = harmonize(embedding, design, params, **roles, **how, progress=False)
        row = _strengths(params) | judge.scores(run.embedding)
        return run, row | {"verdict": court.verdict(run, seed)}, judge.by_cell(run.embedding)

    with line(progress, _text) as show:
        for weight in preservation:
            config = strength.StrengthConfig(
                n_clusters=min(start.n_clusters or 2, max(2, len(some) // 10)),
                flavor=flavor,
                theta=(2.0,) * design.n_variables if design.n_variables > 1 else 2.0,
                preservation=weight,
                steps=steps,
                learning_rate=learning_rate,
                patience=_PATIENCE,
            )
            name = f"preservation {weight:g}"
            tell = _steps_of(name, steps, show)
            learned[name] = strength.learn_strength(Z[some], **given, config=config, rng=seed, report=tell)
        first, *others = candidates(start, design).items()
        tried = {DEFAULTS: first[1], **dict(others)}
        tried |= {name: _as_learned(start, found.params) for name, found in learned.items()}
        said = None if show is None else (lambda name, done, of: show(f"engine: {name}", done, of))
        chosen, _, rows = best_of(tried, attempt, said)
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.insert(0, "preservation", [*[np.nan] * (len(tried) - len(preservation)), *preservation])
    history = pd.concat([found.history.assign(run=name) for name, found in learned.items()], ignore_index=True)
    tuning = Tuning(tried[chosen], chosen, table, history)
    say(logging.INFO, f"tune: {chosen}, score {table.loc[chosen, 'score']:.3f}")
    columns |= {"reference": reference, "protect": protect, "covariates": covariates}
    _integrate(adata, batch_key, basis, adjusted_basis, tuning.params, rng=seed, n_threads=n_threads, **columns)
    adata.uns[key_added] = tuning.to_uns()
    return tuning


def _steps_of(name: str, steps: int, show: Callable[[str, int, int], None] | None) -> Callable[[int, Any], None] | None:
    return None if show is None else lambda step, _: show(name, step, steps)


def _text(name: str, step: int, steps: int) -> str:
    return f"tune: {name}, {step} of {steps}"


def _weights(weights: float | Sequence[float]) -> list[float]:
    try:
        values = [float(value) for value in np.atleast_1d(np.asarray(weights, np.float64))]
    except (TypeError, ValueError):
        values = []
    if not values or not all(np.isfinite(value) and value >= 0 for value in values) or len(set(values)) < len(values):
        raise InputError(f"weights={weights!r}; allowed are different finite numbers of at least 0")
    return values


def _ridge(params: HarmonyParams) -> str:
    return "alpha" if params.ridge == "dynamic" else "ridge_lambda"


def _as_learned(start: HarmonyParams, learned: HarmonyParams) -> HarmonyParams:
    return start.replace(**{name: getattr(learned, name) for name in ("theta", "sigma", _ridge(start))})


def _strengths(params: HarmonyParams) -> dict[str, Any]:
    """Return the learned parameters as columns of a table."""
    return {
        name: _shown(getattr(params, name)) if name == "theta" else getattr(params, name)
        for name in ("theta", "sigma", _ridge(params))
    }


def _shown(value: Any) -> str:
    return ",".join(f"{number:.4g}" for number in np.atleast_1d(value))


def _integrate(adata: AnnData, key: Any, basis: str, adjusted: str, params: HarmonyParams, **how: Any) -> None:
    """Run the engine as `harmonax.pp.harmony_integrate` does, so that its record is there as well."""
    given = params.to_dict()
    given = {k: v for k, v in given.items() if not (k == "ridge_lambda" and params.ridge == "dynamic")}
    harmony_integrate(adata, key, basis=basis, adjusted_basis=adjusted, **given, **how)
