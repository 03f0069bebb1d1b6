"""Cell types with fewer cells in every batch than a batch can be judged by: all their cells are judged together."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..neighbours import OF_BATCH, Neighbourhoods
from .types import MIN_CELLS, as_rare, as_table, purity_of, type_table

# Cells of the type that a batch needs for its nearest to be of the type; and what stands for the batch's name.
_FEWEST, EVERYWHERE = 3, "all batches"


def every_type(before: Neighbourhoods, after: Neighbourhoods, labels: np.ndarray, levels: list[str]) -> pd.DataFrame:
    """Return `types.type_table`, and a row for each type that has 10 cells, but not in any batch."""
    table = type_table(before, after, labels, levels)
    known = np.flatnonzero(labels != "")
    labels, before, after = labels[known], before.take(known), after.take(known)
    sizes = np.bincount(before.batch, minlength=len(levels))
    rows = []
    for name in np.unique(labels):
        counts = np.bincount(before.batch[labels == name], minlength=len(levels))
        some = (counts >= _FEWEST) & (counts < MIN_CELLS)
        if counts.max() >= MIN_CELLS or counts[some].sum() < MIN_CELLS:
            continue
        mine = np.flatnonzero((labels == name) & some[before.batch])
        of_type, most = (labels == name).astype(np.int64), int(counts[some].min()) - 1
        near = ((before.own, most), (after.own, most), (before.all[:, :OF_BATCH], len(mine) - 1))
        pure, within, start = (purity_of(rows, k, of_type, mine)[0] for rows, k in near)
        found, error = purity_of(after.all[:, :OF_BATCH], len(mine) - 1, of_type, mine)
        share = len(mine) / sizes[some].sum()
        expected = as_rare(pure, counts.sum() / len(labels), share)
        apart = (np.nan, np.nan, np.nan, "")
        rows.append(
            (name, EVERYWHERE, len(mine), 0, share, pure, within, start, expected, found, expected, error, *apart)
        )
    return pd.concat([table, as_table(rows, len(table))]) if rows else table
