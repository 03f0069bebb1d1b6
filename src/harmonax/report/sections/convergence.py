"""How the objective fell, and why the run stopped."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...pl.palette import BLUE, TERMS
from ...pp.correctors import Corrector
from ..figures import Chart, Figures, line_over_passes
from ..parts import Parts
from ..points import correction
from ..text import as_float, as_names, clean
from .section import Section

_TERMS = (
    ("distance", "distance term", "Distance of the cells to their clusters: small where clusters are tight."),
    ("entropy", "entropy term", "How sharply cells are assigned: keeps the clusters soft."),
    ("diversity", "diversity term", "The penalty for clusters that lack a batch: falls as batches mix."),
)
MAX_PASSES, MAX_LOSSES, MAX_STEPS = 5000, 9, 300


def convergence(parts: Parts, figures: Figures) -> Section:
    """Say why the run stopped, and draw the objective and its terms pass by pass."""
    record, corrector = correction(parts)
    if record and corrector.name != "harmony":
        return Section("convergence", "Did it converge?", _training(record, corrector, figures))
    own = parts.part("harmonax")
    history = dict(own.get("history", {}))
    passes = np.asarray(history.get("passes", ()), int)
    tolerance = as_float(dict(own.get("params", {})).get("tol_harmony"))
    total = np.asarray(history.get("objective_passes", ()), float)
    objective: Chart | None = None
    terms: list[tuple[Chart, str]] = []
    if 0 < len(total) <= MAX_PASSES:
        ends = np.cumsum(passes).tolist()
        chart = line_over_passes(total.tolist(), ends, "objective", BLUE)
        objective = figures.add(chart, "Line of the objective over the passes")
        for key, axis, meaning in _TERMS:
            values = np.asarray(history.get(key, ()), float)
            if len(values) in (len(total), len(ends)):
                chart = line_over_passes(values.tolist(), ends, axis, TERMS[key])
                terms.append((figures.add(chart, f"Line of the {axis} over the passes"), meaning))
    why = {
        "training": "",
        "recorded": bool(own),
        "status": str(own.get("status", "")),
        "change": as_float(own.get("last_change")),
        "tolerance": None if np.isnan(tolerance) else tolerance,
        "rounds": len(passes),
        "passes": int(passes.sum()),
        "advice": str(own.get("advice", "")),
        "notes": as_names(own.get("notes"))[:20],
    }
    return Section("convergence", "Did it converge?", why | {"objective": objective, "terms": terms})


def _training(record: dict[str, Any], corrector: Corrector, figures: Figures) -> dict[str, Any]:
    """Return the losses of an autoencoder over its steps, a few hundred of each."""
    lines = []
    for name, stored in sorted(dict(record.get("history", {})).items(), key=lambda item: item[0] != "total")[
        :MAX_LOSSES
    ]:
        values = np.asarray(stored, float).ravel()
        at = np.unique(np.linspace(0, len(values) - 1, MAX_STEPS).astype(int)) if len(values) else np.zeros(0, int)
        if len(at):
            chart = line_over_passes(values[at].tolist(), [], name, BLUE)
            chart["data"][0] |= {"x": [int(i) + 1 for i in at], "mode": "lines"}
            chart["layout"]["xaxis"]["title"]["text"] = "training step"
            lines.append(
                (figures.add(chart, f"Line of the loss {clean(name)} over the steps"), clean(name).replace("_", " "))
            )
    return {"training": corrector.describe(record), "losses": lines}
