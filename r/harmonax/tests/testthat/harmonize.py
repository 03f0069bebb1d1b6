"""harmonax in a Python of its own: ``harmonize.py FOLDER`` reads what the tests left there, and leaves the result."""

import json
import sys
from pathlib import Path

import numpy as np

import harmonax

folder = Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
Z = np.fromfile(folder / "Z.bin").reshape(job["shape"])
batches = {name: (folder / f"{name}.txt").read_text(encoding="utf-8").splitlines() for name in job["variables"]}
result = harmonax.harmonize(
    Z, batches, harmonax.HarmonyParams(**job["params"]), rng=job["rng"], dtype=np.float64, progress=False
)
result.embedding.tofile(folder / "out.bin")
result.assignments().astype(np.float64).tofile(folder / "R.bin")
