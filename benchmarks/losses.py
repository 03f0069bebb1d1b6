"""Memory and time of the differentiable losses with their gradient, each in a process of its own.

usage: python benchmarks/losses.py [--cells 20000] [--features 50] [--batches 3] [--only mixing,preservation,lisi]

Peak is the process's resident memory at its highest; "above start" is what came on top of Python, JAX and the data.
Seconds are the second call's, CPU and wall; compiling (the first call) is told apart.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

LOSSES = ("mixing", "preservation", "lisi", "compactness")


def measure(name: str, n_cells: int, n_features: int, n_batches: int) -> dict[str, float]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from harmonax import losses

    gen = np.random.default_rng(0)
    batch = gen.integers(0, n_batches, n_cells)
    x = gen.standard_normal((n_cells, n_features), np.float32) + 2 * gen.standard_normal((n_batches, n_features))[batch]
    x, batch = jnp.asarray(x, jnp.float32), jnp.asarray(batch)
    clusters = jax.nn.softmax(jnp.asarray(gen.standard_normal((n_cells, 100)), jnp.float32))
    call = {
        "mixing": lambda x: losses.BatchMixingLoss(n_batches=n_batches)(x, batch),
        "preservation": lambda x: losses.NeighborhoodPreservationLoss()(2 * x, x, batch),
        "lisi": lambda x: losses.LISILoss(n_labels=n_batches)(x, batch),
        "compactness": lambda x: losses.ClusteringCompactnessLoss()(x, clusters),
    }[name]
    step = jax.jit(jax.value_and_grad(call))
    jax.block_until_ready((x, batch, clusters))
    before = peak()
    times = []
    for _ in range(2):
        start, cpu = time.perf_counter(), time.process_time()
        value, gradient = jax.block_until_ready(step(x))
        times.append((time.perf_counter() - start, time.process_time() - cpu))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    (first, _), (wall, cpu) = times
    return {"loss": float(value), "wall": wall, "cpu": cpu, "compile": first - wall, "peak": peak(), "before": before}


def peak() -> int:
    """Return the highest resident memory of this process so far, in bytes."""
    # getrusage counts on Linux what the parent held when it started this process.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=50)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--only", default=",".join(LOSSES))
    parser.add_argument("--job", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        print(json.dumps(measure(given.job, given.cells, given.features, given.batches)))
        return
    print(f"{given.cells} cells x {given.features}, {given.batches} batches; loss with gradient")
    print(f"{'loss':<14}{'wall s':>8}{'CPU s':>8}{'compile s':>11}{'peak MiB':>10}{'above start':>13}")
    sizes = ["--cells", str(given.cells), "--features", str(given.features), "--batches", str(given.batches)]
    for name in given.only.split(","):
        command = [sys.executable, __file__, "--job", name, *sizes]
        m = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        memory = f"{m['peak'] / 2**20:>10.0f}{(m['peak'] - m['before']) / 2**20:>13.0f}"
        print(f"{name:<14}{m['wall']:>8.2f}{m['cpu']:>8.2f}{m['compile']:>11.2f}{memory}", flush=True)


if __name__ == "__main__":
    main()
