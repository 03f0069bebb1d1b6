"""Fixtures for every test: a small synthetic AnnData, and the real data where they are."""

from __future__ import annotations

import os
from pathlib import Path

import anndata
import hypothesis
import numpy as np
import pandas as pd
import pytest

N_CELLS, N_FEATURES = 180, 6

# What an example takes depends on what else the machine does.
hypothesis.settings.register_profile("harmonax", deadline=None)
hypothesis.settings.load_profile("harmonax")


def pytest_configure(config):
    # anndata up to 0.13 reads options that pandas 3 has deprecated.
    for option in ("future.infer_string", "mode.chained_assignment"):
        config.addinivalue_line("filterwarnings", f"ignore:The '{option}' option is deprecated")


@pytest.fixture
def adata() -> anndata.AnnData:
    """Three batches, shifted, of two cell groups; a second variable `donor`; float32 embedding."""
    gen = np.random.default_rng(7)
    batch = np.repeat(["a", "b", "c"], [90, 60, 30])
    group = gen.choice(["T", "B"], N_CELLS)
    shift = {"a": 0.0, "b": 1.0, "c": -1.0}
    Z = gen.normal(size=(N_CELLS, N_FEATURES))
    Z[:, 0] += np.where(group == "T", 6.0, -6.0)
    Z[:, 1] += [shift[b] for b in batch]
    order = gen.permutation(N_CELLS)
    obs = pd.DataFrame(
        {"batch": pd.Categorical(batch), "donor": gen.choice(["d1", "d2"], N_CELLS), "group": group},
        index=[f"cell{i}" for i in range(N_CELLS)],
    ).iloc[order]
    return anndata.AnnData(obs=obs, obsm={"X_pca": Z[order].astype(np.float32)})


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real data sets; ``HARMONAX_TEST_DATA`` says where, by default beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("HARMONAX_TEST_DATA", default))
    if not path.is_dir():
        pytest.skip(f"no real data at {path}; set HARMONAX_TEST_DATA")
    return path
