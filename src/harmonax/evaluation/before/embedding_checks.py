"""Findings from the embedding: do batches lie apart, and how much of its variance is theirs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..findings import Finding, Level
from ..mixing import Excess, explained_by_batch, own_batch_excess, stand_for
from ..neighbours import sample
from ..variables import Variable

# Below this an excess is too small to matter. Random halves of one batch had up to 0.014 (and, at any split, less than
# what shuffling gives); the mildest real batches that were measured, 40 donors of one laboratory, 0.065.
TRIVIAL = 0.02
# One batch that is apart can hide among many that are mixed: from this excess of its own, and this size on.
_APART, _ENOUGH = 0.1, 10
_CLEAR, _STRONG = 0.1, 0.5
# So many cells are asked for their neighbours among all.
ASKED = 10_000

COMPONENT_COLUMNS = ["component", "variance_share", "batch_key", "explained"]
MIXING_COLUMNS = ["batch_key", "own_batch_excess", "within_types", "chance", "explained"]


class Measured(NamedTuple):
    """What was measured on the embedding."""

    need: str  # ``"needed"``, ``"not_needed"``, or ``"unknown"`` where nothing could be measured
    reason: str  # the same as a sentence
    # findings, components, mixing: see `check.Check`.
    findings: list[Finding]
    components: list[tuple[int, float, str, float]]
    mixing: list[tuple[str, float, float, float, float]]


def measure(
    batches: Sequence[Variable],
    embedding: np.ndarray | None,
    types: Variable | None,
    *,
    basis: str,
    seed: int,
    max_cells: int,
) -> Measured:
    """Measure every batch column that has several levels; see `check.check`."""
    batches = [batch for batch in batches if len(batch.levels) > 1]
    made = Measured("unknown", "", [], [], [])
    if embedding is None:
        advice = "Compute it (scanpy.pp.pca), or name another one: only the columns were checked."
        made.findings.append(Finding("no_embedding", Level.NOTE, f"there is no embedding '{basis}'.", advice))
        return made._replace(reason="Whether correction is needed was not measured: there is no embedding.")
    rows = sample(len(embedding), max_cells, seed)
    if len(rows) < len(embedding):
        text = f"the embedding was measured on {max_cells:,} of {len(embedding):,} cells, drawn at random."
        made.findings.append(Finding("sampled", Level.NOTE, text))
    needs = {
        batch.name: _measure_one(batch, embedding, types, rows, np.random.default_rng(seed), made) for batch in batches
    }
    return _conclude(needs, made)


def _measure_one(
    batch: Variable,
    embedding: np.ndarray,
    types: Variable | None,
    rows: np.ndarray,
    rng: np.random.Generator,
    made: Measured,
) -> str:
    """Add what one batch column shows to `made`; return whether it needs correction."""
    rows = rows[batch.codes[rows] >= 0]
    Z, codes = np.asarray(embedding[rows]), batch.codes[rows]
    shares, explained = explained_by_batch(Z, codes)
    if len(np.unique(codes)) < 2:
        made.findings.append(_not_measured(batch))
        return "unknown"
    made.components.extend((i + 1, float(shares[i]), batch.name, float(explained[i])) for i in range(len(shares)))
    asked = stand_for(codes, ASKED, rng)
    overall = own_batch_excess(Z, codes, rng, asked=asked)
    within = own_batch_excess(Z, codes, rng, groups=types.codes[rows], asked=asked) if types is not None else None
    if within is not None and np.isnan(within.overall):
        text = f"no cell type of '{types.name if types else ''}' is in two batches of '{batch.name}'."
        made.findings.append(
            Finding("not_within_types", Level.NOTE, text, "Whether correction is needed is judged from all cells.")
        )
    decides = overall if within is None or np.isnan(within.overall) else within
    inside = float("nan") if within is None else within.overall
    total = float(shares @ explained)
    made.mixing.append((batch.name, overall.overall, inside, decides.chance, total))
    made.findings.append(_variance(batch.name, shares, explained))
    if decides is within and max(TRIVIAL, overall.chance) < overall.overall and not matters(within):
        text = f"batches of '{batch.name}' differ in how many cells of each type they have, not within the types."
        made.findings.append(Finding("composition", Level.NOTE, text, "Correction could remove that difference."))
    apart = levels_apart(decides, np.bincount(codes, minlength=len(batch.levels)))
    made.findings.append(_need(batch, decides, apart, among="cells of one type" if decides is within else "all cells"))
    if np.isnan(decides.overall):
        return "unknown"
    return "needed" if matters(decides) or apart.any() else "not_needed"


def matters(excess: Excess) -> bool:
    """Return whether batches lie further apart than chance explains, and enough to matter."""
    return excess.overall > max(TRIVIAL, excess.chance)


def _strength(excess: float) -> str:
    return "far" if excess >= _STRONG else "clearly" if excess >= _CLEAR else "slightly"


def levels_apart(excess: Excess, counts: np.ndarray) -> np.ndarray:
    """Return which levels lie apart on their own, also where all together seem mixed, (levels,)."""
    limit = np.fmax(_APART, excess.chance_per_level)
    return (np.nan_to_num(excess.per_level, nan=-1) > limit) & (counts >= _ENOUGH)


def _need(batch: Variable, excess: Excess, apart: np.ndarray, among: str) -> Finding:
    scale = f"{excess.overall:.3f} among {among}; 0 is mixed, 1 is apart, chance reaches {excess.chance:.3f}"
    if np.isnan(excess.overall):
        return _not_measured(batch)
    if matters(excess):
        often = f"neighbours come {_strength(excess.overall)} too often from the same batch"
        text = f"{often} of '{batch.name}' (excess {scale})."
        gently = "The effect is mild: do not raise theta above its default, and see afterwards what it did (diagnose)."
        return Finding("batches_apart", Level.NOTE, text, gently if excess.overall < _CLEAR else "")
    if apart.any():
        first = int(np.nanargmax(np.where(apart, excess.per_level, -np.inf)))
        text = (
            f"batches of '{batch.name}' are mixed as a whole (excess {scale}), but {int(apart.sum())} lie apart, most "
        )
        text += f"of all '{batch.levels[first]}' ({excess.per_level[first]:.3f})."
        return Finding("some_batches_apart", Level.NOTE, text, "Correct, or look at those batches alone.")
    text = f"batches of '{batch.name}' are mixed as by chance already (excess of same-batch neighbours {scale})."
    return Finding(
        "batches_mixed", Level.GOOD, text, "Keep the embedding as it is: a correction can only remove something."
    )


def _not_measured(batch: Variable) -> Finding:
    text = f"too few cells tell whether the batches of '{batch.name}' are mixed."
    return Finding("not_measured", Level.NOTE, text, "Raise max_cells, or join small batches.")


def _variance(name: str, shares: np.ndarray, explained: np.ndarray) -> Finding:
    total = float(shares @ explained)
    if np.isnan(total):
        return Finding("variance_explained", Level.NOTE, f"'{name}' has as many batches as cells.")
    top = int(np.argmax(explained))
    text = f"'{name}' explains {total:.1%} of the embedding's variance"
    text += f", most in component {top + 1} ({explained[top]:.0%})." if total > 0 else "."
    # Of well mixed batches nothing is explained, but little variance may still separate them: neighbours decide.
    return Finding("variance_explained", Level.GOOD if total < TRIVIAL else Level.NOTE, text)


def _conclude(needs: dict[str, str], made: Measured) -> Measured:
    excess = {row[0]: row[1] if np.isnan(row[2]) else row[2] for row in made.mixing}
    needed = [name for name, need in needs.items() if need == "needed"]
    words = ", ".join(f"{excess[name]:.2f} for '{name}'" for name in needed or needs)
    if needed:
        strength = _strength(max(excess[name] for name in needed))
        reason = f"Correction is needed: neighbours come from the same batch {strength} more often than by chance "
        return made._replace(need="needed", reason=f"{reason}(excess {words}; 0 is mixed, 1 is apart).")
    if needs and "unknown" not in needs.values():
        reason = "Correction is not needed: neighbours come from every batch about as often as by chance "
        return made._replace(need="not_needed", reason=f"{reason}(excess {words}; 0 is mixed, 1 is apart).")
    return made._replace(reason="Whether correction is needed could not be measured.")


def genes(var_columns: Iterable[str]) -> list[Finding]:
    """Return a finding on how variable genes were selected, from the columns of ``var``."""
    names = set(var_columns)
    if "highly_variable" not in names:
        return []
    if names & {"highly_variable_nbatches", "highly_variable_intersection"}:
        return [Finding("hvg_per_batch", Level.GOOD, "variable genes were selected within batches.")]
    text = "variable genes were selected over all cells at once: genes that differ between batches are among them."
    advice = "Select them within batches: scanpy.pp.highly_variable_genes(adata, batch_key=...), then PCA again."
    return [Finding("hvg_not_per_batch", Level.NOTE, text, advice)]


def table_of(rows: Sequence[Sequence[object]], columns: Sequence[str]) -> pd.DataFrame:
    """Return rows as a table that files can hold: text as objects, rows named "0", "1", ..."""
    made = pd.DataFrame([tuple(row) for row in rows], columns=list(columns), index=[str(i) for i in range(len(rows))])
    text = [c for c in made.columns if not pd.api.types.is_numeric_dtype(made[c].dtype)]
    return made.astype(dict.fromkeys(text, object))
