"""What corrections change where there is nothing to correct: the largest batch of real sets, split at random.

usage: python benchmarks/random_split.py [SET ...]      (data: $HARMONAX_TEST_DATA, by default ../shared/data)
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np

import harmonax as hx

DATA = Path(os.environ.get("HARMONAX_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
SETS = ("kang_fullgenes", "onek1k_subset", "pbmc_sorted")


def harmony(**changes: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    params = hx.HarmonyParams(max_iter_harmony=50, **changes)
    return lambda Z, half: hx.harmonize(Z, half.astype(str), params, rng=0, progress=False).embedding


def z_scores(Z: np.ndarray, half: np.ndarray) -> np.ndarray:
    after = Z.copy()
    for side in (0, 1):
        own = half == side
        after[own] = (Z[own] - Z[own].mean(axis=0)) / Z[own].std(axis=0)
    return after


METHODS = {
    "Harmony": harmony(),
    "Harmony, theta 8": harmony(theta=8),
    "Harmony, theta 20, ridge 0.001": harmony(theta=20, ridge_lambda=0.001),
    "z-scores by batch": z_scores,
}


def main() -> None:
    warnings.filterwarnings("ignore")
    shown = ("neighbours_kept", "displacement", "movement", "cluster_concordance", "concordance_again", "genes_called")
    print("| set | method | " + " | ".join(name.replace("_", " ") for name in shown) + " |")
    print("|" + "---|" * (len(shown) + 2))
    for name in sys.argv[1:] or SETS:
        adata = anndata.read_h5ad(DATA / f"{name}.h5ad")
        for method, correct in METHODS.items():
            found = hx.tl.random_split(adata, "batch", correct=correct).mean
            print(f"| {name} | {method} | " + " | ".join(f"{found[column]:.3f}" for column in shown) + " |", flush=True)


if __name__ == "__main__":
    main()
