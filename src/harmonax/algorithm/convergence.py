"""When passes and rounds stop, by operators alone: for numbers in `harmony.py`, for traced scalars in `operators/`."""

from __future__ import annotations

from typing import Any

from ..params import Flavor
from .flavors import FLAVORS

WINDOW = 3


def passes_converged(flavor: Flavor, recent: Any, n_passes: Any, tol: Any) -> Any:
    """Return whether the passes of one round may stop, given J after the last of them and their number.

    Compares the sum of the last three J with the same sum one pass earlier, from the flavor's first pass on:
    S_old - S_new < tol |S_old|, or |S_old - S_new| where an increase is not convergence. Only the last `WINDOW` + 1
    values are looked at; before the flavor's first pass they may be fewer, or anything.
    """
    rules = FLAVORS[flavor]
    new, old = sum(recent[-WINDOW:]), sum(recent[-WINDOW - 1 : -1])
    change = old - new if rules.increase_converges else abs(old - new)
    # A negative tolerance never stops, however much the objective rises.
    return (n_passes >= rules.first_stop) & (change < tol * abs(old)) & (tol >= 0)


def rounds_converged(flavor: Flavor, previous: Any, now: Any, tol: Any) -> Any:
    """Return whether the rounds may stop, given J at the end of the last two."""
    change = previous - now
    small = (change < tol * abs(previous)) & (tol >= 0)
    return small if FLAVORS[flavor].increase_converges else small & (change >= 0)
