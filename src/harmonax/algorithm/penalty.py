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
