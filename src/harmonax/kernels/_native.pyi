"""Types of the native module; bindings.cpp has the shapes."""

from typing import overload

import numpy as np

class Plan:
    """How cells are laid out (`cells/native.py`, `plan`), checked: ValueError names the array that is wrong.

    The arrays are copied: to change them later changes nothing here.
    """

    def __init__(
        self,
        *,
        segment_start: np.ndarray,
        segment_joint: np.ndarray,
        segment_block: np.ndarray,
        joint_levels: np.ndarray,
        block_segment: np.ndarray,
        block_grain: np.ndarray,
        grain_segment: np.ndarray,
        segments_by_joint: np.ndarray,
        unit_segment: np.ndarray,
        n_levels: int,
        order: np.ndarray | None = None,
        n_covariates: int = 0,
    ) -> None: ...
    @property
    def n_cells(self) -> int: ...

class _Cells:
    """Cells of one run, for one call at a time: RuntimeError where another thread is in one."""

    deepest: float  # largest 4 / sigma for which weights can be kept
    @overload
    def __init__(self, Z: np.ndarray, plan: Plan, *, instruction_set: str, n_threads: int) -> None: ...
    @overload
    def __init__(self, file: int, d: int, plan: Plan, *, instruction_set: str, n_threads: int) -> None: ...
    def keep_weights(self, bytes: int) -> None: ...
    def release(self) -> None: ...
    def sweep(
        self, block: int, Y: np.ndarray, sigma: np.ndarray, logp: np.ndarray | None, moment: bool, last: bool
    ) -> tuple[np.ndarray, float, np.ndarray]: ...
    def moments(self, Y: np.ndarray, sigma: np.ndarray, logp: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]: ...
    def correct(
        self, Y: np.ndarray, sigma: np.ndarray, logp: np.ndarray, W: np.ndarray, moment: bool
    ) -> np.ndarray: ...
    def emit(
        self, Y: np.ndarray, sigma: np.ndarray, logp: np.ndarray, W: np.ndarray, out: np.ndarray, moment: bool
    ) -> np.ndarray: ...
    def emit_in_place(
        self, Y: np.ndarray, sigma: np.ndarray, logp: np.ndarray, W: np.ndarray, moment: bool
    ) -> np.ndarray: ...
    def assign(
        self, Y: np.ndarray, sigma: np.ndarray, logp: np.ndarray, order: np.ndarray, out: np.ndarray
    ) -> None: ...

class Cells32(_Cells): ...
class Cells64(_Cells): ...

class ArrayPool:
    """Large arrays of doubles, uninitialised; those that nobody holds any more are given out again."""

    def empty(self, shape: tuple[int, ...]) -> np.ndarray: ...

def solve_ridge(
    *,
    joint_levels: np.ndarray,
    largest: int,
    first: int,
    stop: int,
    S: np.ndarray,
    mass: np.ndarray,
    active: np.ndarray,
    lam: np.ndarray,
    keep: np.ndarray,
    anchor_moment: np.ndarray,
    anchor_mass: np.ndarray,
    least: float,
    n_threads: int,
    pool: ArrayPool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...
def instruction_sets() -> list[str]: ...
