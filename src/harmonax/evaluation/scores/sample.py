"""Large data: scores of disjoint random samples of the cells, and the interval that they state."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

N_SAMPLES = 3
CONFIDENCE = 0.95


def disjoint_samples(rows: np.ndarray, most: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the rows to score: all at once up to `most`, else `N_SAMPLES` samples of one size that share so many.

    Plain random: mixing scores compare neighbourhoods with the proportions of the batches, which a sample that
    favours small batches would change. Of all cells, they are together the `neighbours.sample` of the same seed.

    Examples
    --------
    >>> [len(sample) for sample in disjoint_samples(np.arange(1000), 600, np.random.default_rng(0))]
    [200, 200, 200]
    """
    if len(rows) <= most:
        return [rows]
    drawn = rng.permutation(rows)[: most // N_SAMPLES * N_SAMPLES]
    return [np.sort(sample) for sample in np.split(drawn, N_SAMPLES)]


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of the samples' scores and its 95 % interval (Student's t), within 0 and 1.

    Samples without a score are left out; the interval is nan where fewer than two have one.

    Examples
    --------
    >>> interval(np.array([0.4, 0.5, 0.6]))  # doctest: +ELLIPSIS
    (0.5, 0.25158..., 0.74841...)
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return (float("nan"),) * 3
    mean = float(values.mean())
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2) * values.std(ddof=1) / np.sqrt(len(values))
    # Scores corrected for chance may themselves be a little below 0.
    return mean, float(min(mean, max(0.0, mean - half))), float(max(mean, min(1.0, mean + half)))
