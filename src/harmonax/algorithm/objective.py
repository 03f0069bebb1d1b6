"""The objective that Harmony decreases, in its three terms.

    J = c [ sum R D + sum sigma_k R ln R + sum_kb sigma_k theta_b O_kb ln q_kb ]

with c = 1 or 2000 / N, as the flavor has it. Because ln R_ik = l_ik - ln Z_i, the first two terms add up to
sum_gbk sigma_k O_gbk logp_gbk - log_partition, which a sweep has anyway; telling them apart takes a logarithm of
every R_ik, and is done once a round.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..params import Flavor
from .flavors import FLAVORS
from .penalty import log_excess


def diversity(flavor: Flavor, O: Any, E: Any, theta: Any, sigma: Any, xp: Any = np) -> Any:
    """Return sum_kb sigma_k theta_b O_kb ln q_kb over these levels."""
    # sum, not @: the bits must not depend on BLAS threads.
    return (O * log_excess(flavor, O, E, xp) * theta[:, None] * sigma).sum()


def scale(flavor: Flavor, n_cells: Any) -> Any:
    """Return c."""
    scaled_to = FLAVORS[flavor].objective_cells
    return 1.0 if scaled_to is None else scaled_to / n_cells
