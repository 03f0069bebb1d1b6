"""What is said of cell types, of states that one batch alone has, and of marker genes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from ..findings import Finding, Level, listed
from .markers import LOST
from .measured import Measured
from .types import apart


def states(m: Measured) -> Iterator[Finding]:
    """Say what became of the states that one batch alone has."""
    merged, apart, unknown = (m.states[m.states["verdict"] == v] for v in ("merged", "kept apart", "unknown"))
    if m.confounded or m.n_levels < 2:
        return
    if m.n_labelled < 2 or not len(m.types):
        yield Finding(
            "types_unknown",
            Level.NOTE,
            "No cell types of several batches were given: a type that one batch alone has, laid on another type, would "
            "not be seen.",
            "Give the cell types (label_key), or check known markers.",
        )
    if m.doubtful is not None and len(m.doubtful):
        yield Finding(
            "merges_doubtful",
            Level.WARNING,
            "Laid on cells that lay elsewhere before, against the shift of their batch's other states: "
            + listed(
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
            + listed(f"{r.state} of {r.batch}" for r in unknown.itertuples())
            + ".",
            "Label these cells, or check the markers.",
        )
    if len(merged):
        yield Finding(
            "one_batch_state_merged",
            Level.WARNING,
            "In one batch only, and now among other types of other batches: "
            + listed(f"{r.state} of {r.batch} ({r.merged_share:.0%} of its neighbours)" for r in merged.itertuples())
            + ".",
            f"Read these cells' types from their own batch; {m.less} if they must stay apart.",
        )
    if len(apart):
        yield Finding(
            "one_batch_state_kept",
            Level.GOOD,
            "In one batch only, and kept apart: " + listed(f"{r.state} of {r.batch}" for r in apart.itertuples()) + ".",
        )


def types(m: Measured) -> Iterator[Finding]:
    """Say which types were merged with others, or lie apart from themselves."""
    if m.confounded or m.n_levels < 2 or not len(m.types):
        return
    if len(m.merged):
        yield Finding(
            "types_merged",
            Level.WARNING,
            f"Now among cells of other types: {_purities(m.merged)}.",
            f"Compare the markers of these types before and after; {m.less} if they must stay apart.",
        )
    if len(m.blended):
        yield Finding(
            "types_blended",
            Level.WARNING,
            f"More among themselves before, and now partly among other types: {_purities(m.blended)}.",
            f"{m.less.capitalize()}, and compare the markers of these types before and after.",
        )
    if m.needed and not len(m.merged) and not len(m.blended):
        yield Finding("types_kept", Level.GOOD, "In every batch, every type is as distinct from the others as before.")
    lone = apart(m.types).sort_values("apart_after", ascending=False)
    if len(lone) and m.needed and not len(m.left):
        yield Finding(
            "types_apart",
            Level.WARNING,
            "Of one type, but still apart from the other batches' cells of it: "
            + listed(f"{r.type} of {r.batch} (excess {r.apart_after:.2f})" for r in lone.itertuples())
            + ".",
            "Are these cells in another state there (a condition, a subtype)? If not: "
            + m.more[0].lower()
            + m.more[1:],
        )


def _purities(rows: pd.DataFrame) -> str:
    rows = rows.assign(
        wanted=rows[["expected", "by_type"]].max(axis=1), within=rows["pure_before"] - rows["pure_within"]
    )
    worst = rows.assign(lost=rows["wanted"] - rows["pure_after"]).sort_values("lost", ascending=False)
    return listed(f"{r.type} in {r.batch} ({_where(r)})" for r in worst.itertuples())


def _where(row: Any) -> str:
    if row.inside:
        return f"inside {row.inside}"
    if row.within > row.lost:
        return f"{row.pure_within:.0%} of its neighbours in the batch are of its type, where {row.pure_before:.0%} were"
    return f"{row.pure_after:.0%} of its neighbours are of its type, where {row.wanted:.0%} were to be expected"


def markers(m: Measured) -> Iterator[Finding]:
    """Say which markers separate their type less than before."""
    if not len(m.markers):
        return
    lost = m.markers[m.markers["after"] < m.markers["before"] - LOST]
    if len(lost):
        yield Finding(
            "markers_lost",
            Level.WARNING,
            "Markers that separate their type less than before (area under the curve): "
            + listed(f"{r.gene} of {r.cell_type} ({r.before:.2f} to {r.after:.2f})" for r in lost.itertuples())
            + ".",
            f"These types were mixed with others: {m.less}.",
        )
    else:
        n = m.markers["cell_type"].nunique()
        yield Finding("markers_kept", Level.GOOD, f"All {len(m.markers)} markers still separate their {n} types.")
