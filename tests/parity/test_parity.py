"""Golden traces of other programs, replayed through the dense reference within the bounds of rounding."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
from replay import replay

import harmonax

BOUNDS = {"h1": {"Z": 1e-10, "R": 1e-7}, "h2": {"Z": 5e-6, "R": 3e-6, "objective": 1e-3}}
TRACES = [
    "h1_one_key",
    "h1_two_keys",
    "h2_fixed_lambda_pruned",
    "h2_one_key",
    "h2_tau_many_passes",
    "h2_three_keys_pruned",
    "h2_two_keys",
]


def test_every_trace_is_listed(data_dir):
    assert sorted(p.stem for p in (data_dir / "parity").glob("*.npz")) == TRACES


@pytest.mark.parametrize("name", TRACES)
def test_replays(name, data_dir):
    difference = replay(data_dir / "parity" / f"{name}.npz")
    for what, bound in BOUNDS[name[:2]].items():
        assert getattr(difference, what) <= bound, (what, difference)
    assert difference.passes_equal


@pytest.mark.parametrize("seed", [0, 1])
def test_harmony1_agrees_with_the_r_package(data_dir, seed):
    # The R package's own result has its own random seeding, so the comparison is by correlation.
    adata = anndata.read_h5ad(data_dir / "pbmc_3500.h5ad")
    params = harmonax.harmony1(max_iter_harmony=50)
    ours = harmonax.harmonize(adata.obsm["X_pca"], adata.obs["batch"], params, rng=seed).embedding
    theirs = adata.obsm["X_pca_harmony_R"]
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(ours.T, theirs.T, strict=True)]
    assert min(correlations) >= 0.99, np.round(correlations, 3)
