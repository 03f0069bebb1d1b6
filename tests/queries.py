"""Small references and new cells for the tests of mapping."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import scipy.sparse
from strategies import cells_with_batches

import harmonax
from harmonax import HarmonyModel, HarmonyParams

SHORT = {"max_iter_harmony": 4, "max_iter_clustering": 3}


def fitted(levels=(3,), flavor="harmony2", n=400, d=6, seed=0, **params):
    Z, codes = cells_with_batches(n, d, levels, seed)
    names = {f"v{f}": np.array([f"{f}{c}" for c in codes[:, f]]) for f in range(len(levels))}
    how = HarmonyParams(flavor=flavor, precision="float64", n_clusters=8, **{**SHORT, **params})
    result = harmonax.harmonize(Z, names, how, rng=0, progress=False)
    return Z, names, result, HarmonyModel.from_result(result)


def counts(n, gen, types, batch, genes=60):
    """Return counts of cell types with ten marker genes each, and a batch that changes half of the genes."""
    base = np.exp(np.random.default_rng(98).normal(0, 0.5, genes))
    profile = np.tile(base, (6, 1))
    for t in range(6):
        profile[t, 10 * t : 10 * t + 10] *= 8
    effect = np.exp(0.25 * np.random.default_rng(99).normal(size=(4, genes)))
    return scipy.sparse.csr_matrix(gen.poisson(profile[types] * effect[batch] * 3.0).astype(np.float32))


def experiment(seed=0, n=1200, kinds=5, batches=(0, 1), genes=60):
    gen = np.random.default_rng(seed)
    types, batch = gen.integers(kinds, size=n), gen.choice(batches, n)
    obs = pd.DataFrame(
        {"batch": [f"b{b}" for b in batch], "cell_type": [f"t{t}" for t in types]},
        index=[f"c{seed}_{i}" for i in range(n)],
    )
    adata = anndata.AnnData(counts(n, gen, types, batch, genes), obs=obs)
    adata.var_names = [f"g{i}" for i in range(genes)]
    return adata


def reference(scale, seed=0, **how):
    import scanpy as sc

    adata = experiment(seed, **how)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    if scale:
        adata.X = adata.X.toarray()
        sc.pp.scale(adata, max_value=10)
    sc.pp.pca(adata, n_comps=8)
    return adata


def logged(adata):
    import scanpy as sc

    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata
