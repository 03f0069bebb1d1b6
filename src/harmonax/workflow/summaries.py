"""What a run says about itself, for people and for other programs."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..evaluation.verdict import overall
from ..pp.correctors import corrector_of
from ..system import memory
from ..system.version import __version__
from .job import Job
from .resume import versions
from .state import Done

if TYPE_CHECKING:
    from anndata import AnnData

_VERDICT = {"title": "Verdict", "description": "Can the correction be trusted?", "scale": False} | {
    "cond_formatting_rules": {
        "pass": [{"s_eq": "trust"}, {"s_eq": "not needed"}],
        "warn": [{"s_eq": "caution"}, {"s_eq": "unknown"}],
        "fail": [{"s_eq": "do not trust"}, {"s_eq": "impossible"}],
    }
}
_SCORE = {"min": 0, "max": 1, "scale": "Blues", "format": "{:,.3f}"}
SCORES = ("embedding", "batch_key", "metric", "kind", "value", "low", "high")


def steps_table(done: list[Done]) -> pd.DataFrame:
    """Return how each step went, as files can hold it."""
    rows = [(d.step, d.status, d.note, float(d.seconds), float(d.cpu_seconds), int(d.peak_memory_bytes)) for d in done]
    names = ["step", "status", "note", "seconds", "cpu_seconds", "peak_memory_bytes"]
    return pd.DataFrame(rows, columns=names, index=[str(i) for i in range(len(rows))])


def scores(adata: AnnData) -> pd.DataFrame:
    """Return the table of the evaluation; empty where there is none."""
    table = adata.uns.get("harmonax_evaluation", {}).get("scores")
    return pd.DataFrame(columns=list(SCORES)) if table is None else table[list(SCORES)]


def run_json(adata: AnnData, job: Job, files: list[str]) -> dict[str, Any]:
    """Return the record of the run."""
    corrector = corrector_of(job.options.corrector)
    made = adata.uns.get(corrector.record, {})
    return {
        "harmonax": __version__,
        "command": job.command,
        "started": datetime.datetime.fromtimestamp(job.started, datetime.UTC).isoformat(timespec="seconds"),
        "seconds": time.time() - job.started,
        "peak_memory_bytes": memory.peak(),
        "resumed": [d.step for d in job.done if d.resumed],
        "steps": [
            {
                "step": d.step,
                "status": d.status,
                "note": d.note,
                "seconds": d.seconds,
                "cpu_seconds": d.cpu_seconds,
                "peak_memory_bytes": d.peak_memory_bytes,
            }
            for d in job.done
        ],
        "inputs": job.facts,
        "output": {"path": str(job.folder.resolve()), "files": files, "shape": list(adata.shape)},
        "options": job.options.to_dict(),
        "seed": job.options.seed,
        "verdicts": verdicts(adata),
        "correction": {"corrector": corrector.name, "adjusted_basis": corrector.adjusted_basis}
        | {name: made[name] for name in ("status", "advice", "last_change", "n_clusters") if name in made},
        "versions": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def verdicts(adata: AnnData) -> dict[str, dict[str, str]]:
    """Return what the check and the diagnosis concluded, and the answer of both."""
    one = overall(adata.uns)
    found = {"overall": {"verdict": one.code, "summary": one.headline}}
    for name in ("check", "diagnosis"):
        stored = adata.uns.get(f"harmonax_{name}", {})
        if "verdict" in stored:
            found[name] = {"verdict": str(stored["verdict"]), "summary": str(stored.get("summary", ""))}
    return found


def write_versions(path: Path) -> None:
    """Write versions.yml as nf-core's modules do."""
    lines = ['"harmonax":', f"    python: {platform.python_version()}"]
    lines += [f"    {name}: {number}" for name, number in sorted(versions().items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_metrics(path: Path, adata: AnnData) -> None:
    """Write the scores as a table with tabs; a missing number is empty."""
    scores(adata).to_csv(path, sep="\t", index=False, lineterminator="\n")


def write_multiqc(path: Path, adata: AnnData, job: Job) -> None:
    """Write a table for MultiQC: a row per embedding of this run, with its verdict and a column per score."""
    rows: dict[str, dict[str, Any]] = {}
    table = scores(adata)
    labelled = set(table.loc[table["kind"] != "label-free", "metric"])
    corrector = corrector_of(job.options.corrector)
    adjusted = str(adata.uns.get(corrector.record, {}).get("adjusted_basis", corrector.adjusted_basis))
    # The verdict is on the corrected cells, which have a row also where nothing was scored.
    rows[adjusted] = {"verdict": verdicts(adata)["overall"]["verdict"].replace("_", " ")}
    for score in table.itertuples(index=False):
        if pd.notna(score.value):
            name = str(score.metric)
            if score.kind == "label-free" and name in labelled:
                name += ", label-free"
            if len(job.options.batch_key) > 1 and score.batch_key:
                name += f" ({score.batch_key})"
            rows.setdefault(str(score.embedding), {})[name] = round(float(score.value), 4)
    columns = dict.fromkeys(name for row in rows.values() for name in row if name != "verdict")
    from ..pl.metrics import NAMES

    run = run_name(job)
    section = {
        "id": "harmonax",
        "section_name": "harmonax",
        "description": "Can the correction be trusted? Scores of each embedding are from 0 to 1; higher is better.",
        "plot_type": "table",
        "pconfig": {"id": "harmonax_table", "title": "harmonax: batch correction"},
        "headers": {"verdict": _VERDICT} | {name: _SCORE | {"title": NAMES.get(name, name)} for name in columns},
        "data": {f"{run}: {embedding}": row for embedding, row in rows.items()},
    }
    path.write_text(json.dumps(section, indent=2) + "\n", encoding="utf-8")


def run_name(job: Job) -> str:
    """Return what tells a run from others: its folder within the one above, and a few digits of where that is.

    MultiQC lets rows of the same name overwrite each other, and every run of a pipeline may write to "results".
    """
    place = job.folder.resolve()
    mark = hashlib.sha256(str(place).encode()).hexdigest()[:4]
    # Of a name with slashes MultiQC keeps only the end.
    return f"{'-'.join(part for part in place.parts[-2:] if part != place.anchor)} [{mark}]"
