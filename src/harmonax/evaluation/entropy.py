"""Entropy of batch labels in neighbourhoods, and what chance gives: a measure of mixing with a known best value."""

from __future__ import annotations

import numpy as np

from .neighbours import nearest_cells


def neighbourhood_entropy(embedding: np.ndarray, codes: np.ndarray, *, k: int = 15) -> float:
    """Return the mean entropy, in nats, of the batches among each cell's k nearest others.

    Parameters
    ----------
    embedding
        Cells x dimensions.
    codes
        Batch of each cell, integers from 0.
    k
        Number of neighbours, below the number of cells. Higher values measure mixing over wider regions.

    Notes
    -----
    Haghverdi et al. 2018, Nature Biotechnology 36:421.

    Examples
    --------
    >>> apart = np.repeat([0, 1], 50)
    >>> Z = np.random.default_rng(0).normal(size=(100, 3))
    >>> neighbourhood_entropy(Z + 100 * apart[:, None], apart)
    0.0
    """
    return _entropy(nearest_cells(np.asarray(embedding), k), np.asarray(codes))


def chance_entropy(
    embedding: np.ndarray,
    codes: np.ndarray,
    rng: np.random.Generator,
    *,
    groups: np.ndarray | None = None,
    k: int = 15,
    shuffles: int = 40,
) -> float:
    """Return the same entropy of batch labels that are permuted within each group: what perfect mixing gives.

    With k neighbours it stays below the entropy of the batches' sizes, since so few cannot show them exactly.

    Parameters
    ----------
    embedding, codes, k
        As in `neighbourhood_entropy`.
    rng
        Permutes the labels.
    groups
        Code of each cell's type; None: all cells are one.
    shuffles
        Number of permutations, whose mean is returned. More are more exact, and take more time.

    Examples
    --------
    >>> gen = np.random.default_rng(0)
    >>> round(chance_entropy(gen.normal(size=(200, 3)), np.arange(200) % 2, gen), 2)
    0.66
    """
    near, codes = nearest_cells(np.asarray(embedding), k), np.asarray(codes)
    groups = np.zeros(len(codes), int) if groups is None else np.asarray(groups)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    found = []
    for _ in range(shuffles):
        shuffled = codes.copy()
        for rows in members:
            shuffled[rows] = rng.permutation(codes[rows])
        found.append(_entropy(near, shuffled))
    return float(np.mean(found))


def _entropy(near: np.ndarray, codes: np.ndarray) -> float:
    shares = np.stack([(codes[near] == code).mean(axis=1) for code in np.unique(codes)], axis=1)
    return float((shares * np.log(1 / np.where(shares > 0, shares, 1))).sum(axis=1).mean())
