"""The synthetic embeddings that the speed benchmarks run on.

What it makes, for N cells and d components, all from one seed:

- component j has scale s_j = 1 / sqrt(1 + j), like the decaying spectrum of a PCA;
- 30 cell types with means 1.5 s_j N(0, 1) and abundances from 1 to 30, and unit noise s_j N(0, 1) within a type;
- every level of every batch variable shifts all cells by 0.7 s_j N(0, 1), and each cell type by 0.3 s_j N(0, 1) more;
- levels have unequal sizes (proportional to 1 + U(0, 3)), independent of type and of the other variables.

Cells come in slabs of 100,000, each from its own child seed and written straight to where they belong, so that 10^7
cells need no more memory than their result, and a file of any number of them next to none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

N_TYPES = 30
SLAB = 100_000


def make(n_cells: int, n_features: int, n_levels: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the embedding (N, d) float32 and the levels of each variable (N, F) int32."""
    Z = np.empty((n_cells, n_features), np.float32)
    codes = np.empty((n_cells, len(n_levels)), np.int32)
    fill(Z, codes, n_levels, seed)
    return Z, codes


def fill(Z: Any, codes: Any, n_levels: tuple[int, ...], seed: int = 0) -> None:
    """Write the same to what takes slices: arrays, or data sets of a file."""
    n_cells, n_features = Z.shape
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
    for slab_seed, lo in zip(slab_seeds, range(0, n_cells, SLAB), strict=True):
        rng = np.random.default_rng(slab_seed)
        rows = slice(lo, min(lo + SLAB, n_cells))
        n = rows.stop - lo
        kind = rng.choice(N_TYPES, n, p=type_shares / type_shares.sum())
        levels = np.empty((n, len(n_levels)), np.int32)
        block = rng.standard_normal((n, n_features), np.float32) * scale.astype(np.float32) + means[kind]
        for f, (shift, share) in enumerate(zip(shifts, level_shares, strict=True)):
            levels[:, f] = rng.choice(len(share), n, p=share / share.sum())
            block += shift[levels[:, f], kind]
        Z[rows], codes[rows] = block, levels


def write(folder: Path, n_cells: int, n_features: int, n_levels: tuple[int, ...], seed: int = 0) -> Path:
    """Make a data set and leave it in `folder` as Z.npy and codes.npy."""
    folder.mkdir(parents=True, exist_ok=True)
    Z, codes = make(n_cells, n_features, n_levels, seed)
    np.save(folder / "Z.npy", Z)
    np.save(folder / "codes.npy", codes)
    return folder


def write_h5ad(path: Path, n_cells: int, n_features: int, n_batches: int, seed: int = 0) -> None:
    """Make an AnnData file with ``obsm["X_pca"]``, ``obs["batch"]`` and named cells, slab by slab."""
    import anndata
    import h5py
    import pandas as pd

    with h5py.File(path, "w") as file:
        obs = pd.DataFrame({"batch": pd.Categorical(["0"], [str(i) for i in range(n_batches)])}, index=["cell"])
        anndata.io.write_elem(file, "/", anndata.AnnData(obs=obs))
        Z = file["obsm"].create_dataset("X_pca", (n_cells, n_features), np.float32)
        Z.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        codes = _again(file["obs/batch"], "codes", n_cells, np.int8 if n_batches < 128 else np.int16)
        index = _again(file["obs"], "_index", n_cells, h5py.string_dtype())

        class Codes:
            def __setitem__(self, rows: slice, levels: np.ndarray) -> None:
                codes[rows] = levels[:, 0]
                index[rows] = np.char.add("cell", np.arange(rows.start, rows.stop).astype(str)).astype(object)

        fill(Z, Codes(), (n_batches,), seed)


def _again(group: Any, name: str, n: int, dtype: Any) -> Any:
    """Put a longer array in the place of one, with its attributes."""
    attributes = dict(group[name].attrs)
    del group[name]
    array = group.create_dataset(name, (n,), dtype)
    array.attrs.update(attributes)
    return array
