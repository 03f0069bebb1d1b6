"""Exact neighbours: those of every pair's distance in float64, ties and all, for any number of threads."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

from harmonax.workflow import nearest
from harmonax.workflow.nearest import ExactNeighbours

sc = pytest.importorskip("scanpy")
pytest.importorskip("umap")


@pytest.fixture
def small(monkeypatch):
    """Blocks and slabs of which a few hundred cells make several, the last of them short."""
    for name, size in {"_QUERIES": 50, "_SLAB": 70, "_SAMPLE": 90}.items():
        monkeypatch.setattr(nearest, name, size)


def by_hand(cells: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest of each, itself first, and their distances."""
    apart = np.linalg.norm(cells[:, None].astype(np.float64) - cells[None].astype(np.float64), axis=2)
    np.fill_diagonal(apart, -1.0)
    order = np.argsort(apart, axis=1, kind="stable")[:, :k]
    return order, np.maximum(np.take_along_axis(apart, order, 1), 0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_they_are_those_of_all_distances(small, seed, offset):
    gen = np.random.default_rng(seed)
    # In order of their clusters, so that the nearest of a block are in one slab.
    cells = gen.normal(size=(430, 7)) + np.repeat(gen.normal(size=(5, 7)) * 9, 86, axis=0) + offset
    made = ExactNeighbours(15, n_threads=2).fit_transform(cells.astype(np.float32))
    order, distances = by_hand(cells.astype(np.float32), 15)
    np.testing.assert_array_equal(made.indices.reshape(-1, 15), order)
    np.testing.assert_allclose(made.data.reshape(-1, 15), distances, rtol=1e-6)


def test_cells_at_one_place_have_themselves_first(small):
    cells = np.repeat(np.random.default_rng(0).normal(size=(8, 3)), 40, axis=0)
    made = ExactNeighbours(10, n_threads=1).fit_transform(cells)
    np.testing.assert_array_equal(made.indices.reshape(-1, 10)[:, 0], np.arange(320))
    assert (made.data == 0).all()
    nothing = ExactNeighbours(10, n_threads=1).fit_transform(np.zeros((320, 3)))
    np.testing.assert_array_equal(nothing.indices.reshape(-1, 10)[:, 0], np.arange(320))


def test_threads_do_not_show_in_the_bits(small):
    cells = np.random.default_rng(1).normal(size=(400, 12)).astype(np.float32)
    every = [ExactNeighbours(9, n_threads=n).fit_transform(cells) for n in (1, 2, 5)]
    for other in every[1:]:
        assert np.array_equal(every[0].indices, other.indices)
        assert np.array_equal(every[0].data, other.data)


def test_scanpy_makes_the_graph_of_them_that_it_makes_of_its_own():
    cells = np.random.default_rng(2).normal(size=(700, 6)).astype(np.float32)
    graphs = []
    for transformer in (None, ExactNeighbours(15, n_threads=1)):
        adata = ad.AnnData(obsm={"X_pca": cells})
        sc.pp.neighbors(adata, n_neighbors=15, use_rep="X_pca", transformer=transformer)
        assert adata.uns["neighbors"]["params"]["n_neighbors"] == 15
        graphs.append(adata.obsp["connectivities"])
    assert abs(graphs[0] - graphs[1]).max() < 1e-4
