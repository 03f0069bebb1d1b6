"""The published versions of Harmony as data: all that their loops differ in, read by the NumPy and the traced loop.

A new version is one entry in `FLAVORS`, and one in `harmonax.params`, which says what may be asked of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..params import Flavor


@dataclass(frozen=True)
class FlavorRules:
    """What one version of Harmony does."""

    # q_kb as a function of O and E, by operators alone, so for NumPy and traced tables: above 1 where a cluster has
    # more of a level than expected (docs/algorithm.md, "Objective").
    excess: Callable[[Any, Any], Any]
    objective_cells: float | None  # number of cells that the objective is scaled to; None: it is not scaled
    first_stop: int  # number of the first pass after which the passes of a round may stop
    increase_converges: bool  # whether an increase of the objective, however large, counts as convergence
    # Whether the centroids move to their cells before every pass; else they stay for the whole round.
    moves_centroids: bool
    # Whether a round begins with centroids from the ridge intercepts and an assignment without penalty; else the
    # assignment R carries over from the round before.
    starts_cold: bool


FLAVORS: dict[Flavor, FlavorRules] = {
    # Patikas et al. 2026. Smoothed by E itself.
    "harmony2": FlavorRules(
        excess=lambda O, E: (O + E + 1) / (2 * E + 1),
        objective_cells=2000.0,
        first_stop=5,
        increase_converges=False,
        moves_centroids=False,
        starts_cold=True,
    ),
    # Korsunsky et al. 2019. Smoothed by one cell.
    "harmony1": FlavorRules(
        excess=lambda O, E: (O + 1) / (E + 1),
        objective_cells=None,
        first_stop=4,
        increase_converges=True,
        moves_centroids=True,
        starts_cold=False,
    ),
}
