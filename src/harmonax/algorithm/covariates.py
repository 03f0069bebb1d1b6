"""Numeric covariates in the ridge of a cluster (docs/algorithm.md, "Numeric covariates").

Each adds a column to X. They are few, so they are eliminated last: the levels' system is solved for Z and for the
covariates alike, and what is left of both gives their coefficients (Frisch and Waugh), exactly.
"""

from __future__ import annotations

import numpy as np

from ..design import BatchDesign
from ..params import ResolvedParams

# Penalty of a covariate relative to that of batches: one slope for a whole cluster needs less than a level's mean.
_PENALTY = 0.1


def unfold(S: np.ndarray, n_covariates: int) -> tuple[np.ndarray, np.ndarray]:
    """Return R^T [Z, x] (J, K, d + C), and the same times each covariate (J, K, C, d + C)."""
    S = S.reshape(*S.shape[:2], 1 + n_covariates, -1)
    return S[:, :, 0], S[:, :, 1:]


def slopes(
    design: BatchDesign,
    resolved: ResolvedParams,
    S: np.ndarray,
    products: np.ndarray,
    cluster_mass: np.ndarray,
    active: np.ndarray,
    keep: np.ndarray,
    W: np.ndarray,
    W0: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the covariates' coefficients (C, K, d), and those of levels (B, K, d) and intercept (K, d) beside them.

    W and W0 are the levels' coefficients of both Z and x, as if there were no covariates. With X for the intercept and
    levels, w = (x^T R x + lambda - x^T R X V)^-1 (x^T R Z - x^T R X U), where U and V are those of Z and of x.
    """
    d = S.shape[2] - len(design.covariates)
    x_sums = S[:, :, d:] * active[:, :, None]
    # x^T R X: by level, and the intercept's.
    by_level = design.fold(x_sums) * keep[:, :, None]
    explained = np.einsum("bkc,bkq->kcq", by_level, W) + np.einsum("kc,kq->kcq", x_sums.sum(axis=0), W0)
    left = np.einsum("jkcq,jk->kcq", products, active.astype(np.float64)) - explained
    lam = penalty(resolved, cluster_mass)
    system = left[:, :, d:] + lam[:, None, None] * np.eye(len(design.covariates))
    w = np.linalg.solve(system, left[:, :, :d])
    W, W0 = W[:, :, :d] - _times(W[:, :, d:], w), W0[:, :d] - _times(W0[None, :, d:], w)[0]
    return np.ascontiguousarray(w.transpose(1, 0, 2)), W, W0


def penalty(resolved: ResolvedParams, cluster_mass: np.ndarray) -> np.ndarray:
    """Return lambda of a covariate in every cluster, (K,); its expected sum of squares is the cluster's mass."""
    params = resolved.params
    if params.ridge == "dynamic":
        lam = params.alpha * _PENALTY * cluster_mass
    else:
        lam = np.full(len(cluster_mass), _PENALTY * resolved.ridge_lambda.min())
    return np.where(lam > 0, lam, 1.0)


def _times(V: np.ndarray, w: np.ndarray) -> np.ndarray:
    return np.einsum("bkc,kcd->bkd", V, w)
