"""How the objective fell, and why the run stopped."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..figures import BLUE, GREEN, ORANGE, RED, Figures, line_over_passes
from ..source import Parts
from ..text import Safe, as_float, as_names, code, count, number, paragraph
from .base import INTEGRATE, Section, figure, missing

_TERMS = (
    ("distance", "distance term", ORANGE, "Distance of the cells to their clusters: small where clusters are tight."),
    ("entropy", "entropy term", GREEN, "How sharply cells are assigned: keeps the clusters soft."),
    ("diversity", "diversity term", RED, "The penalty for clusters that lack a batch: falls as batches mix."),
)
_MOST_PASSES = 5000


def convergence(parts: Parts, figures: Figures) -> Section:
    """Say why the run stopped, and draw the objective and its terms pass by pass."""
    own = parts.part("harmonax")
    title = "Did it converge?"
    if not own:
        return Section("convergence", title, missing("No record of a run is in the data.", INTEGRATE))
    history = dict(own.get("history", {}))
    passes = np.asarray(history.get("passes", ()), int)
    body = _why(own, len(passes), int(passes.sum()))
    total = np.asarray(history.get("objective_passes", ()), float)
    if 0 < len(total) <= _MOST_PASSES:
        ends = np.cumsum(passes).tolist()
        chart = line_over_passes(total.tolist(), ends, "objective", BLUE)
        says = "The objective after every clustering pass. Dotted lines end the rounds, after which cells are moved."
        body += figure(figures.add(chart, "Line of the objective over the passes"), says)
        made = Safe("")
        for key, axis, colour, meaning in _TERMS:
            values = np.asarray(history.get(key, ()), float)
            if len(values) == len(total):
                chart = line_over_passes(values.tolist(), ends, axis, colour)
                made += figure(figures.add(chart, f"Line of the {axis} over the passes"), meaning)
        body += Safe(f'<div class="three">{made}</div>')
    notes = as_names(own.get("notes"))
    return Section("convergence", title, body + Safe("".join(paragraph("Note: ", note) for note in notes[:20])))


def _why(own: dict[str, Any], rounds: int, passes: int) -> Safe:
    status, change = str(own.get("status", "")), as_float(own.get("last_change"))
    tolerance = as_float(dict(own.get("params", {})).get("tol_harmony"))
    ran = f"{count(rounds, 'round')} ({count(passes, 'pass', 'passes')})"
    moved = f"fell by {number(change)}" if change >= 0 else f"rose by {number(-change)}"
    limit = "" if np.isnan(tolerance) else f" (tolerance: {number(tolerance)})"
    if status == "converged":
        return paragraph(
            Safe("<strong>Yes.</strong> "),
            f"It stopped after {ran} because the objective had settled: in the last round it {moved}, relative to its "
            f"value{limit}. More rounds would change little.",
        )
    if status == "max_iterations":
        return paragraph(
            Safe("<strong>Not quite.</strong> "),
            f"It stopped at the limit of {ran} while the objective was still moving: in the last round it {moved}, "
            f"relative to its value{limit}. Raise ",
            code("max_iter_harmony"),
            " and run it again; if that does not help, check that variable genes were selected per batch.",
        )
    if status == "single_batch":
        return paragraph("All cells are of one batch: there was nothing to correct, and the input came back unchanged.")
    return paragraph(f"Why it stopped is not recorded ({status}). ", str(own.get("advice", "")))
