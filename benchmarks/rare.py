"""Types of few cells: what within Harmony keeps them together, and what it costs the rest.

usage: python benchmarks/rare.py [--sets ...] [--cells 2500] [--rare 30] [--types 4] [--out table.md]

In every set each of its types in turn (those of two batches or more) is reduced to so many cells, and the set is
corrected with each option. Of the rare type: the best F1 of a Leiden cluster over resolutions (isolated label F1), and
of each of its cells the share of its type among the 10 nearest cells of other batches. Of all cells: iLISI (higher:
batches mixed) and cLISI (lower: types apart), each less 1. Means over types and sets, and in how many cases F1 is
higher and lower than with the defaults by more than 0.02. Needs igraph.
Data: $HARMONAX_TEST_DATA, by default ../shared/data beside this project.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import anndata
import igraph
import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors

import harmonax
from harmonax.algorithm.seeding import seed_centroids, unit
from harmonax.engine import run
from harmonax.evaluation.lisi import lisi

DATA = Path(os.environ.get("HARMONAX_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
SETS = {"pancreas_3prot": "batch", "kang_fullgenes": "batch", "kang_donors": "donor", "onek1k_subset": "batch"}
RESOLUTIONS = (0.3, 0.6, 1.0, 2.0, 4.0)


def plain(Z, batch, **how):
    return harmonax.harmonize(Z, batch, rng=0, progress=False, **how)


def more_clusters(times: int) -> Callable[..., np.ndarray]:
    def correct(Z, batch):
        default = max(2, min(100, round(len(Z) / 30)))
        return plain(Z, batch, n_clusters=min(times * default, len(Z) // 3)).embedding

    return correct


def far_seeds(Z, batch):
    """Begin with cells far from those chosen already (k-means++), which finds small groups."""

    def seeds(cells, n_clusters, rng):
        points = unit(np.asarray(Z, np.float64))
        chosen = [int(rng.integers(len(points)))]
        far = np.full(len(points), np.inf)
        for _ in range(n_clusters - 1):
            far = np.minimum(far, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
            chosen.append(int(rng.choice(len(points), p=far / far.sum())))
        return points[chosen]

    run.seed_centroids = seeds
    try:
        return plain(Z, batch).embedding
    finally:
        run.seed_centroids = seed_centroids


def sharper_small_clusters(Z, batch):
    """Run twice: clusters that hold less than half of the mean mass are half as wide the second time."""
    mass = plain(Z, batch).cluster_mass.sum(axis=0)
    return plain(Z, batch, sigma=np.where(mass < mass.mean() / 2, 0.05, 0.1)).embedding


OPTIONS: dict[str, Callable[..., np.ndarray]] = {
    "uncorrected": lambda Z, batch: Z,
    "defaults": lambda Z, batch: plain(Z, batch).embedding,
    "twice the clusters": more_clusters(2),
    "four times the clusters": more_clusters(4),
    "sigma 0.05": lambda Z, batch: plain(Z, batch, sigma=0.05).embedding,
    "sigma 0.05, twice the clusters": lambda Z, batch: (
        plain(Z, batch, sigma=0.05, n_clusters=min(100, round(len(Z) / 15))).embedding
    ),
    "theta 1": lambda Z, batch: plain(Z, batch, theta=1.0).embedding,
    "theta 0.5": lambda Z, batch: plain(Z, batch, theta=0.5).embedding,
    "alpha 1": lambda Z, batch: plain(Z, batch, alpha=1.0).embedding,
    "k-means++ seeds": far_seeds,
    "small clusters sharper": sharper_small_clusters,
}


def reduced(
    name: str, key: str, n_cells: int, n_rare: int, n_types: int
) -> Iterator[tuple[np.ndarray, pd.DataFrame, str]]:
    """Give the set once for each type, reduced to so many cells."""
    gen = np.random.default_rng(0)
    adata = anndata.read_h5ad(DATA / f"{name}.h5ad")
    obs, Z = adata.obs[["cell_type", key]].astype(str).set_axis(["kind", "batch"], axis=1), adata.obsm["X_pca"]
    known = np.flatnonzero(obs["kind"] != "unlabelled")
    kinds = [kind for kind, own in obs.iloc[known].groupby("kind") if len(own) > n_rare and own["batch"].nunique() > 1]
    for kind in kinds[:n_types]:
        own = np.flatnonzero(obs["kind"] == kind)
        others = np.setdiff1d(known, own)
        others = gen.choice(others, min(n_cells, len(others)), replace=False)
        rows = np.sort(np.concatenate([gen.choice(own, n_rare, replace=False), others]))
        yield np.asarray(Z[rows], np.float32), obs.iloc[rows], kind


def scored(E: np.ndarray, obs: pd.DataFrame, kind: str) -> list[float]:
    rare, batch = (obs["kind"] == kind).to_numpy(), obs["batch"].to_numpy()
    near = NearestNeighbors(n_neighbors=16).fit(E).kneighbors(return_distance=False)
    edges = np.column_stack([np.repeat(np.arange(len(E)), near.shape[1]), near.ravel()])
    graph = igraph.Graph(len(E), edges).simplify()
    best = 0.0
    igraph.set_random_number_generator(Random(0))
    for resolution in RESOLUTIONS:
        found = graph.community_leiden("modularity", resolution=resolution, n_iterations=2).membership
        inside = np.bincount(found, rare)
        best = max(best, float((2 * inside / (np.bincount(found) + rare.sum())).max()))
    pure = []
    for cell in np.flatnonzero(rare):
        other = np.flatnonzero(batch != batch[cell])
        nearest = other[np.argsort(((E[other] - E[cell]) ** 2).sum(axis=1))[:10]]
        pure.append(rare[nearest].mean())
    return [
        best,
        float(np.mean(pure)),
        float(lisi(E, batch).mean() - 1),
        float(lisi(E, obs["kind"].to_numpy()).mean() - 1),
    ]


def table(asked: argparse.Namespace) -> Iterator[str]:
    found: dict[tuple[str, str, str], list[float]] = {}
    for name in asked.sets:
        for Z, obs, kind in reduced(name, SETS[name], asked.cells, asked.rare, asked.types):
            for option, correct in OPTIONS.items():
                found[option, name, kind] = scored(correct(Z, obs["batch"].to_numpy()), obs, kind)
    scores = pd.DataFrame(found, index=["F1", "pure", "iLISI", "cLISI"]).T.sort_index()
    yield "| option | set | F1 | own type among other batches' nearest | iLISI | cLISI | F1 higher / lower |"
    yield "|---|---|---|---|---|---|---|"
    default = scores.loc["defaults", "F1"]
    for option in OPTIONS:
        own = scores.loc[option]
        for name, part in [("all", own), *((name, own.loc[[name]]) for name in asked.sets)]:
            change = part["F1"] - default.reindex(part.index)
            mean = " | ".join(f"{value:.3f}" for value in part.groupby(level=0).mean().mean())
            yield f"| {option} | {name} | {mean} | {(change > 0.02).sum()} / {(change < -0.02).sum()} of {len(part)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--cells", type=int, default=2500)
    parser.add_argument("--rare", type=int, default=30)
    parser.add_argument("--types", type=int, default=4)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    lines = list(table(asked))
    print("\n".join(lines))
    if asked.out is not None:
        asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
