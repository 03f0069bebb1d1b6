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
    findings = by_severity(_heard(check, diagnosis))
    code = "unknown" if diagnosis is None else _OF_DIAGNOSIS[str(diagnosis["verdict"])]
    parts = [part for part in (diagnosis, check) if part is not None]
    if check is not None and str(check["verdict"]) == "impossible":
        code, parts = "impossible", [check]
    elif code == "trust" and any(_forbids_trust(finding) for finding in findings):
        code = "caution"
    headline = _HEADLINES[code]
    if code == "trust" and any(finding.code == "types_unknown" for finding in findings):
        headline = "This correction can be trusted, as far as can be told without cell types."
    return Overall(code, headline, " ".join(str(part["summary"]) for part in parts), findings)


def _forbids_trust(finding: Finding) -> bool:
    """Return whether a finding keeps a correction from being trusted as it is; a run has to converge, too."""
    return finding.level is Level.PROBLEM or (finding.code == "not_converged" and finding.level is Level.WARNING)


def _heard(check: Mapping[str, Any] | None, diagnosis: Mapping[str, Any] | None) -> list[Finding]:
    """Return the findings of both; of the check, none that the diagnosis answers, having seen the result."""
    found = from_table(diagnosis["findings"]) if diagnosis is not None else []
    answered = {"confounded"} & {finding.code for finding in found}
    if diagnosis is not None and str(diagnosis.get("label_key", "")):
        answered.add("in_one_batch")
    for finding in from_table(check["findings"]) if check is not None else []:
        if finding.code not in answered and finding not in found:
            found.append(finding)
    return found
