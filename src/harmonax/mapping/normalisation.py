"""How expression was normalised, read from its numbers, and the query's brought to the reference's.

Cells that were scaled to one total (scanpy's ``normalize_total``) add up to it over all genes, before the logarithm.
scanpy's default gives every data set a total of its own, its median. A total that several cells share is known; where
genes were left out after the scaling, each cell has another one, and nothing says what it was: that is told, never
guessed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from ..inputs.expression import dense, is_sparse

# Bases of the logarithm that are tried, in this order; of 0, there is none.
NATURAL, NOT_LOGGED = math.e, 0.0
_BASES = (NATURAL, 2.0, 10.0, NOT_LOGGED)
# Totals that differ less are the same, in float32 too; so many cells must share each, but for a few in small batches.
SAME, _MIN_SHARING, _SHARING = 1e-3, 3, 0.95
# Rows that are looked at together where few of them may serve, and how many are enough.
_ROWS, _ENOUGH = 512, 50
_TRIED = 200


def linear(X: Any, base: float) -> Any:
    """Return log1p expression as counts in proportion, sparse or dense."""
    if base == NOT_LOGGED:
        return X
    if not is_sparse(X):
        return np.expm1(X * math.log(base))
    out = (X * math.log(base)).tocsr()
    out.data = np.expm1(out.data)
    return out


def logged(X: Any, base: float) -> Any:
    """Return the log1p of counts, sparse or dense."""
    if base == NOT_LOGGED:
        return X
    made = X.log1p() if is_sparse(X) else np.log1p(X)
    return made if base == NATURAL else made / math.log(base)


def spaced_rows(n: int) -> np.ndarray:
    """Return some rows, evenly spaced from the first to the last."""
    return np.unique(np.linspace(0, max(n - 1, 0), _TRIED).astype(int))[: max(n, 0)]


def are_counts(sample: np.ndarray) -> bool:
    """Return whether all values are whole numbers, and some are not 0."""
    return bool(sample.max(initial=0) > 0 and sample.min(initial=0) >= 0 and (sample == np.rint(sample)).all())


def known_totals(sample: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Return the base of the logarithm and the total of each cell that is not empty, where the numbers show them."""
    if sample.min(initial=0) < 0:
        return None
    for base in _BASES:
        totals = totals_of(sample, base)
        if _shared(totals):
            return base, totals
    return None


def of_reference(adata: Any, used: np.ndarray, unscaled: Any) -> tuple[float, float, float] | None:
    """Return total, base of the logarithm, and the share of it that the genes `used` have; None where nothing shows it.

    ``unscaled(rows)`` gives the log-normalised expression of some cells from X, all genes, NaN where it was clipped.
    Where X has not all genes that the cells were scaled over, ``raw`` may have them.
    """
    sample = _whole_rows(unscaled, adata.X.shape[0])
    found = known_totals(sample)
    if found is None and getattr(adata, "raw", None) is not None:
        return _from_raw(adata, used, unscaled)
    if found is None or not _same(found[1]):
        return None
    base, totals = found
    own = totals_of(sample[:, used], base, keep=True)[totals_of(sample, base, keep=True) > 0]
    return float(np.median(totals)), base, float(np.median(own / totals))


def _from_raw(adata: Any, used: np.ndarray, unscaled: Any) -> tuple[float, float, float] | None:
    """Return the same of cells whose ``raw`` has more genes than X, as counts or log-normalised."""
    rows = spaced_rows(adata.X.shape[0])
    X, raw = unscaled(rows), dense(adata.raw.X[rows], np.float64)
    column = pd.Index(np.asarray(adata.raw.var_names, str)).get_indexer(np.asarray(adata.var_names, str))
    if (column < 0).any() or not np.isfinite(raw).all() or raw.min(initial=0) < 0:
        return None
    bases = [(base, NOT_LOGGED if are_counts(raw) else base) for base in _BASES]
    for base, base_raw in bases:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            mine, theirs = linear(X, base), linear(raw, base_raw)
            there = np.isfinite(mine)
            ratio = np.where(there, mine, 0).sum(axis=1) / np.where(there, theirs[:, column], 0).sum(axis=1)
            totals = ratio * theirs.sum(axis=1)
            share = theirs[:, column[used]].sum(axis=1) / theirs.sum(axis=1)
        good = np.isfinite(totals) & (totals > 0)
        if _shared(totals[good]) and _same(totals[good]):
            return float(np.median(totals[good])), base, float(np.median(share[good]))
    return None


def _whole_rows(unscaled: Any, n: int) -> np.ndarray:
    """Return unscaled rows without a clipped value: those of a sample, or else the first that are found."""
    sample = unscaled(spaced_rows(n))
    whole = sample[np.isfinite(sample).all(axis=1)]
    start = 0
    while len(whole) < min(_MIN_SHARING, len(sample)) and start < n:
        found: list[np.ndarray] = []
        while sum(map(len, found)) < _ENOUGH and start < n:
            piece = unscaled(np.arange(start, min(n, start + _ROWS)))
            found.append(piece[np.isfinite(piece).all(axis=1)])
            start += _ROWS
        whole = np.concatenate(found)
    return whole


def totals_of(sample: np.ndarray, base: float, *, keep: bool = False) -> np.ndarray:
    """Return the total of each cell before the logarithm, of empty ones too with `keep`."""
    with np.errstate(over="ignore"):
        totals = np.asarray(linear(sample, base).sum(axis=1), np.float64)
    return totals if keep else totals[totals > 0]


def _same(totals: np.ndarray) -> bool:
    return bool(np.ptp(totals) <= SAME * totals.mean())


def _shared(totals: np.ndarray) -> bool:
    """Return whether nearly every cell's total is that of others: of one data set, or of several that were joined."""
    if len(totals) < _MIN_SHARING or not np.isfinite(totals).all():
        return False
    rising = np.sort(totals)
    groups = np.split(rising, np.flatnonzero(np.diff(rising) > SAME * rising[:-1]) + 1)
    sharing = sum(len(group) for group in groups if len(group) >= _MIN_SHARING and _same(group))
    return sharing >= _SHARING * len(totals)
