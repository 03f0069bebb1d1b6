"""The cells of a reference, which have in the result the values they came with."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..design import BatchDesign
from ..inputs.rows import slabs


def held(Z: Any, out: Any, design: BatchDesign) -> np.ndarray | None:
    """Return the cells of the reference, where the result is written over them."""
    if not (design.reference and isinstance(Z, np.ndarray) and isinstance(out, np.ndarray)):
        return None
    return Z[design.fixed[design.joint]] if np.may_share_memory(Z, out) else None


def restore(out: Any, Z: Any, held: np.ndarray | None, design: BatchDesign) -> None:
    """Give the cells of the reference the values they came with: arithmetic may have rounded them."""
    stays = design.fixed[design.joint]
    if held is not None:
        out[stays] = held
        return
    for start, rows in slabs(Z):
        these = stays[start : start + len(rows)]
        if these.any():
            block = np.asarray(out[start : start + len(rows)])
            block[these] = np.asarray(rows)[these]
            out[start : start + len(rows)] = block
