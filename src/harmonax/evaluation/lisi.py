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
from ..system.extras import need


def lisi(embedding: np.ndarray, labels: Any, perplexity: float = 30) -> np.ndarray:
    """Return how many labels are effectively present around each cell: its local inverse Simpson index.

    scib-metrics' index over exact neighbours, which agrees with the values of the index's first program.
    `harmonax.tl.evaluate` scores whole embeddings with approximate neighbours, which are quicker.

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
    x = np.asarray(embedding, np.float64)
    codes = pd.Categorical(np.asarray(labels, object)).codes
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
    """Return the index of some cells from their nearest other cells: scib-metrics' `lisi_knn`, which takes all cells.

    Parameters
    ----------
    distances, indices
        Of the nearest others, (q, k).
    rows
        Which cells these are, (q,).
    codes
        Label of every cell, numbered from 0.
    perplexity
        None: a third of the neighbours, the cell itself included.
    """
    simpson = need("scib_metrics.utils", "workflow").compute_simpson_index
    chosen = (indices.shape[1] + 1) // 3 if perplexity is None else perplexity
    with quiet():
        found = simpson(distances, indices, rows[:, None], codes, int(codes.max()) + 1, perplexity=chosen)
    return 1 / np.asarray(found)


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
