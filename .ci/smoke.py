"""Use an installed harmonax through every front, without test tools."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

import harmonax
from harmonax.datasets import prepare, simulate

rng = np.random.default_rng(0)
batch = np.repeat(["a", "b"], 1500)
cell_type = np.tile([0.0, 6.0], 1500)
Z = rng.normal(size=(3000, 8)) + cell_type[:, None] * np.eye(1, 8) + 2.0 * (batch == "b")[:, None] * np.eye(1, 8, 1)


def gap(embedding: np.ndarray) -> float:
    """Return the distance between the batches' means."""
    return float(np.linalg.norm(embedding[batch == "a"].mean(axis=0) - embedding[batch == "b"].mean(axis=0)))


result = harmonax.harmonize(Z, batch, rng=0)
again = harmonax.harmonize(Z, batch, rng=0, n_threads=1)
assert np.array_equal(result.embedding, again.embedding)
assert np.allclose(result.assignments().sum(axis=1), 1.0, atol=1e-4)

adata = anndata.AnnData(obs=pd.DataFrame({"batch": batch}, index=[f"c{i}" for i in range(3000)]), obsm={"X_pca": Z})
harmonax.pp.harmony_integrate(adata, "batch", rng=0)
other = harmonax.run_harmony(Z, adata.obs, ["batch"], verbose=False)

gaps = {"before": Z, "harmonize": result.embedding, "pp": adata.obsm["X_pca_harmony"], "run_harmony": other.Z_corr}
print(f"Python {sys.version.split()[0]}, {result.backend}; distance of batch means:")
print("  " + ", ".join(f"{name} {gap(value):.2f}" for name, value in gaps.items()))
assert all(gap(value) < 0.5 * gap(Z) for name, value in gaps.items() if name != "before")

command = str(Path(sys.executable).with_name("harmonax"))
with tempfile.TemporaryDirectory() as folder:
    simulated = simulate(1000, np.random.default_rng(0))
    prepare(simulated)
    simulated.write_h5ad(Path(folder, "simulated.h5ad"))
    job = [command, "integrate", "simulated.h5ad", "-o", "again.h5ad", "--batch-key", "batch", "--quiet"]
    subprocess.run(job, cwd=folder, check=True)
    assert "X_pca_harmony" in anndata.read_h5ad(Path(folder, "again.h5ad")).obsm
