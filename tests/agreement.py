"""One run over cells of any kind, from the same centroids and partition, and what it means that two kinds agree."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import numpy as np

from harmonax.algorithm.contracts import Cells
from harmonax.algorithm.harmony import Fit, Harmony
from harmonax.algorithm.schedule import FixedPartition
from harmonax.cells.dense import DenseCells
from harmonax.design import BatchDesign
from harmonax.params import HarmonyParams

TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
# Passes and rounds are fixed, so that rounding cannot move a stopping rule.
FIXED = {"max_iter_harmony": 3, "max_iter_clustering": 4, "tol_clustering": 0.0, "tol_harmony": 0.0}


class Slices:
    """Takes slices only, like a data set of HDF5."""

    def __init__(self, shape):
        self.values = np.full(shape, np.nan)

    def __setitem__(self, where, rows):
        assert isinstance(where, slice)
        self.values[where] = rows


class Answers(NamedTuple):
    """The end of a run."""

    embedding: np.ndarray
    R: np.ndarray
    fit: Fit
    cells: Cells


def run(kind, Z, design: BatchDesign, params: HarmonyParams, *, seed: int = 0, out: Any = None, **how) -> Answers:
    """Run over cells of this kind; without `out` the result stays with them until they are closed."""
    resolved = params.resolve(design)
    schedule = FixedPartition(params.n_blocks(design.n_cells), np.random.SeedSequence(seed))
    cells = kind(Z, design, schedule, **how)
    with contextlib.closing(cells):
        rows = np.random.default_rng(seed).choice(design.n_cells, resolved.n_clusters, replace=False)
        fit = Harmony(cells, design, schedule, resolved).run(cells.points(rows), out)
    embedding = np.asarray(cells.embedding) if out is None else out
    return Answers(embedding, np.array(cells.assignments(fit.assigned)), fit, cells)


def assert_agree(got: Answers, expected: Answers, Z, tolerance: float) -> None:
    """Fail unless embedding, assignments, sums and every term of the objective agree."""
    assert np.abs(got.embedding - expected.embedding).max() <= tolerance * np.abs(expected.embedding).max()
    assert np.abs(got.R - expected.R).max() <= 10 * tolerance
    history, wanted = got.fit.history, expected.fit.history
    for name in ("total", "distance", "entropy", "diversity", "initial"):
        a, b = np.asarray(getattr(history, name)), np.asarray(getattr(wanted, name))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * abs(wanted.initial))
        assert np.isfinite(a).all()
    assert history.passes == wanted.passes
    for a, b in ((got.fit.mass, expected.fit.mass), (got.fit.moment, expected.fit.moment)):
        np.testing.assert_allclose(a, b, rtol=0, atol=10 * tolerance * np.abs(b).max())
    # The correction moved the cells: agreement of two no-ops would prove nothing.
    assert np.abs(expected.embedding - Z).max() > 0.1


def assert_agrees_with_dense(kind, Z, design: BatchDesign, params: HarmonyParams, **how) -> None:
    """Run both over the same cells, and compare."""
    got = run(kind, Z, design, params, precision=params.precision, **how)
    assert_agree(got, run(DenseCells, Z, design, params), Z, TOLERANCE[params.precision])
