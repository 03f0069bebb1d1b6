"""Random splits of one batch: corrections whose faults are known, and what is measured of them."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

import harmonax as hx
from harmonax.errors import InputError, MissingKeyError
from harmonax.evaluation.after.random_split import genes_called
from harmonax.tl import random_split

for name in ("sklearn", "igraph"):
    pytest.importorskip(name, reason="needs harmonax[workflow]")

N = 600


@pytest.fixture(scope="module")
def made() -> anndata.AnnData:
    """One batch of three types with ten genes each, and a small other batch."""
    gen = np.random.default_rng(0)
    kind = gen.integers(0, 3, N)
    Z = gen.normal(size=(N, 8)) * np.linspace(1.5, 0.5, 8) + 6 * np.eye(8)[kind]
    counts = gen.poisson(np.where(np.repeat(np.arange(3), 10) == kind[:, None], 8.0, 1.0))
    obs = pd.DataFrame({"batch": ["a"] * 540 + ["b"] * 60, "kind": kind}, index=[f"c{i}" for i in range(N)])
    return anndata.AnnData(counts.astype(np.float32), obs=obs, obsm={"X_pca": Z})


@pytest.fixture
def cells(made) -> anndata.AnnData:
    return made.copy()


def test_doing_nothing_changes_nothing(cells):
    found = random_split(cells, "batch", correct=lambda Z, half: Z)
    assert (found.batch, found.n_cells, len(found.table)) == ("a", 540, 3)
    assert found.mean["neighbours_kept"] == found.mean["cluster_concordance"] == 1
    assert found.mean["displacement"] == found.mean["movement"] == 0
    np.testing.assert_array_equal(found.table["genes_called"], found.table["genes_called_before"])
    # Random halves of a cluster differ in nothing.
    assert found.mean["genes_called"] < 0.01
    assert 0.5 < found.mean["concordance_again"] <= 1
    assert set(cells.uns["harmonax_random_split"]) == {"batch", "n_cells", "table"}


def test_shuffled_cells_are_displaced_as_by_chance(cells):
    gen = np.random.default_rng(1)
    found = random_split(cells, "batch", correct=lambda Z, half: Z[gen.permutation(len(Z))]).mean
    assert found["displacement"] == pytest.approx(1, abs=0.03)
    assert found["cluster_concordance"] == pytest.approx(0, abs=0.02)
    assert found["neighbours_kept"] == pytest.approx(15 / 269, abs=0.02)


def test_types_that_are_swapped_in_a_half_are_seen_by_genes_and_clusters(cells):
    kind = cells.obs["kind"].to_numpy()[:540]

    def swap(Z, half):
        after = Z.copy()
        for one, other in ((0, 1), (1, 0)):
            after[(half == 1) & (kind == one)] += 6 * (np.eye(8)[other] - np.eye(8)[one])
        return after

    found = random_split(cells, "batch", correct=swap).mean
    # Within a half, everything stays as it was.
    assert found["neighbours_kept"] > 0.9
    assert found["genes_called"] > 0.3 > 10 * found["genes_called_before"]
    assert found["cluster_concordance"] < found["concordance_again"] - 0.2
    assert found["displacement"] > 0.1


@pytest.mark.thorough
def test_harmony_moves_little_and_bad_corrections_more(cells):
    def z_scores(Z, half):
        after = Z.copy()
        for side in (0, 1):
            after[half == side] = (Z[half == side] - Z[half == side].mean(axis=0)) / Z[half == side].std(axis=0)
        return after

    gentle = random_split(cells, "batch", n_splits=2).mean
    assert gentle["displacement"] < 0.01
    assert gentle["neighbours_kept"] > 0.95
    assert gentle["genes_called"] < 0.01
    # The parameters of the last run are those that are judged: so little ridge that anything goes.
    hx.pp.harmony_integrate(cells, "batch", theta=60, alpha=1e-6, max_iter_harmony=20, rng=0)
    strong = random_split(cells, n_splits=2).mean
    scaled = random_split(cells, "batch", correct=z_scores, n_splits=2).mean
    for bad in (strong, scaled):
        assert bad["displacement"] > 3 * gentle["displacement"]
        assert bad["neighbours_kept"] < gentle["neighbours_kept"] - 0.1


def test_genes_that_differ_are_called_at_the_stated_rate():
    gen = np.random.default_rng(2)
    half, clusters = np.arange(400) % 2, np.arange(400) // 200
    X = gen.normal(size=(400, 100))
    assert genes_called(X, half, clusters) <= 0.01
    # A fifth of the genes in one of two clusters.
    X[(half == 1) & (clusters == 1), :20] += 2
    assert genes_called(X, half, clusters) == pytest.approx(0.1, abs=0.02)
    assert np.isnan(genes_called(X[:60], half[:60], clusters[:60] + half[:60]))


def test_a_batch_can_be_named_and_the_same_seed_gives_the_same_answer(cells):
    one, two = (random_split(cells, "batch", batch="b", n_splits=1, rng=4) for _ in range(2))
    assert (one.batch, one.n_cells) == ("b", 60)
    pd.testing.assert_frame_equal(one.table, two.table, check_exact=True)
    assert "60 cells" in str(one)


def test_without_expression_and_for_another_width(cells):
    bare = anndata.AnnData(obs=cells.obs, obsm=dict(cells.obsm))
    found = random_split(bare, "batch", correct=lambda Z, half: Z[:, :5], n_splits=1, max_cells=200).mean
    assert found.index[found.isna()].tolist() == ["movement", "genes_called_before", "genes_called"]


def test_refuses_by_name(cells):
    with pytest.raises(InputError, match="batch_key"):
        random_split(cells)
    with pytest.raises(InputError, match="'c'"):
        random_split(cells, "batch", batch="c")
    with pytest.raises(InputError, match="30 cells; at least 60"):
        random_split(cells[510:570].copy(), "batch")
    with pytest.raises(MissingKeyError, match="X_none"):
        random_split(cells, "batch", basis="X_none")
