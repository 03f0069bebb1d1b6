"""Joint training: an encoder of counts, learned through Harmony."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("jax", reason="pip install 'harmonax[jax]'")
pytest.importorskip("flax", reason="pip install 'harmonax[jax]'")
pytest.importorskip("optax", reason="pip install 'harmonax[jax]'")
pytest.importorskip("sklearn", reason="pip install 'harmonax[workflow]'")

import harmonax as hx
from harmonax.demo.simulate import simulate
from harmonax.errors import InputError, MissingKeyError
from harmonax.evaluation.entropy import chance_entropy, neighbourhood_entropy
from harmonax.evaluation.neighbours import nearest_cells
from harmonax.training.encoder import EncoderConfig, scaled_log_counts, train_encoder

# More than a minute on two cores.
pytestmark = pytest.mark.slow

TINY = EncoderConfig(n_genes=50, hidden_dim=8, latent_dim=4, n_clusters=3, n_iterations=1)


def judged(embedding, adata):
    """Return mixing as a share of chance, and the share of 15 neighbours that are of the cell's own type."""
    batch, kind = (adata.obs[name].cat.codes.to_numpy() for name in ("batch", "cell_type"))
    chance = chance_entropy(embedding, batch, np.random.default_rng(0), groups=kind, shuffles=10)
    pure = (kind[nearest_cells(embedding, 15)] == kind[:, None]).mean()
    return np.array([neighbourhood_entropy(embedding, batch) / chance, pure])


def test_trained_through_harmony_beats_the_same_encoder_trained_without():
    # The control has the same shape, seed, steps and reconstruction; without Harmony and the batch losses.
    # Corrected afterwards by the exact engine, it is what one would do without joint training.
    gains = []
    for seed in (0, 1):
        adata = simulate(600, np.random.default_rng(seed))
        joint = train_encoder(adata, "batch", rng=seed, steps=300, progress=False)
        control = train_encoder(
            adata, "batch", config=EncoderConfig(harmony=False), rng=seed, steps=300, progress=False
        )
        after = hx.harmonize(control.latent, adata.obs[["batch"]], rng=seed, progress=False).embedding
        ours = judged(joint.embedding, adata)
        gains.append([ours - judged(control.latent, adata), ours - judged(after, adata)])
    gains = np.array(gains)
    assert (gains[:, :, 0] > 0.03).all(), gains
    assert (gains[:, :, 1].mean(axis=0) > 0.01).all(), gains


@pytest.fixture(scope="module")
def adata():
    return simulate(90, np.random.default_rng(0))


class TestTrainEncoder:
    def test_writes_what_it_returns(self, adata):
        adata = adata.copy()
        found = train_encoder(adata, "batch", config=TINY, steps=3, batch_size=40, progress=False)
        np.testing.assert_array_equal(adata.obsm["X_encoder"], found.embedding)
        assert found.latent.shape == (90, 4)
        assert not np.array_equal(found.latent, found.embedding)
        assert {"reconstruction", "mixing", "clustering", "total"} == set(found.fitted.history)

    def test_the_gradient_of_mixing_reaches_the_encoder(self, adata):
        # With nothing else to learn, the encoder moves all the same.
        alone = dataclasses.replace(TINY, reconstruction=0.0)
        one, two = (
            train_encoder(adata, "batch", config=alone, preset="strong_batch", steps=n, progress=False) for n in (1, 4)
        )
        before, after = (np.asarray(found.model.hidden.kernel[...]) for found in (one, two))
        assert np.abs(after - before).max() > 1e-4

    def test_presets_weigh_differently(self, adata):
        totals = {
            preset: train_encoder(adata, "batch", preset=preset, config=TINY, steps=1, progress=False).fitted.history
            for preset in ("strong_batch", "clear_types")
        }
        for preset, (mixing, clustering) in {"strong_batch": (1.0, 0.1), "clear_types": (0.3, 1.0)}.items():
            h = {name: float(values[0]) for name, values in totals[preset].items()}
            expected = 60 * h["reconstruction"] + mixing * h["mixing"] + clustering * h["clustering"]
            assert h["total"] == pytest.approx(expected, rel=1e-4)

    def test_arrays_and_seeds(self, adata):
        counts, batch = adata.X.toarray(), adata.obs["batch"].to_numpy()
        first, second = (train_encoder(counts, batch, config=TINY, steps=2, rng=3, progress=False) for _ in range(2))
        np.testing.assert_array_equal(first.embedding, second.embedding)

    def test_named_errors(self, adata):
        with pytest.raises(MissingKeyError, match="balanced"):
            train_encoder(adata, "batch", preset="balancd")
        with pytest.raises(MissingKeyError, match="layer"):
            train_encoder(adata, "batch", layer="raw")
        with pytest.raises(MissingKeyError, match="btch"):
            train_encoder(adata, "btch")
        with pytest.raises(InputError, match="agree"):
            train_encoder(np.ones((3, 2)), [0, 1])
        with pytest.raises(InputError, match="latent_dim=0"):
            EncoderConfig(latent_dim=0)


class TestScaledLogCounts:
    def test_depth_does_not_matter(self):
        counts = np.random.default_rng(0).poisson(5.0, (40, 20)) + 1.0
        deeper = counts * np.repeat([1, 10], 20)[:, None]
        shares = [x / x.sum(axis=1, keepdims=True) for x in (counts, deeper)]
        np.testing.assert_allclose(*(scaled_log_counts(s, 20)[0] for s in shares), rtol=1e-4, atol=1e-5)

    def test_keeps_the_most_variable_in_order_and_refuses_nonsense(self):
        gen = np.random.default_rng(0)
        counts = gen.poisson(5.0, (40, 5)).astype(float)
        counts[:, 3] = gen.choice([0.0, 100.0], 40)
        x, genes = scaled_log_counts(counts, 2)
        assert 3 in genes
        assert (np.diff(genes) > 0).all()
        np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
        for wrong in (-counts - 1, counts * np.nan):
            with pytest.raises(InputError, match="counts"):
                scaled_log_counts(wrong, 2)
        with pytest.raises(InputError, match="no gene varies"):
            scaled_log_counts(np.ones((4, 3)), 2)
