"""The verdict: may the correction be trusted, and why."""

from __future__ import annotations

import math
from typing import Any

from ...evaluation.findings import to_table
from ..figures import Figures
from ..source import Parts
from ..text import Safe, as_float, escape, number, percent
from .base import Section, card, cards, finding_list, findings_of, missing
from .diagnosis import NOT_DIAGNOSED, change

_CODES = ("trust", "caution", "do_not_trust", "not_needed", "impossible", "unknown")


_JUDGED = ("harmonax_check", "harmonax_diagnosis")


def verdict(parts: Parts, figures: Figures) -> Section:
    """Say whether to trust the correction, in one headline, the numbers behind it, and what was found."""
    from ...evaluation.verdict import overall

    found = overall({key: made for key in _JUDGED if (made := _judged(parts, key))})
    code = found.code if found.code in _CODES else "unknown"
    box = (
        f'<div class="verdict {code}"><p class="verdict-word">{escape(found.headline, 600)}</p>'
        f'<p class="verdict-line">{escape(found.summary, 1200)}</p></div>'
    )
    body = box + _evidence(parts)
    if found.findings:
        body += "<h3>What was found</h3>" + finding_list(found.findings)
    if not parts.part("harmonax_diagnosis"):
        body += missing(*NOT_DIAGNOSED)
    return Section("verdict", "Can this correction be trusted?", body)


def _judged(parts: Parts, key: str) -> dict[str, Any]:
    """Return what a tool concluded; nothing where what is stored is not whole."""
    own = parts.part(key)
    whole = {"verdict", "summary", "findings"} <= set(own)
    return own | {"findings": to_table(findings_of(own))} if whole else {}


def _evidence(parts: Parts) -> Safe:
    diagnosis, own = parts.part("harmonax_diagnosis"), parts.part("harmonax")
    values = dict(diagnosis.get("numbers", {}))
    null = dict(diagnosis.get("null", {}))
    made = []
    before, after = as_float(values.get("excess_before")), as_float(values.get("excess_after"))
    if not (math.isnan(before) or math.isnan(after)):
        says = "Neighbours of the own batch beyond chance, before and after: 0% is mixed, 100% wholly apart."
        made.append(card("Are the batches mixed?", change(values, "excess"), says))
    kept = as_float(values.get("neighbours_kept"))
    if not math.isnan(kept):
        without = as_float(null.get("neighbours_kept"))
        says = "Share of a cell's neighbours in its own batch that are still its neighbours."
        if not math.isnan(without):
            says += f" Where there was nothing to correct, the same correction kept {percent(without)}."
        made.append(card("Was the structure kept?", percent(kept), says))
    if own.get("status"):
        last = as_float(own.get("last_change"))
        word = {"converged": "Yes", "max_iterations": "Not quite", "single_batch": "Nothing to do"}
        says = "" if math.isnan(last) else f"The objective's last relative change was {number(last)}. "
        made.append(
            card("Did Harmony finish?", word.get(str(own["status"]), str(own["status"])), says + _sentence(own))
        )
    return cards(*made)


def _sentence(own: dict) -> str:
    advice = str(own.get("advice", "")).strip()
    return advice[:1].upper() + advice[1:] + ("." if advice and not advice.endswith(".") else "")
