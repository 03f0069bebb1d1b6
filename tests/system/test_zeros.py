"""Arrays of zeros, small and large."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from harmonax.system.memory import zeros


@pytest.mark.parametrize("n", [0, 7, 1 << 21])
def test_zeros_are_like_those_of_numpy(n):
    array = zeros((n, 3), "float32")
    assert array.shape == (n, 3)
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    assert not array.any()
    array[...] = 1
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(array)), 1)
    assert not zeros((n, 3), "float32").any()


@pytest.mark.parametrize("n", [1 << 50, 1 << 62])
def test_what_does_not_fit_is_a_memory_error(n):
    with pytest.raises(MemoryError):
        zeros((n, 8))
