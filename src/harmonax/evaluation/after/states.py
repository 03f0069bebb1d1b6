"""Groups of cells, such as cell types: what a correction did to each, and to those that one batch alone has."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...system.extras import need
from ..before.association import linked, linked_groups
from ..mixing import own_batch_excess
from ..neighbours import OF_BATCH, own_batch_neighbours

# A state is of one batch where so much of it is from there,
_OF_ONE_BATCH = 0.97
# it has at least so many cells, and would have so many in other batches if it were as common there.
FEWEST_CELLS = 20
_EXPECTED_ELSEWHERE = 5
# Below this share of own neighbours before the correction, a state cannot be told from its surroundings anyway.
_DISTINCT = 0.6
MERGED = 0.2
# States of the uncorrected embedding: at most so many, of about so many cells; a batch is present in one where it has
# such a share of the cells that it would have at random, every batch has to be in states of such a share of the cells,
# and of the excess over all cells no more than such a share is left inside states.
_MAX_STATES, _STATE_CELLS = 30, 100
_PRESENT, _SHARED, _INSIDE = 0.04, 0.9, 0.25
# In a smaller batch a third of the cells are soon its neighbours.
_BATCH_CELLS = 30


def batch_table(batch: np.ndarray, levels: list[str], kept: np.ndarray) -> pd.DataFrame:
    """Return one row per batch: its size, and the neighbours kept within it (nan below 30 cells)."""
    sizes = np.bincount(batch, minlength=len(levels))
    means = [_mean(kept[batch == code]) if size >= _BATCH_CELLS else np.nan for code, size in enumerate(sizes)]
    table = pd.DataFrame({"batch": levels, "n_cells": sizes, "neighbours_kept": means}, dtype=object)
    table = table.astype({"n_cells": np.int64, "neighbours_kept": np.float64})
    return table.set_index(table.index.astype(str))


def group_table(
    groups: np.ndarray,
    batch: np.ndarray,
    before: np.ndarray,
    kept: np.ndarray,
    moved: np.ndarray,
    near: np.ndarray,
    mixed: np.ndarray,
) -> pd.DataFrame:
    """Return one row per group: its size, batches, neighbours kept, same-batch neighbours in excess, and movement.

    ``batch_offset`` is what batches explain of the group before: how far its cells of one batch lay, as a whole, from
    all its cells (less what lies so in all groups of the batch), in the units of movement. A group that moved
    further than that moved for no reason that batches give.

    Parameters
    ----------
    groups
        Name of each cell's group, "" for none, (N,).
    batch
        Code of each cell's batch, (N,).
    before
        Embedding before the correction, (N, d).
    kept, moved
        Of each cell, (N,).
    near
        Nearest cells after the correction, (N, k).
    mixed
        Code of each cell's level of the batch variable whose mixing is told, (N,); of several, one.
    """
    share = np.bincount(mixed) / len(mixed)
    offsets = _batch_offsets(groups, batch, before)
    own = (mixed[near] == mixed[:, None]).mean(axis=1)
    rows = []
    for name in sorted(set(groups) - {""}):
        cells = groups == name
        expected = share[mixed[cells]].mean()
        rows.append(
            {
                "group": name,
                "n_cells": int(cells.sum()),
                "n_batches": len(np.unique(batch[cells])),
                "neighbours_kept": _mean(kept[cells]),
                "own_batch_excess": float((own[cells].mean() - expected) / (1 - expected)) if expected < 1 else np.nan,
                "movement": _mean(moved[cells]),
                "batch_offset": _mean(offsets[cells]),
            }
        )
    names = ["group", "n_cells", "n_batches", "neighbours_kept", "own_batch_excess", "movement", "batch_offset"]
    return pd.DataFrame(rows, columns=names, index=[str(i) for i in range(len(rows))])


def _batch_offsets(groups: np.ndarray, batch: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Return how far each cell's group lay off in its batch, beyond the batch's own offset, (N,)."""
    Z = np.asarray(before, np.float64)
    offset, spread = np.zeros_like(Z), 0.0
    for name in set(groups):
        cells = groups == name
        for code in np.unique(batch[cells]):
            own = cells & (batch == code)
            offset[own] = Z[own].mean(axis=0) - Z[cells].mean(axis=0)
    for code in np.unique(batch):
        own = batch == code
        offset[own] -= np.median(offset[own], axis=0)
        spread += float(((Z[own] - Z[own].mean(axis=0)) ** 2).sum())
    unit = np.sqrt(spread / len(Z))
    return np.linalg.norm(offset, axis=1) / unit if unit > 0 else np.zeros(len(Z))


def one_batch_states(
    before: np.ndarray, labels: np.ndarray, batch: np.ndarray, levels: list[str], near: np.ndarray
) -> pd.DataFrame:
    """Return the states that only one batch has, and how much of each now lies among other batches' other states.

    Such a state has no counterpart to be aligned with: neighbours from other batches are of other states, and a
    correction without fault would give it none. It is "merged" where these are a fifth of its neighbours, "kept apart"
    where they are fewer, "unknown" where its neighbours from other batches have no labels, and "not distinct" where its
    own batch's neighbours were of other states before.

    Parameters
    ----------
    before
        Embedding before the correction, (N, d).
    labels
        Name of each cell's state, "" for none, (N,).
    batch, levels
        Code of each cell's batch, (N,), and the batches' names.
    near
        Nearest cells after the correction, (N, k).
    """
    # Cells without a label may be anything, this state as well: neither they nor their neighbourhood count.
    labelled = np.bincount(batch[labels != ""], minlength=len(levels))
    rows = []
    for name in sorted(set(labels) - {""}):
        cells = labels == name
        counts = np.bincount(batch[cells], minlength=len(levels))
        home = int(counts.argmax())
        elsewhere = counts[home] / labelled[home] * (labelled.sum() - labelled[home])
        if counts[home] < max(FEWEST_CELLS, _OF_ONE_BATCH * counts.sum()) or elsewhere < _EXPECTED_ELSEWHERE:
            continue
        mine = np.flatnonzero(cells & (batch == home))
        around = labels[near[mine]]
        foreign = (batch[near[mine]] != home) & (around != name) & (around != "")
        merged = float(foreign.sum() / max((around != "").sum(), 1))
        nameless = float(((batch[near[mine]] != home) & (around == "")).mean())
        verdict = "merged" if merged >= MERGED else "unknown" if nameless >= MERGED else "kept apart"
        if _purity(before, labels, batch, mine) < _DISTINCT:
            verdict = "not distinct"
        rows.append((name, levels[home], int(counts[home]), merged, verdict))
    names = ["state", "batch", "n_cells", "merged_share", "verdict"]
    return pd.DataFrame(rows, columns=names, index=[str(i) for i in range(len(rows))])


def composition_states(
    before: np.ndarray,
    batch: np.ndarray,
    near: np.ndarray,
    rng: np.random.Generator,
    *,
    cells: int = _STATE_CELLS,
    most_inside: float = _INSIDE,
) -> tuple[np.ndarray | None, bool]:
    """Return states of the uncorrected embedding, and whether batches differ in their shares of these only.

    A batch effect moves the cells of a batch away from the same cells elsewhere: states then belong to one batch, or
    batches lie apart inside them. Where every batch has cells in every state and batches are mixed inside them, what
    differs is how many cells of each state a batch has.

    Parameters
    ----------
    before
        Embedding before the correction, (N, d).
    batch
        Code of each cell's batch, (N,).
    near
        Nearest cells before the correction, (N, k).
    rng
        Seeds the k-means, and shuffles batches to say what chance gives.
    cells, most_inside
        Cells of a state, about, and the share of the excess that may be left inside states. Fewer cells and a higher
        share find that more often.

    Returns
    -------
    tuple
        Code of each cell's state, (N,), None where the batches differ in more than composition; and whether they do
        not.
    """
    codes = np.unique(batch, return_inverse=True)[1]
    counts = np.bincount(codes)
    n_states = min(_MAX_STATES, len(before) // cells)
    if len(counts) < 2 or n_states < 2:
        return None, False
    overall = own_batch_excess(before, codes, rng, near=near)
    kmeans = need("sklearn.cluster", "workflow").KMeans(n_states, n_init=1, random_state=int(rng.integers(2**31)))
    states = kmeans.fit_predict(np.asarray(before, np.float64)).astype(np.int64)
    table = np.zeros((n_states, len(counts)))
    np.add.at(table, (states, codes), 1)
    expected = table.sum(axis=1, keepdims=True) * counts / counts.sum()
    everywhere = (table >= _PRESENT * expected).all(axis=1)
    within = own_batch_excess(before, codes, rng, groups=states)
    inside = within.overall <= max(within.chance, most_inside * overall.overall)
    shared = table[everywhere].sum() >= _SHARED * table.sum()
    return (states, True) if overall.overall > overall.chance and inside and shared else (None, False)


def linked_batches(labels: np.ndarray, batch: np.ndarray) -> tuple[int, int]:
    """Return how many batches have labels, and in how many groups they fall that share no label.

    Examples
    --------
    >>> batch = np.repeat([0, 0, 1], 20)
    >>> linked_batches(np.repeat(["T", "B", "T"], 20), batch), linked_batches(np.repeat(["T", "B", "X"], 20), batch)
    ((2, 1), (2, 2))
    """
    known = labels != ""
    if not known.any():
        return 0, 0
    counts = pd.crosstab(batch[known], labels[known]).to_numpy()
    return len(counts), int(linked_groups(linked(counts)).max()) + 1


def _purity(before: np.ndarray, labels: np.ndarray, batch: np.ndarray, mine: np.ndarray) -> float:
    """Return which share of these cells' neighbours in their own batch were of their own state."""
    home = np.flatnonzero(batch == batch[mine[0]])
    near = own_batch_neighbours(before[home], np.zeros(len(home), np.int64), OF_BATCH)
    rows = near[np.searchsorted(home, mine)]
    names = labels[home][rows[:, rows[0] >= 0]]
    return float((names == labels[mine][:, None]).mean())


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
