"""A short run of tests/fuzz.py: damaged files of every kind give the right result or one error."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fuzz

NEEDS = {"zarr": "zarr", "parquet": "pyarrow", "10x": "scanpy", "mtx": "scanpy"}


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_damaged_files(kind):
    pytest.importorskip(NEEDS.get(kind, "h5py"))
    answers = dict(fuzz.trials(kind, range(12), seed=20261128))
    assert not [answer for answer in answers.values() if answer.startswith("BAD")]


@pytest.mark.slow
def test_many_damaged_files():
    assert fuzz.main(["--tries", "300", "--seed", "7"]) == 0
