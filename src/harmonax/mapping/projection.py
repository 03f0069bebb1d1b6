"""From the expression of new cells to the embedding of the reference, gene by gene."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError, warn
from ..inputs.embedding import take_rows
from ..inputs.expression import dense
from ..inputs.genes import find_genes, remedy
from ..inputs.rows import Rows
from .expression import Expression as Expression
from .normalisation import NATURAL, are_counts, of_reference, spaced_rows

log = logging.getLogger("harmonax")

# Values of a dense piece of expression.
_PIECE = 1 << 23
# Loadings must reproduce the embedding to this share of its spread.
_CLOSE = 0.02
# How far means of genes may be off, as a share of themselves, to be those of a scaling: clipping moves them.
_MATCHING = 0.05
# Unscaled values below are rounding.
_ZERO = 1e-4
# A gene that varies less was the same in all cells.
_MIN_STD = 1e-12


@dataclass(frozen=True, eq=False)
class Projection:
    """Loadings of the reference's principal components: Z = clip((x - mean) / std) @ loadings - offset."""

    genes: np.ndarray  # names of the G genes that the embedding was made of
    loadings: np.ndarray  # (G, d)
    # mean, std: of each gene in the log-normalised expression, where the reference was scaled: (G,); else 0 and 1.
    mean: np.ndarray
    std: np.ndarray
    max_value: float | None  # where scaled values were clipped, or None
    offset: np.ndarray  # (d,)
    center: np.ndarray  # mean of each gene after scaling, (G,): the expression that cells at 0 of all components have
    # Counts per cell that the reference was normalised to, or None where that is not known; the base of its logarithm
    # (0: it was not logged); the share of its counts that these genes have, or None.
    target_sum: float | None = None
    log_base: float = NATURAL
    share: float | None = None
    integers: bool = False  # whether the components are those of whole numbers, such as counts themselves

    @classmethod
    def of(cls, adata: Any, basis: str = "X_pca", *, loadings: str = "PCs") -> Projection:
        """Return the projection that made ``obsm[basis]`` from ``X``, found in ``varm[loadings]`` and tried out.

        A reference that was scaled (scanpy's ``pp.scale``) has the means and standard deviations in ``var``. `adata` is
        an AnnData, or has the like of its X, var, var_names, varm and obsm.

        Raises
        ------
        InputError
            If there are no loadings, or they do not reproduce the embedding.
        """
        if loadings not in adata.varm:
            raise InputError(f"varm has no '{loadings}', the loadings of obsm['{basis}']")
        if adata.X is None:
            raise InputError("there is no expression that the loadings belong to")
        names = pd.Index(np.asarray(adata.var_names, str))
        if not names.is_unique:
            raise InputError(f"gene '{names[names.duplicated()][0]}' is in var_names more than once")
        V = np.asarray(adata.varm[loadings], np.float64)
        Z = adata.obsm[basis]
        if V.shape[1] != Z.shape[1]:
            raise InputError(f"varm['{loadings}'] has {V.shape[1]} components, obsm['{basis}'] has {Z.shape[1]}")
        used = np.flatnonzero((V != 0).any(axis=1))
        if not len(used):
            raise InputError(f"varm['{loadings}'] is zero everywhere")
        V, center = V[used], _means(adata.X, used)
        rows = spaced_rows(adata.X.shape[0])
        whole, tried = dense(adata.X[rows], np.float64), take_rows(Z, rows)
        X = whole[:, used]
        # One and the same for all cells: the mean of all that the components were computed from, or nothing.
        off = X @ V - tried
        offset = off.mean(axis=0)
        if np.abs(off - offset).max() > _CLOSE * tried.std(axis=0).max():
            raise InputError(
                f"X @ varm['{loadings}'] is not obsm['{basis}']: X is not what the components were computed from"
            )
        mean, std, max_value = _scaling(adata, used, center, X)
        plain = not mean.any() and bool((std == 1).all())
        integers = plain and are_counts(whole)
        found = None if integers else of_reference(adata, used, _unscaled(adata, mean, std, max_value))
        genes = names.to_numpy()[used].astype(object)
        total, base, share = found or (None, NATURAL, None)
        return cls(genes, V, mean, std, max_value, offset, center, total, base, share, integers)

    @property
    def scaled(self) -> bool:
        """Whether new expression is scaled by the reference's means and standard deviations."""
        return bool((self.std != 1).any() or self.mean.any())

    def match(self, names: Any, least_share: float = 0.5) -> Matched:
        """Find the genes among those of new cells.

        Raises
        ------
        InputError
            If fewer than `least_share` of them are there, or a name is there twice. Ensembl identifiers agree whatever
            their versions.
        """
        there = pd.Index(np.asarray(names, str))
        if not there.is_unique:
            twice = there[there.duplicated()][0]
            raise InputError(f"gene '{twice}' is there more than once; call var_names_make_unique()")
        column, without_version = find_genes(self.genes, there)
        found = int((column >= 0).sum())
        if found < least_share * len(column):
            how = remedy(self.genes, there) or "Are the names of one kind (symbols, Ensembl)?"
            raise InputError(
                f"{found} of the reference's {len(column)} genes are among those of the query; at least "
                f"{least_share:.0%} are needed. {how} The reference has "
                f"{', '.join(map(repr, self.genes[:3]))}, the query {', '.join(map(repr, there[:3]))}"
            )
        if without_version:
            log.info("%d of the reference's %d genes are matched without the versions", without_version, len(column))
        return Matched(self, column)


@dataclass(frozen=True, eq=False)
class Matched:
    """A projection and where its genes are in the expression of new cells: a column for each, or -1."""

    projection: Projection
    column: np.ndarray

    @property
    def missing(self) -> np.ndarray:
        """Names of the genes that the new cells do not have."""
        return self.projection.genes[self.column < 0]

    def values(self, X: Any) -> np.ndarray:
        """Return the expression of some new cells in the genes that they have, dense."""
        return dense(X[:, self.column[self.column >= 0]], np.float64)

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Return `values` scaled, (n, G); a missing gene has the reference's mean."""
        p, there = self.projection, self.column >= 0
        out = np.broadcast_to(p.center, (len(values), len(p.genes))).copy()
        own = (values - p.mean[there]) / p.std[there]
        out[:, there] = own if p.max_value is None else np.clip(own, -p.max_value, p.max_value)
        return out

    def project(self, X: Any) -> Projected:
        """Return the embedding of new cells as rows that are computed when they are read."""
        return Projected(self, X)


class Projected(Rows):
    """The embedding of new cells, computed from pieces of their expression as it is read, float32."""

    def __init__(self, matched: Matched, X: Any) -> None:
        super().__init__((X.shape[0], matched.projection.loadings.shape[1]), np.float32)
        self._matched, self._X = matched, X

    def read(self, start: int, stop: int) -> np.ndarray:
        out = np.empty((stop - start, self.shape[1]), np.float32)
        step = max(1, _PIECE // max(1, len(self._matched.column)))
        p = self._matched.projection
        for lo in range(start, stop, step):
            hi = min(stop, lo + step)
            values = self._matched.values(self._X[lo:hi])
            if isinstance(self._X, Expression):
                self._X.empty[lo:hi] = ~values.any(axis=1)
            out[lo - start : hi - start] = self._matched.scaled(values) @ p.loadings - p.offset
        return out


def _means(X: Any, used: np.ndarray) -> np.ndarray:
    """Return the mean of these columns, in pieces of rows."""
    total = np.zeros(len(used))
    step = max(1, _PIECE // max(1, X.shape[1]))
    for start in range(0, X.shape[0], step):
        total += np.asarray(X[start : start + step][:, used].sum(axis=0), np.float64).ravel()
    return total / X.shape[0]


def _largest(X: Any) -> tuple[float, int]:
    """Return the largest absolute value, and how many there are of it."""
    top, n_top = 0.0, 0
    step = max(1, _PIECE // max(1, X.shape[1]))
    for start in range(0, X.shape[0], step):
        piece = np.abs(dense(X[start : start + step], np.float64))
        own = float(piece.max())
        n_top = int((piece == own).sum()) + (n_top if own == top else 0) if own >= top else n_top
        top = max(top, own)
    return top, n_top


def _scaling(
    adata: Any, used: np.ndarray, center: np.ndarray, X: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Return mean, std and clip of a reference that was scaled; 0, 1 and None of one that was not.

    What ``var`` says is verified: with it, X must come from values that are never negative.
    """
    zero, one = np.zeros(len(used)), np.ones(len(used))
    if not {"mean", "std"} <= set(adata.var):
        if X.min(initial=0) < 0:
            warn("X has negative values, and var no 'mean' and 'std' of a scaling: queries are taken as they come")
        return zero, one, None
    mean, std = (adata.var[name].to_numpy(np.float64)[used] for name in ("mean", "std"))
    std = np.where(std > _MIN_STD, std, 1.0)
    room = _MATCHING * np.median(np.abs(mean))
    if X.min(initial=0) >= 0 and np.median(np.abs(center - mean)) <= room:
        return zero, one, None
    # Clipped values are all the same, and there is more than one.
    top, n_top = _largest(adata.X)
    clip = top if n_top > 1 else None
    if X.min(initial=0) >= 0 and np.median(np.abs(center * std - mean)) <= room:
        return zero, std, clip
    before = np.where(np.abs(X) < top, X * std + mean, np.nan)
    least = np.nan_to_num(np.nanmin(before, axis=0)) / np.maximum(mean, _MIN_STD)
    # Where low values were clipped, the zeros are not to be seen.
    if (least >= -_MATCHING).all() and (np.median(least) <= _MATCHING or clip is not None):
        return mean, std, clip
    raise InputError(
        "X is not what var['mean'] and var['std'] make of log-normalised expression (was there a regression, or an "
        "earlier scaling?): queries cannot be treated alike"
    )


def _unscaled(
    adata: Any, mean: np.ndarray, std: np.ndarray, max_value: float | None
) -> Callable[[np.ndarray], np.ndarray]:
    """Return what gives some rows of X, all genes, as they were before scaling; NaN where they were clipped."""
    plain = not mean.any() and bool((std == 1).all())
    shift, scale = (0.0, 1.0) if plain else (adata.var[name].to_numpy(np.float64) for name in ("mean", "std"))
    if not plain:
        shift, scale = shift if mean.any() else 0.0, np.where(scale > _MIN_STD, scale, 1.0)

    def rows(numbers: np.ndarray) -> np.ndarray:
        X = dense(adata.X[numbers], np.float64)
        if plain:
            return X
        back = X * scale + shift
        # What was 0 is only nearly so.
        back = np.where(np.abs(back) < _ZERO, 0.0, back)
        return back if max_value is None else np.where(np.abs(X) < max_value, back, np.nan)

    return rows
