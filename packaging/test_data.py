"""Write the cells that the tests of nf-core, Galaxy and Snakemake read: 300 simulated ones, with counts and components.

usage: test_data.py [FOLDER]    default: every place in packaging/ where a test looks for them
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import scanpy as sc

import harmonax
from harmonax.datasets import simulate

HERE = Path(__file__).resolve().parent
PLACES = ["galaxy/test-data", "snakemake/test"]
PLACES += [f"nf-core/modules/harmonax/{name}/tests" for name in ("run", "integrate", "map")]


def write(folder: Path) -> None:
    """Write cells.h5ad and model.h5, the model of these cells, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = simulate(300, np.random.default_rng(0))
    prepared = cells.copy()
    sc.pp.normalize_total(prepared, target_sum=1e4)
    sc.pp.log1p(prepared)
    sc.pp.pca(prepared, n_comps=10)
    cells.obsm["X_pca"] = prepared.obsm["X_pca"]
    cells.write_h5ad(folder / "cells.h5ad", compression="gzip")
    harmonax.pp.harmony_integrate(prepared, "batch", save_model=folder / "model.h5", save_labels="cell_type", rng=0)


if __name__ == "__main__":
    for place in [Path(sys.argv[1])] if len(sys.argv) > 1 else [HERE / place for place in PLACES]:
        write(place)
