"""Corrected counts: batch effects removed, biology kept, time and memory.

usage: python benchmarks/counts.py [--only real simulated split size] [--out table.md]

In the tables, of counts per depth, log1p, before and after: what is left of the variance between batches within types
(each with 20 cells or more, sampling noise subtracted); the correlation of log fold changes between types, the mean of
those within batches, with the same of the uncorrected counts (median and minimum over pairs of types); and that of the
correlations between the 200 most expressed genes within types and batches (the entries of the matrices, averaged).
simulated: cells of one batch, thinned by a known factor per gene and batch; the log fold changes of all cells of two
types against those before thinning. split: one batch cut into two at random. size: 100,000 cells x 2,000 genes in a
process of its own.
Data: $HARMONAX_TEST_DATA, by default ../shared/data beside this project.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from parts import show
from scipy import sparse

import harmonax
from harmonax.datasets import prepare, simulate

DATA = Path(os.environ.get("HARMONAX_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
SETS = [("kang_fullgenes", "batch"), ("kang_donors", "donor"), ("pancreas_3prot", "batch"), ("onek1k_subset", "batch")]
PARTS = ["real", "simulated", "split", "size"]
HEAD = "| set | left of batch variance | log fold changes: median | minimum | genes' correlations | counts | s CPU |"


def corrected(adata: anndata.AnnData, key: str) -> float:
    """Correct, and return the seconds of the counts alone."""
    harmonax.pp.harmony_integrate(adata, key, max_iter_harmony=50, rng=0, progress=False)
    start = time.process_time()
    harmonax.pp.correct_counts(adata, progress=False)
    return time.process_time() - start


def prepared(name: str, n_genes: int = 2000) -> anndata.AnnData:
    """Return the cells with counts and a type, and the genes that most of them have."""
    adata = anndata.read_h5ad(DATA / f"{name}.h5ad")
    adata = adata[(np.asarray(adata.X.sum(axis=1)).ravel() > 0) & (adata.obs["cell_type"] != "unlabelled")]
    seen = np.asarray((adata.X > 0).sum(axis=0)).ravel()
    return adata[:, np.sort(np.argsort(-seen, kind="stable")[:n_genes])].copy()


class Groups:
    """Logarithms of counts per depth in types and batches with 20 cells or more."""

    def __init__(self, X, adata, key):
        depth = np.asarray(adata.X.sum(axis=1)).ravel()
        L = np.log1p(X.toarray() / (depth / np.median(depth))[:, None])
        groups = adata.obs.groupby(["cell_type", key], observed=True).indices
        self.cells = {name: L[rows] for name, rows in groups.items() if len(rows) >= 20}
        self.mean = {name: cells.mean(axis=0) for name, cells in self.cells.items()}
        self.types = sorted({name[0] for name in self.cells})

    def between(self) -> float:
        total = 0.0
        for kind in self.types:
            own = [name for name in self.cells if name[0] == kind]
            if len(own) > 1:
                noise = np.mean([self.cells[name].var(axis=0) / len(self.cells[name]) for name in own], axis=0)
                total += float((np.var([self.mean[name] for name in own], axis=0, ddof=1) - noise).sum())
        return total

    def changes(self) -> dict[tuple[str, str], np.ndarray]:
        found = {}
        for a, b in combinations(self.types, 2):
            shared = [name[1] for name in self.cells if name[0] == a and (b, name[1]) in self.cells]
            if shared:
                found[a, b] = np.mean([self.mean[a, batch] - self.mean[b, batch] for batch in shared], axis=0)
        return found

    def correlations(self, genes: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            every = [np.nan_to_num(np.corrcoef(cells[:, genes].T)) for cells in self.cells.values()]
        return np.mean(every, axis=0)[np.triu_indices(len(genes), 1)]


def scored(adata: anndata.AnnData, key: str) -> list[float]:
    after = adata.layers["counts_corrected"]
    old, new = Groups(adata.X, adata, key), Groups(after, adata, key)
    first, second = old.changes(), new.changes()
    same = [np.corrcoef(first[pair], second[pair])[0, 1] for pair in first]
    genes = np.argsort(-np.asarray(adata.X.mean(axis=0)).ravel())[:200]
    kept = np.corrcoef(old.correlations(genes), new.correlations(genes))[0, 1]
    return [new.between() / old.between(), np.median(same), min(same), kept, after.sum() / adata.X.sum()]


def row(name: str, adata: anndata.AnnData, key: str) -> str:
    seconds = corrected(adata, key)
    return f"| {name} | " + " | ".join(f"{score:.3f}" for score in scored(adata, key)) + f" | {seconds:.1f} |"


def real() -> Iterator[str]:
    yield HEAD
    yield "|---|---|---|---|---|---|---|"
    for name, key in SETS:
        yield row(name, prepared(name), key)


def simulated() -> Iterator[str]:
    """Take cells of one batch apart into three, of other types each, and thin each gene by a factor of its batch."""
    yield HEAD + " pooled log fold changes with the truth: before | after |"
    yield "|---|---|---|---|---|---|---|---|---|"
    gen = np.random.default_rng(0)
    whole = simulate(30_000, 0)
    whole = whole[whole.obs["batch"] == "10x v3"].copy()
    kind = whole.obs["cell_type"].cat.codes.to_numpy()
    shares = gen.dirichlet(np.full(3, 2.0), kind.max() + 1)
    batch = (gen.random(whole.n_obs)[:, None] > np.cumsum(shares, axis=1)[kind, :2]).sum(axis=1)
    kept = np.exp(-np.abs(gen.normal(0, 0.5, (3, whole.n_vars))))[batch]
    adata = anndata.AnnData(sparse.csr_matrix(gen.binomial(whole.X.toarray().astype(int), kept).astype(np.float32)))
    adata.obs = pd.DataFrame({"cell_type": whole.obs["cell_type"].to_numpy(), "batch": batch.astype(str)})
    adata.obs.index = whole.obs_names
    counts = adata.X.copy()
    prepare(adata)
    adata.X = counts
    line = row(f"simulated, {adata.n_obs:,} cells", adata, "batch")
    truth = pooled(whole.X, kind)
    near = [
        np.median([np.corrcoef(*pair)[0, 1] for pair in zip(truth, pooled(X, kind), strict=True)])
        for X in (adata.X, adata.layers["counts_corrected"])
    ]
    yield f"{line} {near[0]:.3f} | {near[1]:.3f} |"


def pooled(X, kind: np.ndarray) -> list[np.ndarray]:
    """Return the differences of the types' log rates, for every pair of types with 200 cells."""
    means = {k: X[kind == k].sum(axis=0) for k in np.unique(kind) if (kind == k).sum() >= 200}
    rates = {k: np.log(np.asarray(sums).ravel() / sums.sum() * 1e4 + 0.1) for k, sums in means.items()}
    return [rates[a] - rates[b] for a, b in combinations(sorted(rates), 2)]


def split() -> Iterator[str]:
    yield "| set | counts changed | as a share of their Poisson noise | variance between halves, after / before |"
    yield "|---|---|---|---|"
    gen = np.random.default_rng(0)
    for name, key in SETS[:2]:
        adata = prepared(name)
        adata = adata[adata.obs[key] == adata.obs[key].value_counts().index[0]].copy()
        adata.obs["half"] = gen.choice(["a", "b"], adata.n_obs)
        corrected(adata, "half")
        old, new = adata.X.toarray(), adata.layers["counts_corrected"].toarray()
        change = ((new - old) ** 2).sum() / old.sum()
        halves = [Groups(X, adata, "half") for X in (adata.X, adata.layers["counts_corrected"])]
        spread = []
        for groups in halves:
            means = pd.DataFrame({name: value for name, value in groups.mean.items()}).T
            spread.append(float(means.groupby(level=0).var().mean().mean()))
        yield f"| {name} | {(new != old).mean():.4f} | {change:.4f} | {spread[1] / spread[0]:.2f} |"


def size() -> Iterator[str]:
    yield "| cells x genes | how | s CPU | s | peak MiB |"
    yield "|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.h5ad"
        adata = simulate(100_000, 0)
        counts = adata.X.copy()
        prepare(adata)
        adata.X = counts
        adata.layers.clear()
        harmonax.pp.harmony_integrate(adata, "batch", rng=0, progress=False)
        adata.write_h5ad(source)
        n, g = adata.shape
        del adata, counts
        memory = f"import anndata, harmonax; a = anndata.read_h5ad({str(source)!r}); harmonax.pp.correct_counts(a)"
        disk = f"from harmonax.cli import run; run(['counts', {str(source)!r}, '-o', {str(source)!r} + '.out.h5ad'])"
        for how, code in (("in memory", memory), ("from file to file", disk)):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            start = time.perf_counter()
            report = "; from harmonax.system.memory import peak; print(peak() >> 20)"
            found = subprocess.run([sys.executable, "-c", code + report], check=True, capture_output=True, text=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            wall = time.perf_counter() - start
            yield f"| {n:,} x {g:,} | {how} | {cpu:.0f} | {wall:.0f} | {found.stdout.split()[-1]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    tables = {"real": real, "simulated": simulated, "split": split, "size": size}
    show({part: tables[part] for part in asked.only}, asked.out)


if __name__ == "__main__":
    main()
