"""The objective that Harmony decreases, in its three terms.

    J = c [ sum R D + sum sigma_k R ln R + sum_kb sigma_k theta_b O_kb ln q_kb ]

with c = 1 or 2000 / N, as the flavor has it. Because ln R_ik = l_ik - ln Z_i, the first two terms follow from sums
that the sweep has anyway: sum sigma R ln R = entropy, and
sum R D = sum_gbk sigma_k O_gbk logp_gbk - log_partition - entropy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..params import Flavor
from .flavors import FLAVORS
from .penalty import log_excess


class Objective(NamedTuple):
    """The objective and its terms, all scaled by c: numbers, or traced scalars."""

    total: Any
    distance: Any
    entropy: Any
    diversity: Any


def diversity(flavor: Flavor, O: Any, E: Any, theta: Any, sigma: Any, xp: Any = np) -> Any:
    """Return sum_kb sigma_k theta_b O_kb ln q_kb over these levels."""
    # sum, not @: the bits must not depend on BLAS threads.
    return (O * log_excess(flavor, O, E, xp) * theta[:, None] * sigma).sum()


def objective(flavor: Flavor, n_cells: Any, distance: Any, entropy: Any, diversity: Any) -> Objective:
    """Put the three terms together; `distance` is sum R D, `entropy` is sum sigma R ln R."""
    scaled_to = FLAVORS[flavor].objective_cells
    c = 1.0 if scaled_to is None else scaled_to / n_cells
    return Objective(c * (distance + entropy + diversity), c * distance, c * entropy, c * diversity)
