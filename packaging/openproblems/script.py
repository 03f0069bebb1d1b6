"""Batch integration with harmonax, as a component of Open Problems; viash fills in `par` and `meta`."""

import sys

import anndata as ad

import harmonax

## VIASH START
par = {
    "input": "resources_test/task_batch_integration/cxg_immune_cell_atlas/dataset.h5ad",
    "output": "output.h5ad",
    "theta": 2.0,
}
meta = {"name": "harmonax", "resources_dir": "src/utils", "cpus": None}
## VIASH END

sys.path.append(meta["resources_dir"])
from read_anndata_partial import read_anndata  # noqa: E402

print(">> Read input", flush=True)
adata = read_anndata(par["input"], obs="obs", obsm="obsm", var="var", uns="uns")

print(">> Run harmonax", flush=True)
result = harmonax.harmonize(
    adata.obsm["X_pca"], adata.obs[["batch"]], theta=par["theta"], rng=0, n_threads=meta["cpus"], progress=False
)
print(f">> {result.summary()}", flush=True)

print(">> Store output", flush=True)
output = ad.AnnData(
    obs=adata.obs[[]],
    var=adata.var[[]],
    obsm={"X_emb": result.embedding},
    shape=adata.shape,
    uns={name: adata.uns[name] for name in ("dataset_id", "normalization_id")} | {"method_id": meta["name"]},
)
output.write_h5ad(par["output"], compression="gzip")
