"""``harmonax.tl.sweep``: the exact engine with several parameters, all judged alike, and the best one kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..adata import uns_record
from ..engine.run import harmonize
from ..errors import InputError
from ..evaluation.scores.choice import Judge, choose
from ..evaluation.scores.evaluate import evaluate as evaluate_arrays
from ..evaluation.verdict import overall
from ..inputs.columns import Missing, design_from_table
from ..inputs.embedding import either_spelling, read_obsm
from ..params import Flavor, HarmonyParams
from ..pp.harmony import check_target
from ..result import HarmonyResult
from ..system.arguments import check_arguments
from ..system.extras import need
from ..system.log import chosen_threads, say
from ..system.rng import seed_from
from ..system.validate import whole_number
from .check import check
from .diagnose import diagnose

if TYPE_CHECKING:
    from os import PathLike

    from anndata import AnnData

    from ..design import BatchDesign

_SWEPT = ("theta", "sigma", "n_clusters")


@dataclass(frozen=True, eq=False)
class Sweep:
    """The runs of a sweep, and which one was chosen.

    Attributes
    ----------
    params
        The parameters that were chosen, and with which ``obsm[adjusted_basis]`` was made.
    chosen
        Their row in the table: of those that the verdict does not forbid, the one with the highest score; the defaults
        where no other is higher by more than chance.
    table
        One row per run, the defaults first: ``theta``, ``sigma``, ``n_clusters``, ``mixing``, ``kept`` and ``score``
        (from 0 to 1, higher is better), ``verdict`` (the code that `harmonax.tl.verdict` has), ``status``, ``chosen``,
        and scib-metrics' ``batch``, ``bio`` and ``total`` where they were asked for.
    """

    params: HarmonyParams
    chosen: str
    table: pd.DataFrame

    def __str__(self) -> str:
        return f"chosen: {self.chosen}\n{self.table.drop(columns='chosen').round(3).to_string()}"

    def pareto(self, *, show: bool | None = None, save: str | PathLike[str] | None = None, ax: Any = None) -> Any:
        """Draw the trade-off, mixing against neighbours kept; see `harmonax.pl.pareto`."""
        from ..pl import pareto

        return pareto(self.table, "mixing", "kept", chosen=self.chosen, show=show, save=save, ax=ax)

    def to_uns(self) -> pd.DataFrame:
        """Return the table as ``adata.uns["harmonax"]["sweep"]`` holds it, the rows' names in ``run``."""
        table = self.table.rename_axis("run").reset_index()
        return table.set_index(table.index.astype(str))


def sweep(
    adata: AnnData,
    key: str | Sequence[str],
    *,
    theta: float | Sequence[float] = (0.5, 1, 2, 4, 8),
    sigma: float | Sequence[float] = (0.05, 0.1, 0.2),
    n_clusters: int | Sequence[int | None] | None = None,
    max_runs: int = 30,
    label_key: str | None = None,
    scib: bool = False,
    basis: str = "X_pca",
    adjusted_basis: str = "X_pca_harmony",
    max_iter_harmony: int = 50,
    flavor: Flavor = "harmony2",
    max_cells: int = 2000,
    combine_keys: bool = False,
    missing: Missing = "error",
    allow_many_levels: bool = False,
    n_threads: int | None = None,
    rng: Any = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Sweep:
    """Correct with several parameters, judge every result, and keep the best.

    Every combination of `theta`, `sigma` and `n_clusters` is run by the exact engine, and so are the defaults. The run
    with the highest score is kept, if it is higher than the defaults' by more than chance: 0.75 mixing + 0.25 kept,
    neither of which looks at labels (see Notes). A run whose verdict is not to use it is kept only where that is the
    verdict on all.

    Parameters
    ----------
    adata
        N cells with an embedding.
    key
        Batch columns of ``adata.obs``. With several, all have the same theta.
    theta, sigma, n_clusters
        Values to try, one or several: see `harmonax.pp.harmony_integrate` for what raising and lowering them does. More
        values take more time, one run for each combination.
    max_runs
        Maximum number of runs, the defaults' included.
    label_key
        Column of cell types: verdicts and scib-metrics look at it, the choice does not.
    scib
        Add scib-metrics' scores; needs `label_key`, and takes seconds per run.
    basis, adjusted_basis
        Embedding in ``adata.obsm`` to correct, (N, d), and where the result goes.
    max_iter_harmony, flavor
        As in `harmonax.pp.harmony_integrate`.
    max_cells
        Of more cells, a random sample of this size is judged; all are corrected. Higher values take more time and
        judge more surely.
    combine_keys, missing, allow_many_levels
        How batch columns are read: see `harmonax.pp.harmony_integrate`.
    n_threads
        Threads of the engine; None: as `harmonax.pp.harmony_integrate`.
    rng
        Seed, Generator, SeedSequence or None. The same seed gives the same result.
    progress
        Called before each run with its name, how many are done, and how many there are.

    Returns
    -------
    Sweep
        Its table also in ``adata.uns["harmonax"]["sweep"]``. ``adata.obsm[adjusted_basis]`` and the rest of
        ``adata.uns["harmonax"]`` are as `harmonax.pp.harmony_integrate` with the chosen parameters leaves them.

    Raises
    ------
    MissingKeyError
        If a column or the basis is not there.
    InputError
        If the embedding, the labels or a parameter cannot be used, there is one batch only, or there are more
        combinations than `max_runs`.
    MissingExtraError
        If scikit-learn is not installed, or scib-metrics where `scib` is asked for.

    Notes
    -----
    Chance is two standard errors of the difference between the two runs, over the cells that are judged; of 15, which
    share their neighbours, one counts.

    Mixing is 1 less the share of 15 neighbours from the same batch beyond what chance gives; kept is the share of a
    cell's 50 nearest neighbours within its batch that stay. Where batches hold different cell types, mixing them is
    wrong, which no score without labels can know: look at the verdicts, above all with `label_key`. They are those of
    the sample; `harmonax.tl.verdict` judges all cells.

    Examples
    --------
    >>> import anndata, harmonax, numpy as np, pandas as pd
    >>> gen = np.random.default_rng(0)
    >>> batch = np.repeat(["a", "b"], 100)
    >>> obs = pd.DataFrame({"batch": batch}, index=[f"cell{i}" for i in range(200)])
    >>> Z = gen.normal(size=(200, 5)) + 3 * (batch == "b")[:, None]
    >>> adata = anndata.AnnData(obs=obs, obsm={"X_pca": Z})
    >>> found = harmonax.tl.sweep(adata, "batch", theta=(1, 4), sigma=0.1)
    >>> found.table.index.tolist()
    ['theta 2, sigma 0.1', 'theta 1, sigma 0.1', 'theta 4, sigma 0.1']
    >>> found.chosen in found.table.index
    True
    """
    check_arguments(sweep, locals())
    need("sklearn", "workflow")
    check_target(adata, adjusted_basis)
    basis = either_spelling(adata.obsm.keys(), basis)
    if scib and label_key is None:
        raise InputError("scib=True scores cell types: pass label_key, the column that holds them")
    columns: dict[str, Any] = {"combine_keys": combine_keys, "missing": missing, "allow_many_levels": allow_many_levels}
    design = design_from_table(adata.obs, key, **columns)
    if design.n_joint == 1:
        raise InputError(f"{', '.join(design.variables)}: every cell has the same batch; there is nothing to choose")
    start = HarmonyParams(flavor=flavor, max_iter_harmony=max_iter_harmony)
    candidates = _candidates(start, design, theta, sigma, n_clusters, whole_number(max_runs, "max_runs", minimum=1))
    embedding, seed = read_obsm(adata, basis), seed_from(rng)
    judge = Judge.of(embedding.load().array(), design.joint, whole_number(max_cells, "max_cells", minimum=30), seed)
    court = _Court(adata, key, basis, adjusted_basis, label_key, judge, columns)

    def attempt(params: HarmonyParams) -> tuple[HarmonyResult, dict[str, Any], Any]:
        run = harmonize(embedding, design, params, rng=seed, n_threads=n_threads or chosen_threads(), progress=False)
        row: dict[str, Any] = {"theta": params.theta, "sigma": params.sigma, "n_clusters": run.n_clusters}
        row |= judge.scores(run.embedding) | {"verdict": court.verdict(run, seed), "status": run.status.value}
        return run, row | (court.scib(run, seed) if scib else {}), judge.by_cell(run.embedding)

    chosen, run, rows = _best(candidates, attempt, progress)
    table = pd.DataFrame.from_dict(rows, orient="index")
    table["chosen"] = table.index == chosen
    found = Sweep(candidates[chosen], chosen, table)
    adata.obsm[adjusted_basis] = np.asarray(run.embedding, np.float64)
    record = uns_record(run, basis, adjusted_basis, {"keys": list(np.atleast_1d(key))} | columns)
    adata.uns["harmonax"] = record | {"sweep": found.to_uns()}
    say(logging.INFO, f"sweep: {chosen} of {len(table)} runs, score {table.loc[chosen, 'score']:.3f}")
    return found


def _best(
    candidates: dict[str, HarmonyParams],
    attempt: Callable[[HarmonyParams], tuple[HarmonyResult, dict[str, Any], Any]],
    progress: Callable[[str, int, int], None] | None,
) -> tuple[str, HarmonyResult, dict[str, dict[str, Any]]]:
    """Run all, and return the name and the result of the best, and the rows of all."""
    rows: dict[str, dict[str, Any]] = {}
    cells: dict[str, Any] = {}
    results: dict[str, HarmonyResult] = {}
    for done, (name, params) in enumerate(candidates.items()):
        if progress is not None:
            progress(name, done, len(candidates))
        results[name], rows[name], cells[name] = attempt(params)
        best = choose(cells, [other for other in rows if rows[other]["verdict"] != "do_not_trust"])
        # Of all cells, results are large: the others cannot be chosen any more.
        results = {other: results[other] for other in (next(iter(rows)), best)}
    return best, results[best], rows


def _candidates(
    start: HarmonyParams, design: BatchDesign, theta: Any, sigma: Any, n_clusters: Any, most: int
) -> dict[str, HarmonyParams]:
    """Return the parameters of every run by its name, the defaults first."""
    auto = start.resolve(design).n_clusters
    values = zip(_SWEPT, (theta, sigma, n_clusters), strict=True)
    tried = [list(dict.fromkeys(auto if v is None else v for v in _several(name, value))) for name, value in values]
    grid = dict.fromkeys([(start.theta, start.sigma, auto), *product(*tried)])
    if len(grid) > most:
        raise InputError(f"{len(grid)} runs, the defaults' included, are more than max_runs={most}; try fewer values")
    several = {one for _, _, one in grid} != {auto}
    return dict(_named(start, grid, several))


def _named(start: HarmonyParams, grid: Any, several: bool) -> Iterator[tuple[str, HarmonyParams]]:
    for theta, sigma, n in grid:
        clusters = f", {n} clusters" if several else ""
        yield f"theta {theta:g}, sigma {sigma:g}{clusters}", start.replace(theta=theta, sigma=sigma, n_clusters=n)


def _several(name: str, value: Any) -> list[Any]:
    values = list(value) if np.ndim(value) else [value]
    if not values or any(np.ndim(v) or isinstance(v, (str, bool)) for v in values):
        raise InputError(f"{name}={value!r}; allowed are a number or a flat, non-empty list of numbers")
    return values


@dataclass(eq=False)
class _Court:
    """The cells that are judged, apart from the user's data."""

    adata: AnnData
    keys: str | Sequence[str]
    basis: str
    adjusted: str
    label_key: str | None
    judge: Judge
    columns: dict[str, Any]

    def __post_init__(self) -> None:
        from anndata import AnnData

        rows, self.names = self.judge.rows, [str(name) for name in np.atleast_1d(self.keys)]
        obs = self.adata.obs.iloc[rows][[*self.names, *([self.label_key] if self.label_key else [])]]
        before = read_obsm(self.adata, self.basis).load().array()[rows]
        self.part = AnnData(obs=obs.copy(), obsm={self.basis: before})
        check(self.part, self.names, label_key=self.label_key, basis=self.basis)

    def verdict(self, run: HarmonyResult, seed: int) -> str:
        """Return the verdict on a run."""
        self.part.obsm[self.adjusted] = run.embedding[self.judge.rows]
        columns = self.columns | {"keys": self.names}
        self.part.uns["harmonax"] = uns_record(run, self.basis, self.adjusted, columns)
        diagnose(self.part, self.names, label_key=self.label_key, null=False, rng=seed)
        return overall(self.part.uns).code

    def scib(self, run: HarmonyResult, seed: int) -> dict[str, float]:
        """Return scib-metrics' sums of a run, means over the batch columns."""
        obs = self.part.obs
        made = evaluate_arrays({"run": run.embedding[self.judge.rows]}, obs[self.names], obs[self.label_key], rng=seed)
        return {str(name): float(value) for name, value in made.totals[["batch", "bio", "total"]].mean().items()}
