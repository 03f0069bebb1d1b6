"""``harmonax.tl.sweep``: the exact engine with several parameters, all judged alike, and the best one kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..adata import uns_record
from ..engine.run import harmonize
from ..errors import InputError
from ..evaluation.scores.choice import Judge
from ..inputs.columns import Missing, design_from_table
from ..inputs.embedding import either_spelling, read_obsm
from ..inputs.roles import role_columns
from ..params import Flavor, HarmonyParams
from ..pp.harmony import check_target
from ..result import HarmonyResult
from ..system.arguments import check_arguments
from ..system.extras import need
from ..system.log import chosen_threads, say
from ..system.progress import line
from ..system.rng import seed_from
from ..system.validate import listed, whole_number
from .trial import SIGMAS, THETAS, Court, best_of, candidates

if TYPE_CHECKING:
    from os import PathLike

    from anndata import AnnData


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
        One row per run, the defaults first: ``theta``, ``sigma``, ``n_clusters``, ``mixing``, ``kept``, ``structure``
        and ``score`` (from 0 to 1, higher is better), ``verdict`` (the code that `harmonax.tl.verdict` has),
        ``status``, ``chosen``, and
        scib-metrics' ``batch``, ``bio`` and ``total`` where they were asked for.
    """

    params: HarmonyParams
    chosen: str
    table: pd.DataFrame

    def __str__(self) -> str:
        return f"chosen: {self.chosen}\n{self.table.drop(columns='chosen').round(3).to_string()}"

    def pareto(self, *, show: bool | None = None, save: str | PathLike[str] | None = None, ax: Any = None) -> Any:
        """Draw what the score is made of, mixing against structure; see `harmonax.pl.pareto`."""
        from ..pl import pareto

        return pareto(self.table, "mixing", "structure", chosen=self.chosen, show=show, save=save, ax=ax)

    def to_uns(self) -> pd.DataFrame:
        """Return the table as ``adata.uns["harmonax"]["sweep"]`` holds it, the rows' names in ``run``."""
        table = self.table.rename_axis("run").reset_index()
        return table.set_index(table.index.astype(str))


def sweep(
    adata: AnnData,
    key: str | Sequence[str],
    *,
    theta: float | Sequence[float] = THETAS,
    sigma: float | Sequence[float] = SIGMAS,
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
    reference: Any = None,
    protect: str | Sequence[str] | None = None,
    covariates: str | Sequence[str] | None = None,
    n_threads: int | None = None,
    rng: Any = 0,
    progress: bool | Callable[[str, int, int], None] | None = None,
) -> Sweep:
    """Correct with several parameters, judge every result, and keep the best.

    Every combination of `theta`, `sigma` and `n_clusters` is run by the exact engine, and so are the defaults. The run
    with the highest score is kept, if it is higher than the defaults' by more than chance: the mean of mixing and
    structure, neither of which looks at labels (see Notes). A run whose verdict is not to use it is kept only where
    that is the verdict on all.

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
    reference, protect, covariates
        As in `harmonax.pp.harmony_integrate`, for every run. Mixing is judged among cells of one protected level.
    n_threads
        Threads of the engine; None: as `harmonax.pp.harmony_integrate`.
    rng
        Seed, Generator, SeedSequence or None. The same seed gives the same result.
    progress
        None: a line on stderr where that is a terminal. A function is called before each run with its name, how many
        are done, and how many there are. True and False: always, never.

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

    Mixing is 1 less the share of 15 neighbours from the same batch beyond what chance gives; structure is the
    correlation of a cell's distances to cells of its batch, before and after; kept, which is shown beside them, is the
    share of a cell's 50 nearest neighbours within its batch that stay. Where batches hold different cell types, mixing
    them is wrong, which no score without labels can know: look at the verdicts, above all with `label_key`. They are
    those of the sample; `harmonax.tl.verdict` judges all cells.

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
    roles = {"reference": reference} | role_columns(adata.obs, protect, covariates, "obs", columns)
    start = HarmonyParams(flavor=flavor, max_iter_harmony=max_iter_harmony)
    tried = candidates(start, design, theta, sigma, n_clusters, whole_number(max_runs, "max_runs", minimum=1))
    embedding, seed = read_obsm(adata, basis), seed_from(rng)
    how: dict[str, Any] = {"rng": seed, "n_threads": n_threads or chosen_threads()}
    most = whole_number(max_cells, "max_cells", minimum=30)
    within = None if roles["protect"] is None else roles["protect"].joint
    judge = Judge.of(embedding.load().array(), design.joint, most, seed, within)
    court = Court(adata, key, basis, adjusted_basis, label_key, judge, columns)

    def attempt(params: HarmonyParams) -> tuple[HarmonyResult, dict[str, Any], Any]:
        run = harmonize(embedding, design, params, **roles, **how, progress=False)
        row: dict[str, Any] = {"theta": params.theta, "sigma": params.sigma, "n_clusters": run.n_clusters}
        row |= judge.scores(run.embedding) | {"verdict": court.verdict(run, seed), "status": run.status.value}
        return run, row | (court.scib(run, seed) if scib else {}), judge.by_cell(run.embedding)

    with line(progress, lambda name, done, of: f"sweep: {done} of {of} runs; now {name}") as show:
        chosen, run, rows = best_of(tried, attempt, show)
    table = pd.DataFrame.from_dict(rows, orient="index")
    table["chosen"] = table.index == chosen
    found = Sweep(tried[chosen], chosen, table)
    adata.obsm[adjusted_basis] = np.asarray(run.embedding, np.float64)
    columns |= {"protect": listed(protect)} if protect is not None else {}
    record = uns_record(run, basis, adjusted_basis, {"keys": list(np.atleast_1d(key))} | columns)
    adata.uns["harmonax"] = record | {"sweep": found.to_uns()}
    say(logging.INFO, f"sweep: {chosen} of {len(table)} runs, score {table.loc[chosen, 'score']:.3f}")
    return found
