"""Ridge correction of every cluster from sums alone (docs/algorithm.md, "Ridge correction of cluster k").

    W = (X^T diag(R_k) X + diag(0, lambda))^-1 X^T diag(R_k) Z ,   X = [1, one-hot of the kept levels]

X^T diag(R_k) X needs only the joint-level mass: the overlap of two levels is the mass of the joint levels that have
both. Levels that are not kept are zeroed in a boolean table rather than removed, so all clusters share one shape.
Nothing here calls BLAS but the stated fallbacks: the bits must not depend on its threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..design import BatchDesign
from ..kernels import _native
from ..params import ResolvedParams
from .covariates import penalty, products_of, slopes, unfold
from .regressors import Anchor, held, kept_columns, penalties

# A pivot below this share of its diagonal entry means that the system is singular to rounding.
_SINGULAR = 1e-13


class Ridge(NamedTuple):
    """Coefficients per level of ``design.carried`` and the intercept, with which clusters had none or no unique one."""

    W: np.ndarray  # (B + C, K, d): what is subtracted, and after it that for each unit of a covariate
    W0: np.ndarray  # (K, d)
    skipped: np.ndarray  # (K,) bool: no correction, centroid unchanged
    singular: np.ndarray  # (K,) bool: minimum-norm solution


def ridge(
    design: BatchDesign,
    resolved: ResolvedParams,
    S: np.ndarray,
    O_joint: np.ndarray,
    anchor: Anchor | None = None,
    n_threads: int = 1,
    pool: _native.ArrayPool | None = None,
) -> Ridge:
    """Return the ridge coefficients of every cluster from the moments S (J, K, d) and mass O_joint (J, K).

    With covariates S is that of [1, x] times [Z, x], (J, K, (1 + C)(d + C)).
    With an anchor, N_k e0 e0^T is added to X^T diag(R_k) X, and e0 C_k^T to X^T diag(R_k) Z. The bits do not depend on
    the number of threads. Large arrays come from the pool.
    """
    params = resolved.params
    O, n_covariates = design.fold(O_joint), len(design.covariates)
    if n_covariates:
        S, products = unfold(S, n_covariates)
    cluster_mass = O_joint.sum(axis=0)
    keep, skipped = kept_columns(design, O, params.pruning)
    skipped |= cluster_mass <= 0
    lam = penalties(design, resolved, O, cluster_mass)
    # A cluster that is skipped still needs a solvable system.
    lam = np.where(skipped, 1.0, lam)
    keep = keep & ~skipped
    # Cells without any kept batch level take no part.
    active = np.zeros(O_joint.shape, bool)
    for f in range(design.n_batch_variables):
        active |= keep[design.joint_levels[:, f]]
    if design.reference:
        S, O_joint, anchor = held(design, S, O_joint, anchor, skipped)
    if anchor is None:
        anchor = Anchor(np.zeros(S.shape[1]), np.zeros(S.shape[1:]))
    singular, explicit = np.zeros(O.shape[1], bool), np.flatnonzero(~skipped)
    if params.correction_method == "original":
        W, W0 = np.zeros((design.n_levels, *S.shape[1:])), np.zeros(S.shape[1:])
    elif design.n_variables == 1:
        W, W0 = one_variable(S, O_joint, lam, keep, anchor)
        explicit = explicit[:0]
    else:
        W, W0, singular = _many_variables(design, S, O_joint, active, lam, keep, anchor, n_threads, pool)
        explicit = np.flatnonzero(singular & ~skipped)
    if len(explicit):
        W[:, explicit], W0[explicit], singular[explicit] = _explicit(
            design, S, O_joint, active, lam, keep, anchor, explicit
        )
    if n_covariates:
        found = products_of(design, S, products, active, keep)
        w, W, W0 = slopes(found, penalty(resolved, cluster_mass), W, W0)
        w = np.ascontiguousarray(w)
        w[:, skipped] = 0.0
    W[:, skipped] = 0.0
    W = design.applied(W)
    return Ridge(np.concatenate([W, w]) if n_covariates else W, W0, skipped, singular & ~skipped)


def one_variable(S: Any, O: Any, lam: Any, keep: Any, anchor: Anchor | None = None, xp: Any = np) -> tuple[Any, Any]:
    """Solve in closed form, without cancellation.

    f_b = 1 / (O_b + lambda_b), c = sum f_b O_b lambda_b, W0 = sum f_b lambda_b S_b / c, W_b = f_b (S_b - O_b W0).
    An anchor adds N_k to c and C_k to the sum in W0: what the intercept alone explains.
    """
    f = keep / (O + lam)
    weight = f * lam
    c = (weight * O).sum(axis=0)
    total = xp.einsum("bk,bkd->kd", weight, S)
    if anchor is not None:
        c, total = c + anchor.mass, total + anchor.moment
    W0 = total / xp.where(c > 0, c, 1.0)[:, None]
    # NumPy does the next two in place: this is the largest table.
    W = O[:, :, None] * -W0
    W += S
    W *= f[:, :, None]
    return W, W0


def _many_variables(
    design: BatchDesign,
    S: np.ndarray,
    O_joint: np.ndarray,
    active: np.ndarray,
    lam: np.ndarray,
    keep: np.ndarray,
    anchor: Anchor,
    n_threads: int,
    pool: _native.ArrayPool | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eliminate the largest variable, whose block is diagonal, and factorise what remains; say which were singular.

    With the unknowns ordered as [largest variable | intercept and the others], the system is [[D, C], [C^T, A]], D
    diagonal, and the Schur complement A - C^T D^-1 C is small.
    """
    largest = int(np.argmax(np.diff(design.offsets)))
    return _native.solve_ridge(
        joint_levels=np.ascontiguousarray(design.joint_levels, np.int32),
        largest=largest,
        first=int(design.offsets[largest]),
        stop=int(design.offsets[largest + 1]),
        S=np.ascontiguousarray(S),
        mass=np.ascontiguousarray(O_joint),
        active=active,
        lam=lam,
        keep=keep,
        anchor_moment=np.ascontiguousarray(anchor.moment),
        anchor_mass=np.ascontiguousarray(anchor.mass),
        least=_SINGULAR,
        n_threads=n_threads,
        pool=pool or _native.ArrayPool(),
    )


def _explicit(
    design: BatchDesign,
    S: np.ndarray,
    O_joint: np.ndarray,
    active: np.ndarray,
    lam: np.ndarray,
    keep: np.ndarray,
    anchor: Anchor,
    clusters: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Form each cluster's whole system and solve it; the minimum-norm solution where it is singular."""
    levels = design.joint_levels
    W, W0 = np.zeros((design.n_levels, len(clusters), S.shape[2])), np.zeros((len(clusters), S.shape[2]))
    singular = np.zeros(len(clusters), bool)
    for i, k in enumerate(clusters):
        kept = np.flatnonzero(keep[:, k])
        # The row of X for each joint level that takes part: the intercept, and its kept levels.
        X = np.zeros((design.n_joint, 1 + design.n_levels))
        np.put_along_axis(X, levels + 1, keep[levels, k] & active[:, [k]], axis=1)
        X[:, 0] = active[:, k]
        X = X[:, np.concatenate([[0], kept + 1])]
        A, b = X.T @ (O_joint[:, [k]] * X), X.T @ S[:, k]
        A += np.diag(np.concatenate([anchor.mass[[k]], lam[kept, k]]))
        b[0] += anchor.moment[k]
        # Scaled to a unit diagonal, so that rank is judged by overlap and not by how much mass a level has.
        scale = 1.0 / np.sqrt(np.where(np.diag(A) > 0, np.diag(A), 1.0))
        x, _, rank, _ = np.linalg.lstsq(A * scale[:, None] * scale, b * scale[:, None], rcond=_SINGULAR)
        x *= scale[:, None]
        singular[i] = rank < len(A)
        W0[i], W[kept, i] = x[0], x[1:]
    return W, W0, singular
