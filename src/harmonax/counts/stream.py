"""Counts in pieces of cells: summed over the soft clusters, then corrected, whether in memory or in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from ..errors import InputError
from ..inputs.expression import Kind, kind_of, not_counts
from ..inputs.sparse import intact
from .model import Batches, Fitted, Penalty, fit
from .quantile import same_quantile

# Values of a dense piece of cells x genes; the random numbers of a piece depend on it, so it is not a choice.
_PIECE = 1 << 21
# Of a piece, so many values are moved at a time: each takes the room of twenty.
_AT_A_TIME = 1 << 16
# Bytes of the sums of counts that are held at a time.
_SUMS = 256 << 20


@dataclass(frozen=True)
class Wanted:
    """What is made of counts.

    Attributes
    ----------
    penalty
        Of batch effects.
    rates
        Scale counts instead of drawing whole numbers.
    kinds, place
        What the numbers may be, and what messages call where they are.
    seed, n_threads
        Of the random quantiles; of the work.
    """

    penalty: Penalty
    rates: bool
    kinds: tuple[Kind, ...]
    place: str
    seed: int
    n_threads: int


class Counts:
    """Cells x genes, given in pieces of cells as CSR of float64; `nnz` is known once they were summed."""

    def __init__(self, X: Any, place: str) -> None:
        self.X, self.place = intact(X), place
        self.shape = (int(X.shape[0]), int(X.shape[1]))
        self.dtype = np.dtype(getattr(X, "dtype", np.float32))
        # Rows of what is stored by columns come from all of it.
        if sparse.issparse(X) and X.format != "csr":
            self.X = X.tocsr()
        self.nnz = 0
        self.rows = max(1, min(1024, _PIECE // max(1, self.shape[1])))

    def __iter__(self) -> Iterator[tuple[slice, sparse.csr_matrix]]:
        for start in range(0, self.shape[0], self.rows):
            rows = slice(start, min(start + self.rows, self.shape[0]))
            piece = self.X[rows]
            piece = piece.compute() if hasattr(piece, "compute") else piece
            made = sparse.csr_matrix(piece, dtype=np.float64, copy=True)
            made.sum_duplicates()
            made.eliminate_zeros()
            yield rows, made

    def __len__(self) -> int:
        return -(-self.shape[0] // self.rows)


Report = Callable[[str, float], None]


def fit_counts(
    counts: Counts, batches: Callable[[np.ndarray], Batches], wanted: Wanted, report: Report
) -> tuple[Batches, Fitted]:
    """Sum the counts over soft clusters and fit every gene; `batches` makes the cells of their totals.

    Raises
    ------
    InputError
        If there is something else than counts.
    """
    totals = np.zeros(counts.shape[0])
    for i, (rows, piece) in enumerate(counts):
        kind = kind_of(piece)
        if kind not in (*wanted.kinds, Kind.NOTHING):
            raise not_counts(counts.place, kind)
        totals[rows] = np.asarray(piece.sum(axis=1)).ravel()
        counts.nnz += piece.nnz
        report("reading", (i + 1) / len(counts))
    if not totals.any():
        raise InputError(f"{counts.place} holds no count above 0; counts_layer (--counts-layer) names another place")
    cells = batches(totals)
    B, K = cells.keep.shape
    width = max(1, _SUMS // (8 * B * K))
    parts, starts = [], range(0, counts.shape[1], width)
    for i, start in enumerate(starts):
        Y = _sums(counts, cells, slice(start, start + width))
        done = lambda share, i=i: report("fitting", (i + share) / len(starts))  # noqa: E731
        parts.append(fit(cells, Y, wanted.penalty, n_threads=wanted.n_threads, done=done))
    base, effect = (np.concatenate([part[i] for part in parts], axis=-1) for i in (0, 1))
    return cells, Fitted(base, effect, [steps for part in parts for steps in part.steps])


def _sums(counts: Counts, cells: Batches, genes: slice) -> np.ndarray:
    """Return the sum of R_ik y_i of each batch, cluster and gene, (B, K, genes)."""
    B, K = cells.keep.shape
    Y = np.zeros((B * K, len(range(*genes.indices(counts.shape[1])))))
    for rows, piece in counts:
        part = (cells.by_batch[rows].T.astype(np.float64) @ piece[:, genes]).tocoo()
        Y[part.row, part.col] += part.data
    return Y.reshape(B, K, -1)


def corrected(
    counts: Counts, cells: Batches, fitted: Fitted, wanted: Wanted, report: Report
) -> Iterator[sparse.csr_matrix]:
    """Give the corrected counts, piece by piece, in the order of the cells."""
    effect = fitted.effect.reshape(-1, fitted.effect.shape[-1])
    seeds = np.random.SeedSequence(wanted.seed).spawn(len(counts))
    dtype = _dtype(counts.dtype, wanted.rates)

    def one(work: tuple[tuple[slice, sparse.csr_matrix], Any]) -> sparse.csr_matrix:
        (rows, y), seed = work
        change = cells.by_batch[rows] @ effect
        if wanted.rates:
            y.data *= np.exp(-change[_at(y)])
            return y.astype(dtype)
        return _whole(y, cells, rows, fitted.base, change, np.random.default_rng(seed)).astype(dtype)

    with ThreadPoolExecutor(wanted.n_threads) as pool:
        waiting = []
        for i, work in enumerate(zip(counts, seeds, strict=True)):
            waiting.append(pool.submit(one, work))
            if len(waiting) > wanted.n_threads:
                yield waiting.pop(0).result()
            report("correcting", (i + 1) / len(counts))
        for each in waiting:
            yield each.result()


def gathered(pieces: Iterable[sparse.csr_matrix], shape: tuple[int, int], room: int) -> sparse.csr_matrix:
    """Return pieces as one matrix, with room for so many values to begin with: no second copy is made of them."""
    data, indices, ends = None, np.empty(room, np.int32), [0]
    for piece in pieces:
        data = np.empty(room, piece.dtype) if data is None else data
        start, stop = ends[-1], ends[-1] + piece.nnz
        if stop > len(data):
            data, indices = (np.resize(old, stop + stop // 4) for old in (data, indices))
        data[start:stop], indices[start:stop] = piece.data, piece.indices
        ends.extend((start + piece.indptr[1:]).tolist())
    data = np.empty(0, np.float32) if data is None else data
    return sparse.csr_matrix((data[: ends[-1]], indices[: ends[-1]], np.array(ends, np.int64)), shape)


def _whole(
    y: sparse.csr_matrix,
    cells: Batches,
    rows: slice,
    base: np.ndarray,
    change: np.ndarray,
    gen: np.random.Generator,
) -> sparse.csr_matrix:
    """Return the counts at the same quantiles of the rates without batch effects; zeros stay where these are lower."""
    u = gen.random(y.shape, np.float32)
    # Of counts with decimals the rest is a chance.
    y.data = np.floor(y.data + gen.random(y.nnz)) if (y.data % 1).any() else y.data
    without = cells.R[rows] @ base
    np.exp(without, out=without)
    without *= cells.size[rows, None].astype(np.float32)
    rate = without * np.exp(change)
    there = np.zeros(y.shape, bool)
    there[_at(y)] = True
    # P(0) falls from exp(-rate) to exp(-without).
    risen = ~there & (change < 0) & (u > np.exp(np.minimum(rate - without, 0.0)))
    value = np.zeros(y.shape)
    value[_at(y)] = y.data
    every = np.flatnonzero(risen | (there & (change != 0)))
    tables = [table.ravel() for table in (value, u, rate, without)]
    for start in range(0, len(every), _AT_A_TIME):
        at = every[start : start + _AT_A_TIME]
        tables[0][at] = same_quantile(*(table[at].astype(np.float64) for table in tables))
    return sparse.csr_matrix(value)


def _at(y: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(np.arange(y.shape[0]), np.diff(y.indptr)), y.indices


def _dtype(own: np.dtype[Any], rates: bool) -> np.dtype[Any]:
    """Return that of the counts, but wide enough for others than were there."""
    if rates or own.kind == "f":
        return np.dtype(np.float64 if own == np.float64 else np.float32)
    return np.promote_types(own, np.int32)
