"""Hypothesis strategies and small data for the tests of the method."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from harmonax.design import BatchDesign


def cells_with_batches(
    n_cells: int, n_features: int, levels: tuple[int, ...], seed: int, shift: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return Gaussian cell types with a shift per level, and their codes (N, F); one type lacks the first level."""
    rng = np.random.default_rng(seed)
    types = rng.integers(6, size=n_cells)
    Z = rng.normal(0, 4, (6, n_features))[types] + rng.normal(size=(n_cells, n_features))
    codes = np.column_stack([rng.integers(n, size=n_cells) for n in levels])
    codes[(types == 0) & (codes[:, 0] == 0), 0] = levels[0] - 1
    for f, n in enumerate(levels):
        codes[:n, f] = np.arange(n)
        Z += rng.normal(0, shift, (n, n_features))[codes[:, f]]
    return Z, codes


@st.composite
def small_problems(draw: st.DrawFn, max_cells: int = 120) -> tuple[np.ndarray, BatchDesign, int, int]:
    """Draw (Z, design, n_clusters, seed): few cells, one to three variables, possibly tiny or one-cell batches."""
    n_cells = draw(st.integers(8, max_cells))
    levels = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    seed = draw(st.integers(0, 2**16))
    Z, codes = cells_with_batches(n_cells, draw(st.integers(1, 9)), (max(2, levels[0]), *levels[1:]), seed)
    return Z, BatchDesign.from_codes(codes), draw(st.integers(1, min(n_cells, 7))), seed
