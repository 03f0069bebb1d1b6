"""Maps a query with symphonypy, in its own environment: folder and seeds in, one .npz a seed out."""

import logging
import sys
import warnings

import anndata
import numpy as np
import symphonypy as sp

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
folder, seeds = sys.argv[1], [int(seed) for seed in sys.argv[2:]]
for seed in seeds:
    ref, query = (anndata.read_h5ad(f"{folder}/{name}.h5ad") for name in ("ref", "query"))
    if ref.obs["batch"].nunique() > 1:
        sp.pp.harmony_integrate(ref, "batch", random_seed=seed)
    np.random.seed(seed)  # noqa: NPY002
    sp.tl.map_embedding(query, ref, key="batch")
    basis = "X_pca_harmony" if "X_pca_harmony" in ref.obsm else "X_pca"
    known = ref[ref.obs["cell_type"] != "unlabelled"].copy()
    sp.tl.transfer_labels_kNN(query, known, "cell_type", ref_basis=basis, query_labels="mapped")
    labels = query.obs["mapped"].astype(str).to_numpy()
    np.savez(f"{folder}/{seed}.npz", ref=ref.obsm[basis], query=query.obsm["X_pca_harmony"], labels=labels)
