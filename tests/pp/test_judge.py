"""What a correction that was just trained is told about itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from harmonax.errors import HarmonaxWarning
from harmonax.inputs.columns import design_from_table
from harmonax.pp.judge import judged, principal_components

N = 300
BATCH = np.arange(N) % 2
KIND = np.arange(N) // 2 % 3


@pytest.fixture
def cells():
    gen = np.random.default_rng(0)
    means = 6 * gen.normal(size=(3, 12)) / 12**0.5
    right = gen.normal(size=(N, 12)) * 0.5 + means[KIND]
    shift = 4 * gen.normal(size=12) / 12**0.5
    return right, right + BATCH[:, None] * shift


def test_a_good_correction_is_not_warned_of_and_a_bad_one_is(cells):
    right, before = cells
    design = design_from_table(pd.DataFrame({"batch": BATCH.astype(str)}), "batch")
    assert judged("mmd", design, before, right, 0)["verdict"]["code"] not in ("over_corrected", "under_corrected")
    with pytest.warns(HarmonaxWarning, match=r"^mmd: .*tl\.verdict with a label_key"):
        noise = judged("mmd", design, before, np.random.default_rng(1).normal(size=(N, 4)), 0)
    assert noise["verdict"]["code"] == "over_corrected"
    with pytest.warns(HarmonaxWarning, match=r"^wgan: "):
        assert judged("wgan", design, before, before, 0)["verdict"]["code"] == "under_corrected"


def test_few_cells_and_one_batch_are_not_judged(cells):
    right, before = cells
    alone = design_from_table(pd.DataFrame({"batch": np.repeat("a", N)}), "batch")
    assert judged("mmd", alone, before, right, 0) == {}
    few = design_from_table(pd.DataFrame({"batch": BATCH[:50].astype(str)}), "batch")
    assert judged("mmd", few, before[:50], right[:50], 0) == {}


def test_principal_components_are_those_of_the_exact_decomposition(cells):
    centred = cells[1] - cells[1].mean(axis=0)
    found = principal_components(cells[1], 3, np.random.default_rng(0))
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs(u[:, :3] * s[:3]), atol=1e-6)
