"""Principal components from the genes' covariance: in memory and beyond it, the same bits for any number of threads.

With Z the N cells x G genes, of mean m, and C = (Z^T Z - N m m^T) / (N - 1) = V diag(variance) V^T, the scores are
(Z - m) V. Z^T Z is a sum over blocks of cells, each of them one dense product: where many values are not zero, much
faster than the products of sparse matrices that scikit-learn's solvers are made of.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import linalg, sparse

from ..inputs.expression import dense
from ..inputs.lazy import is_lazy, per_piece, summed
from ..system.extras import need
from .state import BASIS

if TYPE_CHECKING:
    from anndata import AnnData

# Cells of a block, whatever the number of threads, since the order of a sum shows in its last bits.
_ROWS = 2048


class Components(NamedTuple):
    """Scores (cells x components, float32), loadings (genes x components), variances, and their shares of the whole."""

    scores: np.ndarray
    loadings: np.ndarray
    variance: np.ndarray
    ratio: np.ndarray


def pca(adata: AnnData, n_comps: int, n_threads: int) -> None:
    """Put what scanpy's PCA of the highly variable genes puts where."""
    genes = adata.var["highly_variable"].to_numpy()
    found = principal_components(adata.X, genes, n_comps, n_threads)
    adata.obsm[BASIS] = found.scores
    adata.varm["PCs"] = np.zeros((adata.n_vars, n_comps))
    adata.varm["PCs"][genes] = found.loadings
    adata.uns["pca"] = {
        "params": {"zero_center": True, "use_highly_variable": True, "mask_var": "highly_variable"},
        "variance": found.variance,
        "variance_ratio": found.ratio,
    }


def principal_components(X: Any, genes: np.ndarray, n_comps: int, n_threads: int) -> Components:
    """Return the principal components of some genes, the largest loading of each positive.

    Parameters
    ----------
    X
        Cells x genes: dense, sparse or a Dask array.
    genes
        Which of them count, boolean.
    n_comps
        Components, below the number of cells and of those genes.
    n_threads
        Threads; a Dask array is computed by Dask, with those that it has.

    Examples
    --------
    >>> X = np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0], [4.0, 8.5]])
    >>> found = principal_components(X, np.array([True, True]), 1, n_threads=1)
    >>> found.loadings.round(2).tolist(), found.ratio.round(3).tolist()
    ([[0.42], [0.91]], [1.0])
    """
    columns = np.flatnonzero(genes)
    X = X.tocsr() if sparse.issparse(X) else X
    # Within a block, BLAS would divide the sums among as many threads as it has.
    with need("threadpoolctl", "workflow").threadpool_limits(1, "blas"), ThreadPoolExecutor(n_threads) as pool:
        starts = range(0, X.shape[0], _ROWS)
        if is_lazy(X):
            sums = summed(X, _sums, columns)
        else:
            blocks = (pool.map(lambda i: _sums(X[i : i + _ROWS], columns), some) for some in _few(starts, n_threads))
            sums = functools.reduce(np.add, itertools.chain.from_iterable(blocks))
        mean, variance, loadings, total = _directions(sums, X.shape[0], n_comps)
        score = functools.partial(_scores, columns=columns, mean=mean, loadings=loadings)
        parts = per_piece(X, score) if is_lazy(X) else list(pool.map(lambda i: score(X[i : i + _ROWS]), starts))
    return Components(np.concatenate(parts), loadings, variance, variance / total)


def _few(starts: range, count: int) -> Iterator[range]:
    """Give so many at a time: the sums of as many blocks are in memory at once."""
    return (starts[i : i + count] for i in range(0, len(starts), count))


def _directions(sums: np.ndarray, n_cells: int, n_comps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return the mean, and the variances and loadings of the components, and the variance of all."""
    mean, n_genes = sums[-1] / n_cells, sums.shape[1]
    covariance = (sums[:-1] - n_cells * np.outer(mean, mean)) / (n_cells - 1)
    variance, loadings = linalg.eigh(covariance, subset_by_index=[n_genes - n_comps, n_genes - 1])
    loadings = loadings[:, ::-1]
    sign = np.sign(loadings[np.abs(loadings).argmax(axis=0), np.arange(n_comps)])
    return mean, np.maximum(variance[::-1], 0.0), loadings * sign, float(np.trace(covariance))


def _sums(piece: Any, columns: np.ndarray) -> np.ndarray:
    """Return Z^T Z, and the sum of the cells as its last row, of some cells."""
    found = np.zeros((len(columns) + 1, len(columns)))
    for start in range(0, piece.shape[0], _ROWS):
        values = dense(piece[start : start + _ROWS][:, columns], np.float64)
        # Sums of squares: in float32 the least components would drown in the first.
        found[:-1] += values.T @ values
        found[-1] += values.sum(axis=0)
    return found


def _scores(piece: Any, columns: np.ndarray, mean: np.ndarray, loadings: np.ndarray) -> np.ndarray:
    starts = range(0, piece.shape[0], _ROWS)
    parts = [dense(piece[i : i + _ROWS][:, columns], np.float64) @ loadings - mean @ loadings for i in starts]
    return np.concatenate(parts).astype(np.float32)
