"""The local inverse Simpson index of each cell, from exact neighbours."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError
from ..inputs.columns import as_table
from ..inputs.embedding import as_array
from ..system.arguments import check_arguments
from ..system.extras import need
from ..system.validate import number

# Of the search for the width of a neighbourhood, scib-metrics' values.
_TOLERANCE, _STEPS = 1e-5, 50


def lisi(embedding: np.ndarray, labels: Any, perplexity: float = 30) -> np.ndarray:
    """Return how many labels are effectively present around each cell: its local inverse Simpson index.

    Over exact neighbours; it agrees with the values of the index's first program, and with scib-metrics'.

    Parameters
    ----------
    embedding
        N cells x dimensions.
    labels
        Label of each cell, such as its batch, (N,); none may be missing.
    perplexity
        Effective number of neighbours; three times as many cells, including the cell itself, are searched. Higher
        values measure mixing over wider regions, and take more time; lower values are more local and noisier.

    Returns
    -------
    numpy.ndarray
        (N,), from 1 (one label only) to the number of labels (equally present).

    Raises
    ------
    InputError
        If there are fewer cells than three times the perplexity, or labels are missing or of another length.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(300, 2))
    >>> apart = x + 100 * np.repeat([0, 1, 2], 100)[:, None]
    >>> lisi(apart, np.repeat(["a", "b", "c"], 100)).round(3).max()  # doctest: +SKIP
    np.float64(1.0)
    """
    check_arguments(lisi, locals())
    x = as_array(embedding, "the embedding").astype(np.float64)
    table = as_table(labels)
    if table.shape[1] != 1:
        raise InputError(f"labels has {table.shape[1]} columns; allowed is one label per cell")
    codes = pd.Categorical(np.asarray(table.iloc[:, 0], object)).codes
    perplexity = number(perplexity, "perplexity")
    others = int(3 * perplexity) - 1
    if x.ndim != 2 or len(codes) != len(x):
        raise InputError(
            f"the embedding has shape {x.shape} and there are {len(codes)} labels; allowed is one per cell"
        )
    if (codes < 0).any():
        raise InputError(f"{int((codes < 0).sum())} labels are missing; leave those cells out")
    if perplexity < 1 or others >= len(x):
        raise InputError(f"perplexity={perplexity:g} needs more than {others} cells, but there are {len(x)}")
    if len(np.unique(codes)) == 1:
        return np.ones(len(x))
    search = need("sklearn.neighbors", "workflow").NearestNeighbors(n_neighbors=others, algorithm="brute")
    # Asked without points, it gives each cell's neighbours but the cell itself.
    distances, indices = search.fit(x).kneighbors()
    return lisi_of_neighbours(distances, indices, np.arange(len(x)), codes, perplexity)


def lisi_of_neighbours(
    distances: np.ndarray, indices: np.ndarray, rows: np.ndarray, codes: np.ndarray, perplexity: float | None = None
) -> np.ndarray:
    """Return the index of some cells from their nearest other cells, as scib-metrics' `lisi_knn` does for all cells.

    Parameters
    ----------
    distances, indices
        Of the nearest others, (q, k).
    rows
        Which cells these are, (q,): none of them is its own neighbour.
    codes
        Label of every cell, numbered from 0.
    perplexity
        None: a third of the neighbours, the cell itself included.

    Returns
    -------
    numpy.ndarray
        (q,); -1, as there, where all the weight is on one neighbour.
    """
    chosen = (indices.shape[1] + 1) // 3 if perplexity is None else perplexity
    weights, entropy = _weights(np.asarray(distances, np.float64), float(np.log(chosen)))
    around, places = codes[indices], np.arange(len(rows))
    shares = np.zeros((len(rows), int(codes.max()) + 1))
    for column in range(around.shape[1]):
        shares[places, around[:, column]] += weights[:, column]
    simpson = (shares**2).sum(axis=1)
    found: np.ndarray = np.where(entropy == 0, -1.0, 1 / np.where(simpson > 0, simpson, 1.0))
    return found


def _weights(distances: np.ndarray, wanted: float) -> tuple[np.ndarray, np.ndarray]:
    """Return weights exp(-beta d) that sum to 1, with beta such that their entropy is as wanted; and that entropy.

    Halving and doubling as in scib-metrics, with its tolerance and number of steps: its numbers, without compiling.
    """
    beta, low, high = np.ones(len(distances)), np.full(len(distances), -np.inf), np.full(len(distances), np.inf)
    weights, entropy = np.zeros_like(distances), np.zeros(len(distances))
    left = np.arange(len(distances))
    for _ in range(_STEPS + 1):
        weights[left], entropy[left] = _weighed(distances[left], beta[left])
        left = left[np.abs(entropy[left] - wanted) >= _TOLERANCE]
        if not len(left):
            break
        above, own = entropy[left] > wanted, beta[left]
        low[left[above]], high[left[~above]] = own[above], own[~above]
        lo, hi = low[left], high[left]
        up = np.where(np.isinf(hi), own * 2, (own + hi) / 2)
        down = np.where(np.isinf(lo), own / 2, (own + lo) / 2)
        beta[left] = np.where(above, up, down)
    return weights, entropy


def _weighed(distances: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weights = np.exp(-distances * beta[:, None])
    total = weights.sum(axis=1)
    some = np.where(total > 0, total, 1)
    spread = beta * (distances * weights).sum(axis=1) / some
    return weights / some[:, None], np.where(total > 0, np.log(some) + spread, 0)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what scib-metrics and the packages below it tell programmers: warnings, and a log on stdout."""
    log = logging.getLogger("scib_metrics")
    level = log.level
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            log.setLevel(logging.ERROR)
            yield
    finally:
        log.setLevel(level)
