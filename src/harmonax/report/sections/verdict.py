"""The verdict: may the correction be trusted, and why."""

from __future__ import annotations

import math
from typing import Any

from ...evaluation.before.quality_control import CELLS
from ...evaluation.findings import Finding, Level, by_severity, to_table
from ..figures import Figures
from ..parts import Parts
from ..points import correction
from ..text import as_float, number, percent
from .diagnosis import change, furthest
from .section import Section, findings_of, frame, why_skipped

_CODES = ("trust", "caution", "do_not_trust", "not_needed", "impossible", "unknown")
_JUDGED = ("harmonax_check", "harmonax_diagnosis")
_FINISHED = {"converged": "Yes", "max_iterations": "Not quite", "single_batch": "Nothing to do", "completed": "Yes"}


def verdict(parts: Parts, figures: Figures) -> Section:
    """Say whether to trust the correction, in one headline, the numbers behind it, and what was found."""
    from ...evaluation.verdict import overall

    stored = {key: made for key in _JUDGED if (made := _judged(parts, key))} | _also(parts)
    found = overall(stored)
    broken = broken_values(parts)
    values = {
        "code": found.code if found.code in _CODES else "unknown",
        "headline": found.headline,
        "summary": found.summary,
        "evidence": _evidence(parts),
        "found": by_severity([*broken, *found.findings]),
        "why": why_skipped(parts, "diagnose"),
        "diagnosed": bool(parts.part("harmonax_diagnosis")),
    }
    if broken:
        values |= {"code": "do_not_trust", "headline": "The embedding is damaged", "summary": broken[0].message}
    return Section("verdict", "Can this correction be trusted?", values)


def broken_values(parts: Parts) -> list[Finding]:
    """Return what cannot be right: NaN or infinity in the embedding that was corrected, or in the corrected one."""
    own, corrector = correction(parts)
    keys = (own.get("basis", "X_pca"), own.get("adjusted_basis", corrector.adjusted_basis))
    return [
        Finding(
            "broken_values",
            Level.PROBLEM,
            f"obsm['{key}'] has NaN or infinite values in {parts.broken[key]:,} cells.",
            "It was damaged after the correction, or by what made it: remove or repair them, and correct again.",
        )
        for key in dict.fromkeys(map(str, keys))
        if key in parts.broken
    ]


def _judged(parts: Parts, key: str) -> dict[str, Any]:
    """Return what a tool concluded; nothing where parts of what is stored are missing."""
    own = parts.part(key)
    whole = {"verdict", "summary", "findings"} <= set(own)
    return own | {"findings": to_table(findings_of(own))} if whole else {}


def _also(parts: Parts) -> dict[str, Any]:
    """Return what else the verdict is of: the scores, and the cells that quality control left; tables only."""
    scores = frame(parts.part("harmonax_evaluation").get("scores"), ("embedding", "kind", "metric", "value"))
    own = parts.part("harmonax_workflow")
    lost = {name: table for name in ("cells", "types") if (table := frame(own.get(name), CELLS)) is not None}
    return {"harmonax_workflow": lost} | ({} if scores is None else {"harmonax_evaluation": {"scores": scores}})


def _evidence(parts: Parts) -> list[tuple[str, str, str]]:
    """Return the cards: title, value, and what it means."""
    diagnosis, (own, corrector) = parts.part("harmonax_diagnosis"), correction(parts)
    values = dict(diagnosis.get("numbers", {}))
    null = dict(diagnosis.get("null", {}))
    made = []
    before, after = as_float(values.get("excess_before")), as_float(values.get("excess_after"))
    if not (math.isnan(before) or math.isnan(after)):
        says = "Same-batch neighbours beyond chance, before and after: 0% is fully mixed, 100% fully separate."
        says += furthest(diagnosis)
        made.append(("Are the batches mixed?", change(values, "excess"), says))
    kept = as_float(values.get("neighbours_kept"))
    if not math.isnan(kept):
        without = as_float(null.get("neighbours_kept"))
        says = "Share of a cell's same-batch neighbours that are still its neighbours."
        if not math.isnan(without):
            says += f" Where there was nothing to correct, the same correction kept {percent(without)}."
        made.append(("Was the structure preserved?", percent(kept), says))
    if own.get("status"):
        last, status = as_float(own.get("last_change")), str(own["status"])
        says = "" if math.isnan(last) else f"The objective's last relative change was {number(last)}. "
        who = "Harmony" if corrector.name == "harmony" else "training"
        says = says or ("" if who == "Harmony" else f"{corrector.describe(own)}; training has no test of convergence.")
        made.append((f"Did {who} finish?", _FINISHED.get(status, status), says + _sentence(own)))
    return made


def _sentence(own: dict) -> str:
    advice = str(own.get("advice", "")).strip()
    return advice[:1].upper() + advice[1:] + ("." if advice and not advice.endswith(".") else "")
