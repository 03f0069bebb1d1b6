"""The questions that cells answer, wherever they live. The loop in `harmony.py` knows nothing else of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from .schedule import Block


@dataclass(frozen=True)
class Sweep:
    """The answer of one block to being reassigned.

    With l_ik = -D_ik / sigma_k + sum_f logp[b_f(i), k] and Z_i = sum_k exp(l_ik), the new assignment is
    R_ik = exp(l_ik) / Z_i.
    """

    mass: np.ndarray  # (B, K): sum of R over the cells of each level
    log_partition: float  # sum_i (sum_k sigma_k R_ik) ln Z_i
    moment: np.ndarray  # (K, d): R^T Zn, no rows where not asked for


class Moments(NamedTuple):
    """What the assignment of all cells adds up to. With C covariates S has the products of [1, x] and [Z, x]."""

    S: np.ndarray  # R^T Z per joint level, (J, K, d) or (J, K, (1 + C)(d + C))
    mass: np.ndarray  # (J, K)
    entropy: float  # sum_ik sigma_k R_ik ln R_ik


@dataclass(frozen=True, eq=False)
class Assignment:
    """Everything that R is a function of, beside Zn. Its tables are read-only views: nobody need copy them."""

    Y: np.ndarray  # (K, d)
    logp: np.ndarray  # (n_blocks, B, K): the penalties with which each block was last assigned
    sigma: np.ndarray  # (K,)

    def __post_init__(self) -> None:
        for name in ("Y", "logp", "sigma"):
            table = getattr(self, name).view()
            table.flags.writeable = False
            object.__setattr__(self, name, table)


class Cells(Protocol):
    """N cells, their Z and Zn, and whatever is needed to know their R.

    Of a design with C covariates x, these are the last columns of what the cells are made of, and not counted in d.
    Tables that are handed over are not changed afterwards, by either side.
    """

    n_cells: int
    n_features: int

    @property
    def description(self) -> dict[str, Any]:
        """What computes here, such as threads or a device, for the record of a run."""

    def take(self, rows: np.ndarray) -> Cells:
        """Return those cells as one block without batches, before any correction (for seeding)."""

    def points(self, rows: np.ndarray) -> np.ndarray:
        """Return Zn of a few cells in float64, before any correction (for seeding)."""

    def mass(self, block: Block) -> np.ndarray:
        """Return the block's present mass (B, K)."""

    def sweep(
        self,
        block: Block,
        Y: np.ndarray,
        sigma: np.ndarray,
        logp: np.ndarray | None,
        *,
        moment: bool,
        last: bool = False,
    ) -> Sweep:
        """Reassign the block's cells with this penalty (None: no penalty).

        Without `moment` Y stays until cells are corrected: what depends on distances alone may be kept till then.
        With `last` no other pass follows in this round: what `moments` will be asked for may be summed on the way.
        """

    def moments(self, assigned: Assignment) -> Moments:
        """Return what the last sweep of every block, which this assignment is, adds up to."""

    def correct(self, assigned: Assignment, W: np.ndarray, moment: bool) -> np.ndarray:
        """Set Zn = unit(Z - R W), with each cell's W the sum over its levels, and x times the rows of covariates.

        Returns R^T Zn of the new Zn (K, d), no rows where not asked for. All blocks are swept before R matters again.
        """

    def emit(self, assigned: Assignment, W: np.ndarray, out: Any, moment: bool) -> np.ndarray:
        """Write Z - R W to `out`, in the order of the input; Zn, and with it R, stay.

        `out` takes ``out[start:stop] = rows``; with None the result stays where the cells live, as `embedding`.
        Returns R^T (Z - R W) (K, d), no rows where not asked for.
        """

    @property
    def embedding(self) -> Any:
        """The result of an `emit` without `out`: an array, or what gives rows of it."""

    def assignments(self, assigned: Assignment) -> Any:
        """Return R (N, K), an array or what computes one, also after `emit` and `close`."""

    def close(self) -> None:
        """Release what only further passes need; `embedding` and `assignments` still answer."""
