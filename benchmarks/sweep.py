"""Does the score of `harmonax.tl.sweep`, which sees no labels, order runs as scib-metrics' total does?

usage: python benchmarks/sweep.py [--sets NAME ...] [--cache FOLDER] [--weights]

On each labelled set, 23 runs of the exact engine; for each, scib-metrics' total (of at most 2,000 labelled cells) and
the score. Of each set: the rank correlation over the runs, how far the chosen run's total is from the best of the grid,
and from that of the defaults. `--weights` shows the same for other weights of mixing. Totals are kept in the cache.
Data: $HARMONAX_TEST_DATA, by default ../shared/data beside this project; the scorer: quality.py one folder up from it.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

import harmonax as hx
from harmonax.evaluation.scores.choice import Judge, choose

DATA = Path(os.environ.get("HARMONAX_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
# The weight of mixing was set on the first six; the others were looked at afterwards.
SETS = ("pancreas_3prot", "kang_fullgenes", "cell_lines", "onek1k_subset", "cytof_mmd", "kang_donors")
LATER = ("kang_by_donor", "sim0", "sim1", "cell_lines_small")
MOST_CELLS, MOST_SCORED = 8000, 2000
THETAS, SIGMAS = (2.0, 0.0, 0.5, 1.0, 4.0, 8.0), (0.1, 0.05, 0.2)


def load(name: str) -> tuple[anndata.AnnData, np.ndarray]:
    """Return a set with obs["batch"], and the rows that scib-metrics scores."""
    gen = np.random.default_rng(0)
    if name.startswith("sim"):
        adata = hx.datasets.simulate(1500, np.random.default_rng(int(name[3:])))
        if name == "sim1":
            # One type is in one batch only.
            alone = (adata.obs["cell_type"] == "CD14 mono") & (adata.obs["batch"] != "10x v2")
            adata = adata[~alone.to_numpy()].copy()
        hx.datasets.prepare(adata)
        return adata, np.arange(adata.n_obs)
    adata = anndata.read_h5ad(DATA / f"{'kang_donors' if name == 'kang_by_donor' else name}.h5ad")
    if name == "kang_by_donor":
        adata.obs["batch"] = adata.obs["donor"].astype(str)
    if adata.n_obs > MOST_CELLS:
        adata = adata[np.sort(gen.choice(adata.n_obs, MOST_CELLS, replace=False))].copy()
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


def measure(name: str) -> pd.DataFrame:
    """Return a row per run: its parameters, mixing, kept, and scib-metrics' scores."""
    sys.path.insert(0, str(DATA.parent))
    from quality import scores

    adata, rows = load(name)
    Z, batch = np.asarray(adata.obsm["X_pca"], np.float32), adata.obs["batch"].astype(str).to_numpy()
    types = adata.obs["cell_type"].astype(str).to_numpy()
    judge = Judge.of(Z, np.unique(batch, return_inverse=True)[1], 2000, 0)
    table: list[dict] = []
    runs: dict = {}
    for params in grid(len(Z)):
        after = hx.harmonize(Z, batch, params, rng=0, progress=False).embedding
        about = {"theta": params.theta, "sigma": params.sigma, "n_clusters": params.n_clusters}
        runs["defaults" if not runs else "other"] = judge.by_cell(after)
        about["sure"] = choose(runs, list(runs)) == "other"
        table.append(about | judge.scores(after) | scores(after[rows], batch[rows], types[rows]))
        print(name, len(table), flush=True)
    return pd.DataFrame(table)


def told(table: pd.DataFrame, weight: float) -> dict[str, float]:
    """Return what is asked of a score."""
    score = weight * table["mixing"] + (1 - weight) * table["kept"]
    # As `harmonax.tl.sweep` chooses: the defaults, where no other run is better by more than chance.
    chosen = table["total"][score.idxmax() if table["sure"][score.idxmax()] else 0]
    return {
        "rank correlation": score.corr(table["total"], method="spearman"),
        "chosen": chosen,
        "less best": chosen - table["total"].max(),
        "less defaults": chosen - table["total"].iloc[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=[*SETS, *LATER])
    parser.add_argument("--cache", type=Path, default=Path("sweep_cache"))
    parser.add_argument("--weights", action="store_true")
    asked = parser.parse_args()
    asked.cache.mkdir(parents=True, exist_ok=True)
    tables = {}
    for name in asked.sets:
        place = asked.cache / f"{name}.parquet"
        if not place.exists():
            measure(name).to_parquet(place)
        tables[name] = pd.read_parquet(place)
    for weight in (0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1.0) if asked.weights else (0.75,):
        rows = pd.DataFrame({name: told(table, weight) for name, table in tables.items()}).T
        print(f"\nscore = {weight:g} mixing + {1 - weight:g} kept: median {rows['rank correlation'].median():.3f}")
        print(rows.round(3).to_string())


if __name__ == "__main__":
    main()
