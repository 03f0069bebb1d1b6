"""Is the answer as good as harmonypy's? Over seeds, on real data.

usage: python benchmarks/quality.py [--seeds 10] [--sets NAME ...] [--out table.md] [--env NAME=PYTHON ...]

First table: Harmony2's objective after 10 rounds of 4 passes, of both programs, computed by one and the same function
(objective.py). Second: `pancreas_3prot` scored with scib-metrics, for the defaults of both and run to convergence.
Data: $HARMONAX_TEST_DATA, by default ../shared/data beside this project; the scorer: quality.py one folder up from it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from pathlib import Path
from statistics import median

import anndata
import numpy as np
from environments import add_argument, pythons, work
from objective import objective

DATA = Path(os.environ.get("HARMONAX_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
SETS = {
    "cell_lines_small": ["batch"], "cell_lines": ["batch"], "cell_lines_full": ["batch"], "pbmc_3500": ["batch"],
    "kang_fullgenes": ["batch"], "pbmc_stim": ["batch"], "pbmc_sorted": ["batch"], "kang_donors": ["batch"],
    "kang_donors (batch + donor)": ["batch", "donor"], "onek1k_subset": ["batch"], "pancreas_3prot": ["batch"],
    "cytof_mmd": ["batch"],
}  # fmt: skip
ROUNDS, PASSES = 10, 4


def prepare(folder: Path, name: str, keys: list[str]) -> np.ndarray:
    """Leave the set's embedding and batch levels where the worker looks for them; return the levels."""
    adata = anndata.read_h5ad(DATA / f"{name.split()[0]}.h5ad")
    codes = np.column_stack([adata.obs[key].astype("category").cat.codes for key in keys])
    np.save(folder / "Z.npy", np.asarray(adata.obsm["X_pca"], np.float32))
    np.save(folder / "codes.npy", codes)
    return codes


def final_objectives(python: str, program: str, folder: Path, codes: np.ndarray, seeds: range) -> tuple[list, float]:
    """Return the final objective for each seed, and its largest relative difference from what the program reports."""
    shared = {"program": program, "data": str(folder), "threads": 1, "warm": False}
    shared |= {"settings": "equal", "passes": PASSES, "clusters": max(2, min(100, round(len(codes) / 30)))}
    save = str(folder / "{}_")
    jobs = [
        shared | {"seed": seed, "rounds": rounds, "save": save.format(rounds)}
        for seed in seeds
        for rounds in (ROUNDS - 1, ROUNDS)
    ]
    values, error = [], 0.0
    for pair in zip(jobs[::2], jobs[1::2], strict=True):
        last = work(python, list(pair))[-1]
        if last["passes"] != [PASSES] * ROUNDS:
            raise SystemExit(f"{program} made other rounds and passes than asked for: {last['passes']}")
        load = lambda rounds, what: np.load(f"{save.format(rounds)}{what}.npy")  # noqa: E731
        # See objective.py for whose Y is the one used.
        Y = load(ROUNDS if program == "harmonax" else ROUNDS - 1, "Y")
        values.append(objective(load(ROUNDS - 1, "Z_corr"), load(ROUNDS, "R"), Y, codes))
        error = max(error, abs(values[-1] / last["objective"][-1] - 1))
    return values, error


def objectives(python: dict[str, str], names: list[str], n_seeds: int) -> list[str]:
    lines = [
        f"Final objective after {ROUNDS} rounds of {PASSES} passes, {n_seeds} seeds (lower is better)\n",
        "| set | harmonax: median (min to max) | harmonypy: median (min to max) | ratio | recomputed - reported |",
        "|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    ratios = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            codes = prepare(Path(folder), name, SETS[name])
            both = ("harmonax", "harmonypy")
            runs = {p: final_objectives(python[p], p, Path(folder), codes, range(n_seeds)) for p in both}
        cells = [f"{median(v):.3f} ({min(v):.3f} to {max(v):.3f})" for v, _ in runs.values()]
        ratios.append(median(runs["harmonax"][0]) / median(runs["harmonypy"][0]))
        errors = ", ".join(f"{e:.0e}" for _, e in runs.values())
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {ratios[-1]:.4f} | {errors} |")
        print(lines[-1], flush=True)
    lines.append(f"| mean | | | {np.mean(ratios):.4f} (worst {max(ratios):.4f}) | |\n")
    print(lines[-1], flush=True)
    return lines


def scores(python: dict[str, str], n_seeds: int) -> list[str]:
    """Score pancreas_3prot; the names say who ran it and how."""
    variants = {
        "harmonypy, defaults": ("harmonypy", {"settings": "defaults"}),
        "harmonypy, 10 rounds of 4": ("harmonypy", {"settings": "equal", "rounds": 10, "passes": 4}),
        "harmonax.run_harmony, defaults": ("harmonax", {"settings": "run_harmony"}),
        "harmonax.pp, defaults (10 rounds)": ("harmonax", {"settings": "defaults"}),
        "harmonax.harmonize, defaults (50 rounds)": ("harmonax", {"settings": "harmonize"}),
    }
    lines = [f"`pancreas_3prot`, scib-metrics, {n_seeds} seeds; total = 0.4 batch + 0.6 bio (higher is better)\n"]
    lines += ["| run | total: median (min to max) | batch | bio | rounds |", "|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, "pancreas_3prot", ["batch"])
        named, rounds = [], {}
        for v, (program, settings) in enumerate(variants.values()):
            for seed in range(n_seeds):
                job = settings | {"program": program, "data": str(folder), "threads": 1, "seed": seed}
                rounds[v, seed] = len(work(python[program], [job | {"save": f"{folder}/{v}_{seed}_"}])[0]["passes"])
                named.append(f"{v}_{seed}={folder}/{v}_{seed}_Z_corr.npy")
        command = [python["scib-metrics"], str(DATA.parent / "quality.py"), str(DATA / "pancreas_3prot.h5ad"), *named]
        found = {}
        for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
            name, *values = line.split()
            found[tuple(map(int, name.split("_")))] = {k: float(x) for k, x in (item.split("=") for item in values)}
    for v, name in enumerate(variants):
        total, batch, bio = ([found[v, s][what] for s in range(n_seeds)] for what in ("total", "batch", "bio"))
        turns = sorted(rounds[v, s] for s in range(n_seeds))
        shown = f"{median(total):.3f} ({min(total):.3f} to {max(total):.3f}) | {median(batch):.3f} | {median(bio):.3f}"
        lines.append(f"| {name} | {shown} | {turns[0]} to {turns[-1]} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--no-scores", action="store_true", help="leave the scib-metrics table out")
    add_argument(parser)
    args = parser.parse_args()
    python = pythons(args.env, ["harmonypy"] + ["scib-metrics"] * (not args.no_scores))
    lines = objectives(python, args.sets, args.seeds)
    if "scib-metrics" in python:
        lines += scores(python, min(args.seeds, 5))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
