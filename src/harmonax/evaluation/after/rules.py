"""From measurements to findings, advice and a verdict; the limits are in `measured.py`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..findings import Finding, Level, by_severity
from .markers import LOST
from .measured import (
    APART,
    GROUP_CELLS,
    GROUP_LOSS,
    KEPT_FINE,
    MANY_MERGED,
    MIN_KEPT,
    MOVED_FAR,
    NEARLY_CONVERGED,
    NULL_FINE,
    Measured,
)
from .types import apart


def judge(measured: Measured) -> tuple[str, str, list[Finding]]:
    """Return the verdict, the verdict in a sentence, and the findings, most serious first."""
    findings = [*_possible(measured), *_mixing(measured), *_structure(measured), *_states(measured), *_types(measured)]
    findings += [*_markers(measured), *_run(measured)]
    verdict = _verdict(measured, findings)
    summary = _SUMMARY["one_batch" if measured.n_levels < 2 else verdict].format(**_words(measured))
    return verdict, summary, by_severity(findings)


_SUMMARY = {
    "one_batch": "There is one batch only: nothing was corrected.",
    "impossible": "No correction can be trusted here: no cell type is in more than one batch, so batch and biology "
    "cannot be told apart.",
    "not_needed": "No correction was needed: batches were mixed as by chance before. It {kept}.",
    "over_corrected": "Over-corrected: the correction tore batches' own structure apart; it {kept}.",
    "under_corrected": "Too little corrected: batches still lie apart ({fell}).",
    "caution": "Corrected, but look at the findings first. It {kept}.",
    "fine": "The correction looks right: {fell}, and it {kept}.",
}


def _words(m: Measured) -> dict[str, str]:
    kept = m.numbers["neighbours_kept"]
    before, after = (max(0.0, m.numbers[name]) for name in ("excess_before", "excess_after"))
    return {
        "kept": f"kept {kept:.0%} of each cell's neighbours within its batch"
        if np.isfinite(kept)
        else "moved the cells",
        "fell": f"same-batch neighbours in excess of chance went from {before:.0%} to {after:.0%}",
    }


def _verdict(m: Measured, findings: list[Finding]) -> str:
    if not m.needed:
        return "caution" if len(m.merged) else "not_needed"
    if m.confounded:
        return "impossible"
    if m.unchanged:
        return "under_corrected"
    if m.torn or m.merged["n_cells"].sum() > MANY_MERGED * m.types["n_cells"].sum():
        return "over_corrected"
    # Without cell types, little that is left may be other proportions of cells: a finding says so.
    if len(m.left) and (m.n_labelled or (m.left["after"] > APART).any()):
        return "under_corrected"
    # How a run ended says nothing of where: its warning stands for itself, and in the verdict over everything.
    serious = [f for f in findings if f.level in (Level.WARNING, Level.PROBLEM) and f.code != "not_converged"]
    return "caution" if serious else "fine"


def _possible(m: Measured) -> Iterator[Finding]:
    if m.confounded:
        yield Finding(
            "confounded",
            Level.PROBLEM,
            "No cell type is in more than one batch: differences between batches and between types are the same.",
            "Leave the batches uncorrected, or add batches that share cell types with them.",
        )
    elif m.n_linked > 1:
        yield Finding(
            "partly_confounded",
            Level.WARNING,
            f"The batches fall into {m.n_linked} groups that share no cell type.",
            "Correct within the groups only, or add batches that link them.",
        )


def _mixing(m: Measured) -> Iterator[Finding]:
    if m.n_levels < 2:
        yield Finding("one_batch", Level.NOTE, "There is one batch only: nothing was corrected.")
        return
    if m.composition:
        yield Finding(
            "composition",
            Level.NOTE,
            "Batches differ in how many cells of each state they have, not within states: that is no batch effect.",
            "Continue with the uncorrected embedding.",
        )
        return
    if not m.needed:
        yield Finding(
            "not_needed",
            Level.NOTE,
            "Batches were mixed as by chance before the correction (same-batch neighbours in excess: "
            f"{m.numbers['excess_before']:.3f}).",
            "Continue with the uncorrected embedding.",
        )
        return
    if m.confounded:
        return
    for row in m.mixing[m.mixing["needed"]].itertuples():
        of = f" of '{row.batch_key}'" if len(m.mixing) > 1 else ""
        said = f"Same-batch neighbours{of} in excess of chance: {row.before:.2f} before, {row.after:.2f} after "
        said += "(1: batches apart)."
        if row.levels_apart_after and row.after <= APART:
            said += f" {row.levels_apart_after} batches lie apart ({row.levels_apart_before} before)."
        if row.after <= APART and row.batch_key not in set(m.left["batch_key"]):
            yield Finding("batches_mixed", Level.GOOD, said)
            continue
        also = "" if m.n_labelled else " Or the batches hold different cells: give the cell types (label_key) to tell."
        yield Finding(
            "batches_apart",
            Level.WARNING,
            said,
            f"{m.more}{also}",
        )
    if m.far and not len(m.left):
        yield Finding(
            "some_batches_apart",
            Level.WARNING,
            f"Most batches are mixed, but these still lie apart: {m.far}.",
            f"Look at these batches alone: are they of other cells, or of poor quality? {m.more}",
        )


def _structure(m: Measured) -> Iterator[Finding]:
    kept = m.numbers["neighbours_kept"]
    lower = "Lower theta (1), allow fewer rounds, and compare known markers before and after."
    if np.isfinite(kept):
        said = f"{kept:.1%} of each cell's nearest neighbours within its own batch are still its neighbours."
        level = Level.PROBLEM if m.torn else Level.GOOD if kept >= KEPT_FINE else Level.WARNING
        yield Finding("neighbours_kept", level, said, "" if level is Level.GOOD else lower)
    elif m.n_levels > 1:
        said = "Every batch is too small to tell whether the correction kept its structure."
        yield Finding("not_measured", Level.WARNING, said, "Compare known markers before and after.")
    if m.null is not None:
        said = (
            f"Splitting batch {m.null.batch} ({m.null.n_cells:,} cells) at random and correcting the halves lost "
            f"{1 - m.null.neighbours_kept:.1%} of the neighbours; a correction without fault loses none."
        )
        fine = m.null.neighbours_kept >= NULL_FINE
        yield Finding("null", Level.GOOD if fine else Level.WARNING, said, "" if fine else lower)
    torn = m.batches[m.batches["neighbours_kept"] < MIN_KEPT]
    if len(torn) and not m.torn:
        yield Finding(
            "batches_torn",
            Level.WARNING,
            "Fewer neighbours were kept in "
            + _listed(f"{row.batch} ({row.neighbours_kept:.0%})" for row in torn.itertuples())
            + ".",
            lower,
        )
    lost = m.groups[(m.groups["neighbours_kept"] < kept - GROUP_LOSS) & (m.groups["n_cells"] >= GROUP_CELLS)]
    if len(lost) and not m.torn:
        yield Finding(
            "groups_torn",
            Level.WARNING,
            "Neighbours within batches were lost most in "
            + _listed(f"{row.group} ({row.neighbours_kept:.0%} kept)" for row in lost.itertuples())
            + ".",
            "Check the markers of these groups before and after.",
        )
    beyond = (m.groups["movement"] > MOVED_FAR) & (m.groups["movement"] > m.groups["batch_offset"])
    far = m.groups[beyond & (m.groups["n_cells"] >= GROUP_CELLS)]
    if len(far):
        yield Finding(
            "groups_moved",
            Level.NOTE,
            "Moved far apart from the rest of their batches: "
            + _listed(
                f"{row.group} ({row.movement:.2f} of a batch's spread, {row.batch_offset:.2f} explained by batches)"
                for row in far.itertuples()
            )
            + ".",
            "These may be states of one batch laid on another's: check their markers.",
        )


def _states(m: Measured) -> Iterator[Finding]:
    merged, apart, unknown = (m.states[m.states["verdict"] == v] for v in ("merged", "kept apart", "unknown"))
    if m.confounded or m.n_levels < 2:
        return
    if m.n_labelled < 2:
        yield Finding(
            "types_unknown",
            Level.NOTE,
            "No cell types of several batches were given: a type that one batch alone has, laid on another type, would "
            "not be seen.",
            "Give the cell types (label_key), or check known markers.",
        )
    if m.doubtful is not None and len(m.doubtful) and m.needed:
        yield Finding(
            "merges_doubtful",
            Level.WARNING,
            "Laid on cells that lay elsewhere before, against the shift of their batch's other states: "
            + _listed(
                f"{r.state} of {r.batch} on cells of {r.other_batch} ({r.apart:.1f} standard deviations)"
                for r in m.doubtful.itertuples()
            )
            + ". The batch acts on these cells in another way, or they are of another type: without cell types that "
            "cannot be told.",
            "Give the cell types (label_key), or compare the markers of these cells between the batches.",
        )
    if len(unknown):
        yield Finding(
            "one_batch_state_unknown",
            Level.NOTE,
            "In one batch only, and now among cells of other batches that have no label: "
            + _listed(f"{r.state} of {r.batch}" for r in unknown.itertuples())
            + ".",
            "Label these cells, or check the markers.",
        )
    if len(merged):
        yield Finding(
            "one_batch_state_merged",
            Level.WARNING,
            "In one batch only, and now among other types of other batches: "
            + _listed(f"{r.state} of {r.batch} ({r.merged_share:.0%} of its neighbours)" for r in merged.itertuples())
            + ".",
            "Read these cells' types from their own batch; lower theta (1) if they must stay apart.",
        )
    if len(apart):
        yield Finding(
            "one_batch_state_kept",
            Level.GOOD,
            "In one batch only, and kept apart: "
            + _listed(f"{r.state} of {r.batch}" for r in apart.itertuples())
            + ".",
        )


def _types(m: Measured) -> Iterator[Finding]:
    if m.confounded or m.n_levels < 2 or not len(m.types):
        return
    if len(m.merged):
        worst = m.merged.assign(lost=m.merged["expected"] - m.merged["pure_after"]).sort_values("lost", ascending=False)
        yield Finding(
            "types_merged",
            Level.WARNING,
            "Now among cells of other types: "
            + _listed(
                f"{r.type} in {r.batch} ({r.pure_after:.0%} of its neighbours are of its type, where {r.expected:.0%} "
                "were to be expected)"
                for r in worst.itertuples()
            )
            + ".",
            "Compare the markers of these types before and after; lower theta (1) if they must stay apart.",
        )
    elif m.needed:
        yield Finding("types_kept", Level.GOOD, "In every batch, every type is as distinct from the others as before.")
    lone = apart(m.types).sort_values("apart_after", ascending=False)
    if len(lone) and m.needed and not len(m.left):
        yield Finding(
            "types_apart",
            Level.WARNING,
            "Of one type, but still apart from the other batches' cells of it: "
            + _listed(f"{r.type} of {r.batch} (excess {r.apart_after:.2f})" for r in lone.itertuples())
            + ".",
            "Are these cells in another state there (a condition, a subtype)? If not: "
            + m.more[0].lower()
            + m.more[1:],
        )


def _markers(m: Measured) -> Iterator[Finding]:
    if not len(m.markers):
        return
    lost = m.markers[m.markers["after"] < m.markers["before"] - LOST]
    if len(lost):
        yield Finding(
            "markers_lost",
            Level.WARNING,
            "Markers that separate their type less than before (area under the curve): "
            + _listed(f"{r.gene} of {r.cell_type} ({r.before:.2f} to {r.after:.2f})" for r in lost.itertuples())
            + ".",
            "These types were mixed with others: lower theta (1), or allow fewer rounds.",
        )
    else:
        n = m.markers["cell_type"].nunique()
        yield Finding("markers_kept", Level.GOOD, f"All {len(m.markers)} markers still separate their {n} types.")


def _run(m: Measured) -> Iterator[Finding]:
    if m.status != "max_iterations":
        return
    genes = " Choose variable genes within batches (batch_key=...) as well." if m.hvg_per_batch is False else ""
    level = Level.NOTE if abs(m.last_change) < NEARLY_CONVERGED else Level.WARNING
    yield Finding(
        "not_converged",
        level,
        "The run stopped at its maximum number of rounds; the objective still changed by "
        f"{abs(m.last_change):.1e} in the last one.",
        f"Raise max_iter_harmony.{genes}",
    )


def _listed(parts: Iterator[str], most: int = 5) -> str:
    names = list(parts)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
