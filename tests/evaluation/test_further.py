"""Scores with labels, each by a truth, by brute force and by scib-metrics where it has them; the page about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harmonax.evaluation.lisi import quiet as hush
from harmonax.evaluation.neighbours import nearest
from harmonax.evaluation.scores import further, scib
from harmonax.evaluation.scores.graph import connectivities
from harmonax.evaluation.scores.kbet import kbet_of_labels
from harmonax.evaluation.scores.population import Population, around
from harmonax.evaluation.scores.registry import METRICS
from harmonax.evaluation.scores.silhouette import batch_silhouettes, label_silhouettes

for name in ("scib_metrics", "sklearn"):
    pytest.importorskip(name, reason="needs harmonax[workflow]")


def cells(x, label, batch, before=None) -> scib.LabelledCells:
    x, rows = np.asarray(x, np.float32), np.arange(len(x))
    of = Population(x, x if before is None else np.asarray(before, np.float32), label, around(x, rows))
    return scib.LabelledCells(of, rows, batch, scib.SampleGraph(x, label))


@pytest.fixture(scope="module")
def mixed() -> scib.LabelledCells:
    """Five types far apart, three batches that differ in nothing; type 4 is in two of them only."""
    gen = np.random.default_rng(0)
    label, batch = np.repeat(np.arange(5), 120), np.arange(600) % 3
    batch[(label == 4) & (batch == 2)] = 0
    centres = 10 * gen.normal(size=(5, 6))
    return cells(centres[label] + gen.normal(size=(600, 6)), label, batch)


@pytest.fixture(scope="module")
def apart(mixed) -> scib.LabelledCells:
    """The same with batches wholly apart."""
    return cells(mixed.x + 1000 * np.eye(6)[mixed.batch], mixed.label, mixed.batch)


@pytest.fixture(scope="module")
def blurred() -> scib.LabelledCells:
    """Types that overlap, batches that are half mixed."""
    gen = np.random.default_rng(1)
    label, batch = gen.integers(0, 4, 500), gen.integers(0, 3, 500)
    x = gen.normal(size=(500, 5)) + 1.5 * np.eye(5)[label] + np.eye(5)[batch]
    return cells(x, label, batch)


# ---- what is computed here in place of scib-metrics -------------------------------------------------------------


def test_silhouettes_are_those_of_every_pair(blurred):
    from sklearn.metrics import silhouette_samples

    x, label, batch = blurred.x.astype(float), blurred.label, blurred.batch
    np.testing.assert_allclose(label_silhouettes(x, label), silhouette_samples(x, label), atol=1e-6)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = []
    for i in range(len(x)):
        distance, others = 1 - unit @ unit[i], np.arange(len(x)) != i
        within = distance[others & (batch == batch[i])].mean()
        between = distance[batch != batch[i]].mean()
        expected.append((between - within) / max(within, between))
    np.testing.assert_allclose(batch_silhouettes(x, batch), expected, atol=1e-9)
    alone = np.array([0] * 10 + [1])
    assert label_silhouettes(x[:11], alone)[-1] == 0
    assert batch_silhouettes(x[:11], alone)[-1] == 0


# Half a minute of Numba's compilation; tests/evaluation/test_evaluate.py compares with scib-metrics, too.
@pytest.mark.slow
def test_scores_of_overlapping_cells_are_scib_metrics(blurred):
    import scib_metrics as sm

    x, label, batch = blurred.x, blurred.label, blurred.batch
    distances, indices = blurred.graph.near
    own = np.arange(len(x))
    with hush():
        near = sm.nearest_neighbors.NeighborsResults(
            indices=np.column_stack([own, indices]),
            distances=np.column_stack([0.0 * own, distances]).astype(np.float32),
        )
        graph = near.knn_graph_connectivities
        np.testing.assert_allclose(connectivities(distances, indices).toarray(), graph.toarray(), atol=2e-5)
        assert scib.graph_connectivity(blurred) == float(sm.graph_connectivity(near, label))
        assert scib.bras(blurred) == pytest.approx(float(sm.bras(x, label, batch)), abs=1e-6)
        assert scib.asw_label(blurred) == pytest.approx(float(sm.silhouette_label(x, label)), abs=1e-6)
        assert scib.batch_ilisi(blurred) == pytest.approx(float(sm.ilisi_knn(near, batch)), abs=1e-5)
        assert scib.clisi(blurred) == pytest.approx(float(sm.clisi_knn(near, label)), abs=1e-5)
        theirs, per_label = sm.kbet_per_label(near, batch, label, return_df=True)
        assert 0.1 < theirs < 0.9
        ours = kbet_of_labels(graph, batch, label)
        # There, neighbours in the diffusion map are approximate.
        np.testing.assert_allclose(ours, per_label["kBET"], atol=0.02)
        assert scib.kbet_per_label(blurred) == pytest.approx(theirs, abs=0.01)
        clusters = sm.nmi_ari_cluster_labels_kmeans(x, label)
        assert scib.nmi(blurred) == pytest.approx(clusters["nmi"], abs=1e-6)
        assert scib.ari(blurred) == pytest.approx(clusters["ari"], abs=1e-6)
        assert further.isolated_asw(blurred) == pytest.approx(float(sm.isolated_labels(x, label, batch)), abs=1e-6)


def test_a_sample_is_scored_among_all_cells(mixed, blurred):
    """LISI and kSIM of a sample are the same cells' values where all are scored."""
    for whole in (mixed, blurred):
        rows = np.sort(np.random.default_rng(2).choice(len(whole.x), 90, replace=False))
        graph = scib.SampleGraph(whole.x[rows], whole.label[rows])
        part = scib.LabelledCells(whole.of, rows, whole.batch, graph)
        every = whole.of.ilisi(whole.rows, whole.batch)
        np.testing.assert_array_equal(whole.of.ilisi(rows, whole.batch), every[rows])
        near = nearest(whole.x, 24, rows)[1]
        share = ((whole.label[near] == part.label[:, None]).sum(axis=1) + 1) / 25
        assert further.ksim(part) == pytest.approx((share >= 0.9).mean())


# ---- further scores ---------------------------------------------------------------------------------------------


def test_cilisi_looks_within_labels(mixed, apart, blurred):
    # In every place one cell of each batch. It is not 1, for no cell counts itself.
    places = np.repeat(np.random.default_rng(2).normal(size=(300, 4)), 3, axis=0)
    assert further.cilisi(cells(places, np.zeros(900, int), np.arange(900) % 3)) > 0.87
    assert further.cilisi(mixed) > 0.65
    assert further.cilisi(apart) < 0.01
    # One batch for each label: nothing to mix.
    assert np.isnan(further.cilisi(cells(mixed.x, mixed.label, mixed.label)))
    # By each label alone.
    found = []
    for code in range(4):
        own = np.flatnonzero(blurred.label == code)
        single = cells(blurred.x[own], np.zeros(len(own), int), blurred.batch[own])
        found.append(single.of.ilisi(single.rows, single.batch))
    assert further.cilisi(blurred) == pytest.approx(np.concatenate(found).mean(), abs=1e-9)


def test_cilisi_is_not_lowered_by_composition():
    """Two types, each nearly of one batch, mixed within: iLISI is low, CiLISI is as high as the shares allow."""
    gen = np.random.default_rng(3)
    label = np.repeat([0, 1], 300)
    batch = np.where(gen.random(600) < 0.5, 0, 1 + label)
    found = cells(gen.normal(size=(600, 4)) + 50 * label[:, None], label, batch)
    assert further.cilisi(found) > 0.85
    assert scib.batch_ilisi(found) < 0.55


def test_ksim_counts_pure_neighbourhoods(mixed, blurred):
    assert further.ksim(mixed) == 1
    random = np.random.default_rng(4).integers(0, 2, 600)
    assert further.ksim(cells(mixed.x, random, mixed.batch)) < 0.01
    distance = np.linalg.norm(blurred.x[:, None] - blurred.x, axis=2)
    near = np.argsort(distance, axis=1)[:, :25]
    expected = ((blurred.label[near] == blurred.label[:, None]).mean(axis=1) >= 0.9).mean()
    assert further.ksim(blurred) == pytest.approx(expected)
    assert 0 < expected < 1


def test_isolated_labels_are_those_of_the_fewest_batches(mixed):
    np.testing.assert_array_equal(further.isolated(mixed), [4])
    assert further.isolated_f1(mixed) == 1
    assert further.isolated_asw(mixed) > 0.75
    # The isolated label laid on another: no cluster is it, and its cells lie no nearer to one another.
    merged = mixed.x.copy()
    merged[mixed.label == 4] = mixed.x[mixed.label == 3][np.random.default_rng(5).permutation(120)] + 0.01
    lost = cells(merged, mixed.label, mixed.batch)
    assert further.isolated_f1(lost) < 0.75
    assert further.isolated_asw(lost) == pytest.approx(0.5, abs=0.02)


def test_scgraph_compares_with_distances_within_batches(mixed, apart):
    assert further.scgraph(cells(mixed.x, mixed.label, mixed.batch, before=apart.x)) > 0.99
    turned = 3 * mixed.x @ np.linalg.qr(np.random.default_rng(6).normal(size=(6, 6)))[0]
    assert further.scgraph(cells(turned, mixed.label, mixed.batch, before=apart.x)) == pytest.approx(
        further.scgraph(cells(mixed.x, mixed.label, mixed.batch, before=apart.x)), abs=1e-4
    )
    # Types at the corners of a regular body are all as far from one another: the order is lost.
    even = np.eye(6)[mixed.label] * 50 + np.random.default_rng(7).normal(size=mixed.x.shape)
    assert further.scgraph(cells(even, mixed.label, mixed.batch, before=mixed.x)) < 0.6
    few = mixed.label < 3
    assert np.isnan(further.scgraph(cells(mixed.x[few], mixed.label[few], mixed.batch[few])))


def test_scgraph_correlation_is_the_weighted_one():
    gen = np.random.default_rng(8)
    a, b = gen.random(7), gen.random(7)
    covariance = np.cov(a, b, aweights=1 / b)
    expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert further._correlation(a, b) == pytest.approx(expected)


# ---- the page ---------------------------------------------------------------------------------------------------


def test_the_page_says_of_every_metric_what_it_misses():
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    sections = {part.split("\n", 1)[0].strip(): part for part in page.split("\n### ")[1:]}
    names = {metric.name.replace("own-batch neighbors", "same-batch neighbours") for metric in METRICS}
    # And of the random split's, which are no metrics of one embedding.
    assert set(sections) == names | {"displacement", "cluster concordance", "genes called"}
    assert all("Misses:" in part for part in sections.values())
