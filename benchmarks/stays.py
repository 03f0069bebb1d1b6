"""What must stay: cells of a reference against mapping, and the effect of a protected condition.

usage: python benchmarks/stays.py [--seeds 3] [--held-out 5] [--only reference simulated kang] [--out table.md]

Reference: each batch in turn is held out, and the others are integrated. The batch is then mapped, or corrected with
all others as ``reference=``; iLISI and accuracy as in `mapping.py`. Simulated: 5 types in 4 batches, an effect of 2
of a condition in each type, more or less confounded with the batch; what is left of it along its own direction, and how
far the batches' means lie apart within types and conditions. kang: donors are the batches, the treatment is protected.
Data: $HARMONAX_TEST_DATA, by default ../shared/data beside this project.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from mapping import DATA, judged, nearest_labels, ours, prepared, reference
from parts import show

import harmonax
from harmonax.evaluation.lisi import lisi
from harmonax.mapping.build import model_of
from harmonax.mapping.projection import Expression

PARTS = ["reference", "simulated", "kang"]
SETS = ("pancreas_3prot", "onek1k_subset")


def held_out(n_seeds: int, n_batches: int) -> Iterator[str]:
    yield "| set | held out | how | iLISI | accuracy | cells of the reference that moved |"
    yield "|---|---|---|---|---|---|"
    for name in SETS:
        cells = prepared(name)
        found: dict[str, list[tuple[float, float, float]]] = {}
        levels = np.array(sorted(cells.obs["batch"].unique()))
        # Spread over all of them.
        levels = levels[np.unique(np.linspace(0, len(levels) - 1, min(n_batches, len(levels))).astype(int))]
        for level in levels:
            own = (cells.obs["batch"] == level).to_numpy()
            for seed in range(n_seeds):
                for how, *scores in both_ways(cells, own, seed):
                    found.setdefault(how, []).append(tuple(scores))
        for how, scores in found.items():
            ilisi, accuracy, moved = np.mean(scores, axis=0)
            yield f"| {name} | {len(levels)} | {how} | {ilisi:.3f} | {accuracy:.3f} | {moved:.0f} |"


def both_ways(cells: anndata.AnnData, own: np.ndarray, seed: int) -> Iterator[tuple[str, float, float, float]]:
    ref, query = reference(cells[~own]), cells[own].copy()
    batch = np.concatenate([ref.obs["batch"], query.obs["batch"]])
    truth = query.obs["cell_type"].to_numpy()
    counted = np.isin(truth, ref.obs["cell_type"]) & (truth != "unlabelled")
    for rounds in (1, 2):
        fixed, mapped, labels = ours(ref, query, seed, rounds, harmonax.harmony2())
        yield f"map_query, {rounds} rounds", *judged(fixed, mapped, batch, (labels == truth)[counted]), 0
    model = model_of(harmonax.harmonize(ref.obsm["X_pca"], ref.obs["batch"].to_numpy(), rng=seed, progress=False), ref)
    Z = model.projection.match(query.var_names).project(Expression(model.projection, query.X))[:]
    whole = np.concatenate([fixed, Z]).astype(np.float32)
    n, others = ref.n_obs, sorted(set(ref.obs["batch"]))
    for alpha in (0.2, 0.1):
        made = harmonax.harmonize(whole, batch, reference=others, alpha=alpha, rng=seed, progress=False).embedding
        labels = nearest_labels(made[:n], made[n:], ref)
        moved = int((made[:n] != whole[:n]).any(axis=1).sum())
        yield f"reference=, alpha {alpha}", *judged(made[:n], made[n:], batch, (labels == truth)[counted]), moved


def study(confounded: float, seed: int, n: int = 6000) -> tuple[np.ndarray, pd.DataFrame, np.ndarray]:
    """Return cells, their batch, condition and type, and the direction of the effect in each type."""
    gen = np.random.default_rng(seed)
    kind, batch = gen.integers(0, 5, n), gen.integers(0, 4, n)
    stim = gen.random(n) < np.where(batch % 2 == 0, 0.5 + confounded / 2, 0.5 - confounded / 2)
    direction = gen.normal(size=(5, 20))
    direction *= 2 / np.linalg.norm(direction, axis=1, keepdims=True)
    centre = 3 * gen.normal(size=(5, 20))[kind] + 0.7 * gen.normal(size=(4, 20))[batch]
    Z = centre + direction[kind] * stim[:, None] + 0.6 * gen.normal(size=(n, 20))
    return Z, pd.DataFrame({"batch": batch, "condition": stim, "kind": kind}), direction


def left(Z: np.ndarray, obs: pd.DataFrame, direction: np.ndarray) -> tuple[float, float]:
    """Return the share of the effect that is left, and the batches' distance within types and conditions."""
    stim, shares = obs["condition"].to_numpy(), []
    for kind, along in enumerate(direction):
        of = (obs["kind"] == kind).to_numpy()
        shares.append((Z[of & stim].mean(axis=0) - Z[of & ~stim].mean(axis=0)) @ along / (along @ along))
    means = pd.DataFrame(Z).groupby([obs["kind"], obs["condition"], obs["batch"]]).mean()
    return float(np.mean(shares)), float(np.sqrt(means.groupby(level=[0, 1]).var().to_numpy().sum(axis=1).mean()))


def simulated(n_seeds: int) -> Iterator[str]:
    yield "| confounded | how | effect left (least of the seeds) | batches apart |"
    yield "|---|---|---|---|"
    for confounded in (0.0, 0.3, 0.5, 0.7, 0.9):
        found: dict[str, list[tuple[float, float]]] = {}
        for seed in range(n_seeds):
            Z, obs, direction = study(confounded, seed)
            how = {"rng": seed, "progress": False}
            made = {
                "uncorrected": Z,
                "plain": harmonax.harmonize(Z, obs["batch"], **how).embedding,
                "protect=": harmonax.harmonize(Z, obs["batch"], protect=obs["condition"], **how).embedding,
            }
            for name, E in made.items():
                found.setdefault(name, []).append(left(E, obs, direction))
        for name, scores in found.items():
            effect, apart = np.mean(scores, axis=0)
            least = min(score[0] for score in scores)
            yield f"| {confounded} | {name} | {effect:.3f} ({least:.3f}) | {apart:.2f} |"


def kang() -> Iterator[str]:
    yield "| how | treatment apart: iLISI within types | donors mixed: iLISI within type and treatment |"
    yield "|---|---|---|"
    cells = anndata.read_h5ad(DATA / "kang_donors.h5ad")
    Z, obs = cells.obsm["X_pca"], cells.obs[["donor", "batch", "cell_type"]].astype(str)
    made = {
        "uncorrected": Z,
        "donor": harmonax.harmonize(Z, obs["donor"], rng=0, progress=False).embedding,
        "donor and treatment": harmonax.harmonize(Z, obs[["donor", "batch"]], rng=0, progress=False).embedding,
        "donor, treatment protected": harmonax.harmonize(
            Z, obs, batch_key="donor", protect="batch", rng=0, progress=False
        ).embedding,
    }
    for name, E in made.items():
        apart, mixed = [], []
        for kind, rows in obs.groupby("cell_type").indices.items():
            treated = obs["batch"].iloc[rows].to_numpy()
            counts = np.unique(treated, return_counts=True)[1]
            if kind == "unlabelled" or len(counts) < 2 or counts.min() < 30:
                continue
            apart.append(lisi(E[rows], treated)[treated == "stim"].mean() - 1)
            for each in np.unique(treated):
                these = rows[treated == each]
                width = min(30, (len(these) - 1) // 3)
                mixed.append(lisi(E[these], obs["donor"].iloc[these].to_numpy(), width).mean() - 1)
        yield f"| {name} | {np.mean(apart):.3f} | {np.mean(mixed):.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--held-out", type=int, default=5, help="maximum number of held-out batches of a set")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    tables = {
        "reference": lambda: held_out(asked.seeds, asked.held_out),
        "simulated": lambda: simulated(asked.seeds),
        "kang": kang,
    }
    show({part: tables[part] for part in asked.only}, asked.out)


if __name__ == "__main__":
    main()
