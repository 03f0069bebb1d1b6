"""The rates of genes on soft clusters (docs/algorithm.md, "Corrected counts").

    y_i ~ Poisson(mu_i),   mu_i = s_i exp(sum_k R_ik (beta_k + gamma_kb)),   b the batch of cell i

with ridge penalties on gamma, the batch effects, and on how far beta is from the clusters' mean rates. The rows of R
sum to one, so by Jensen's inequality

    sum_i mu_i exp(sum_k R_ik d_kb) <= sum_kb M_kb exp(d_kb),   M_kb = sum_(i in b) R_ik mu_i

and a step d that decreases the right side, where every cluster stands alone, decreases the objective. Of the counts
only Y_kb = sum_(i in b) R_ik y_i is needed. Sums over cells are taken in a fixed order, and without BLAS.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy import sparse

# Genes and cells that are worked on at a time, whatever the threads.
_GENES, _CELLS = 128, 4096
# A step of the tables; steps of so much in the logarithm end the fit.
_INNER, _MAX_STEP = 3, 2.0
# Of the clusters' means: the weight of beta's penalty, relative to the expected counts, and in counts.
_TO_MEAN, _LEAST = 0.2, 0.1


class Batches(NamedTuple):
    """Soft clusters (K), batches (B) and sizes of N cells.

    ``R`` is (N, K), ``by_batch`` (N, B K) the same with the columns of the cell's batch, ``keep`` (B, K) says which
    batches have an effect in a cluster, ``share`` (B,) of all counts each batch has.
    """

    R: sparse.csr_matrix
    by_batch: sparse.csr_matrix
    size: np.ndarray
    keep: np.ndarray
    share: np.ndarray


class Penalty(NamedTuple):
    """Ridge penalty of a batch effect: in counts, plus a share of those expected."""

    counts: float
    share: float


class Fitted(NamedTuple):
    """Logarithms of rates, beta (K, G), and of batch effects, gamma (B, K, G); steps that each block of genes took."""

    base: np.ndarray
    effect: np.ndarray
    steps: list[int]


def fit(
    cells: Batches,
    Y: np.ndarray,
    penalty: Penalty,
    *,
    n_threads: int = 1,
    max_steps: int = 50,
    tol: float = 5e-3,
    done: Callable[[float], None] | None = None,
) -> Fitted:
    """Fit every gene to its sums of counts Y (B, K, G).

    Ends when no log rate of a cluster with cells changes by more than `tol`, or after `max_steps`.
    """
    B, K, G = Y.shape
    sums = np.asarray(cells.by_batch.T @ cells.size).reshape(B, K)
    base, effect = np.zeros((K, G), np.float32), np.zeros((B, K, G), np.float32)
    starts = range(0, G, _GENES)
    pieces = _pieces(cells)

    def one(start: int) -> int:
        genes = slice(start, start + _GENES)
        base[:, genes], effect[:, :, genes], steps = _fit_block(
            pieces, sums, Y[:, :, genes], cells, penalty, max_steps, tol
        )
        return steps

    with ThreadPoolExecutor(n_threads) as pool:
        steps = []
        for took in pool.map(one, starts):
            steps.append(took)
            if done is not None:
                done(len(steps) / len(starts))
    return Fitted(base, effect, steps)


Piece = tuple[sparse.csr_matrix, sparse.csr_matrix, np.ndarray]


def _pieces(cells: Batches) -> list[Piece]:
    """Return R by batch of some cells at a time, its transpose, and their sizes."""
    starts = range(0, cells.R.shape[0], _CELLS)
    rows = [cells.by_batch[start : start + _CELLS] for start in starts]
    sizes = [cells.size[start : start + _CELLS, None].astype(np.float32) for start in starts]
    return [(R, R.T.tocsr(), s) for R, s in zip(rows, sizes, strict=True)]


def penalties(sums: np.ndarray, Y: np.ndarray, cells: Batches, penalty: Penalty) -> tuple[np.ndarray, ...]:
    """Return the log mean rate of each cluster, and the weights of the penalties on beta and on gamma."""
    overall = np.maximum(Y.sum(axis=(0, 1)), 0.5) / max(sums.sum(), 1e-12)
    # As if each cluster had a cell of mean size with the mean of all.
    rate = (Y.sum(axis=0) + overall) / (sums.sum(axis=0)[:, None] + 1)
    expected = sums.sum(axis=0)[:, None] * rate
    return (
        np.log(rate),
        _TO_MEAN * expected + _LEAST,
        penalty.counts + penalty.share * cells.share[:, None, None] * expected,
    )


def _fit_block(
    pieces: list[Piece],
    sums: np.ndarray,
    Y: np.ndarray,
    cells: Batches,
    penalty: Penalty,
    max_steps: int,
    tol: float,
) -> tuple[np.ndarray, np.ndarray, int]:
    mean, to_mean, ridge = penalties(sums, Y, cells, penalty)
    base, effect = mean, np.zeros_like(Y)
    if not cells.keep.any():
        return base, effect, 0
    # With the rates equal within clusters no pass is needed to begin with.
    M = sums[:, :, None] * np.exp(mean)
    there = (sums > 1)[:, :, None]
    for step in range(1, max_steps + 1):
        before = base + effect
        base, effect = _step(M, Y, base, effect, cells.keep[:, :, None], mean, to_mean, ridge)
        if step > 1 and (np.abs(base + effect - before) * there).max() < tol:
            break
        M = _expected(pieces, base + effect)
    return base, effect, step


def _expected(pieces: list[Piece], theta: np.ndarray) -> np.ndarray:
    """Return M, the counts that the rates expect in each batch and cluster."""
    table = theta.reshape(-1, theta.shape[-1]).astype(np.float32)
    M = np.zeros(table.shape)
    for R, transposed, size in pieces:
        mu = R @ table
        np.exp(mu, out=mu)
        mu *= size
        M += transposed @ mu
    return M.reshape(theta.shape)


def _step(
    M: np.ndarray,
    Y: np.ndarray,
    base: np.ndarray,
    effect: np.ndarray,
    keep: np.ndarray,
    mean: np.ndarray,
    to_mean: np.ndarray,
    ridge: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return beta and gamma that decrease the bound: Newton's steps, each cluster with its batches alone."""
    start = base + effect
    for _ in range(_INNER):
        h = M * np.exp(base + effect - start)
        slope = h - Y
        f = np.where(keep, 1 / (h + ridge), 0.0)
        # The batches eliminated, beta remains.
        curve = np.where(keep, h * ridge * f, h).sum(axis=0) + to_mean
        right = (h * f * (slope + ridge * effect)).sum(axis=0) - slope.sum(axis=0) - to_mean * (base - mean)
        d = np.clip(right / curve, -_MAX_STEP, _MAX_STEP)
        effect = effect + np.clip(-f * (slope + ridge * effect + h * d), -_MAX_STEP, _MAX_STEP)
        base = base + d
    return base, effect
