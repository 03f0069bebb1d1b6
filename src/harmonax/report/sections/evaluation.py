"""The metrics: before against after, and other embeddings beside them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ...evaluation.scores.registry import METRICS
from ..figures import Figures
from ..source import Parts
from ..text import NOTHING, Safe, as_float, as_names, bar, code, count, escape, paragraph, signed
from .base import Section, frame, missing

_COLUMNS = ("embedding", "batch_key", "metric", "kind", "value")
_KINDS = {
    "total": ("Overall", "scib-metrics' weighted means of the metrics below."),
    "batch": ("Are the batches mixed?", "1 is best: batches cannot be told apart."),
    "bio": ("Is the biology preserved?", "1 is best: the labels are as clear as they can be."),
    "label-free": ("Without labels", "1 is best. These need no cell types."),
}
_NAMES = {"total": "Total", "batch": "Mixing", "bio": "Biology"}
_OVERALL = {
    "total": "0.6 of biology + 0.4 of batch: one number to rank by, not to trust alone.",
    "batch": "Mean of the metrics of mixing.",
    "bio": "Mean of the metrics of biology.",
}


def evaluation(parts: Parts, figures: Figures) -> Section:
    """Show a table of the metrics for each kind, one column an embedding."""
    title, own = "Metrics", parts.part("harmonax_evaluation")
    scores = frame(own.get("scores"), _COLUMNS)
    if scores is None:
        return Section(
            "metrics", title, missing("The correction was not evaluated.", 'harmonax.tl.evaluate(adata, "batch")')
        )
    scores = scores.assign(batch_key=scores["batch_key"].fillna("").astype(str), metric=scores["metric"].astype(str))
    present = list(dict.fromkeys(scores["embedding"].astype(str)))
    embeddings = [e for e in as_names(own.get("embeddings")) if e in present] or present
    baseline = str(own.get("baseline", embeddings[0]))
    body = paragraph(*_intro(own, baseline))
    kinds = [*(k for k in _KINDS if k in set(scores["kind"])), *sorted(set(scores["kind"].astype(str)) - set(_KINDS))]
    for kind in kinds:
        name, says = _KINDS.get(kind, (kind, ""))
        body += Safe(f"<h3>{escape(name)}</h3>") + _table(scores[scores["kind"] == kind], embeddings, baseline, says)
    notes = as_names(own.get("notes"))
    body += Safe("".join(paragraph("Note: ", note, kind="quiet") for note in notes[:20]))
    return Section("metrics", title, body)


def _intro(own: dict[str, Any], baseline: str) -> list[Any]:
    n, used = as_float(own.get("n_cells")), as_float(own.get("n_used"))
    parts: list[Any] = ["Every metric runs from 0 to 1, and higher is better. The baseline is ", code(baseline)]
    parts.append(", before correction: orange marks show it, and the small numbers are the change from it.")
    if used < n:
        parts.append(
            f" Measured on a sample of {int(used):,} of {count(int(n), 'cell')}; thin lines show the interval."
        )
    label_key = str(own.get("label_key", ""))
    parts += [" Labels: ", code(label_key), "."] if label_key else [" There were no labels, so only what needs none."]
    if "shuffled" in as_names(own.get("embeddings")):
        parts.append(
            " “shuffled” is the baseline with its cells shuffled: what perfect mixing scores that keeps nothing."
        )
    return parts


def _table(scores: pd.DataFrame, embeddings: list[str], baseline: str, caption: str) -> Safe:
    """Return one table: a row for a metric and batch variable, a column for an embedding."""
    found = {(r["metric"], r["batch_key"], str(r["embedding"])): r for _, r in scores.iterrows()}
    rows = list(dict.fromkeys((metric, key) for metric, key, _ in found))
    rows.sort(key=lambda row: row[0] != "total")
    several = len({key for _, key in rows if key}) > 1
    heads = "".join(
        f'<th scope="col">{escape(e)}{" <small>baseline</small>" * (e == baseline)}</th>' for e in embeddings
    )
    body = ""
    for metric, key in rows[:200]:
        start = found.get((metric, key, baseline))
        cells = "".join(
            f"<td>{_cell(found.get((metric, key, e)), start if e != baseline else None)}</td>" for e in embeddings
        )
        of = f" <small>{escape(key)}</small>" if several and key else ""
        meaning = f'<small class="meaning">{escape(_meaning(metric), 300)}</small>'
        body += f'<tr><th scope="row">{escape(_NAMES.get(metric, metric))}{of}{meaning}</th>{cells}</tr>'
    return Safe(
        f'<div class="wide" data-name="{escape(caption)}"><table class="metrics">'
        f'<caption><span>{escape(caption)}</span></caption><thead><tr><th scope="col">Metric</th>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _meaning(name: str) -> str:
    return _OVERALL.get(name) or next((metric.meaning for metric in METRICS if metric.name == name), "")


def _cell(score: Any, start: Any) -> Safe:
    if score is None:
        return Safe(f'<span class="none">{NOTHING}</span>')
    value, low, high = (as_float(score.get(name)) for name in ("value", "low", "high"))
    before = as_float(None if start is None else start["value"])
    said = [] if pd.isna(before) or pd.isna(value) else [signed(value - before)]
    said += [] if pd.isna(low) or pd.isna(high) else [f"[{low:.2f}, {high:.2f}]"]
    made = bar(value, low=low, high=high, mark=before, shown=f"{max(value, 0):.2f}" if value > -0.005 else None)
    return made + Safe(f"<small>{escape(' '.join(said))}</small>")
