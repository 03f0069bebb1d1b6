"""Cell types, each in each batch: mixed with the same type elsewhere, and still apart from other types?

Averages hide the worst: a type of 12 cells laid on another, or one of 29 batches that was not corrected, changes none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...system.extras import need
from ..neighbours import OF_BATCH, Neighbourhoods, nearest_cells, share_kept
from .inside import inside

COLUMNS = ["type", "batch", "n_cells", "n_elsewhere", "share", "pure_before", "pure_within", "mixed_before"]
COLUMNS += ["expected", "pure_after", "by_type", "error", "apart_before", "apart_after", "chance", "inside"]
# Fewer cells of a type in a batch say nothing.
MIN_CELLS = 10
# States of one batch: at most so many, of about so many cells.
MAX_STATES, STATE_CELLS = 10, 50
# Purity from which any other cells around a type are a loss, and the loss that is told.
_PURE, _BLENDED = 0.95, 0.1
# The same for types that were less pure; and the share of a type's own neighbours in its batch, beyond those that it
# would have at random, from which losing them is told.
LOST_PURITY, _HALF = 0.2, 0.4
# Fewer cells have no order within a type.
_ORDERED = 30
# Standard deviations that chance reaches, of the worst of many.
_REACH = 4.0


def type_table(before: Neighbourhoods, after: Neighbourhoods, labels: np.ndarray, levels: list[str]) -> pd.DataFrame:
    """Return one row per type and batch with at least 10 such cells.

    Parameters
    ----------
    before, after
        Neighbours of the N cells.
    labels
        Name of each cell's type, "" for none, (N,). Cells without one take no part.
    levels
        Names of the batches.

    Returns
    -------
    pandas.DataFrame
        ``n_cells`` and ``n_elsewhere`` of the type in the batch and in the others, and its ``share`` of the batch.
        ``pure_before``: share of the
        nearest cells in the same batch, before, that are of the type; ``pure_within``: the same after.
        ``mixed_before`` and ``pure_after``: that share among the nearest cells of all batches; ``expected``: what the
        last would be if the type were as distinct as before and all batches mixed, given how common it is in each;
        ``by_type``: the same, given how common each of the types around it is; ``error``: standard error of
        ``pure_after`` over cells.
        ``apart_before``, ``apart_after``: whether its cells lie by themselves among those of the type, 0 mixed and 1
        apart (see `apart_from_both_sides`), nan where no other batch has it; ``chance``: what chance can reach.
        ``inside``: the type whose cloud these cells lie in now and did not before, "" for none (see `inside`).
    """
    known = np.flatnonzero(labels != "")
    labels, before, after = labels[known], before.take(known), after.take(known)
    batch = before.batch
    names, types = np.unique(labels, return_inverse=True)
    if not len(names) or len(known) < 2 * MIN_CELLS:
        return as_table([])
    counts = np.zeros((len(names), len(levels)), np.int64)
    np.add.at(counts, (types, batch), 1)
    near = [before.own, after.own, before.all[:, :OF_BATCH], after.all[:, :OF_BATCH]]
    inner = inside(before, after, types)
    rows = []
    for t, name in enumerate(names):
        cells = np.flatnonzero(types == t)
        lone = [apart_from_both_sides(of.embedding[cells], batch[cells], len(levels)) for of in (before, after)]
        for b in np.flatnonzero(counts[t] >= MIN_CELLS):
            mine = cells[batch[cells] == b]
            # A type can give a cell one neighbour fewer than it has cells.
            most = (counts[t, b] - 1,) * 2 + (len(cells) - 1,) * 2
            measured = [purity_of(*given, types, mine) for given in zip(near, most, strict=True)]
            pure, within, start, found = (share for share, _ in measured)
            by_type = _among_all(near[0][mine][:, : max(1, most[0])], types, counts, t, int(b))
            rare = counts[t].sum() / len(known), counts[t, b] / counts[:, b].sum()
            n, others = int(counts[t, b]), int(len(cells) - counts[t, b])
            own = n / len(cells)
            chance = _REACH * np.sqrt(own / max(1 - own, 1e-9) / n) if others else np.nan
            purity = (pure, within, start, as_rare(pure, *rare), found, min(pure, by_type), measured[-1][1])
            other = inner.get((t, int(b)))
            rows.append(
                (
                    name,
                    levels[b],
                    n,
                    others,
                    rare[1],
                    *purity,
                    lone[0][b],
                    lone[1][b],
                    chance,
                    "" if other is None else names[other],
                )
            )
    return as_table(rows)


def as_table(rows: list[tuple[Any, ...]], first: int = 0) -> pd.DataFrame:
    """Return rows as a table, numbered from `first`; its numbers are numbers also where it is empty."""
    table = pd.DataFrame(rows, columns=COLUMNS, index=[str(first + i) for i in range(len(rows))])
    kinds = dict.fromkeys(COLUMNS, np.float64) | dict.fromkeys(("n_cells", "n_elsewhere"), np.int64)
    return table.astype({name: kind for name, kind in kinds.items() if name not in ("type", "batch", "inside")})


def merged(table: pd.DataFrame, least: float = 0.25) -> pd.DataFrame:
    """Return the rows whose type lies among other types now, as it did not before the correction.

    That is beyond what composition and chance explain, and less pure than it was among all batches; or inside the cloud
    of another, where its cells are each other's neighbours.
    """
    lost = table["expected"] - table["pure_after"]
    spread = np.sqrt((table["expected"] * (1 - table["expected"])).clip(lower=0.01) / table["n_cells"])
    # Cells that also lie apart from their type in the other batches need no second proof by their number.
    alone = table["apart_after"] > np.maximum(0.5, table["chance"])
    # What was no state of its own before cannot be merged.
    fell = table["mixed_before"] - table["pure_after"] > least / 2
    mixed_in = (lost > np.where(alone, least, np.maximum(least, _REACH * spread))) & fell & (table["pure_before"] > 0.5)
    return table[mixed_in | (table["inside"] != "")]


def blended(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose type was pure, and now has some cells of other types around it: damage, if not a merger.

    Right corrections of types that were at least 0.95 pure cost at most 0.03, on real and on simulated sets; where
    Harmony at theta = 8 blended two cell lines, it was 0.11 to 0.17 (scib-metrics' NMI fell from 1.0 to 0.5). Of other
    types, a loss of 0.2 was exceeded by 19 of 148 right and Harmony's corrections (of 2,582 rows, 1 %), and by most of
    those that laid one type on another.
    """
    lost = table["expected"] - table["pure_after"]
    spread = np.sqrt((table["expected"] * (1 - table["expected"])).clip(lower=0.01) / table["n_cells"])
    found = (table["expected"] >= _PURE) & (lost > np.maximum(_BLENDED, _REACH * spread))
    fell = table["mixed_before"] - table["pure_after"]
    found &= fell > _BLENDED / 2
    # A type that was less pure, or is of a dozen cells, loses more by chance.
    by_type = table["by_type"] - table["pure_after"]
    found |= (by_type > np.maximum(LOST_PURITY, 3 * table["error"])) & (fell > 0.75 * LOST_PURITY)
    # Within its batch no proportions change, nor does a right correction change much: that half of it is gone.
    within = table["pure_before"] - table["pure_within"]
    found |= (within > LOST_PURITY) & (within > _HALF * (table["pure_before"] - table["share"]))
    return table[found & ~table.index.isin(merged(table).index)]


def blurred(before: Neighbourhoods, after: Neighbourhoods, labels: np.ndarray) -> float:
    """Return how much purer types were among each cell's neighbours in its batch before than after.

    Another representation of the same cells changes who is whose neighbour, but not of which type: what falls here is
    structure that was lost, whatever the method. Without labels, states found within each batch before take the place
    of types; nan where no batch has cells enough for two.
    """
    states = not (labels != "").any()
    known = np.flatnonzero(labels != "") if not states else np.arange(len(labels))
    before, after = before.take(known), after.take(known)
    batch = before.batch
    types = batch_states(before.embedding, batch) if states else np.unique(labels[known], return_inverse=True)[1]
    if states and not any(len(np.unique(types[batch == code])) > 1 for code in np.unique(batch)):
        return float("nan")
    purity = []
    for of in (before, after):
        there = of.own >= 0
        purity.append((types[of.own] == types[:, None])[there].mean() if there.any() else np.nan)
    return float(purity[0] - purity[1])


def order_within(before: Neighbourhoods, after: Neighbourhoods, labels: np.ndarray) -> float:
    """Return how far the cells of a type in a batch are still near the same ones: 1 all of them, 0 as by chance.

    Of each cell the nearest quarter of its type in its batch; the mean over cells of types with at least 30 in a batch,
    nan where there are none.
    """
    kept, sizes = [], []
    for name in set(labels) - {""}:
        for code in np.unique(before.batch):
            own = np.flatnonzero((labels == name) & (before.batch == code))
            if len(own) < _ORDERED:
                continue
            k = len(own) // 4
            near = (nearest_cells(of.embedding[own], k) for of in (before, after))
            chance = k / (len(own) - 1)
            kept.append((share_kept(*near).mean() - chance) / (1 - chance))
            sizes.append(len(own))
    return float(np.average(kept, weights=sizes)) if kept else float("nan")


def batch_states(Z: np.ndarray, batch: np.ndarray, size: int = STATE_CELLS) -> np.ndarray:
    """Return states of about that size found in each batch by itself, by k-means, (N,): no two batches share one."""
    kmeans = need("sklearn.cluster", "workflow").KMeans
    states = np.zeros(len(Z), np.int64)
    for code in np.unique(batch):
        own = np.flatnonzero(batch == code)
        n = max(1, min(MAX_STATES, len(own) // size))
        found = kmeans(n, n_init=1, random_state=0).fit_predict(np.asarray(Z[own], np.float64))
        states[own] = found + states.max() + 1
    return states


def apart(table: pd.DataFrame, least: float = 0.5, cells: int = 12) -> pd.DataFrame:
    """Return the rows of a type that others have too, but whose cells in this batch lie by themselves.

    Of 148 right and Harmony's corrections 11 have such a row of 30 cells or more, 12 of 12 or more.
    """
    enough = (table["n_cells"] >= cells) & (table["n_elsewhere"] >= cells)
    return table[enough & (table["apart_after"] > np.maximum(least, table["chance"]))]


def purity_of(near: np.ndarray, most: int, types: np.ndarray, mine: np.ndarray) -> tuple[float, float]:
    """Return which share of the nearest cells of these are of their type, at most so many asked; and its error."""
    rows = near[mine][:, : max(1, min(most, near.shape[1]))]
    there = rows >= 0
    if not there.any():
        return float("nan"), float("nan")
    alike = (types[rows] == types[mine][:, None]) & there
    by_cell = alike.sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    return float(alike.sum() / there.sum()), float(by_cell.std() / np.sqrt(len(mine)))


def as_rare(pure: float, everywhere: float, here: float) -> float:
    """Return a purity that was measured where a type makes up `here`, for where it makes up `everywhere`."""
    if not 0 < pure < 1 or not 0 < here < 1 or not 0 < everywhere < 1:
        return pure
    odds = pure / (1 - pure) * (everywhere / (1 - everywhere)) / (here / (1 - here))
    # Never above what was measured: where other batches have more of a type, mixing does not promise purity.
    return min(pure, odds / (1 + odds))


def _among_all(near: np.ndarray, types: np.ndarray, counts: np.ndarray, t: int, b: int) -> float:
    """Return the purity of type t to expect among all batches: its neighbours in batch b, each type as common as there.

    Parameters
    ----------
    near
        Nearest cells in the same batch, before, of the cells of type t in batch b, (n, k); -1 for none.
    types, counts
        Code of each cell's type, (N,), and cells of each type in each batch, (types, batches).
    """
    found = np.bincount(types[near[near >= 0]], minlength=len(counts))
    weight = np.where(found > 0, found * counts.sum(axis=1) / np.maximum(counts[:, b], 1), 0)
    return float(weight[t] / weight.sum()) if weight.any() else float("nan")


def apart_from_both_sides(Z: np.ndarray, batch: np.ndarray, n_levels: int) -> np.ndarray:
    """Return how far each batch's cells lie by themselves, among these cells: 0 mixed, 1 apart, nan where unknown.

    Seen from the batch, by same-batch neighbours in excess of chance; and from the others, by how much rarer its cells
    are among their neighbours than by chance. The less of both counts: cells with less noise than others' lie closer
    together, and are each other's neighbours, in the very midst of the others.
    """
    counts = np.bincount(batch, minlength=n_levels)
    if (counts > 0).sum() < 2 or len(Z) < 6:
        return np.full(n_levels, np.nan)
    near = batch[nearest_cells(Z, max(1, min(OF_BATCH, len(Z) // 3)))]
    found = np.full(n_levels, np.nan)
    for b in np.flatnonzero(counts):
        own, share = batch == b, (near == b).mean(axis=1)
        expected = (counts[b] - 1) / (len(Z) - 1)
        inside = (share[own].mean() - expected) / (1 - expected)
        outside = 1 - share[~own].mean() / (counts[b] / (len(Z) - 1))
        found[b] = min(inside, outside)
    return found


def by_themselves(Z: np.ndarray, codes: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Return how far each batch lies by itself, mean over its cells in groups that are alike."""
    groups = np.zeros(len(codes), np.int64) if groups is None else groups
    n = int(codes.max()) + 1
    total, weight = np.zeros(n), np.zeros(n)
    for group in np.unique(groups[groups >= 0]):
        cells = np.flatnonzero(groups == group)
        found = apart_from_both_sides(np.asarray(Z)[cells], codes[cells], n)
        counts = np.where(np.isfinite(found), np.bincount(codes[cells], minlength=n), 0)
        total, weight = total + np.nan_to_num(found) * counts, weight + counts
    return total / np.maximum(weight, 1)
