"""Which columns the ridge of a cluster has, and how they are penalised (docs/algorithm.md, "What must stay").

A protected variable's columns stand beside those of the batches, almost without a penalty; what they explain is not
subtracted. Cells with a reference level have the intercept only.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

from ..design import BatchDesign
from .penalty import expected_mass

# Penalty of a protected variable's levels relative to that of batches: enough to tell them from the intercept.
_PROTECTED = 1e-3
# Dynamic penalty of batches that are brought to a reference, which does not come to meet them, relative to others: with
# this they mix, and keep their labels, at least as well as mapped ones (benchmarks/stays.py).
_TO_REFERENCE = 0.5


class Anchor(NamedTuple):
    """Cells of a reference that is held fixed: they carry the intercept and no level (Kang et al. 2021)."""

    mass: Any  # (K,): N_k = sum_i R_ik
    moment: Any  # (K, d): C_k = sum_i R_ik Zc_i


def kept_levels(design: Any, O: Any, threshold: float | None, xp: Any = np) -> tuple[Any, Any]:
    """Return which levels each cluster keeps (B, K), and which clusters are skipped (K,).

    A level is ok where more than `threshold` of its cells are in the cluster, and kept where its variable has two or
    more levels that are ok. Without a threshold every level is kept.
    """
    if threshold is None:
        return xp.ones(O.shape, bool), xp.zeros(O.shape[1], bool)
    ok = O / design.level_counts[:, None] > threshold
    own = [ok[a:b] for a, b in itertools.pairwise(design.offsets)]
    enough = [levels.sum(axis=0) > 1 for levels in own]
    keep = xp.concatenate([levels & several for levels, several in zip(own, enough, strict=True)])
    return keep, xp.logical_not(xp.stack(enough).any(axis=0))


class _Levels(NamedTuple):
    """As much of a design as `kept_levels` reads."""

    offsets: Any
    level_counts: Any


def kept_columns(design: Any, O: Any, threshold: float | None, xp: Any = np) -> tuple[Any, Any]:
    """Return what `kept_levels` does of the batch levels, but those of the reference, and which others are there."""
    batch, n = slice(design.n_batch_levels), design.n_batch_variables
    counts = design.level_counts
    keep, skipped = kept_levels(_Levels(design.offsets[: n + 1], counts[batch]), O[batch], threshold, xp)
    keep &= ~np.isin(np.arange(batch.stop), design.reference)[:, None]
    protected = O[batch.stop :] / counts[batch.stop :, None]
    return xp.concatenate([keep, protected > (-1 if threshold is None else threshold)]), skipped


def penalties(design: Any, resolved: Any, O: Any, cluster_mass: Any, xp: Any = np) -> Any:
    """Return lambda of every level in every cluster, (B, K)."""
    batch = slice(design.n_batch_levels)
    if resolved.params.ridge == "dynamic":
        alpha = resolved.params.alpha * (_TO_REFERENCE if design.reference else 1.0)
        lam = alpha * expected_mass(design, O, cluster_mass, batch, xp)
        # Nothing is expected of a batch whose protected levels are not there.
        lam = xp.where(lam > 0, lam, 1.0)
        protected = resolved.params.alpha * _PROTECTED * cluster_mass
    else:
        lam = xp.repeat(resolved.ridge_lambda[:, None], O.shape[1], axis=1)
        protected = xp.full(O.shape[1], _PROTECTED * resolved.ridge_lambda.min())
    n_protected = design.n_levels - design.n_batch_levels
    return xp.concatenate([lam, xp.tile(xp.where(protected > 0, protected, 1.0), (n_protected, 1))])


def held(
    design: BatchDesign, S: np.ndarray, O_joint: np.ndarray, anchor: Anchor | None, skipped: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Anchor]:
    """Return moments and mass without the cells of reference levels, which go to the anchor."""
    mass = np.where(skipped, 0.0, O_joint[design.fixed].sum(axis=0))
    moment = np.where(skipped[:, None], 0.0, S[design.fixed].sum(axis=0))
    if anchor is not None:
        mass, moment = mass + anchor.mass, moment + anchor.moment
    others = ~design.fixed
    return S * others[:, None, None], O_joint * others[:, None], Anchor(mass, moment)
