"""From measurements to findings, advice and a verdict; the limits are in `measured.py`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ..findings import Finding, Level, by_severity, listed
from .advice import from_sweep
from .measured import (
    APART,
    GROUP_CELLS,
    GROUP_LOSS,
    KEPT_FINE,
    MANY_MERGED,
    MIN_KEPT,
    MOVED_BEYOND,
    MOVED_FAR,
    MOVED_SOME,
    NEARLY_CONVERGED,
    NULL_FINE,
    TYPE_CELLS,
    TYPE_MOVED,
    WIDE_APART,
    Measured,
)
from .type_rules import markers, states, types
from .types import LOST_PURITY


def judge(measured: Measured) -> tuple[str, str, list[Finding]]:
    """Return the verdict, the verdict in a sentence, and the findings, most serious first."""
    findings = [*_possible(measured), *_mixing(measured), *_structure(measured), *states(measured), *types(measured)]
    findings += [*markers(measured), *_run(measured)]
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
        return "caution" if m.damaged and m.n_levels > 1 else "not_needed"
    if m.confounded:
        return "impossible"
    if (m.unchanged or (m.left["after"] > WIDE_APART).any()) and not m.proportions_left:
        return "under_corrected"
    # Types that are as pure as before, though inside of another's cloud, are a reason to look.
    lost = m.merged[m.merged["expected"] - m.merged["pure_after"] > LOST_PURITY]
    if m.torn or lost["n_cells"].sum() > MANY_MERGED * m.types["n_cells"].sum():
        return "over_corrected"
    # Without cell types, little that is left may be other proportions of cells: a finding says so.
    if len(m.left) and (m.n_labelled or (m.left["after"] > APART).any()) and not m.proportions_left:
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
    if m.parted:
        yield Finding(
            "batches_parted",
            Level.WARNING,
            "Batches that were mixed before lie apart after: "
            + (
                m.moved_away
                or "same-batch neighbours in excess of chance rose to "
                f"{m.mixing.loc[~m.mixing['needed'], 'after'].max():.2f}"
            )
            + ".",
            "Continue with the uncorrected embedding.",
        )
    if m.composition:
        yield Finding(
            "composition",
            Level.NOTE,
            "Batches differ in how many cells of each state they have, not within states: that is not a batch effect.",
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
            f"Most batches are mixed, but these lie apart: {m.far}.",
            f"Look at these batches alone: are they of other cells, or of poor quality? {m.more}",
        )


def _structure(m: Measured) -> Iterator[Finding]:
    kept = m.numbers["neighbours_kept"]
    lower = f"{m.less.capitalize()} and compare known markers before and after."
    if m.sweep is not None:
        lower = f"{from_sweep(m.sweep, more=False)} Compare known markers before and after."
    if np.isfinite(kept):
        said = f"{kept:.1%} of each cell's nearest neighbours within its own batch are still its neighbours."
        level = Level.PROBLEM if m.torn else Level.GOOD if kept >= KEPT_FINE else Level.WARNING
        if level is Level.WARNING and m.represented:
            level = Level.NOTE
            said += " Within types, cells are still near the same ones: the method only weighs their differences anew."
        yield Finding("neighbours_kept", level, said, lower if level in (Level.WARNING, Level.PROBLEM) else "")
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
    if m.turned:
        yield Finding(
            "batches_turned",
            Level.WARNING,
            f"Turned, mirrored or mixed up in themselves, where other batches only moved: {listed(m.turned)}.",
            "Compare the markers of the cell types of these batches before and after.",
        )
    torn = m.batches[m.batches["neighbours_kept"] < MIN_KEPT]
    if len(torn) and not m.torn and not m.represented:
        yield Finding(
            "batches_torn",
            Level.WARNING,
            "Fewer neighbours were kept in "
            + listed(f"{row.batch} ({row.neighbours_kept:.0%})" for row in torn.itertuples())
            + ".",
            lower,
        )
    lost = m.groups[(m.groups["neighbours_kept"] < kept - GROUP_LOSS) & (m.groups["n_cells"] >= GROUP_CELLS)]
    names = [f"{row.group} ({row.neighbours_kept:.0%} kept)" for row in lost.itertuples()] + m.torn_states
    if names and not m.torn:
        yield Finding(
            "groups_torn",
            Level.WARNING,
            f"Neighbours within batches were lost most in {listed(names)}.",
            "Check the markers of these groups before and after.",
        )
    above = m.groups["movement"] - m.groups["batch_offset"]
    moves = pd.Series(np.nan if m.type_moves is None else m.type_moves, m.groups.index)
    beyond = moves - m.groups["batch_offset"]
    doubtful = (beyond > MOVED_BEYOND) & (moves > TYPE_MOVED) | (beyond > MOVED_SOME) & m.less_pure
    doubtful &= m.groups["n_cells"] >= TYPE_CELLS
    named = (above > 0) & (m.groups["n_cells"] >= GROUP_CELLS) & (m.groups["movement"] > MOVED_FAR)
    far = m.groups[doubtful | named]
    if len(far):
        yield Finding(
            "groups_moved",
            Level.WARNING if doubtful[far.index].any() else Level.NOTE,
            "Moved far apart from the rest of their batches: "
            + listed(
                f"{row.group} ({row.movement:.2f} of a batch's spread, {row.batch_offset:.2f} explained by batches)"
                for row in far.itertuples()
            )
            + ".",
            "These may be states of one batch laid on another's: check their markers.",
        )


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
