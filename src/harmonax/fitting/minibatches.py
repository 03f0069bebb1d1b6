"""Which cells an update sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError, MissingKeyError
from ..system.validate import whole_number


@dataclass(frozen=True)
class Cells:
    """The data of a fit: arrays with one row per cell, and all others."""

    # per_cell, whole: arrays whose first dimension is the cells', and all others.
    per_cell: Mapping[str, jax.Array]
    whole: Mapping[str, jax.Array]
    n_cells: int  # number of cells
    size: int  # cells in an update
    seed: int  # seed of the order in which they are seen
    one_batch: float = 0.0  # share of the updates whose cells are of one batch

    @property
    def epoch(self) -> int:
        """Number of updates that see every cell once."""
        return -(-self.n_cells // self.size)

    def rows(self, step: int) -> np.ndarray | None:
        """Return the rows of a step, -1 to fill up the last of an epoch; None: all, in their order.

        A function of the seed and the step alone, so that a resumed run sees what an uninterrupted one would.
        """
        if self.one_batch:
            rng, labels = np.random.default_rng([self.seed, 1 << 21, step]), np.asarray(self.per_cell["batch_labels"])
            if rng.random() < self.one_batch:
                own = rng.permutation(np.flatnonzero(labels == rng.choice(np.unique(labels))))[: self.size]
                return np.pad(own, (0, self.size - len(own)), constant_values=-1)
        return None if self.size == self.n_cells else epoch_rows(self.n_cells, self.size, self.seed, step)

    def take(self, rows: Any) -> dict[str, jax.Array]:
        """Return the data of the given rows, with a ``mask`` that says which are cells; of all if `rows` is None."""
        if rows is None:
            return {**self.per_cell, **self.whole}
        there = rows >= 0
        # A copy of the first cell fills up: any other value might not be valid.
        taken = {name: array[jnp.maximum(rows, 0)] for name, array in self.per_cell.items()}
        mask = taken["mask"].astype(bool) & there if "mask" in taken else there
        return {**taken, **self.whole, "mask": mask}

    @property
    def first(self) -> Mapping[str, jax.Array]:
        """The data of the first update."""
        return self.take(self.rows(0))

    @property
    def identity(self) -> Mapping[str, Any]:
        """What a checkpoint knows the data by."""
        return {**self.per_cell, **self.whole}

    def split(self, share: float) -> tuple[Cells, dict[str, jax.Array]]:
        """Return the cells to learn from, and the data of those held out, drawn at random."""
        held = max(1, round(share * self.n_cells))
        order = np.random.default_rng([self.seed, 1 << 20]).permutation(self.n_cells)
        parts = [{name: a[np.sort(part)] for name, a in self.per_cell.items()} for part in (order[held:], order[:held])]
        n = self.n_cells - held
        return replace(self, per_cell=parts[0], n_cells=n, size=min(self.size, n)), {**parts[1], **self.whole}


def epoch_rows(n_cells: int, size: int, seed: int, step: int) -> np.ndarray:
    """Return the rows of a step's minibatch, -1 to fill up the last of an epoch; shuffled anew each epoch."""
    epoch = -(-n_cells // size)
    order = np.random.default_rng([seed, step // epoch]).permutation(n_cells)
    rows = order[step % epoch * size :][:size]
    return np.pad(rows, (0, size - len(rows)), constant_values=-1)


_FIXED = ["n_cells", "size", "seed", "one_batch"]
jax.tree_util.register_dataclass(Cells, data_fields=["per_cell", "whole"], meta_fields=_FIXED)


def read_cells(data: Mapping[str, Any], batch_size: int | None, seed: int) -> Cells:
    """Check the data of a fit and return it as arrays of JAX.

    Cells are counted by ``batch_labels`` if present, else by the first array that is not a scalar. What has
    another first dimension is passed on whole.

    Raises
    ------
    MissingKeyError
        If there is no array.
    InputError
        If an array of floats has NaN or infinity, or the batch size is not positive.
    """
    arrays = {}
    for name, value in data.items():
        array = np.asarray(value)
        if array.dtype.kind not in "biuf" and not jnp.issubdtype(array.dtype, jnp.floating):
            raise InputError(f"data['{name}'] has dtype {array.dtype}; allowed are numbers: number the levels from 0")
        arrays[name] = array
    counted = [a for a in arrays.values() if a.ndim]
    if not counted or not counted[0].size:
        raise MissingKeyError("data has no array of cells; pass what the operator reads, such as data['embeddings']")
    labels = arrays.get("batch_labels")
    n = len(counted[0] if labels is None or not labels.ndim else labels)
    mask = np.asarray(arrays.get("mask", np.ones(n, bool)), bool)
    for name, array in arrays.items():
        _check_finite(name, array, mask if array.ndim and len(array) == n == len(mask) else None)
    if batch_size is not None:
        batch_size = whole_number(batch_size, "batch_size", minimum=1, alternative="None for all cells")
    per_cell = {name: jnp.asarray(a) for name, a in arrays.items() if a.ndim and len(a) == n}
    whole = {name: jnp.asarray(a) for name, a in arrays.items() if name not in per_cell}
    return Cells(per_cell, whole, n, n if batch_size is None else min(batch_size, n), seed)


def _check_finite(name: str, array: np.ndarray, mask: np.ndarray | None) -> None:
    if not array.ndim or array.dtype.kind in "biu":
        return
    wrong = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    wrong &= True if mask is None else mask
    if wrong.any():
        raise InputError(
            f"data['{name}'] has NaN or infinity in {int(wrong.sum())} rows (first: {int(wrong.argmax())}); "
            "leave those cells out or repair them"
        )
