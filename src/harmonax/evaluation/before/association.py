"""How two columns of labels go together: Cramer's V, nesting, linked levels, separable effects.

All of it from the table of counts, levels of the first x levels of the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from scipy import sparse

from ..variables import Variable

# Cells of a pair of levels are accidents (doublets, wrong labels) below this share of what independence would put
# there, and below this number.
_ACCIDENT, _FEW = 0.05, 3
_NEGLIGIBLE = 0.1


class Relation(StrEnum):
    """How the levels of one column lie in those of another."""

    IDENTICAL = "identical"
    """One level of the second for each of the first: two names for the same thing."""
    NESTED = "nested"
    """Each level of the first lies in one level of the second."""
    SPLIT = "split"
    """Groups of levels that share no cell: nothing links what is in one with what is in another."""
    ASSOCIATED = "associated"
    """All levels are linked, but Cramer's V is 0.1 or more."""
    INDEPENDENT = "independent"
    """Cramer's V is below 0.1."""
    CONSTANT = "constant"
    """One of them has one level only."""


def count(first: Variable, second: Variable) -> np.ndarray:
    """Return how many cells each pair of levels has, among the cells that have both labels."""
    both = (first.codes >= 0) & (second.codes >= 0)
    shape = len(first.levels), len(second.levels)
    places = first.codes[both] * shape[1] + second.codes[both]
    return np.bincount(places, minlength=shape[0] * shape[1]).reshape(shape)


def cramers_v(counts: np.ndarray) -> float:
    """Return Cramer's V, corrected for the bias that many levels of few cells give it (Bergsma 2013).

    0 for independence, 1 where one column determines the other; nan where either has one level only, or too few cells.

    Examples
    --------
    >>> cramers_v(np.array([[10, 0], [0, 10]])), cramers_v(np.array([[10, 10], [10, 10]]))
    (1.0, 0.0)
    """
    counts = counts[counts.any(axis=1)][:, counts.any(axis=0)]
    n, (r, k) = counts.sum(), counts.shape
    if min(r, k) < 2:
        return float("nan")
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / n
    phi2 = ((counts - expected) ** 2 / expected).sum() / n
    largest = min(r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)) - 1
    if largest <= 0:
        return float("nan")
    return float(np.sqrt(min(1, max(0, phi2 - (r - 1) * (k - 1) / (n - 1)) / largest)))


def linked(counts: np.ndarray) -> np.ndarray:
    """Return which pairs of levels have cells together, beyond accidents.

    Examples
    --------
    >>> linked(np.array([[800, 1], [40, 700]])).astype(int)
    array([[1, 0],
           [1, 1]])
    """
    rows, columns = counts.sum(axis=1, keepdims=True), counts.sum(axis=0, keepdims=True)
    enough = (counts >= _FEW) & (counts * counts.sum() >= _ACCIDENT * rows * columns)
    # Every level is linked to something: where all its pairs are few, to what it has most of.
    most = (counts == counts.max(axis=1, keepdims=True)) | (counts == counts.max(axis=0, keepdims=True))
    return (counts > 0) & (enough | most)


def linked_groups(links: np.ndarray) -> np.ndarray:
    """Return the group of each level of the first: those of one group are linked, over any number of steps.

    Levels without any cell have -1.
    """
    # Slow to import.
    from scipy.sparse.csgraph import connected_components

    n, m = links.shape
    graph = sparse.bmat([[None, sparse.csr_array(links)], [sparse.csr_array((m, n), dtype=bool), None]])
    groups = connected_components(graph, directed=False)[1][:n]
    present = links.any(axis=1)
    groups[present] = np.unique(groups[present], return_inverse=True)[1]
    groups[~present] = -1
    return groups


def relation(counts: np.ndarray) -> Relation:
    """Return how the levels of the first lie in those of the second.

    Examples
    --------
    >>> str(relation(np.array([[9, 0], [8, 0], [0, 7]])))
    'nested'
    """
    links = linked(counts)
    links = links[links.any(axis=1)][:, links.any(axis=0)]
    if min(links.shape) < 2:
        return Relation.CONSTANT
    if (links.sum(axis=1) == 1).all():
        return Relation.IDENTICAL if (links.sum(axis=0) == 1).all() else Relation.NESTED
    if linked_groups(links).max() > 0:
        return Relation.SPLIT
    return Relation.INDEPENDENT if cramers_v(counts) < _NEGLIGIBLE else Relation.ASSOCIATED


class Association(NamedTuple):
    """One row of the table of associations; its fields are the columns."""

    first: str
    second: str
    cramers_v: float
    relation: Relation


def associate(first: Variable, second: Variable) -> Association:
    """Return how two columns go together; where one is nested in the other, it comes first."""
    counts = count(first, second)
    if relation(counts.T) is Relation.NESTED:
        first, second, counts = second, first, counts.T
    return Association(first.name, second.name, cramers_v(counts), relation(counts))


def design_rank(variables: Sequence[Variable]) -> int:
    """Return the rank of the constant and all columns as indicators: how many effects a linear model can separate.

    At most one more than the sum of (levels - 1), and less where other columns' levels determine a level's cells.

    Examples
    --------
    >>> a = Variable("a", np.array([0, 0, 1, 1]), ("x", "y"))
    >>> b = Variable("b", np.array([0, 1, 0, 1]), ("u", "v"))
    >>> design_rank([a]), design_rank([a, b]), design_rank([a, a])
    (2, 3, 2)
    """
    codes = np.column_stack([v.codes for v in variables])
    seen = np.unique(codes[(codes >= 0).all(axis=1)], axis=0)
    sizes = [len(v.levels) for v in variables]
    places = (seen + np.concatenate([[0], np.cumsum(sizes)[:-1]])).ravel()
    starts = np.arange(len(seen) + 1) * len(sizes)
    design = sparse.csr_array((np.ones(len(places)), places, starts), shape=(len(seen), sum(sizes)))
    return int(np.linalg.matrix_rank((design.T @ design).toarray(), hermitian=True))
