"""A two-dimensional view for the demo's figure: t-SNE in NumPy, linear in the number of cells.

van der Maaten and Hinton 2008, with the repulsion summed on a grid by FFT (Linderman et al. 2019) and the first two
columns of the embedding to start from. It sees no labels. For the eye only: distances between its islands mean little.

    q_ij ~ 1 / (1 + |y_i - y_j|^2);   gradient_i ~ sum_j (p_ij - q_ij) (y_i - y_j) / (1 + |y_i - y_j|^2)
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import fft, sparse

_PERPLEXITY = 10.0
N_NEIGHBOURS = 30
_EXAGGERATION, _EXAGGERATED_STEPS, _STEPS = 12.0, 100, 300
# Spacing of the grid; the force varies over lengths of about 1.
_SPACING = 0.6
# Keeps a cell from being thrown out of sight by one long step.
_LONGEST_STEP = 1.0
_NODES = np.arange(-1, 3)


def tsne(embedding: np.ndarray, distance: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Lay out cells in the plane, (N, 2), given their nearest neighbours (distances and indices, (N, k))."""
    P = affinities(distance, index)
    n = P.shape[0]
    # Indices of the machine's own width: others are converted at every use.
    i, j = np.repeat(np.arange(n), np.diff(P.indptr)), P.indices.astype(np.intp)
    y = np.asarray(embedding[:, :2], np.float64)
    y = y / y[:, 0].std() * 1e-2
    velocity, gain = np.zeros_like(y), np.ones_like(y)
    rate = max(50.0, n / _EXAGGERATION)
    for step in range(_STEPS):
        early = step < _EXAGGERATED_STEPS
        attraction = _attraction(P, i, j, y) * (_EXAGGERATION if early else 1.0)
        gradient = 4.0 * (attraction - repulsion(y))
        gain = np.maximum(np.where(np.sign(gradient) == np.sign(velocity), gain * 0.8, gain + 0.2), 0.01)
        velocity = np.clip((0.5 if early else 0.8) * velocity - rate * gain * gradient, -_LONGEST_STEP, _LONGEST_STEP)
        y = y + velocity
        y -= y.mean(axis=0)
    return y


def affinities(distance: np.ndarray, index: np.ndarray) -> sparse.csr_matrix:
    """Return symmetric P (N x N) that sums to 1, each cell's width set so that its perplexity is 10."""
    n, k = index.shape
    squared = distance**2 - distance[:, :1] ** 2
    low, high = np.zeros(n), np.full(n, np.inf)
    precision = 1.0 / np.maximum(squared.mean(axis=1), 1e-12)
    target = np.log(min(_PERPLEXITY, k / 2))
    for _ in range(50):
        p = np.exp(-squared * precision[:, None])
        total = p.sum(axis=1)
        entropy = np.log(total) + precision * (squared * p).sum(axis=1) / total
        wide = entropy > target
        low, high = np.where(wide, precision, low), np.where(wide, high, precision)
        precision = np.where(np.isinf(high), precision * 2, (low + high) / 2)
    p /= total[:, None]
    P = sparse.csr_matrix((p.ravel(), index.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    P = (P + P.T).tocsr()
    return P / P.sum()


def repulsion(y: np.ndarray) -> np.ndarray:
    """Return sum_j q_ij (y_i - y_j) / (1 + |y_i - y_j|^2), (N, 2), to about a tenth: cubic interpolation on a grid."""
    low = y.min(axis=0) - 2 * _SPACING
    cells = int(np.ceil((y.max(axis=0) - low).max() / _SPACING)) + 4
    # In steps, so that kernels are rarely made anew.
    size = fft.next_fast_len(-(-cells // 32) * 32)
    position = (y - low) / _SPACING
    corner = np.floor(position).astype(np.int64)
    weights = _lagrange(position - corner)
    nodes = (corner[:, 0, None] + _NODES)[:, :, None] * size + (corner[:, 1, None] + _NODES)[:, None, :]
    weight = weights[:, 0, :, None] * weights[:, 1, None, :]
    charge = np.bincount(nodes.ravel(), weight.ravel(), size * size).reshape(size, size)
    potential, along_x, along_y = _kernels(size)
    spectrum = fft.rfft2(charge, (2 * size, 2 * size))
    # sum_ij 1 / (1 + |y_i - y_j|^2) without the terms i = j as the grid has them, which matters where N is small.
    flat = weight.reshape(len(y), -1)
    itself = float((np.einsum("na,ab->nb", flat, _among_nodes()) * flat).sum())
    normaliser = float((fft.irfft2(spectrum * potential)[:size, :size] * charge).sum()) - itself
    out = np.empty_like(y)
    for axis, kernel in enumerate((along_x, along_y)):
        field = fft.irfft2(spectrum * kernel)[:size, :size].ravel()
        out[:, axis] = (field[nodes] * weight).sum(axis=(1, 2))
    return out / normaliser


def _attraction(P: sparse.csr_matrix, i: np.ndarray, j: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return sum_j p_ij (y_i - y_j) / (1 + |y_i - y_j|^2), (N, 2); i and j are the places of P's entries."""
    squared = np.ones(P.nnz)
    for axis in np.ascontiguousarray(y.T):
        difference = axis[i] - axis[j]
        squared += difference * difference
    pull = sparse.csr_matrix((P.data / squared, P.indices, P.indptr), shape=P.shape)
    return (pull @ np.ones(len(y)))[:, None] * y - pull @ y


@lru_cache(maxsize=2)
def _kernels(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the transforms of 1 / (1 + r^2) and of both components of r / (1 + r^2)^2, padded against wrapping."""
    step = fft.fftfreq(2 * size, 1.0 / (2 * size)) * _SPACING
    x, y = np.meshgrid(step, step, indexing="ij")
    q = 1.0 / (1.0 + x * x + y * y)
    return fft.rfft2(q), fft.rfft2(x * q * q), fft.rfft2(y * q * q)


@lru_cache(maxsize=1)
def _among_nodes() -> np.ndarray:
    """Return 1 / (1 + r^2) between the 16 nodes around one point."""
    nodes = np.stack(np.meshgrid(_NODES, _NODES, indexing="ij"), axis=-1).reshape(-1, 2) * _SPACING
    return 1.0 / (1.0 + ((nodes[:, None] - nodes[None]) ** 2).sum(axis=-1))


def _lagrange(t: np.ndarray) -> np.ndarray:
    """Return the weights of the nodes -1, 0, 1, 2 for a position t in [0, 1], last axis 4."""
    return np.stack(
        [
            -t * (t - 1) * (t - 2) / 6,
            (t + 1) * (t - 1) * (t - 2) / 2,
            -(t + 1) * t * (t - 2) / 2,
            (t + 1) * t * (t - 1) / 6,
        ],
        axis=-1,
    )
