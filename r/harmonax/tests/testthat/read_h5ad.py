"""Counts, batches and cell types of an .h5ad for R: ``read_h5ad.py FILE FOLDER``; numbers as they lie in memory."""

import sys
from pathlib import Path

import anndata
import numpy as np

adata, folder = anndata.read_h5ad(sys.argv[1]), Path(sys.argv[2])
X = adata.X.tocsr()
X.sort_indices()
# Rows of cells are columns in R.
for name, values, kind in (("i", X.indices, np.int32), ("p", X.indptr, np.int32), ("x", X.data, np.float64)):
    np.asarray(values, kind).tofile(folder / f"{name}.bin")
for name, values in (("genes", adata.var_names), ("cells", adata.obs_names)):
    (folder / f"{name}.txt").write_text("\n".join(map(str, values)) + "\n", encoding="utf-8")
for name in ("batch", "cell_type"):
    (folder / f"{name}.txt").write_text("\n".join(map(str, adata.obs[name])) + "\n", encoding="utf-8")
