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
from ..params import ResolvedParams
from .regressors import Anchor, held, kept_columns, penalties

# Largest array of one chunk of clusters, in float64 values (8 MiB): larger ones take longer to get than to fill.
_CHUNK = 1 << 20
# A pivot below this share of its diagonal entry means that the system is singular to rounding.
_SINGULAR = 1e-13


class Ridge(NamedTuple):
    """Coefficients per level of ``design.carried`` and the intercept, with which clusters had none or no unique one."""

    W: np.ndarray  # (B, K, d): what is subtracted
    W0: np.ndarray  # (K, d)
    skipped: np.ndarray  # (K,) bool: no correction, centroid unchanged
    singular: np.ndarray  # (K,) bool: minimum-norm solution


def ridge(
    design: BatchDesign, resolved: ResolvedParams, S: np.ndarray, O_joint: np.ndarray, anchor: Anchor | None = None
) -> Ridge:
    """Return the ridge coefficients of every cluster from the moments S (J, K, d) and mass O_joint (J, K).

    With an anchor, N_k e0 e0^T is added to X^T diag(R_k) X, and e0 C_k^T to X^T diag(R_k) Z.
    """
    params = resolved.params
    O = design.fold(O_joint)
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
    O_joint = np.where(active, O_joint, 0.0)
    singular = np.zeros(O.shape[1], bool)
    if anchor is None:
        anchor = Anchor(np.zeros(S.shape[1]), np.zeros(S.shape[1:]))
    if params.correction_method == "fast" and design.n_variables == 1:
        W, W0 = one_variable(design.fold(S), design.fold(O_joint), lam, keep, anchor)
    else:
        # S itself, the largest table, is not copied: a kept level's cells are all active, so only the sum needs this.
        S_all = np.einsum("jk,jkd->kd", active, S) + anchor.moment
        mass = O_joint.sum(axis=0) + anchor.mass
        if params.correction_method == "fast":
            W, W0 = _many_variables(design, S, S_all, O_joint, mass, lam, keep, singular)
        else:
            W, W0 = _explicit(design, S, S_all, O_joint, mass, lam, keep, np.arange(O.shape[1]), singular)
    W[:, skipped] = 0.0
    return Ridge(design.applied(W), W0, skipped, singular & ~skipped)


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
    S_all: np.ndarray,
    O_joint: np.ndarray,
    mass: np.ndarray,
    lam: np.ndarray,
    keep: np.ndarray,
    singular: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Eliminate the largest variable, whose block is diagonal, and factorise what remains.

    With the unknowns ordered as [largest variable | intercept and the others], the system is [[D, C], [C^T, A]], D
    diagonal, and the Schur complement A - C^T D^-1 C is small.
    """
    n_clusters, d = S.shape[1:]
    W = design.fold(S)  # the right-hand sides, which the solution takes the place of
    W0 = np.empty((n_clusters, d))
    O_level = design.fold(O_joint)
    sizes = np.diff(design.offsets)
    big = int(np.argmax(sizes))
    own = slice(int(design.offsets[big]), int(design.offsets[big + 1]))
    other = np.setdiff1d(np.arange(design.n_levels), np.arange(own.start, own.stop))
    rest = np.concatenate([[0], other + 1])
    # With thousands of levels most of C is zero: the own levels that each of the rest occurs with.
    occurs = _occurs(design, big, rest)
    step = max(1, int(_CHUNK // ((d + len(other)) * (1 + design.n_levels))))
    for lo in range(0, n_clusters, step):
        ks = slice(lo, min(n_clusters, lo + step))
        O_k, keep_k, lam_k = O_joint[:, ks].copy(), keep[:, ks], lam[:, ks]
        # Unknowns that are not kept get a row of the identity and a zero right-hand side.
        D = np.where(keep_k[own], O_level[own, ks] + lam_k[own], 1.0)  # (L, k)
        C = _overlaps(design, O_k, mass[ks], keep_k, np.arange(own.start, own.stop) + 1, rest)  # (L, q, k)
        A = _overlaps(design, O_k, mass[ks], keep_k, rest, rest)
        place = np.arange(1, len(rest))
        A[place, place] = np.where(keep_k[other], O_level[other, ks] + lam_k[other], 1.0)
        # Copied, because a cluster's rows lie far from each other.
        W_k = W[:, ks].copy()
        W_k[~keep_k] = 0.0
        x = np.concatenate([S_all[None, ks], W_k[other]])  # (q, k, d)
        diagonal = np.einsum("qqk->qk", A).copy()
        for q, ls in enumerate(occurs):
            scaled = C[ls, q] / D[ls]
            A[:, q] -= np.einsum("lk,lpk->pk", scaled, C[ls])
            x[q] -= np.einsum("lk,lkd->kd", scaled, W_k[own][ls])
        x, bad = _cholesky_solve(A, x, diagonal)
        for q, ls in enumerate(occurs):
            W_k[own][ls] -= C[ls, q, :, None] * x[q]
        W_k[own] /= D[:, :, None]
        W0[ks], W_k[other] = x[0], x[1:]
        W[:, ks] = W_k
        singular[ks] |= bad
    if singular.any():
        clusters = np.flatnonzero(singular)
        W[:, clusters], W0[clusters] = _explicit(design, S, S_all, O_joint, mass, lam, keep, clusters, singular)
    return W, W0


def _occurs(design: BatchDesign, big: int, rest: np.ndarray) -> list[Any]:
    """Return which levels of variable `big`, counted from its first, occur with the intercept and each other level."""
    first = design.joint_levels[:, big] - design.offsets[big]
    found: list[Any] = [slice(None)]
    for level in rest[1:] - 1:
        variable = int(np.searchsorted(design.offsets, level, side="right")) - 1
        found.append(np.unique(first[design.joint_levels[:, variable] == level]))
    return found


def _overlaps(
    design: BatchDesign, O_joint: np.ndarray, mass: np.ndarray, keep: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Return rows and columns of X^T diag(R_k) X for every cluster; those of levels not kept are zero.

    Number 0 is the intercept, b + 1 is level b. `mass` (K,) is that of all cells which take part.
    """
    M = np.zeros((len(rows), len(columns), O_joint.shape[1]))
    row_of, column_of = (np.full(1 + design.n_levels, -1) for _ in range(2))
    row_of[rows], column_of[columns] = np.arange(len(rows)), np.arange(len(columns))
    intercept = np.zeros((design.n_joint, 1), np.int64)
    unknowns = np.concatenate([intercept, design.joint_levels + 1], axis=1)
    kept = np.concatenate([np.ones((1, keep.shape[1]), bool), keep])
    for a in unknowns.T:
        for b in unknowns.T:
            there = (row_of[a] >= 0) & (column_of[b] >= 0)
            i, j = a[there], b[there]
            np.add.at(M, (row_of[i], column_of[j]), np.where(kept[i] & kept[j], O_joint[there], 0.0))
    if row_of[0] >= 0 and column_of[0] >= 0:
        M[row_of[0], column_of[0]] = mass
    return M


def _cholesky_solve(A: np.ndarray, b: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Solve A x = b for every cluster, A (q, q, K) symmetric, b (q, K, d); also say which were singular.

    One row of L at a time for all clusters at once: q is the number of levels outside the largest variable.
    """
    q = len(A)
    L = np.zeros_like(A)
    singular = np.zeros(A.shape[2], bool)
    x = b.copy()
    for j in range(q):
        column = A[j:, j] - np.einsum("ilk,lk->ik", L[j:, :j], L[j, :j])
        pivot = column[0]
        bad = ~(pivot > _SINGULAR * scale[j])
        singular |= bad
        L[j:, j] = np.where(bad, 0.0, column) / np.sqrt(np.where(bad, 1.0, pivot))
        L[j, j] = np.where(bad, 1.0, L[j, j])
        x[j] = (x[j] - np.einsum("lk,lkd->kd", L[j, :j], x[:j])) / L[j, j][:, None]
    for j in range(q - 1, -1, -1):
        x[j] = (x[j] - np.einsum("lk,lkd->kd", L[j + 1 :, j], x[j + 1 :])) / L[j, j][:, None]
    return x, singular


def _explicit(
    design: BatchDesign,
    S: np.ndarray,
    S_all: np.ndarray,
    O_joint: np.ndarray,
    mass: np.ndarray,
    lam: np.ndarray,
    keep: np.ndarray,
    clusters: np.ndarray,
    singular: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Form each cluster's whole system and solve it; the minimum-norm solution where it is singular."""
    W = np.zeros((design.n_levels, len(clusters), S.shape[2]))
    W0 = np.zeros((len(clusters), S.shape[2]))
    S_level = design.fold(S)
    for i, k in enumerate(clusters):
        kept = np.flatnonzero(keep[:, k])
        rows = np.concatenate([[0], kept + 1])
        A = _overlaps(design, O_joint[:, [k]], mass[[k]], keep[:, [k]], rows, rows)[:, :, 0]
        A = A + np.diag(np.concatenate([[0.0], lam[kept, k]]))
        b = np.concatenate([S_all[None, k], S_level[kept, k]])
        # Scaled to a unit diagonal, so that rank is judged by overlap and not by how much mass a level has.
        scale = 1.0 / np.sqrt(np.where(np.diag(A) > 0, np.diag(A), 1.0))
        x, _, rank, _ = np.linalg.lstsq(A * scale[:, None] * scale, b * scale[:, None], rcond=_SINGULAR)
        x *= scale[:, None]
        singular[k] |= rank < len(rows)
        W0[i], W[kept, i] = x[0], x[1:]
    return W, W0
