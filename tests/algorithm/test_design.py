"""A BatchDesign is what it says it is, whoever made it: the kernels take its numbers as places in memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

import harmonax
from harmonax.design import BatchDesign
from harmonax.errors import InputError

GOOD = BatchDesign.from_codes(np.array([[0, 0], [1, 0], [2, 1], [2, 0], [0, 0]]))


@given(nps.arrays(np.int64, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=st.integers(0, 6)))
def test_what_codes_make_is_accepted_again(codes):
    design = BatchDesign.from_codes(codes)
    again = dataclasses.replace(design, joint=design.joint.astype(np.int64)[::1])
    assert again.joint.dtype == np.int32
    np.testing.assert_array_equal(again.joint, design.joint)


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        ("joint", GOOD.joint + 1, "joint levels 1 to 4, of 4"),
        ("joint", GOOD.joint - 1, "joint levels -1"),
        ("joint", GOOD.joint.astype(float), "dtype float64"),
        ("joint", GOOD.joint[:, None], "shape"),
        ("joint", np.zeros(5, int), "levels that no cell has"),
        ("joint", np.full(5, 2**40), "joint levels 1099511627776"),
        ("joint_levels", GOOD.joint_levels + 1, "not levels of their variable"),
        ("joint_levels", GOOD.joint_levels[::-1], "out of order"),
        ("joint_levels", GOOD.joint_levels[[0, 0, 1, 2]], "occur twice"),
        ("joint_levels", GOOD.joint_levels[:, :1], "1 columns"),
        ("joint_levels", GOOD.joint_levels[:2], "joint levels 0 to 3, of 2"),
        ("joint_levels", -GOOD.joint_levels, "not levels of their variable"),
        ("variables", ("a",), "1 variables"),
        ("levels", (("0", "1"), ("0", "1")), "not levels of their variable"),
        ("levels", (("0", "1", "2"),), "levels of 1"),
        ("levels", (("0", "1", "2"), ("0", "1", "2")), "levels that no cell has"),
    ],
)
def test_what_does_not_fit_together_is_refused(part, value, says):
    with pytest.raises(InputError, match=says):
        dataclasses.replace(GOOD, **{part: value})


@given(st.data())
def test_whatever_is_put_into_one_it_is_refused_or_runs(data):
    parts = {
        "joint": nps.arrays(np.int32, st.integers(0, 12), elements=st.integers(-2, 4)),
        "joint_levels": nps.arrays(
            np.int32, st.tuples(st.integers(0, 4), st.integers(0, 3)), elements=st.integers(-1, 5)
        ),
        "levels": st.lists(st.sampled_from([("0",), ("0", "1"), ("0", "1", "2")]), max_size=3).map(tuple),
    }
    chosen = {name: data.draw(kind) for name, kind in parts.items() if data.draw(st.booleans())}
    try:
        design = dataclasses.replace(GOOD, **chosen)
    except InputError:
        return
    if design.n_cells < 2:
        return
    Z = np.random.default_rng(0).normal(size=(design.n_cells, 3))
    result = harmonax.harmonize(Z, design, harmonax.HarmonyParams(n_clusters=2, max_iter_harmony=1), rng=0)
    assert np.isfinite(result.embedding).all()
