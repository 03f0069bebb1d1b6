"""What `_native.Plan` refuses: whatever it takes, the kernels stay within their memory and give finite results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonax.algorithm.schedule import FixedPartition
from harmonax.cells.native import order, plan
from harmonax.design import BatchDesign
from harmonax.kernels import _native

N_CELLS, N_FEATURES, N_CLUSTERS, N_BLOCKS = 1200, 3, 4, 3
ARRAYS = (
    "segment_start",
    "segment_joint",
    "segment_block",
    "joint_levels",
    "block_segment",
    "block_grain",
    "grain_segment",
    "segments_by_joint",
    "unit_segment",
    "order",
)


def valid_plan() -> dict[str, Any]:
    codes = np.random.default_rng(0).integers(0, 3, (N_CELLS, 2))
    design = BatchDesign.from_codes(codes)
    schedule = FixedPartition(N_BLOCKS, np.random.SeedSequence(0))
    return {**plan(design, schedule), "order": order(design, schedule)}


VALID = valid_plan()


def use(arrays: dict[str, Any]) -> list[np.ndarray]:
    """Ask cells of this plan everything, and return the answers."""
    rng = np.random.default_rng(1)
    laid_out = _native.Plan(**arrays)
    n_levels, n_blocks = arrays["n_levels"], len(arrays["block_segment"]) - 1
    Z, Y = rng.normal(size=(N_CELLS, N_FEATURES)).astype(np.float32), rng.normal(size=(N_CLUSTERS, N_FEATURES))
    sigma, logp = np.full(N_CLUSTERS, 0.1), np.zeros((n_blocks, n_levels, N_CLUSTERS))
    W = rng.normal(size=(n_levels, N_CLUSTERS, N_FEATURES))
    instruction_set = _native.instruction_sets()[0]
    cells = _native.Cells32(Z, laid_out, instruction_set=instruction_set, n_threads=1)
    answers = []
    for block in range(n_blocks):
        answers += map(np.asarray, cells.sweep(block, Y, sigma, logp[block], True, True))
    for _ in range(2):
        answers += map(np.asarray, cells.moments(Y, sigma, logp))
    answers.append(cells.correct(Y, sigma, logp, W, True))
    embedding, R = np.zeros((laid_out.n_cells, N_FEATURES)), np.zeros((laid_out.n_cells, N_CLUSTERS), np.float32)
    answers.append(cells.emit(Y, sigma, logp, W, embedding, True))
    cells.assign(Y, sigma, logp, arrays["order"], R)
    return [*answers, embedding, R]


@st.composite
def mutated(draw: st.DrawFn, array: np.ndarray) -> np.ndarray:
    """Draw an array of the same number of dimensions, with some values changed, or of another length."""
    limits = np.iinfo(array.dtype)
    values = st.one_of(st.integers(-2, len(array) + 2), st.sampled_from([limits.min, limits.max]))
    kind = draw(st.sampled_from(["change", "swap", "shorten", "lengthen", "empty"]))
    if kind == "shorten":
        return array[: draw(st.integers(0, len(array) - 1))]
    if kind == "lengthen":
        return np.concatenate([array, array[: draw(st.integers(1, len(array)))]])
    if kind == "empty":
        return array[:0]
    changed = array.copy()
    places = draw(st.lists(st.integers(0, array.size - 1), min_size=2, max_size=4))
    if kind == "swap":
        changed.flat[places[:2]] = changed.flat[places[1::-1]]
        return changed
    for place in places:
        changed.flat[place] = draw(values)
    return changed


def test_a_valid_plan_gives_finite_results():
    assert all(np.isfinite(answer).all() for answer in use(VALID))


@pytest.mark.parametrize("name", ARRAYS)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_a_hostile_array_is_refused_or_harmless(name, data):
    arrays = {**VALID, name: data.draw(mutated(VALID[name]))}
    try:
        answers = use(arrays)
    except ValueError:
        return
    assert all(np.isfinite(answer).all() for answer in answers)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_refusal_names_the_array(name):
    bad = VALID[name].copy()
    bad.flat[-1] = -1
    with pytest.raises(ValueError, match=name):
        _native.Plan(**{**VALID, name: bad})
    with pytest.raises(ValueError, match=name):
        _native.Plan(**{**VALID, name: np.full_like(VALID[name], 10**6)})


@pytest.mark.parametrize("n_levels", [-1, 0, 1, 2**31, 2**62])
def test_levels_out_of_range_are_refused(n_levels):
    with pytest.raises(ValueError, match="levels"):
        _native.Plan(**{**VALID, "n_levels": n_levels})


def test_an_order_for_assignments_is_checked():
    laid_out = _native.Plan(**VALID)
    Z = np.ones((N_CELLS, N_FEATURES), np.float32)
    cells = _native.Cells32(Z, laid_out, instruction_set=_native.instruction_sets()[0], n_threads=1)
    Y, logp = np.ones((N_CLUSTERS, N_FEATURES)), np.zeros((N_BLOCKS, VALID["n_levels"], N_CLUSTERS))
    wrong = np.full(N_CELLS, N_CELLS)
    with pytest.raises(ValueError, match="order"):
        cells.assign(Y, np.ones(N_CLUSTERS), logp, wrong, np.empty((N_CELLS, N_CLUSTERS), np.float32))


@pytest.mark.parametrize("d", [0, -1, 2**62])
def test_a_number_of_features_out_of_range_is_refused(d, tmp_path):
    arrays = {**VALID, "order": None}
    with (tmp_path / "cells").open("w+b") as file, pytest.raises(ValueError, match="d is out of range"):
        _native.Cells32(
            file.fileno(), d, _native.Plan(**arrays), instruction_set=_native.instruction_sets()[0], n_threads=1
        )


def test_memory_of_the_pool_is_given_out_again_when_nobody_holds_it():
    pool = _native.ArrayPool()
    first = pool.empty((1000, 200))
    first[:], place, view = 1.0, first.ctypes.data, first[990:]
    del first
    other = pool.empty((1000, 200))
    other[:] = 2.0
    np.testing.assert_array_equal(view, 1.0)
    del view
    assert pool.empty((10, 100, 200)).ctypes.data == place
    with pytest.raises(MemoryError):
        pool.empty((2**31, 2**31, 2**31))


def test_arrays_outlive_their_pool():
    pool = _native.ArrayPool()
    held, released = pool.empty((2, 10**6)), pool.empty((3, 10**6))
    held[:] = 3.0
    del released, pool
    assert held.sum() == 6e6
