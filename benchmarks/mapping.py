"""New cells on a fixed reference: against symphonypy, against integrating all together, novelty, and time.

usage: python benchmarks/mapping.py [--seeds 5] [--only heldout self novelty totals speed] [--out table.md]
       [--env symphonypy=PYTHON]

Held out: each batch in turn, the rest integrated, and the batch mapped. iLISI is exact, of all batches, mean over all
cells, less 1; accuracy is that of the nearest labels. Novelty: each type with 50 cells or more taken out of the
reference in turn. Totals: kang split in two at random, the reference thinned, the query normalised to other totals.
Data: $HARMONAX_TEST_DATA, by default ../shared/data beside this project.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import anndata
import numpy as np
import scanpy as sc
from data import make
from environments import add_argument, pythons
from sklearn.metrics import roc_auc_score

import harmonax
from harmonax import HarmonyModel
from harmonax.evaluation.lisi import lisi
from harmonax.mapping import map_query
from harmonax.mapping.build import model_of
from harmonax.mapping.novelty import score_genes
from harmonax.mapping.projection import Expression

DATA = Path(os.environ.get("HARMONAX_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
SETS = ("pancreas_3prot", "kang_fullgenes", "onek1k_subset")
LEAST, LEAST_IN_QUERY = 50, 10
PARTS = ["heldout", "self", "novelty", "totals", "speed"]


def prepared(name: str) -> anndata.AnnData:
    """Return log-normalised cells; labels that were made after an integration, and none, are "unlabelled"."""
    cells = anndata.read_h5ad(DATA / f"{name}.h5ad")
    labels = cells.obs["cell_type"].astype(str)
    if "label_source" in cells.obs:
        labels = labels.where(cells.obs["label_source"].astype(str).str.contains("GEO"), "unlabelled")
    bare = anndata.AnnData(cells.X, obs=cells.obs[[]], var=cells.var[[]])
    bare.obs["batch"], bare.obs["cell_type"] = cells.obs["batch"].astype(str), labels
    sc.pp.normalize_total(bare, target_sum=1e4)
    sc.pp.log1p(bare)
    return bare


def reference(cells: anndata.AnnData) -> anndata.AnnData:
    """Return the cells with scaled genes and 30 components."""
    cells = cells.copy()
    sc.pp.filter_genes(cells, min_cells=3)
    if cells.n_vars > 1500:
        sc.pp.highly_variable_genes(cells, n_top_genes=2000)
        cells = cells[:, cells.var["highly_variable"]].copy()
    cells.var["highly_variable"] = True
    cells.X = cells.X.toarray()
    sc.pp.scale(cells, max_value=10)
    sc.pp.pca(cells, n_comps=30, zero_center=False, random_state=0)
    return cells


def judged(ref: np.ndarray, query: np.ndarray, batch: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    both = np.concatenate([ref, query]).astype(np.float32)
    return float(lisi(both, batch).mean() - 1), float(right.mean())


def ours(ref: anndata.AnnData, query: anndata.AnnData, seed: int, n_iter: int, params: harmonax.HarmonyParams) -> tuple:
    """Return the reference's and the query's corrected cells, and the query's labels."""
    run = harmonax.harmonize(
        ref.obsm["X_pca"], {"batch": ref.obs["batch"].to_numpy()}, params, rng=seed, progress=False
    )
    known = ref.obs[["cell_type"]].where(ref.obs["cell_type"] != "unlabelled")
    model = model_of(run, ref, "X_pca", known)
    query = query.copy()
    mapped = harmonax.tl.map_query(query, model, "batch", n_iter=n_iter)
    return np.asarray(run.embedding), mapped.embedding, query.obs["cell_type_nearest"].astype(str).to_numpy()


def held_out(python: str | None, n_seeds: int, sets: Sequence[str]) -> Iterator[str]:
    yield "| set | held out | cells | how | iLISI | accuracy |"
    yield "|---|---|---|---|---|---|"
    for name in sets:
        cells = prepared(name)
        levels = cells.obs["batch"].value_counts().index
        few = len(levels) < 10
        totals: dict[str, list] = {}
        for level in levels:
            own = (cells.obs["batch"] == level).to_numpy()
            for how, values in ways(cells, own, python, range(n_seeds if few else 1)).items():
                ilisi, accuracy = (median(v) for v in zip(*values, strict=True))
                totals.setdefault(how, []).append((ilisi, accuracy))
                if few:
                    yield f"| {name} | {level} | {int(own.sum())} | {how} | {ilisi:.3f} | {accuracy:.3f} |"
        for how, values in totals.items():
            ilisi, accuracy = np.mean(values, axis=0)
            yield f"| {name} | mean of {len(levels)} | | {how} | {ilisi:.3f} | {accuracy:.3f} |"


def ways(cells: anndata.AnnData, own: np.ndarray, python: str | None, seeds: range) -> dict[str, list]:
    """Return iLISI and accuracy of each way, for each seed, with the cells `own` as the query."""
    ref, query = reference(cells[~own]), cells[own].copy()
    batch = np.concatenate([ref.obs["batch"], query.obs["batch"]])
    truth = query.obs["cell_type"].to_numpy()
    counted = np.isin(truth, ref.obs["cell_type"]) & (truth != "unlabelled")
    found: dict[str, list] = {}

    def add(how: str, r: np.ndarray, q: np.ndarray, labels: np.ndarray) -> None:
        found.setdefault(how, []).append(judged(r, q, batch, (labels == truth)[counted]))

    if python is not None:
        for made in symphonypy(python, ref, query, seeds):
            add("symphonypy", made["ref"], made["query"], made["labels"])
    for flavor in (harmonax.harmony1, harmonax.harmony2):
        for n_iter in (1, 2):
            for seed in seeds:
                name = f"reference by {flavor.__name__}, {n_iter} round{'s' * (n_iter > 1)}"
                add(name, *ours(ref, query, seed, n_iter, flavor()))
    model = model_of(harmonax.harmonize(ref.obsm["X_pca"], ref.obs["batch"].to_numpy(), rng=0), ref)
    Z = model.projection.match(query.var_names).project(Expression(model.projection, query.X))[:]
    both, n = np.concatenate([ref.obsm["X_pca"], Z]), ref.n_obs
    add("uncorrected", both[:n], Z, nearest_labels(both[:n], Z, ref))
    for seed in seeds:
        whole = harmonax.harmonize(both, {"batch": batch}, rng=seed, progress=False).embedding
        add("all together (harmony2)", whole[:n], whole[n:], nearest_labels(whole[:n], whole[n:], ref))
    return found


def symphonypy(python: str, ref: anndata.AnnData, query: anndata.AnnData, seeds: range) -> list[dict[str, np.ndarray]]:
    """Return what symphonypy makes of a reference and a query; every cell of which has a label for it."""
    with tempfile.TemporaryDirectory() as folder:
        ref.write_h5ad(f"{folder}/ref.h5ad")
        query.write_h5ad(f"{folder}/query.h5ad")
        script = str(Path(__file__).with_name("_symphony.py"))
        subprocess.run([python, script, folder, *map(str, seeds)], check=True, stderr=subprocess.DEVNULL)
        return [dict(np.load(f"{folder}/{seed}.npz", allow_pickle=True)) for seed in seeds]


def nearest_labels(ref: np.ndarray, query: np.ndarray, cells: anndata.AnnData) -> np.ndarray:
    from harmonax.mapping.reference import Reference

    known = cells.obs[["cell_type"]].where(cells.obs["cell_type"] != "unlabelled")
    kept = Reference.of(ref, known, cells.obs["batch"].to_numpy())
    return kept.transfer(query, "cell_type")["label"].to_numpy(str)


def itself() -> Iterator[str]:
    yield "| set | flavor | distance to the corrected position / correction | iLISI of the run | iLISI mapped |"
    yield "|---|---|---|---|---|"
    for name in SETS:
        cells = anndata.read_h5ad(DATA / f"{name}.h5ad")
        Z, batch = cells.obsm["X_pca"], cells.obs["batch"].astype(str).to_numpy()
        for flavor in (harmonax.harmony1, harmonax.harmony2):
            run = harmonax.harmonize(Z, {"batch": batch}, flavor(), rng=0, progress=False)
            mapped = map_query(HarmonyModel.from_result(run), Z, {"batch": batch}).embedding
            off = np.median(np.linalg.norm(mapped - run.embedding, axis=1))
            share = off / np.median(np.linalg.norm(run.embedding - Z, axis=1))
            scores = [lisi(x, batch).mean() - 1 for x in (run.embedding, mapped)]
            yield f"| {name} | {flavor.__name__} | {share:.3f} | {scores[0]:.3f} | {scores[1]:.3f} |"


def novelty() -> Iterator[str]:
    yield "| set | type taken out | query | cells of it | AUC | called novel: of it | of the others |"
    yield "|---|---|---|---|---|---|---|"
    aucs, of_type = [], {}
    for name in SETS:
        cells = prepared(name)
        cells = cells[cells.obs["cell_type"] != "unlabelled"].copy()
        levels = cells.obs["batch"].value_counts().index
        # Of many small batches several at a time.
        queries = [levels[i::6] for i in range(3)] if len(levels) > 10 else [[level] for level in levels]
        sizes = cells.obs["cell_type"].value_counts()
        for kind in sizes.index[sizes >= LEAST]:
            for group in queries:
                own = cells.obs["batch"].isin(group).to_numpy()
                is_kind = (cells.obs["cell_type"] == kind).to_numpy()
                if (own & is_kind).sum() < LEAST_IN_QUERY:
                    continue
                ref, query = reference(cells[~own & ~is_kind]), cells[own]
                run = harmonax.harmonize(ref.obsm["X_pca"], ref.obs["batch"].to_numpy(), rng=0, progress=False)
                model = model_of(run, ref)
                matched = model.projection.match(query.var_names)
                X = Expression(model.projection, query.X)
                scores = score_genes(model.novelty, matched, X, matched.project(X)[:])
                novel, _ = model.novelty.novel(scores, query.obs["batch"].to_numpy())
                truth = is_kind[own]
                aucs.append(roc_auc_score(truth, scores))
                of_type.setdefault((name, kind), []).append(aucs[-1])
                called = f"{novel[truth].mean():.2f} | {novel[~truth].mean():.2f}"
                label = group[0] if len(group) == 1 else f"{len(group)} batches"
                yield f"| {name} | {kind} | {label} | {int(truth.sum())} | {aucs[-1]:.3f} | {called} |"
    yield f"\nmedian AUC of the {len(aucs)} rows {median(aucs):.3f}; of the {len(of_type)} types' medians "
    yield f"{median(median(v) for v in of_type.values()):.3f}"


def totals() -> Iterator[str]:
    yield "| reference | query normalised to | label right | known called novel | absent type (B cells) called novel |"
    yield "|---|---|---|---|---|"
    cells = anndata.read_h5ad(DATA / "kang_fullgenes.h5ad")
    cells = cells[cells.obs["cell_type"].astype(str) != "unlabelled"].copy()
    gen = np.random.default_rng(0)
    half = gen.random(cells.n_obs) < 0.5
    is_kind = (cells.obs["cell_type"] == "B cells").to_numpy()
    for depth in (1.0, 1 / 2, 1 / 3):
        thinned = cells[half].copy()
        X = thinned.X.astype(np.int64)
        X.data = gen.binomial(X.data, depth)
        thinned.X = X.astype(np.float32)
        refs = [by_default(thinned[keep].copy()) for keep in (np.ones(half.sum(), bool), ~is_kind[half])]
        models = [HarmonyModel.load(reference_model(ref)) for ref in refs]
        ours = [model.projection.target_sum for model in models]
        for name in ("the reference's", "its own median", 1e3, 1e4, 1e5, 1e6, "counts"):
            found = []
            for model, total in zip(models, ours, strict=True):
                query = cells[~half].copy()
                if name != "counts":
                    wanted = {"the reference's": total, "its own median": None}.get(name, name)
                    sc.pp.normalize_total(query, target_sum=wanted)
                    sc.pp.log1p(query)
                harmonax.tl.map_query(query, model, "batch")
                right = query.obs["cell_type_mapped"].astype(str) == query.obs["cell_type"].astype(str)
                found.append((right.to_numpy(), query.obs["harmonax_novel"].to_numpy()))
            right, novel, absent = found[0][0].mean(), found[0][1].mean(), found[1][1][is_kind[~half]].mean()
            said = f"{name:.0e}" if isinstance(name, float) else name
            yield f"| depth x {depth:.2f}, total {ours[0]:,.0f} | {said} | {right:.3f} | {novel:.3f} | {absent:.3f} |"


def by_default(cells: anndata.AnnData) -> anndata.AnnData:
    """Return a corrected reference, with scanpy's default total: the median of its cells."""
    sc.pp.normalize_total(cells)
    sc.pp.log1p(cells)
    sc.pp.highly_variable_genes(cells, n_top_genes=2000, batch_key="batch")
    sc.pp.pca(cells, n_comps=30, mask_var="highly_variable", random_state=0)
    return cells


def reference_model(cells: anndata.AnnData) -> str:
    """Return the file of the model of a reference."""
    place = str(Path(tempfile.mkdtemp()) / "model.h5")
    how = {"max_iter_harmony": 50, "rng": 0, "verbose": False}
    harmonax.pp.harmony_integrate(cells, "batch", save_model=place, save_labels="cell_type", **how)
    return place


def speed() -> Iterator[str]:
    yield "| reference | query | seconds (2 threads, median of 5) | CPU s |"
    yield "|---|---|---|---|"
    for n_ref in (100_000, 1_000_000):
        Z, codes = make(n_ref, 50, (10,))
        run = harmonax.harmonize(
            Z, codes, harmonax.HarmonyParams(max_iter_harmony=3), rng=0, n_threads=2, progress=False
        )
        model = HarmonyModel.from_result(run)
        query, _ = make(100_000, 50, (10,), seed=1)
        query = query + 0.3
        labels = np.repeat(np.arange(4), 25_000)
        times, cpu = [], []
        for _ in range(5):
            start, used = time.perf_counter(), time.process_time()
            map_query(model, query, {"batch": labels.astype(str)}, n_threads=2)
            times.append(time.perf_counter() - start)
            cpu.append(time.process_time() - used)
        yield f"| {n_ref:,} x {Z.shape[1]} | 100,000 | {median(times):.2f} | {median(cpu):.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_argument(parser)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=PARTS)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="of the held-out batches")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    wanted = asked.only or PARTS
    lines = []
    for part in wanted:
        python = pythons(asked.env, ["symphonypy"]).get("symphonypy") if part == "heldout" else None
        made = {
            "heldout": lambda p=python: held_out(p, asked.seeds, asked.sets),
            "self": itself,
            "novelty": novelty,
            "totals": totals,
            "speed": speed,
        }
        for line in made[part]():
            print(line, flush=True)
            lines.append(line)
        lines.append("")
    if asked.out is not None:
        asked.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
