"""One answer from all that was measured: can this correction be trusted?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .findings import Finding, Level, by_severity, from_table

_HEADLINES = {
    "trust": "This correction can be trusted.",
    "caution": "Use this correction with care.",
    "do_not_trust": "Do not use this correction as it is.",
    "not_needed": "No correction was needed.",
    "impossible": "Batch and biology cannot be told apart in these data.",
    "unknown": "Nothing was measured that says whether to trust this correction.",
}

_OF_DIAGNOSIS = {
    "fine": "trust",
    "caution": "caution",
    "over_corrected": "do_not_trust",
    "under_corrected": "do_not_trust",
    "not_needed": "not_needed",
    "impossible": "impossible",
}


@dataclass(frozen=True)
class Overall:
    """The answer, in a word for programs and a sentence for people, and the findings behind it, most serious first."""

    code: str
    headline: str
    summary: str
    findings: list[Finding]


def overall(uns: Mapping[str, Any]) -> Overall:
    """Return the verdict over everything that `harmonax.tl` stored.

    Parameters
    ----------
    uns
        ``adata.uns``, with any of "harmonax_check" and "harmonax_diagnosis".

    Examples
    --------
    >>> overall({}).code
    'unknown'
    """
    check, diagnosis = uns.get("harmonax_check"), uns.get("harmonax_diagnosis")
    found: dict[str, Finding] = {}
    for part in (diagnosis, check):
        for finding in from_table(part["findings"]) if part is not None else []:
            # Both look at confounding; the diagnosis, which saw the result, is heard first.
            found.setdefault(finding.code, finding)
    findings = by_severity(found.values())
    code = "unknown" if diagnosis is None else _OF_DIAGNOSIS[str(diagnosis["verdict"])]
    if check is not None and str(check["verdict"]) == "impossible":
        code = "impossible"
    elif code == "trust" and any(finding.level is Level.PROBLEM for finding in findings):
        code = "caution"
    summary = " ".join(str(part["summary"]) for part in (diagnosis, check) if part is not None)
    return Overall(code, _HEADLINES[code], summary, findings)
