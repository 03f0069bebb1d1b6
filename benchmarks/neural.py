"""MMD, WGAN, an encoder, ComBat, Harmony and a sweep of it on real data: who wins, how long, and the verdict.

"Another PCA" corrects nothing: the genes are scaled first.

usage: python benchmarks/neural.py [--seeds 5] [--sets NAME ...] [--out table.md]

From counts: log-normalised, 1000 variable genes (batches together), 50 principal components. Trained on all cells;
scored with scib-metrics by quality.py, which lies beside the data's folder, on the cells with a label: of
`kang_fullgenes` those labelled by its authors, since the others were labelled after an integration.
Data: $HARMONAX_TEST_DATA, by default ../shared/data beside this project. Needs the extras jax and workflow.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import anndata
import numpy as np
import scanpy as sc

import harmonax
from harmonax.pp import mmd_integrate, wgan_integrate
from harmonax.training import train_encoder

DATA = Path(os.environ.get("HARMONAX_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
SETS = ("kang_fullgenes", "pancreas_3prot", "onek1k_subset")
ENOUGH = 0.05


def harmony(adata: anndata.AnnData, seed: int) -> str:
    harmonax.pp.harmony_integrate(adata, "batch", max_iter_harmony=50, rng=seed)
    return "X_pca_harmony"


def swept(adata: anndata.AnnData, seed: int) -> str:
    # Sees no labels: its score is made of mixing and of neighbours kept.
    harmonax.tl.sweep(adata, "batch", adjusted_basis="X_swept", rng=seed)
    return "X_swept"


def encoder(adata: anndata.AnnData, seed: int) -> str:
    train_encoder(adata, "batch", layer="counts", rng=seed, progress=False, key_added="X_encoder")
    return "X_encoder"


def mmd(adata: anndata.AnnData, seed: int) -> str:
    mmd_integrate(adata, "batch", rng=seed, progress=False)
    return "X_mmd"


def wgan(adata: anndata.AnnData, seed: int) -> str:
    wgan_integrate(adata, "batch", rng=seed, progress=False)
    return "X_wgan"


def combat(adata: anndata.AnnData, seed: int) -> str:
    return again(adata, "combat", lambda other: sc.pp.combat(other, "batch"))


def another_pca(adata: anndata.AnnData, seed: int) -> str:
    return again(adata, "scaled", sc.pp.scale)


def again(adata: anndata.AnnData, name: str, change: Callable[[anndata.AnnData], Any]) -> str:
    """Take principal components of changed expression."""
    other = anndata.AnnData(adata.X.toarray(), obs=adata.obs.copy())
    change(other)
    sc.pp.pca(other, n_comps=50, random_state=0)
    adata.obsm[f"X_{name}"] = other.obsm["X_pca"]
    return f"X_{name}"


METHODS: dict[str, Callable[[anndata.AnnData, int], str]] = {
    "uncorrected PCA": lambda adata, seed: "X_pca",
    "Harmony (50 rounds at most)": harmony,
    "Harmony, swept": swept,
    "MMD": mmd,
    "WGAN": wgan,
    "encoder": encoder,
    "ComBat": combat,
    "another PCA": another_pca,
}


def scorer() -> Any:
    spec = importlib.util.spec_from_file_location("quality", DATA.parent / "quality.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepared(name: str) -> anndata.AnnData:
    adata = anndata.read_h5ad(DATA / f"{name}.h5ad")
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=1000)
    adata = adata[:, adata.var["highly_variable"]].copy()
    sc.pp.pca(adata, n_comps=50, random_state=0)
    return adata


def verdict(adata: anndata.AnnData, place: str) -> str:
    """Return the verdict on the last seed's embedding, and what was found besides good."""
    found = harmonax.tl.verdict(adata, "batch", label_key="cell_type", basis="X_pca", adjusted_basis=place)
    serious = [one.code for one in found.findings if one.level in ("warning", "problem")]
    return f"{found.code} ({', '.join(serious)})" if serious else found.code


def table(name: str, n_seeds: int, only: list[str]) -> list[str]:
    adata, quality = prepared(name), scorer()
    keep = quality.labelled(adata)
    if "label_source" in adata.obs:
        keep &= np.asarray(adata.obs["label_source"] == "Kang2018_GEO")
    batch, kind = (adata.obs[column].astype(str)[keep] for column in ("batch", "cell_type"))
    lines = [f"\n`{name}`: {adata.n_obs} cells, {int(keep.sum())} of them scored\n"]
    lines += ["| method | total: median (min to max) | batch | bio | seeds ahead of PCA by 0.05 | seconds | verdict |"]
    lines += ["|---|---|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    bar = 0.0
    for method, run in METHODS.items():
        if method not in only and method != "uncorrected PCA":
            continue
        found, seconds = [], []
        for seed in range(1 if method == "uncorrected PCA" else n_seeds):
            start = time.perf_counter()
            place = run(adata, seed)
            seconds.append(time.perf_counter() - start)
            found.append(quality.scores(np.asarray(adata.obsm[place])[keep], batch, kind))
        total, by_batch, bio = ([scores[what] for scores in found] for what in ("total", "batch", "bio"))
        bar = bar or total[0] + ENOUGH
        ahead = "" if method == "uncorrected PCA" else f"{sum(t >= bar for t in total)} of {n_seeds}"
        spread = f"{median(total):.3f} ({min(total):.3f} to {max(total):.3f})"
        shown = f"{spread} | {median(by_batch):.3f} | {median(bio):.3f}"
        said = "" if method == "uncorrected PCA" else verdict(adata[keep].copy(), place)
        lines.append(f"| {method} | {shown} | {ahead} | {median(seconds):.0f} | {said} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=SETS)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    names = ("harmonax", "scib-metrics", "scanpy", "jax", "flax", "optax")
    lines = [", ".join(f"{name} {version(name)}" for name in names) + f"; {os.cpu_count()} CPUs"]
    print(lines[0], flush=True)
    for name in args.sets:
        lines += table(name, args.seeds, args.methods)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
