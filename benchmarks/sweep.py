"""Does the score of `harmonax.tl.sweep`, which sees no labels, order runs as scib-metrics' total does?

usage: python benchmarks/sweep.py [--sets NAME ...] [--cache FOLDER]

The folder keeps each set's table, and what the score looked at (NAME.npz), so that another score costs seconds.

On each labelled set, 23 runs of the exact engine; for each, the score, and scib-metrics' total of at most 2,000
labelled cells and of each half of them. Columns, for each set:

    rho        rank correlation of score and total over the runs
    halves     that of the totals of one half of the cells with those of the other: how well the total knows its order
    spread     standard deviation of the totals over the runs
    noise      that of one total, from the differences between the halves
    clear      share of the pairs of runs whose totals differ by more than two standard errors
    right      share of these that the score has in the same order
    less best  the chosen run's total less the best of the grid; and less that of the defaults

Totals are harmonax's own, which tests hold against scib-metrics' (equal to 1e-5; kBET per label to 0.01). Data:
$HARMONAX_TEST_DATA, by default ../shared/data beside this project.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

import harmonax as hx
from harmonax.evaluation.scores import registry, scib
from harmonax.evaluation.scores.choice import Judge, choose
from harmonax.evaluation.scores.population import Population, around

DATA = Path(os.environ.get("HARMONAX_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
# What the score is made of was chosen on these.
SETS = ("pancreas_3prot", "kang_fullgenes", "cell_lines", "onek1k_subset", "cytof_mmd", "kang_donors")
SETS += ("kang_by_donor", "cell_lines_small", "sim-0-1500", "sim-1-1500-alone")
# These were looked at afterwards: NAME:COLUMN takes another column for the batch, NAME:COLUMN:OTHER=VALUE some cells.
LATER = ("pancreas_3prot:donor", "kang_donors:donor:condition=ctrl", "cytof_mmd:person", "cytof_mmd:visit")
LATER += ("onek1k_subset:donor", "pbmc_stim", "lisi_reference", "sim-11-2000", "sim-12-1500-both", "sim-13-700")
MOST_CELLS, MOST_LATER, MOST_SCORED, SMALLEST = 8000, 6000, 2000, 30
THETAS, SIGMAS = (2.0, 0.0, 0.5, 1.0, 4.0, 8.0), (0.1, 0.05, 0.2)
# Types that are in one batch only, in variants of the simulation.
ALONE = {"alone": (["CD14 mono"], "10x v2"), "both": (["B naive", "CD8 T"], "10x v3")}


def load(name: str) -> tuple[anndata.AnnData, np.ndarray]:
    """Return a set with obs["batch"], and the rows that are scored."""
    gen = np.random.default_rng(0)
    if name.startswith("sim-"):
        _, seed, n, *variant = name.split("-")
        adata = hx.datasets.simulate(int(n), np.random.default_rng(int(seed)))
        for types, batch in (ALONE[which] for which in variant):
            alone = adata.obs["cell_type"].isin(types) & (adata.obs["batch"] != batch)
            adata = adata[~alone.to_numpy()].copy()
        hx.datasets.prepare(adata)
        return adata, np.arange(adata.n_obs)
    source, key, some = [*("kang_donors:donor" if name == "kang_by_donor" else name).split(":"), "", ""][:3]
    adata = anndata.read_h5ad(DATA / f"{source}.h5ad")
    if some:
        column, value = some.split("=")
        adata = adata[(adata.obs[column].astype(str) == value).to_numpy()].copy()
    if key:
        adata.obs["batch"] = adata.obs[key].astype(str)
        sizes = adata.obs["batch"].value_counts()
        enough = adata.obs["batch"].isin(sizes.index[sizes >= SMALLEST]) & (adata.obs["batch"] != "nan")
        adata = adata[enough.to_numpy()].copy()
    most = MOST_LATER if name in LATER else MOST_CELLS
    if adata.n_obs > most:
        adata = adata[np.sort(gen.choice(adata.n_obs, most, replace=False))].copy()
    known = (adata.obs["cell_type"].astype(str) != "unlabelled").to_numpy()
    if "label_source" in adata.obs:
        # The other labels were made after a correction.
        known &= (adata.obs["label_source"].astype(str) == "Kang2018_GEO").to_numpy()
    rows = np.flatnonzero(known)
    return adata, np.sort(gen.choice(rows, min(MOST_SCORED, len(rows)), replace=False))


def grid(n_cells: int) -> list[hx.HarmonyParams]:
    """Return the runs, the defaults first."""
    usual = max(2, min(100, round(n_cells / 30)))
    runs = [(theta, sigma, usual) for sigma in SIGMAS for theta in THETAS]
    runs += [(theta, 0.1, max(2, usual // 4)) for theta in (0.5, 2.0, 8.0)]
    runs += [(theta, 0.3, usual) for theta in (1.0, 4.0)]
    return [hx.HarmonyParams(theta=theta, sigma=sigma, n_clusters=n) for theta, sigma, n in runs]


def total(embedding: np.ndarray, batch: np.ndarray, types: np.ndarray) -> float:
    """Return scib-metrics' total of some cells."""
    x = np.ascontiguousarray(embedding, np.float32)
    batch, types = (np.unique(of, return_inverse=True)[1] for of in (batch, types))
    near = around(x, np.arange(len(x)))
    cells = scib.LabelledCells(
        Population(x, x, types, near), near.rows, batch, scib.SampleGraph(x, types, (near.distances, near.indices))
    )
    return registry.total_score(registry.batch_scores(cells)["batch"], registry.bio_scores(cells)["bio"])


def measure(name: str, place: Path) -> pd.DataFrame:
    """Return a row per run: its parameters, what the score is made of, the totals, and whether it is chosen.

    The cells that the score looks at are written to `place`: `batch`, and `start` and `after` (runs, n, d).
    """
    adata, rows = load(name)
    Z, batch = np.asarray(adata.obsm["X_pca"], np.float32), adata.obs["batch"].astype(str).to_numpy()
    types = adata.obs["cell_type"].astype(str).to_numpy()
    judge = Judge.of(Z, np.unique(batch, return_inverse=True)[1], 2000, 0)
    order = np.random.default_rng(1).permutation(len(rows))
    parts = {"total": rows, "first": rows[order[: len(rows) // 2]], "second": rows[order[len(rows) // 2 :]]}
    table: list[dict] = []
    runs: dict = {}
    seen: list[np.ndarray] = []
    for params in grid(len(Z)):
        after = hx.harmonize(Z, batch, params, rng=0, progress=False).embedding
        about = {"theta": params.theta, "sigma": params.sigma, "n_clusters": params.n_clusters}
        runs[len(runs)] = judge.by_cell(after)
        seen.append(after[judge.rows])
        totals = {part: total(after[own], batch[own], types[own]) for part, own in parts.items()}
        table.append(about | judge.scores(after) | totals | {"n_cells": len(Z), "n_batches": len(np.unique(batch))})
        print(name, len(table), flush=True)
    np.savez(place, batch=judge.batch, start=judge.start, after=np.stack(seen))
    return pd.DataFrame(table).assign(chosen=lambda made: made.index == choose(runs, list(runs)))


def told(table: pd.DataFrame) -> dict[str, float]:
    """Return what is asked of a score."""
    score, of = table["score"].to_numpy(), table["total"].to_numpy()
    noise = float((table["first"] - table["second"]).std() / 2)
    one, other = np.triu_indices(len(of), 1)
    by_total, by_score = of[one] - of[other], score[one] - score[other]
    clear = np.abs(by_total) > 2 * np.sqrt(2) * noise
    chosen = of[table["chosen"].to_numpy()][0]
    return {
        "cells": table["n_cells"].iloc[0],
        "batches": table["n_batches"].iloc[0],
        "rho": table["score"].corr(table["total"], method="spearman"),
        "halves": table["first"].corr(table["second"], method="spearman"),
        "spread": table["total"].std(),
        "noise": noise,
        "clear": clear.mean(),
        "right": (np.sign(by_total) == np.sign(by_score))[clear].mean() if clear.any() else np.nan,
        "less best": chosen - of.max(),
        "less defaults": chosen - of[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=[*SETS, *LATER])
    parser.add_argument("--cache", type=Path, default=Path("sweep_cache"))
    asked = parser.parse_args()
    asked.cache.mkdir(parents=True, exist_ok=True)
    tables = {}
    for name in asked.sets:
        place = asked.cache / f"{name.replace(':', '_')}.parquet"
        if not place.exists():
            measure(name, place.with_suffix(".npz")).to_parquet(place)
        tables[name] = pd.read_parquet(place)
    for title, names in (("chosen on", SETS), ("looked at afterwards", LATER)):
        rows = pd.DataFrame({name: told(tables[name]) for name in names if name in tables}).T
        if len(rows):
            print(f"\n{title}: median rank correlation {rows['rho'].median():.3f}")
            print(rows.round(3).to_string())


if __name__ == "__main__":
    main()
