"""Replay a golden trace with the dense reference and print the largest differences.

usage: python tests/parity/replay.py TRACE.npz [TRACE.npz ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harmonax.algorithm.harmony import Harmony
from harmonax.algorithm.schedule import RecordedSchedule
from harmonax.cells.dense import DenseCells
from harmonax.design import BatchDesign
from harmonax.params import HarmonyParams


class Difference(NamedTuple):
    Z: float
    R: float
    objective: float
    passes_equal: bool


def replay(path: str | Path) -> Difference:
    """Run the recorded schedule from the recorded centroids; return the largest |d| of Z, R and the objective."""
    trace = dict(np.load(path))
    recorded = json.loads(str(trace["params"]))
    # The traces of harmonypy were made with its own tolerances; ours differ, so say them.
    harmony2 = recorded["flavor"] == "harmony2"
    names = {f for f in HarmonyParams.__dataclass_fields__ if f in recorded and recorded[f] is not None}
    params = HarmonyParams(
        **{name: recorded[name] for name in names},
        **({"tol_clustering": 1e-3, "tol_harmony": 0.0} if harmony2 else {}),
        **({"ridge": "fixed"} if harmony2 and recorded["ridge_lambda"] is not None else {}),
    )
    n_blocks = int(trace["n_blocks"])
    orders = trace["order"].astype(np.int64)
    if harmony2:
        cut = np.arange(1, n_blocks) * int(trace["block_cells"])
        passes = [np.split(order, cut) for order in orders]
    else:
        passes = [np.array_split(order, n_blocks) for order in orders]
    design = BatchDesign.from_codes(trace["codes"])
    schedule = RecordedSchedule(passes)
    cells = DenseCells(trace["Z"], design, schedule)
    out = np.empty(trace["Z"].shape)
    fit = Harmony(cells, design, schedule, params.resolve(design)).run(trace["centroids"], out)
    J = np.abs(fit.history.rounds / trace["objective"] - 1).max() if "objective" in trace else 0.0
    return Difference(
        Z=float(np.abs(out - trace["Z_corr"]).max()),
        R=float(np.abs(cells.R - trace["R"]).max()),
        objective=float(J),
        passes_equal=list(fit.history.passes) == list(trace["passes"]),
    )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for path in sys.argv[1:]:
        d = replay(path)
        differences = f"|dZ| {d.Z:.2e}  |dR| {d.R:.2e}  |dJ|/J {d.objective:.2e}"
        print(f"{Path(path).name}: {differences}  passes equal: {d.passes_equal}")
