"""Runs of the exact engine with several parameters: which to make, how they are judged, which one is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from numbers import Number
from typing import TYPE_CHECKING, Any

import numpy as np

from ..adata import uns_record
from ..design import BatchDesign
from ..errors import InputError, MissingKeyError, nearest
from ..evaluation.scores.choice import Judge, choose
from ..evaluation.scores.evaluate import evaluate as evaluate_arrays
from ..evaluation.verdict import overall
from ..inputs.embedding import read_obsm
from ..inputs.roles import reference_levels
from ..params import HarmonyParams
from ..result import HarmonyResult
from .check import check
from .diagnose import diagnose

if TYPE_CHECKING:
    from anndata import AnnData

_SWEPT = ("theta", "sigma", "n_clusters")
THETAS, SIGMAS = (0.5, 1, 2, 4, 8), (0.05, 0.1, 0.2)


def best_of(
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


def candidates(
    start: HarmonyParams,
    design: BatchDesign,
    theta: Any = THETAS,
    sigma: Any = SIGMAS,
    n_clusters: Any = None,
    most: int = 30,
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
    if not values or any(isinstance(v, bool) or not (v is None or isinstance(v, Number)) for v in values):
        raise InputError(f"{name}={value!r}; allowed are a number or a flat, non-empty list of numbers")
    return values


def learnt_from(design: BatchDesign, some: np.ndarray, roles: dict[str, Any]) -> dict[str, Any]:
    """Return labels, reference levels, protected labels and covariates of these cells, as `learn_strength` reads them.

    Levels that none of them has are left out.
    """
    codes = (design.joint_levels - design.offsets[:-1])[design.joint[some]]
    own = BatchDesign.from_codes(codes, design.variables, design.levels)
    found: dict[str, Any] = {"batch_labels": (own.joint_levels - own.offsets[:-1])[own.joint].astype(np.int32)}
    if roles["reference"] is not None:
        named = reference_levels(roles["reference"], design)
        design.keeping(named)
        there = {
            name: [level for level in levels if level in own.levels[own.variables.index(name)]]
            for name, levels in named.items()
        }
        found["reference"] = own.keeping(there).reference
    if roles["protect"] is not None:
        found["protect"] = np.unique(roles["protect"].joint[some], return_inverse=True)[1].astype(np.int32)
    if roles["covariates"] is not None:
        found["covariates"] = roles["covariates"].values[some]
    return found


@dataclass(eq=False)
class Court:
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

        columns = self.adata.obs.columns
        if self.label_key is not None and self.label_key not in columns:
            raise MissingKeyError(f"obs has no column '{self.label_key}'; {nearest(str(self.label_key), columns)}")
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
