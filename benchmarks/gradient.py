"""Time and memory of `DifferentiableHarmony` and of its gradient, each case in a fresh process.

usage: python benchmarks/gradient.py [--cells 20000] [--clusters 100] [--iterations 10 100] [--batches 3] [--repeats 3]

The gradient is that of the sum of squares of the corrected embedding and of R, for the embedding and every strength.
Peak is the process's resident memory at its highest, compilation included; "above" is that less what the process held
before the call: interpreter, JAX, and the data. The ratio to the forward pass is of CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

COLUMNS = ("iterations", "what", "seconds", "CPU s", "compile s", "peak MiB", "above MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=50)
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--batches", type=int, nargs="+", default=[3])
    parser.add_argument("--iterations", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--flavor", default="harmony2")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["forward", "gradient"])
    options = vars(parser.parse_args())
    cases = [options.pop("only")] if options["only"] else ["forward", "gradient"]
    options.pop("only", None)
    print("{cells} cells x {features}, K = {clusters}, levels {batches}, {flavor}".format(**options))
    print("| " + " | ".join(COLUMNS) + " | x forward |")
    print("|" + "---|" * (len(COLUMNS) + 1))
    for iterations in options.pop("iterations"):
        forward = None
        for what in cases:
            found = in_a_process({**options, "iterations": iterations, "what": what})
            forward = found["CPU s"] if what == "forward" else forward
            ratio = f"{found['CPU s'] / forward:.1f}" if forward else ""
            row = [f"{found[c]:.2f}" if isinstance(found[c], float) else str(found[c]) for c in COLUMNS]
            print("| " + " | ".join([*row, ratio]) + " |", flush=True)


def in_a_process(job: dict[str, Any]) -> dict[str, Any]:
    """Measure one case in a process of its own."""
    done = subprocess.run([sys.executable, __file__, json.dumps(job)], stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def measure(job: dict[str, Any]) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from harmonax.operators import BatchCorrectionConfig, DifferentiableHarmony

    rng = np.random.default_rng(0)
    types = rng.integers(12, size=job["cells"])
    labels = np.column_stack([rng.integers(n, size=job["cells"]) for n in job["batches"]])
    Z = rng.normal(0, 3, (12, job["features"])).astype(np.float32)[types]
    Z += rng.standard_normal((job["cells"], job["features"]), np.float32)
    for f, n in enumerate(job["batches"]):
        Z += rng.normal(0, 1, (n, job["features"])).astype(np.float32)[labels[:, f]]
    cells, labels = jax.block_until_ready((jnp.asarray(Z), jnp.asarray(labels)))
    del Z, types
    config = BatchCorrectionConfig(
        n_clusters=job["clusters"],
        n_features=job["features"],
        n_batches=tuple(job["batches"]),
        n_iterations=job["iterations"],
        flavor=job["flavor"],
    )
    graph, strengths = nnx.split(DifferentiableHarmony(config, rngs=nnx.Rngs(0)))

    def loss(cells: Any, strengths: Any) -> Any:
        data = {"embeddings": cells, "batch_labels": labels}
        result = nnx.merge(graph, strengths).apply(data, {}, None)[0]
        return jnp.square(result["corrected_embeddings"]).mean() + jnp.square(result["cluster_assignments"]).mean()

    run = jax.jit(loss if job["what"] == "forward" else jax.grad(loss, argnums=(0, 1)))
    before, start, start_cpu = resident_mib(), time.perf_counter(), time.process_time()
    compiled = run.lower(cells, strengths).compile()
    compile_seconds, compile_cpu = time.perf_counter() - start, time.process_time() - start_cpu
    seconds, cpu = [], []
    for _ in range(job["repeats"]):
        start, start_cpu = time.perf_counter(), time.process_time()
        answer = jax.block_until_ready(compiled(cells, strengths))
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(answer))
    # Linux counts in KiB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if sys.platform == "linux" else 2**20)
    return {
        "iterations": job["iterations"],
        "what": job["what"],
        "seconds": min(seconds),
        "CPU s": min(cpu),
        "compile s": compile_seconds,
        "compile CPU s": compile_cpu,
        "peak MiB": round(peak),
        "above MiB": round(peak - before),
        "temporaries": getattr(compiled.memory_analysis(), "temp_size_in_bytes", 0) / 2**20,
    }


def resident_mib() -> float:
    """Return the resident memory now."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize() / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        print(json.dumps(measure(json.loads(sys.argv[1]))))
    else:
        main()
