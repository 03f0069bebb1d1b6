"""Null calibration: what a correction does where there is nothing to correct."""

from __future__ import annotations

from collections.abc import Callable
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
    largest = int(sizes.argmax())
    own = np.flatnonzero(batch == largest)
    if len(own) < FEWEST_CELLS:
        return None
    if len(own) > _MOST_CELLS:
        own = np.sort(rng.choice(own, _MOST_CELLS, replace=False))
    Z = np.asarray(embedding[own], np.float64)
    near, measured = nearest_cells(Z, OF_BATCH), []
    for _ in range(_SPLITS):
        half = rng.permutation(np.arange(len(own)) % 2)
        after = np.asarray(correct(Z, half), np.float64)
        kept_all = share_kept(near, nearest_cells(after, OF_BATCH))
        measured.append((neighbours_kept(Z, after, half).mean(), kept_all.mean(), moved_share(Z, after)))
    return Null(levels[largest], len(own), *(float(value) for value in np.mean(measured, axis=0)))
