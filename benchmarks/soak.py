"""Many runs in one process: memory, threads and open files stay flat, and Ctrl-C at random moments leaves nothing.

    python benchmarks/soak.py --runs 1000 --seed 1
    python benchmarks/soak.py --hours 24

Runs are mixed at random: arrays, AnnData, files, fitted models, checkpoints and refused values, from memory, from disk,
dense and on a Dask cluster of threads, 50 to 20,000 cells, one to four threads. Flat: after a third of the runs,
threads and open files rise by no more than Dask's own come and go, and memory by less than 5 %. The exit code is 1
where it is not so, or where a run gave other bits than before.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

import harmonax
from harmonax import cli
from harmonax.errors import HarmonaxError

SIZES = (50, 300, 2000, 20_000)
PARAMS = {"n_clusters": 6, "max_iter_harmony": 2, "tol_harmony": 0.0}
# By how much memory may rise after the first third.
MORE, LEAST = 0.05, 20 << 20


def cells(n: int) -> tuple[np.ndarray, np.ndarray]:
    gen = np.random.default_rng(n)
    batch = gen.integers(0, 3, n).astype(str)
    return (gen.normal(size=(n, 10)) + (batch == "1")[:, None]).astype(np.float32), batch


def annotated(n: int) -> anndata.AnnData:
    Z, batch = cells(n)
    obs = pd.DataFrame({"batch": pd.Categorical(batch)}, index=[str(i) for i in range(n)])
    return anndata.AnnData(obs=obs, obsm={"X_pca": Z})


def harmonize(backend: str, n: int, threads: int, folder: Path) -> np.ndarray:
    Z, batch = cells(n)
    how = {} if backend == "dense" else {"n_threads": threads}
    made = harmonax.harmonize(Z, batch, harmonax.HarmonyParams(**PARAMS), rng=0, backend=backend, **how)
    return np.asarray(made.embedding)


def checkpointed(n: int, threads: int, folder: Path) -> np.ndarray:
    Z, batch = cells(n)
    params = harmonax.HarmonyParams(**PARAMS)
    return harmonax.harmonize(Z, batch, params, rng=0, n_threads=threads, checkpoint=folder / "rounds").embedding


def on_anndata(n: int, threads: int, folder: Path) -> np.ndarray:
    adata = annotated(n)
    harmonax.pp.harmony_integrate(
        adata, "batch", rng=0, n_threads=threads, save_model=str(folder / "model.h5"), **PARAMS
    )
    model = harmonax.HarmonyModel.load(folder / "model.h5")
    return np.concatenate([adata.obsm["X_pca_harmony"], model.map(adata.obsm["X_pca"])])


def on_files(end: str, n: int, threads: int, folder: Path) -> np.ndarray:
    annotated(n).write_h5ad(folder / "in.h5ad")
    words = f"integrate {folder}/in.h5ad -o {folder}/out.{end} --batch-key batch --n-clusters 6 --max-iter-harmony 2"
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        code = cli.run([*words.split(), "--threads", str(threads), "--quiet"])
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise RuntimeError(f"harmonax {words}: exit code {code}")
    if end == "npy":
        return np.load(folder / "out.npy")
    read = anndata.read_h5ad if end == "h5ad" else anndata.read_zarr
    return read(folder / f"out.{end}").obsm["X_pca_harmony"]


def on_dask(n: int, threads: int, folder: Path) -> np.ndarray:
    import dask.array as da

    Z, batch = cells(n)
    made = harmonax.harmonize(da.from_array(Z, chunks=(n // 2 + 1, 10)), batch, harmonax.HarmonyParams(**PARAMS), rng=0)
    return np.asarray(made.embedding)


def refused(n: int, threads: int, folder: Path) -> np.ndarray:
    Z, batch = cells(n)
    with contextlib.suppress(HarmonaxError):
        harmonax.harmonize(np.full_like(Z, np.nan), batch)
    return np.zeros(1)


def bound(work: Callable[..., np.ndarray], first: str) -> Callable[..., np.ndarray]:
    return lambda *rest: work(first, *rest)


FRONTS: dict[str, Callable[..., np.ndarray]] = {
    **{f"array {backend}": bound(harmonize, backend) for backend in ("memory", "disk", "dense")},
    **{f"file {end}": bound(on_files, end) for end in ("h5ad", "zarr", "npy")},
    "checkpoint": checkpointed,
    "anndata, model": on_anndata,
    "dask": on_dask,
    "refused": refused,
}


def state() -> tuple[int, int, int]:
    """Return resident bytes, threads and open files."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    threads = len(os.listdir("/proc/self/task"))
    return pages * os.sysconf("SC_PAGE_SIZE"), threads, len(os.listdir("/proc/self/fd"))


def interrupting(after: float) -> threading.Timer:
    timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


def once(name: str, n: int, threads: int, stop_after: float | None) -> np.ndarray | None:
    """Return the result of one run, None if it was interrupted."""
    with tempfile.TemporaryDirectory() as place:
        folder, timer = Path(place), None
        try:
            try:
                timer = interrupting(stop_after) if stop_after is not None else None
                return FRONTS[name](n, threads, folder)
            finally:
                if timer is not None:
                    timer.cancel()
                    timer.join()
        except KeyboardInterrupt:
            left = [path.name for path in folder.iterdir() if path.name.endswith(".part")]
            if left:
                raise SystemExit(f"{name} of {n} cells was interrupted and left {left}") from None
            return None


def soak(runs: int, hours: float, seed: int, every: int = 25) -> list[str]:
    """Make the runs; return what was wrong."""
    gen, began = np.random.default_rng(seed), time.monotonic()
    known: dict[tuple[str, int], tuple[bytes, float]] = {}
    seen, counted, wrong = [], Counter[str](), list[str]()
    number = 0
    while number < runs or time.monotonic() - began < 3600 * hours:
        name = list(FRONTS)[gen.integers(len(FRONTS))]
        n, threads = int(SIZES[gen.integers(3 if name == "array dense" else len(SIZES))]), int(gen.integers(1, 5))
        usual = known.get((name, n))
        stop = gen.uniform(0, usual[1]) if usual and name != "dask" and gen.random() < 0.15 else None
        clock = time.monotonic()
        found = once(name, n, threads, stop)
        if found is None:
            counted["interrupted"] += 1
        elif usual is None:
            known[name, n] = found.tobytes(), time.monotonic() - clock
        elif found.tobytes() != usual[0]:
            wrong.append(f"run {number}: other bits of {name}, {n} cells, {threads} threads")
        counted[name] += 1
        number += 1
        if number % every == 0:
            seen.append(state())
            memory, n_threads, n_files = seen[-1]
            print(f"{number} runs: {memory >> 20} MiB, {n_threads} threads, {n_files} files", flush=True)
    print(dict(counted))
    third = max(1, len(seen) // 3)
    first, last = (list(map(max, *part, part[0])) for part in (seen[: third + 1], seen[-third:]))
    for what, before, after, more in zip(("bytes", "threads", "files"), first, last, (LEAST, 2, 2), strict=True):
        if after - before > max(more, MORE * before):
            wrong.append(f"{what} rose from {before} to {after}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    # A shell has what it begins in the background ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import distributed

    here = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": ":0"}
    with distributed.LocalCluster(**here) as cluster, distributed.Client(cluster):
        wrong = soak(given.runs, given.hours, given.seed)
    print("\n".join(wrong) or "flat")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
