"""The metrics: before against after, and other embeddings beside them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ...evaluation.scores.registry import METRICS
from ..figures import Figures
from ..parts import Parts
from ..render import Bar, bar
from ..text import as_float, as_names, signed
from .section import Section, frame, why_skipped

_COLUMNS = ("embedding", "batch_key", "metric", "kind", "value")
_KINDS = {
    "total": ("Overall", "scib-metrics' weighted means of the metrics below."),
    "batch": ("Are the batches mixed?", "1 is best: batches cannot be told apart."),
    "bio": ("Is the biology preserved?", "1 is best: the labels are as well separated as possible."),
    "further": ("Beside the means", "1 is best. These need labels, and enter neither mean."),
    "label-free": ("Without labels", "1 is best. These need no cell types."),
}
MAX_ROWS = 200
# Of metrics that are shown under another name than the one they are stored with.
_NAMES = {"total": "Total", "batch": "Mixing", "bio": "Biology"}
_NAMES |= {"own-batch neighbors kept": "same-batch neighbours kept"}
_OVERALL = {
    "total": "0.6 of the biology score + 0.4 of the mixing score: one number to rank by, not to rely on alone.",
    "batch": "Mean of the mixing metrics.",
    "bio": "Mean of the biology metrics.",
}


def evaluation(parts: Parts, figures: Figures) -> Section:
    """Show a table of the metrics for each kind, one column per embedding."""
    own = parts.part("harmonax_evaluation")
    scores = frame(own.get("scores"), _COLUMNS)
    if scores is None:
        return Section("metrics", "Metrics", {"tables": [], "why": why_skipped(parts, "evaluate")})
    scores = scores.assign(batch_key=scores["batch_key"].fillna("").astype(str), metric=scores["metric"].astype(str))
    present = list(dict.fromkeys(scores["embedding"].astype(str)))
    embeddings = [e for e in as_names(own.get("embeddings")) if e in present] or present
    baseline = str(own.get("baseline", embeddings[0]))
    kinds = [*(k for k in _KINDS if k in set(scores["kind"])), *sorted(set(scores["kind"].astype(str)) - set(_KINDS))]
    # One name, one number: what is measured with labels and without them says which of the two it is.
    free = scores["kind"] == "label-free"
    twice = set(scores.loc[free, "metric"]) & set(scores.loc[~free, "metric"])
    values = {
        "tables": [
            (*_KINDS.get(kind, (kind, "")), _rows(scores[scores["kind"] == kind], embeddings, baseline, twice))
            for kind in kinds
        ],
        "embeddings": embeddings,
        "baseline": baseline,
        "n_cells": as_float(own.get("n_cells")),
        "used": as_float(own.get("n_used")),
        "label_key": str(own.get("label_key", "")),
        "shuffled": "shuffled" in as_names(own.get("embeddings")),
        "notes": as_names(own.get("notes"))[:20],
    }
    return Section("metrics", "Metrics", values)


def _rows(scores: pd.DataFrame, embeddings: list[str], baseline: str, twice: set[str]) -> list[dict[str, Any]]:
    """Return one table: a row for a metric and batch variable, with a cell for each embedding."""
    found = {(r["metric"], r["batch_key"], str(r["embedding"])): r for _, r in scores.iterrows()}
    rows = list(dict.fromkeys((metric, key) for metric, key, _ in found))
    rows.sort(key=lambda row: row[0] != "total")
    several = len({key for _, key in rows if key}) > 1
    made = []
    for metric, key in rows[:MAX_ROWS]:
        start = found.get((metric, key, baseline))
        cells = [_cell(found.get((metric, key, e)), start if e != baseline else None) for e in embeddings]
        name = _NAMES.get(metric, metric)
        if metric in twice and str(scores["kind"].iloc[0]) == "label-free":
            name += ", label-free"
        about = {"name": name, "key": key if several else "", "meaning": _meaning(metric)}
        made.append(about | {"cells": cells})
    return made


def _meaning(name: str) -> str:
    return _OVERALL.get(name) or next((metric.meaning for metric in METRICS if metric.name == name), "")


def _cell(score: Any, start: Any) -> tuple[Bar, str] | None:
    """Return a score's bar, and in words its change and interval."""
    if score is None:
        return None
    value, low, high = (as_float(score.get(name)) for name in ("value", "low", "high"))
    before = as_float(None if start is None else start["value"])
    said = [] if pd.isna(before) or pd.isna(value) else [signed(value - before)]
    said += [] if pd.isna(low) or pd.isna(high) else [f"[{low:.2f}, {high:.2f}]"]
    made = bar(value, f"{max(value, 0):.2f}" if value > -0.005 else None, low=low, high=high, mark=before)
    return made, " ".join(said)
