"""Data sets whose truth is known.

simulation    counts from a stated model: types, states, batches, one type absent from one batch
preparation   from counts to principal components with NumPy alone
"""

from __future__ import annotations

from .preparation import prepare
from .simulation import simulate

__all__ = ["prepare", "simulate"]
