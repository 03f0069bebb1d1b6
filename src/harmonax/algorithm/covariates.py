"""Numeric covariates in the ridge of a cluster (docs/algorithm.md, "Numeric covariates").

Each adds a column to X. They are few, so they are eliminated last: the levels' system is solved for Z and for the
covariates alike, and what is left of both gives their coefficients (Frisch and Waugh), exactly.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..design import BatchDesign

# Penalty of a covariate relative to that of batches: one slope for a whole cluster needs less than a level's mean.
_PENALTY = 0.1


def unfold(S: np.ndarray, n_covariates: int) -> tuple[np.ndarray, np.ndarray]:
    """Return R^T [Z, x] (J, K, d + C), and the same times each covariate (J, K, C, d + C)."""
    S = S.reshape(*S.shape[:2], 1 + n_covariates, -1)
    return S[:, :, 0], S[:, :, 1:]


class Products(NamedTuple):
    """Sums of the covariates over a cluster's cells that take part, weighted by R."""

    by_level: Any  # (B, K, C): x^T R X, by level
    total: Any  # (K, C): the same with the intercept
    own: Any  # (K, C, d + C): x^T R [Z, x]


def products_of(
    design: BatchDesign, S: np.ndarray, products: np.ndarray, active: np.ndarray, keep: np.ndarray
) -> Products:
    """Return the sums from what `unfold` returns, the joint levels that take part (J, K), and kept levels (B, K)."""
    x_sums = S[:, :, -len(design.covariates) :] * active[:, :, None]
    own = np.einsum("jkcq,jk->kcq", products, active.astype(np.float64))
    return Products(design.fold(x_sums) * keep[:, :, None], x_sums.sum(axis=0), own)


def slopes(found: Products, lam: Any, W: Any, W0: Any, xp: Any = np) -> tuple[Any, Any, Any]:
    """Return the covariates' coefficients (C, K, d), and those of levels (B, K, d) and intercept (K, d) beside them.

    W and W0 are the levels' coefficients of both Z and x, as if there were no covariates. With X for the intercept and
    levels, w = (x^T R x + lambda - x^T R X V)^-1 (x^T R Z - x^T R X U), where U and V are those of Z and of x.
    """
    n_covariates = found.total.shape[1]
    d = W.shape[2] - n_covariates
    explained = xp.einsum("bkc,bkq->kcq", found.by_level, W) + xp.einsum("kc,kq->kcq", found.total, W0)
    left = found.own - explained
    system = left[:, :, d:] + lam[:, None, None] * xp.eye(n_covariates)
    w = xp.linalg.solve(system, left[:, :, :d])
    times = lambda V: xp.einsum("bkc,kcd->bkd", V, w)  # noqa: E731
    W, W0 = W[:, :, :d] - times(W[:, :, d:]), W0[:, :d] - times(W0[None, :, d:])[0]
    return w.transpose(1, 0, 2), W, W0


def penalty(resolved: Any, cluster_mass: Any, xp: Any = np) -> Any:
    """Return lambda of a covariate in every cluster, (K,); its expected sum of squares is the cluster's mass."""
    params = resolved.params
    if params.ridge == "dynamic":
        lam = params.alpha * _PENALTY * cluster_mass
    else:
        lam = xp.full(len(cluster_mass), _PENALTY * resolved.ridge_lambda.min())
    return xp.where(lam > 0, lam, 1.0)
