"""One `rng` argument everywhere: an integer that reproduces the run is made of whatever was passed."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError


def seed_from(rng: Any, name: str = "rng") -> int:
    """Return the integer seed that `rng` stands for; messages call it `name`.

    None draws a fresh one; a Generator or legacy RandomState is advanced by one draw; a SeedSequence gives its state.
    """
    if rng is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint32)[0])
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(1 << 32))
    if isinstance(rng, np.random.RandomState):
        return int(rng.randint(1 << 31))
    if isinstance(rng, np.random.SeedSequence):
        return int(rng.generate_state(1, np.uint32)[0])
    if isinstance(rng, (int, np.integer)) and not isinstance(rng, bool) and rng >= 0:
        return int(rng)
    raise InputError(f"{name}={rng!r} must be None, a non-negative integer, a numpy Generator or a SeedSequence")
