"""Cells that come one minibatch after the other: from an iterator, or from files that do not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from ..errors import InputError
from ..system.arguments import check_arguments
from ..system.rng import seed_from
from ..system.validate import whole_number
from .minibatches import epoch_rows, read_cells

Batch = dict[str, Any]


@dataclass
class Stream:
    """The minibatches of a fit; what `harmonax.fitting.minibatches.Cells` is for arrays."""

    source: Callable[[int], Mapping[str, Any]] = field(repr=False)
    first: Mapping[str, jax.Array]  # the first minibatch
    size: int  # cells in an update
    epoch: int = 1  # updates whose mean early stopping looks at

    def rows(self, step: int) -> Batch:
        """Return the minibatch of a step."""
        batch = {name: np.asarray(value) for name, value in self.source(step).items()} if step else self.first
        shapes = [{name: np.shape(value) for name, value in data.items()} for data in (batch, self.first)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"the minibatch of step {step} has shapes {shapes[0]}, the first {shapes[1]}: all must agree; "
                "fill up with padding that data['mask'] marks"
            )
        return dict(batch)

    def take(self, batch: Batch) -> Batch:
        """Return the minibatch: `rows` has read it."""
        return batch

    @property
    def identity(self) -> Mapping[str, Any]:
        """What a checkpoint knows the data by."""
        return self.first


# Nothing of it is traced: minibatches are passed to each step.
jax.tree_util.register_static(Stream)


def read_stream(data: Any) -> Stream:
    """Return a stream of what a function of the step's number, or an iterable, gives.

    Raises
    ------
    InputError
        If the first minibatch cannot be used, or the iterable has ended.
    """
    source = data if callable(data) else _in_turn(data)
    cells = read_cells(source(0), None, 0)
    return Stream(source, {**cells.per_cell, **cells.whole}, cells.n_cells)


def _in_turn(data: Iterable[Mapping[str, Any]]) -> Callable[[int], Mapping[str, Any]]:
    """Return a function of the step; a resumed run passes over what was seen before."""
    items: Iterator[Mapping[str, Any]] = iter(data)
    at, now = -1, None

    def item(step: int) -> Mapping[str, Any]:
        nonlocal at, now
        while at < step:
            at, now = at + 1, next(items, None)
            if now is None:
                raise InputError(
                    f"the iterator of data ended after {at} minibatches; give one that lasts for all steps"
                )
        assert now is not None
        return now

    return item


def batches_of(data: Mapping[str, Any], batch_size: int, rng: Any = 0) -> Callable[[int], Batch]:
    """Return minibatches of arrays that stay where they are, such as on disk, for `fit`.

    Parameters
    ----------
    data
        Arrays of one row per cell that can be read by sorted row numbers: of h5py, zarr, ``numpy.memmap``, or NumPy.
    batch_size
        Cells in a minibatch, shuffled anew each epoch; the last of an epoch is filled up with padding that
        ``data["mask"]`` marks. Larger ones are steadier, and take more time and memory.
    rng
        Seed of the order.

    Returns
    -------
    callable
        The step's number in, its minibatch out: the same whenever it is asked for, so that a run can be resumed.

    Raises
    ------
    InputError
        If the arrays have unequal numbers of rows, or the batch size is not positive.

    Examples
    --------
    >>> read = batches_of({"x": np.arange(10.0), "batch_labels": np.zeros(10, int)}, 4)
    >>> [int((read(step)["x"] * read(step)["mask"]).sum() > 0) for step in range(3)], read(2)["mask"].sum()
    ([1, 1, 1], np.int64(2))
    """
    check_arguments(batches_of, locals())
    size, seed = whole_number(batch_size, "batch_size", minimum=1), seed_from(rng)
    if not data or not all(hasattr(values, "shape") and len(values.shape) for values in data.values()):
        raise InputError("data is empty or has entries that are not arrays; allowed are arrays of one row per cell")
    lengths = {name: values.shape[0] for name, values in data.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(f"the arrays have {lengths} rows; allowed is one row per cell in each")
    n = next(iter(lengths.values()))

    def batch(step: int) -> Batch:
        rows = epoch_rows(n, min(size, n), seed, step)
        # Files are read in the order of their rows; the order within a minibatch means nothing.
        kept = np.sort(rows[rows >= 0])
        fill = np.concatenate([np.arange(len(kept)), np.zeros(len(rows) - len(kept), int)])
        found = {name: np.asarray(values[kept])[fill] for name, values in data.items()}
        there = np.arange(len(rows)) < len(kept)
        return found | {"mask": found["mask"].astype(bool) & there if "mask" in found else there}

    return batch
