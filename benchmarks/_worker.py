"""Runs of one program, in a process of its own; started by the benchmarks with that program's Python.

Reads a list of jobs (JSON) from its argument, prints the measurements (JSON) of each as a line. A job:

program     "harmonax", "harmonypy" or "scanpy"
data        folder with Z.npy (N, d) and codes.npy (N, F)
threads     how many the program may use
settings    "equal": `rounds` rounds of `passes` passes, no early stop; "defaults": the program's own;
            harmonax only: "run_harmony" and "harmonize" are those functions' defaults, "defaults" those of pp
calls       how often to call it in this process (the measurements are lists of that length)
seed        0 unless told
clusters    K; the program's own default unless told
warm        false: no small run beforehand
save        start of the names of files for Z_corr.npy, R.npy and Y.npy of the last call
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import resource
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def main(job: dict[str, Any]) -> None:
    # Before anything loads a BLAS.
    for name in ("OMP", "OPENBLAS", "MKL", "NUMBA", "VECLIB_MAXIMUM"):
        os.environ[f"{name}_NUM_THREADS"] = str(job["threads"])
    import numpy as np
    import pandas as pd

    folder = Path(job["data"])
    Z, codes = np.load(folder / "Z.npy"), np.load(folder / "codes.npy")
    names = [[str(level) for level in range(column.max() + 1)] for column in codes.T]
    labels = [pd.Categorical.from_codes(column, own) for column, own in zip(codes.T, names, strict=True)]
    obs = pd.DataFrame({f"batch{f}": column for f, column in enumerate(labels)})
    if job["program"] == "scanpy" or job["settings"] == "defaults":
        obs.index = obs.index.astype(str)  # as AnnData wants it
    logging.getLogger("harmonax").setLevel(logging.ERROR)
    run = {"harmonax": run_harmonax, "harmonypy": run_harmonypy, "scanpy": run_scanpy}[job["program"]]
    if job.get("warm", True):
        # A small run first: imports, compilation and thread pools are not what is measured.
        small = np.sort(np.random.default_rng(0).choice(len(Z), min(2000, len(Z)), replace=False))
        settings = {"settings": "equal", "rounds": 2, "passes": 2}
        run(Z[small], obs.iloc[small], {**job, **settings})
    cpu, wall, memory, total = [], [], [], []
    for _ in range(job.get("calls", 1)):
        answer = None
        before = reset_peak()
        start_cpu, start = cpu_seconds(), time.perf_counter()
        answer = run(Z, obs, job)
        wall.append(time.perf_counter() - start)
        cpu.append(cpu_seconds() - start_cpu)
        total.append(peak())
        memory.append((total[-1] - before - answer["Z_corr"].nbytes) / len(Z))
    if job.get("save"):
        for name in ("Z_corr", "R", "Y"):
            if name in answer:
                value = answer[name]() if callable(answer[name]) else answer[name]
                np.save(f"{job['save']}{name}.npy", np.ascontiguousarray(value))
    measured = {"cpu": cpu, "wall": wall, "bytes_per_cell": memory, "peak": total}
    measured |= {k: answer[k] for k in ("passes", "objective", "about") if k in answer}
    print(json.dumps(measured | {"version": version_of(job["program"])}), flush=True)


def run_harmonax(Z: Any, obs: Any, job: dict[str, Any]) -> dict[str, Any]:
    import harmonax

    keys, seed = list(obs.columns), job.get("seed", 0)
    if job["settings"] == "run_harmony":
        ho = harmonax.run_harmony(Z, obs, keys, random_state=seed, ncores=job["threads"], verbose=False)
        return {"Z_corr": ho.Z_corr, "passes": ho.kmeans_rounds, "objective": ho.objective_harmony}
    if job["settings"] == "defaults":
        import anndata

        adata = anndata.AnnData(obs=obs, obsm={"X_pca": Z})
        harmonax.pp.harmony_integrate(adata, keys, rng=seed, n_threads=job["threads"], progress=False)
        history = adata.uns["harmonax"]["history"]
        told = {k: [float(v) for v in history[k]] for k in ("passes", "objective")}
        return {"Z_corr": adata.obsm["X_pca_harmony"], **told}
    changes: dict[str, Any] = {"n_clusters": job.get("clusters")}
    if job["settings"] == "equal":
        changes |= {"max_iter_harmony": job["rounds"], "max_iter_clustering": job["passes"]}
        changes |= {"tol_harmony": 0.0, "tol_clustering": 0.0}
    options = {"rng": seed, "n_threads": job["threads"], "backend": job.get("backend", "auto"), "progress": False}
    result = harmonax.harmonize(Z, obs, harmonax.HarmonyParams(**changes), **options)
    history = result.history
    told = {"passes": list(history.passes), "objective": history.rounds.tolist(), "about": result.backend}
    return {"Z_corr": result.embedding, "R": result.assignments, "Y": result.centroids, **told}


def run_harmonypy(Z: Any, obs: Any, job: dict[str, Any]) -> dict[str, Any]:
    import harmonypy

    changes: dict[str, Any] = {}
    if job["settings"] == "equal":
        changes = {"max_iter_harmony": job["rounds"], "max_iter_kmeans": job["passes"]}
        changes |= {"epsilon_harmony": 0, "epsilon_cluster": 0}
    options = {"random_state": job.get("seed", 0), "ncores": job["threads"], "nclust": job.get("clusters")}
    result = harmonypy.run_harmony(Z, obs, list(obs.columns), verbose=False, **options, **changes)
    told = {"passes": list(map(int, result.kmeans_rounds)), "objective": list(map(float, result.objective_harmony))}
    return {"Z_corr": result.Z_corr, "R": lambda: result.R, "Y": lambda: result.Y.T, **told}


def run_scanpy(Z: Any, obs: Any, job: dict[str, Any]) -> dict[str, Any]:
    import anndata
    import numpy as np
    import scanpy

    changes: dict[str, Any] = {}
    if job["settings"] == "equal":
        changes = {"max_iter_harmony": job["rounds"], "max_iter_clustering": job["passes"]}
        # With 0 an increase of the objective would stop it.
        changes |= {"tol_harmony": -1.0, "tol_clustering": -1.0}
    # It tells the number of rounds in its log only, and of passes nowhere.
    scanpy.settings.verbosity = "info"
    scanpy.settings.logfile = log = io.StringIO()
    adata = anndata.AnnData(obs=obs, obsm={"X_pca": Z})
    options = {"rng": job.get("seed", 0), "n_clusters": job.get("clusters"), "dtype": np.float32}
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        scanpy.pp.harmony_integrate(adata, list(obs.columns), **options, **changes)
    rounds = int(re.findall(r"(\d+) iterations", log.getvalue())[-1])
    return {"Z_corr": adata.obsm["X_pca_harmony"], "passes": [None] * rounds}


def version_of(program: str) -> str:
    try:
        return version(program)
    except PackageNotFoundError:  # run from the source tree
        return sys.modules[program].__version__


def cpu_seconds() -> float:
    """Return user and system time of this process, all threads, and of its finished children."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in both)


def reset_peak() -> int:
    """Start a new peak of resident memory where the system can (Linux); return the resident memory now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak()
    return status("VmRSS")


def peak() -> int:
    """Return the peak resident memory, in bytes."""
    try:
        return status("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


if __name__ == "__main__":
    for one in json.loads(sys.argv[1]):
        main(one)
