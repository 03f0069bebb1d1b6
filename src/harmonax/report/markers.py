"""Markers of the clusters, as scanpy ranks them in ``uns["rank_genes_groups"]``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from .parts import Parts

# Of each group, in the page's table; and bytes that the genes' values may take in memory.
PER_GROUP = 10
_MEMORY = 1 << 28
_MEASURES = ("scores", "logfoldchanges", "pvals_adj")


@dataclass(frozen=True)
class Ranked:
    """Genes of each group, the best first.

    Attributes
    ----------
    by
        The column with the groups; empty where it is not recorded.
    groups
        Names of the groups.
    names
        For each group its genes.
    values
        For each measure that is stored a list as `names`.
    """

    by: str
    groups: list[str]
    names: list[list[str]]
    values: dict[str, list[np.ndarray]] = field(repr=False)


def ranked(parts: Parts) -> Ranked | None:
    """Return what scanpy ranked, without genes that the data lack; nothing where it did not."""
    own = parts.part("rank_genes_groups")
    fields = getattr(getattr(own.get("names"), "dtype", None), "names", None)
    if not fields or len(own["names"]) == 0:
        return None
    known = set(parts.genes)
    keep = [[i for i, gene in enumerate(own["names"][f]) if str(gene) in known] for f in fields]
    names = [[str(own["names"][f][i]) for i in kept] for f, kept in zip(fields, keep, strict=True)]
    measures = [
        m for m in _MEASURES if set(fields) <= set(getattr(getattr(own.get(m), "dtype", None), "names", ()) or ())
    ]
    values = {m: [np.asarray(own[m][f], float)[kept] for f, kept in zip(fields, keep, strict=True)] for m in measures}
    params: Any = own.get("params")
    by = str(params.get("groupby", "")) if hasattr(params, "get") else ""
    return Ranked(by if by in parts.obs else "", [str(f) for f in fields], names, values)


def top_markers(parts: Parts, most: int) -> list[str]:
    """Return the best marker of each group, then the second best and so on, at most so many."""
    found = ranked(parts)
    if found is None:
        return []
    depth = max(map(len, found.names), default=0)
    order = (names[rank] for rank in range(depth) for names in found.names if rank < len(names))
    return list(dict.fromkeys(order))[: max(12, min(most, _MEMORY // (4 * max(len(parts.obs), 1))))]


def dots(parts: Parts, found: Ranked, per_group: int, most: int) -> tuple[list[str], pd.DataFrame, pd.DataFrame] | None:
    """Return genes, and of each (rows) in each group (columns) the mean value and the share of cells with any."""
    if not found.by or not parts.has_expression:
        return None
    genes = list(dict.fromkeys(gene for names in found.names for gene in names[:per_group]))[:most]
    labels = parts.obs[found.by].astype(str).to_numpy()
    values = parts.expression(genes, np.arange(len(parts.obs)))
    of_group = [values[labels == group] for group in found.groups]
    if not genes or not all(len(v) for v in of_group):
        return None
    mean = pd.DataFrame([v.mean(axis=0) for v in of_group], found.groups, genes).T
    share = pd.DataFrame([(v > 0).mean(axis=0) for v in of_group], found.groups, genes).T
    return genes, mean, share
