"""A model of a run with reference levels: new cells of these stay where they are, as the run's own did."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import harmonax


@pytest.mark.parametrize("keys", [["lab"], ["lab", "donor"]])
def test_new_cells_of_a_reference_level_do_not_move(keys, tmp_path):
    gen = np.random.default_rng(0)
    obs = pd.DataFrame({"lab": gen.integers(0, 3, 400), "donor": gen.integers(0, 4, 400)})
    Z = 3 * gen.normal(size=(4, 6))[gen.integers(0, 4, 400)] + gen.normal(size=(400, 6))
    Z += gen.normal(size=(3, 6))[obs["lab"]] + gen.normal(size=(4, 6))[obs["donor"]]
    how = {"rng": 0, "progress": False, "dtype": float}
    result = harmonax.harmonize(Z, obs[keys], batch_key=keys, reference={"lab": [1]}, **how)
    harmonax.HarmonyModel.from_result(result).save(tmp_path / "model.h5")
    model = harmonax.HarmonyModel.load(tmp_path / "model.h5")
    stays = (obs["lab"] == 1).to_numpy()
    batches = obs[keys].copy()
    batches.loc[:20, "lab"] = 7
    stays[:21] = False
    mapped = model.map(Z, batches, dtype=float)
    np.testing.assert_allclose(mapped[stays], Z[stays], atol=1e-6)
    # The others do: those of known levels as in the run, nearly, and those of a new one.
    assert np.abs(mapped - Z)[~stays].mean() > 0.1
    known = ~stays & (np.arange(400) > 20)
    assert np.abs(mapped - result.embedding)[known].mean() < 0.2 * np.abs(Z - result.embedding)[known].mean()
    # A query of such cells alone.
    np.testing.assert_allclose(model.map(Z[stays], batches[stays], dtype=float), Z[stays], atol=1e-6)
