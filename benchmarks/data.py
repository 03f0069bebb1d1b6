"""The synthetic embeddings that the speed benchmarks run on.

What it makes, for N cells and d components, all from one seed:

- component j has scale s_j = 1 / sqrt(1 + j), like the decaying spectrum of a PCA;
- 30 cell types with means 1.5 s_j N(0, 1) and abundances from 1 to 30, and unit noise s_j N(0, 1) within a type;
- every level of every batch variable shifts all cells by 0.7 s_j N(0, 1), and each cell type by 0.3 s_j N(0, 1) more;
- levels have unequal sizes (proportional to 1 + U(0, 3)), independent of type and of the other variables.

Cells come in slabs of 100,000, each from its own child seed and written straight into the float32 array, so that
10^7 cells need no more memory than their result.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

N_TYPES = 30
SLAB = 100_000


def make(n_cells: int, n_features: int, n_levels: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the embedding (N, d) float32 and the levels of each variable (N, F) int32."""
    model, *slab_seeds = np.random.SeedSequence(seed).spawn(1 + -(-n_cells // SLAB))
    rng = np.random.default_rng(model)
    scale = 1 / np.sqrt(1 + np.arange(n_features))
    means = (1.5 * scale * rng.standard_normal((N_TYPES, n_features))).astype(np.float32)
    type_shares = rng.integers(1, 31, N_TYPES).astype(float)
    shifts, level_shares = [], []
    for n in n_levels:
        shift = 0.7 * rng.standard_normal((n, 1, n_features)) + 0.3 * rng.standard_normal((n, N_TYPES, n_features))
        shifts.append((scale * shift).astype(np.float32))
        level_shares.append(1 + 3 * rng.random(n))
    Z = np.empty((n_cells, n_features), np.float32)
    codes = np.empty((n_cells, len(n_levels)), np.int32)
    for slab_seed, lo in zip(slab_seeds, range(0, n_cells, SLAB), strict=True):
        rng = np.random.default_rng(slab_seed)
        rows = slice(lo, min(lo + SLAB, n_cells))
        n = rows.stop - lo
        kind = rng.choice(N_TYPES, n, p=type_shares / type_shares.sum())
        block = rng.standard_normal((n, n_features), np.float32) * scale.astype(np.float32) + means[kind]
        for f, (shift, share) in enumerate(zip(shifts, level_shares, strict=True)):
            codes[rows, f] = rng.choice(len(share), n, p=share / share.sum())
            block += shift[codes[rows, f], kind]
        Z[rows] = block
    return Z, codes


def write(folder: Path, n_cells: int, n_features: int, n_levels: tuple[int, ...], seed: int = 0) -> Path:
    """Make a data set and leave it in `folder` as Z.npy and codes.npy."""
    folder.mkdir(parents=True, exist_ok=True)
    Z, codes = make(n_cells, n_features, n_levels, seed)
    np.save(folder / "Z.npy", Z)
    np.save(folder / "codes.npy", codes)
    return folder
