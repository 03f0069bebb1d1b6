"""Null calibration: what a correction does where there is nothing to correct."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from ..neighbours import OF_BATCH, nearest_cells, share_kept
from .structure import moved_share, neighbours_kept

# Takes an embedding and the batch of each cell, returns the corrected embedding.
Correct = Callable[[np.ndarray, np.ndarray], np.ndarray]
FEWEST_CELLS = 60
_MOST_CELLS, _SPLITS = 5000, 3


@dataclass(frozen=True)
class Null:
    """The distortion that a correction without fault would not make.

    Attributes
    ----------
    batch, n_cells
        The batch that was split at random into two halves, and how many of its cells. What follows is the mean of
        three such splits.
    neighbours_kept
        Share of neighbours within the own half that stayed; without fault 1.
    neighbours_kept_all
        Share of neighbours from either half that stayed.
    movement
        Squared length of all moves as a share of the variance; without fault 0.
    """

    batch: str
    n_cells: int
    neighbours_kept: float
    neighbours_kept_all: float
    movement: float

    def to_dict(self) -> dict[str, str | int | float]:
        """Return the attributes as a plain dictionary."""
        return asdict(self)


def calibrate(
    embedding: np.ndarray, batch: np.ndarray, levels: list[str], correct: Correct, rng: np.random.Generator
) -> Null | None:
    """Split the largest batch at random, correct the halves as if they were two batches, and measure the distortion.

    Parameters
    ----------
    embedding
        Before the correction, (N, d).
    batch, levels
        Code of each cell's batch, (N,), and the batches' names.
    correct
        The correction, as it was run on all batches.
    rng
        Draws the halves.

    Returns
    -------
    Null or None
        None where the largest batch has fewer than 60 cells. Of more than 5,000 a sample is split.
    """
    sizes = np.bincount(batch, minlength=len(levels))
    own = one_batch(batch, int(sizes.argmax()), _MOST_CELLS, rng)
    if len(own) < FEWEST_CELLS:
        return None
    Z = np.asarray(embedding[own], np.float64)
    near, measured = nearest_cells(Z, OF_BATCH), []
    for half, after in splits(Z, correct, rng, _SPLITS):
        kept_all = share_kept(near, nearest_cells(after, OF_BATCH))
        measured.append((neighbours_kept(Z, after, half).mean(), kept_all.mean(), moved_share(Z, after)))
    return Null(levels[int(sizes.argmax())], len(own), *(float(value) for value in np.mean(measured, axis=0)))


def one_batch(batch: np.ndarray, code: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Return the rows of a batch, at most so many of them."""
    own = np.flatnonzero(batch == code)
    return own if len(own) <= most else np.sort(rng.choice(own, most, replace=False))


def splits(
    Z: np.ndarray, correct: Correct, rng: np.random.Generator, n_splits: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield which half each cell is in, at random, and the cells corrected as if the halves were batches."""
    for _ in range(n_splits):
        half = rng.permutation(np.arange(len(Z)) % 2)
        yield half, np.asarray(correct(Z, half), np.float64)
