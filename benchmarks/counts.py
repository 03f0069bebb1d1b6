"""Corrected counts: batch effects removed, biology kept, time and memory.

usage: python benchmarks/counts.py [--only real simulated split size] [--out table.md]

In the tables, of counts per depth, log1p, before and after: what is left of the variance between batches within types
(each with 20 cells or more, sampling noise subtracted); the correlation of log fold changes between types, the mean of
those within batches, with the same of the uncorrected counts (median and minimum over pairs of types); and that of the
correlations between the 200 most expressed genes within types and batches (the entries of the matrices, averaged).
simulated: half a million correlations aside, the corrected counts against rates that the generator knows. split: one
batch cut into two at random; changed counts, and the same between two draws of one random seed and another. size: 100,000
cells x 2,000 genes in a process of its own.
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
    """Give types in three batches; the truth are a type's rates, the geometric mean of those in the batches."""
    yield HEAD + " nearer to the truth |"
    yield "|---|---|---|---|---|---|---|---|"
    adata = simulate(20_000, 0)
    counts = adata.X.copy()
    prepare(adata)
    adata.X = counts
    line = row("simulated, 20,000 cells", adata, "batch")
    depth = np.asarray(adata.X.sum(axis=1)).ravel()
    before, after = (rates(X, depth, adata.obs) for X in (adata.X, adata.layers["counts_corrected"]))
    truth = before.groupby(level=0).mean()
    far = [
        float(np.sqrt(((table - truth.reindex(table.index, level=0)) ** 2).mean().mean())) for table in (before, after)
    ]
    yield f"{line} {far[0]:.3f} -> {far[1]:.3f} |"


def rates(X, depth: np.ndarray, obs: pd.DataFrame) -> pd.DataFrame:
    """Return log rates of every type in every batch with 100 cells of it, of genes with a count per ten cells."""
    found = {}
    seen = np.asarray(X.mean(axis=0)).ravel() > 0.1
    for name, rows in obs.groupby(["cell_type", "batch"], observed=True).indices.items():
        if len(rows) >= 100:
            found[name] = np.log(np.asarray(X[rows][:, seen].sum(axis=0)).ravel() / depth[rows].sum() * 1e4 + 0.01)
    return pd.DataFrame(found).T


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
    lines = []
    for part in asked.only:
        for each in ("", f"### {part}", "", *tables[part]()):
            lines.append(each)
            print(each, flush=True)
    if asked.out is not None:
        asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
