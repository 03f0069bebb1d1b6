"""One answer from all that was measured: can this correction be trusted?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .before.quality_control import LOSSES, losses
from .findings import Finding, Level, as_html, as_lines, by_severity, from_table

_HEADLINES = {
    "trust": "This correction can be trusted.",
    "caution": "Use this correction with care.",
    "do_not_trust": "Do not use this correction as it is.",
    "not_needed": "No correction was needed.",
    "impossible": "Batch and biology cannot be told apart in these data.",
    "unknown": "Nothing was measured that says whether to trust this correction.",
}

# Fall of the mean of the labels' own scores that is told: clusters of the same cells differ by less.
MAX_FALL = 0.05

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

    def __str__(self) -> str:
        return "\n".join(as_lines(self.headline, self.summary, self.findings))

    def _repr_html_(self) -> str:
        return as_html(self.headline, self.summary, self.findings)


def overall(uns: Mapping[str, Any]) -> Overall:
    """Return the verdict over everything that `harmonax.tl` stored.

    Parameters
    ----------
    uns
        ``adata.uns``, with any of "harmonax_check", "harmonax_diagnosis", "harmonax_evaluation" and
        "harmonax_workflow".

    Examples
    --------
    >>> overall({}).code
    'unknown'
    """
    check, diagnosis = uns.get("harmonax_check"), uns.get("harmonax_diagnosis")
    own = uns.get("harmonax_workflow", {})
    before = losses(own.get("cells"), own.get("types")) + _scores_fell(uns.get("harmonax_evaluation"), diagnosis)
    findings = by_severity([*_heard(check, diagnosis), *before])
    code = "unknown" if diagnosis is None else _OF_DIAGNOSIS[str(diagnosis["verdict"])]
    parts = [part for part in (diagnosis, check) if part is not None]
    if check is not None and str(check["verdict"]) == "impossible":
        code, parts = "impossible", [check]
    elif any(_calls_for_care(finding, code) for finding in findings):
        code = "caution"
    headline = _HEADLINES[code]
    if code == "trust" and any(finding.code == "types_unknown" for finding in findings):
        headline = "This correction can be trusted, as far as can be told without cell types."
    return Overall(code, headline, " ".join(str(part["summary"]) for part in parts), findings)


def _calls_for_care(finding: Finding, code: str) -> bool:
    """Return whether this is not to be used without care, whatever the diagnosis says: what is gone stays gone."""
    if code == "not_needed":
        return finding.code in LOSSES
    grave = finding.level is Level.WARNING and finding.code in ("not_converged", "labels_fell", *LOSSES)
    return code == "trust" and (grave or finding.level is Level.PROBLEM)


def _scores_fell(evaluation: Mapping[str, Any] | None, diagnosis: Mapping[str, Any] | None) -> list[Finding]:
    """Return a warning where the labels' own scores are lower after the correction than before."""
    if evaluation is None or diagnosis is None or "scores" not in evaluation:
        return []
    scores = evaluation["scores"]
    bio = scores[(scores["kind"] == "total") & (scores["metric"] == "bio")].set_index("embedding")
    names = [str(diagnosis.get(name, "")) for name in ("basis", "adjusted_basis")]
    if not set(names) <= set(bio.index):
        return []
    before, after = (float(bio.loc[name, "value"]) for name in names)
    # Where cells were sampled, the intervals (nan in full) have to lie apart, too; an unknown score says nothing.
    overlap = float(bio.loc[names[1], "high"]) >= float(bio.loc[names[0], "low"])
    if overlap or not before - after > MAX_FALL:
        return []
    return [
        Finding(
            "labels_fell",
            Level.WARNING,
            f"the labels' own scores (bio) fell from {before:.2f} to {after:.2f}.",
            "The types are less distinct than before: lower theta (1).",
        )
    ]


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
