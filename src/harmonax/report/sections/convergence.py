"""How the objective fell, and why the run stopped."""

from __future__ import annotations

import numpy as np

from ...pl.palette import BLUE, TERMS
from ..figures import Chart, Figures, line_over_passes
from ..parts import Parts
from ..text import as_float, as_names
from .section import Section

_TERMS = (
    ("distance", "distance term", "Distance of the cells to their clusters: small where clusters are tight."),
    ("entropy", "entropy term", "How sharply cells are assigned: keeps the clusters soft."),
    ("diversity", "diversity term", "The penalty for clusters that lack a batch: falls as batches mix."),
)
MAX_PASSES = 5000


def convergence(parts: Parts, figures: Figures) -> Section:
    """Say why the run stopped, and draw the objective and its terms pass by pass."""
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
            if len(values) == len(total):
                chart = line_over_passes(values.tolist(), ends, axis, TERMS[key])
                terms.append((figures.add(chart, f"Line of the {axis} over the passes"), meaning))
    why = {
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
