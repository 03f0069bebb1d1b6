"""When passes and rounds stop."""

from __future__ import annotations

from collections.abc import Sequence

from ..params import Flavor

_WINDOW = 3


def passes_converged(flavor: Flavor, objectives: Sequence[float], tol: float) -> bool:
    """Return whether the passes of one round may stop, given J after each of them.

    Compares the sum of the last three J with the same sum one pass earlier: harmony1 from the 4th pass on
    (S_old - S_new < tol |S_old|), harmony2 from the 5th (|S_old - S_new| / |S_old| < tol).
    """
    first = _WINDOW + 1 if flavor == "harmony1" else _WINDOW + 2
    if len(objectives) < first:
        return False
    new = sum(objectives[-_WINDOW:])
    old = sum(objectives[-_WINDOW - 1 : -1])
    change = old - new if flavor == "harmony1" else abs(old - new)
    return change < tol * abs(old)


def rounds_converged(flavor: Flavor, previous: float, now: float, tol: float) -> bool:
    """Return whether the rounds may stop. In harmony2 an increase of the objective is not convergence."""
    change = previous - now
    return change < tol * abs(previous) and (flavor == "harmony1" or change >= 0)
