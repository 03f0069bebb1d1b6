"""The count at the same quantile of another Poisson distribution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import special

# Rates further out than counts are.
_RATES = (1e-9, 1e9)
# Of an interval of quantiles, so much at each end is not used.
_END = 1e-9
# Below it a tail has no digits left.
_SMALLEST = 1e-280
# Steps are doubled, then halved: more than 2^60 no count is.
_MAX_STEPS = 60


def same_quantile(y: np.ndarray, u: np.ndarray, mu: np.ndarray, nu: np.ndarray) -> np.ndarray:
    """Return the count that has in Poisson(nu) the quantile that y has in Poisson(mu).

    A count covers an interval of quantiles, of which `u` in [0, 1) takes one. Counts so far above their rate that the
    tail has no digits left are scaled by nu / mu instead.

    Examples
    --------
    >>> y, u = np.array([0.0, 3.0, 3.0, 40.0]), np.full(4, 0.5)
    >>> same_quantile(y, u, np.array([1.0, 3.0, 3.0, 40.0]), np.array([1.0, 3.0, 1.0, 80.0]))
    array([ 0.,  3.,  1., 80.])
    """
    mu, nu = np.clip(mu, *_RATES), np.clip(nu, *_RATES)
    # The ends of the interval are those of its neighbours too.
    u = np.clip(u, _END, 1 - _END)
    found = np.rint(y * (nu / mu))
    # Each tail where it is small, and has its digits.
    for upper in (False, True):
        at = np.flatnonzero((y > mu) == upper)
        tail = _above if upper else _up_to
        first, last = tail(y[at] - 1, mu[at]), tail(y[at], mu[at])
        level = first + (last - first) * u[at]
        reached = level > (_SMALLEST if upper else 0.0)
        at, level = at[reached], level[reached]
        found[at] = _search(found[at], nu[at], level, upper)
    return found


def _up_to(k: np.ndarray, rate: np.ndarray) -> np.ndarray:
    return np.where(k < 0, 0.0, special.pdtr(k, rate))


def _above(k: np.ndarray, rate: np.ndarray) -> np.ndarray:
    return np.where(k < 0, 1.0, special.pdtrc(np.maximum(k, 0), rate))


def _search(guess: np.ndarray, rate: np.ndarray, level: np.ndarray, upper: bool) -> np.ndarray:
    """Return the smallest count with P(Y <= k) >= level, or with P(Y > k) <= level."""

    def enough(k: np.ndarray, at: np.ndarray) -> np.ndarray:
        reached: np.ndarray = _above(k, rate[at]) <= level[at] if upper else _up_to(k, rate[at]) >= level[at]
        return reached

    every = np.arange(len(guess))
    high, low = guess.copy(), guess - 1
    is_enough = enough(high, every)
    _widen(every[~is_enough], high, low, 1.0, enough)
    below = every[is_enough & (low >= 0)]
    _widen(below[enough(low[below], below)], low, high, -1.0, enough)
    at = every[high - low > 1]
    for _ in range(_MAX_STEPS):
        if not len(at):
            break
        middle = np.floor((low[at] + high[at]) / 2)
        is_enough = enough(middle, at)
        high[at], low[at] = np.where(is_enough, middle, high[at]), np.where(is_enough, low[at], middle)
        at = at[high[at] - low[at] > 1]
    return high


def _widen(
    at: np.ndarray,
    moving: np.ndarray,
    left: np.ndarray,
    step: float,
    enough: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> None:
    """Move one bound by doubled steps until it is on its own side; the other follows to where it was last."""
    for _ in range(_MAX_STEPS):
        if not len(at):
            return
        left[at] = moving[at]
        moving[at] = np.maximum(moving[at] + step, -1.0)
        step *= 2
        at = at[(moving[at] >= 0) & (enough(moving[at], at) == (step < 0))]
