from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonax.algorithm.schedule import FixedPartition
from harmonax.design import BatchDesign
from harmonax.errors import InputError
from harmonax.params import HarmonyParams
from harmonax.system.rng import seed_from


@given(seed=st.integers(0, 2**32), start=st.integers(0, 1000), n=st.integers(1, 300), n_blocks=st.integers(1, 400))
def test_a_block_depends_on_the_seed_and_the_index_alone(seed, start, n, n_blocks):
    whole = FixedPartition(n_blocks, np.random.SeedSequence(seed)).block_of(0, start + n)
    piece = FixedPartition(n_blocks, np.random.SeedSequence(seed)).block_of(start, start + n)
    np.testing.assert_array_equal(whole[start:], piece)
    assert whole.max() < n_blocks


def test_blocks_are_of_nearly_equal_size():
    counts = np.bincount(FixedPartition(20, np.random.SeedSequence(1)).block_of(0, 1_000_000))
    assert len(counts) == 20
    # Six standard deviations of a binomial.
    assert np.abs(counts - 50_000).max() < 6 * np.sqrt(1e6 / 20)


def test_every_pass_visits_every_block_in_a_new_order():
    schedule = FixedPartition(20, np.random.SeedSequence(0))
    orders = [tuple(block.index for block in schedule.next_pass()) for _ in range(3)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len(set(orders)) == 3


@pytest.mark.parametrize(
    ("proportion", "n", "blocks"), [(0.05, 1000, 20), (0.05, 7, 7), (1.0, 50, 1), (0.1, 100, 10), (0.15, 100, 7)]
)
def test_the_number_of_blocks_is_rounded_not_floored(proportion, n, blocks):
    assert HarmonyParams(block_proportion=proportion).n_blocks(n) == blocks


def test_a_seed_is_made_of_whatever_is_passed():
    assert seed_from(7) == seed_from(np.int64(7)) == 7
    assert seed_from(np.random.default_rng(3)) == seed_from(np.random.default_rng(3))
    assert seed_from(np.random.SeedSequence(3)) == seed_from(np.random.SeedSequence(3))
    assert seed_from(np.random.RandomState(3)) == seed_from(np.random.RandomState(3))
    assert seed_from(None) != seed_from(None)
    for bad in (-1, "7", 1.5, True):
        with pytest.raises(InputError, match="rng="):
            seed_from(bad)


@given(
    data=st.data(),
    n=st.integers(1, 60),
    n_levels=st.lists(st.integers(1, 6), min_size=1, max_size=3),
)
def test_a_design_counts_what_is_there(data, n, n_levels):
    codes = np.column_stack([data.draw(st.lists(st.integers(0, m), min_size=n, max_size=n)) for m in n_levels])
    design = BatchDesign.from_codes(codes)
    assert design.n_joint == len({tuple(row) for row in codes})
    np.testing.assert_array_equal(design.joint_counts, np.bincount(design.joint))
    assert (design.level_counts > 0).all()
    np.testing.assert_allclose(design.level_shares.sum(), len(n_levels))
    own = design.joint_levels[design.joint]
    for f in range(len(n_levels)):
        present, inverse, counts = np.unique(codes[:, f], return_inverse=True, return_counts=True)
        assert design.levels[f] == tuple(str(p) for p in present)
        np.testing.assert_array_equal(own[:, f] - design.offsets[f], inverse)
        np.testing.assert_array_equal(design.level_counts[design.offsets[f] : design.offsets[f + 1]], counts)
