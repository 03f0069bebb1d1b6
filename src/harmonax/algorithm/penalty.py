"""How far a cluster's batches are from the mixture of the whole data set, and what that costs.

`xp` is the array module of the tables: traced code passes jax.numpy. The ratio q itself is in `flavors.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..params import Flavor
from .flavors import FLAVORS


def log_excess(flavor: Flavor, O: Any, E: Any, xp: Any = np) -> Any:
    """Return ln q_kb, (B, K): above 0 where a cluster has more of a level than expected."""
    return xp.log(FLAVORS[flavor].excess(O, E))


def log_penalty(flavor: Flavor, O: Any, E: Any, theta: Any, xp: Any = np) -> Any:
    """Return theta_b ln(1 / q_kb), (B, K). Added in log space, the penalties of several variables multiply."""
    return log_excess(flavor, O, E, xp) * -theta[:, None]


def expected(Pr: Any, cluster_mass: Any) -> Any:
    """Return E_kb = Pr_b sum_i R_ik, (B, K)."""
    return Pr[:, None] * cluster_mass[None, :]


def expected_mass(design: Any, O: Any, cluster_mass: Any, rows: slice = slice(None), xp: Any = np) -> Any:
    """Return E_kb for these rows of the batch levels, from the mass O of all levels.

    With a protected variable it is conditional: E_kb = sum_c Pr(b | c) O_kc.
    """
    if design.protects:
        of_protected = O[design.n_batch_levels : design.n_levels]
        return xp.einsum("bc,ck->bk", design.shares_given_protected[rows], of_protected)
    return expected(design.level_shares[rows], cluster_mass)
