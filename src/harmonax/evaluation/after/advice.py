"""Advice from runs that were made: what other parameters would do to these cells, not to cells in general."""

from __future__ import annotations

import pandas as pd

# A difference below this is none.
_MATTERS = 0.02


def from_sweep(sweep: pd.DataFrame, *, more: bool) -> str:
    """Say which run of a sweep would mix more than the chosen one (or tear less apart), and what it costs.

    Parameters
    ----------
    sweep
        The table of `harmonax.tl.sweep`, with ``theta``, ``sigma``, ``n_clusters``, ``mixing``, ``kept``, ``score`` and
        ``chosen``.
    more
        Whether more mixing is wanted, or more neighbours kept.

    Examples
    --------
    >>> rows = {"theta": [2.0, 4.0], "sigma": 0.1, "n_clusters": 30, "mixing": [0.5, 0.9], "kept": [0.95, 0.93]}
    >>> from_sweep(pd.DataFrame(rows | {"score": [0.6, 0.9], "chosen": [True, False]}), more=True)
    'In the sweep theta 4 would mix this (0.90 in place of 0.50); it costs 2% of the neighbours.'
    """
    gain, loss = ("mixing", "kept") if more else ("kept", "mixing")
    now = sweep.loc[sweep["chosen"].astype(bool)].iloc[0]
    better = sweep[sweep[gain] > now[gain] + _MATTERS]
    if not len(better):
        return f"No run of the sweep {'mixes batches more' if more else 'keeps more of the neighbours'}."
    found = better.loc[better["score"].idxmax()]
    cost, names = max(0.0, now[loss] - found[loss]), ("theta", "sigma", "n_clusters")
    differs = ", ".join(f"{name} {found[name]:g}" for name in names if found[name] != now[name])
    if more:
        return (
            f"In the sweep {differs} would mix this ({found[gain]:.2f} in place of {now[gain]:.2f}); "
            f"it costs {cost:.0%} of the neighbours."
        )
    return (
        f"In the sweep {differs} would keep {found[gain]:.0%} of the neighbours in place of {now[gain]:.0%}; "
        f"mixing falls by {cost:.2f}."
    )
