"""Joint training: an encoder of counts, learned through Harmony."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("jax", reason="pip install 'harmonax[jax]'")
pytest.importorskip("flax", reason="pip install 'harmonax[jax]'")
pytest.importorskip("optax", reason="pip install 'harmonax[jax]'")
pytest.importorskip("sklearn", reason="pip install 'harmonax[workflow]'")

from flax import nnx

import harmonax as hx
from harmonax.datasets import simulate
from harmonax.errors import FileFormatError, InputError, MissingKeyError
from harmonax.evaluation.entropy import chance_entropy, neighbourhood_entropy
from harmonax.evaluation.neighbours import nearest_cells
from harmonax.operators import DifferentiableMMDBatchCorrection
from harmonax.training.encoder import EncoderConfig, HarmonyEncoder, TrainedEncoder, train_encoder
from harmonax.training.scaling import scaled_log_counts

pytestmark = pytest.mark.thorough

TINY = EncoderConfig(n_genes=50, hidden_dim=8, latent_dim=4, n_clusters=3, n_iterations=1)
QUICK = {"config": TINY, "steps": 3, "batch_size": 90, "progress": False}


def judged(embedding, adata):
    """Return mixing as a share of chance, and the share of 15 neighbours that are of the cell's own type."""
    batch, kind = (adata.obs[name].cat.codes.to_numpy() for name in ("batch", "cell_type"))
    chance = chance_entropy(embedding, batch, np.random.default_rng(0), groups=kind, shuffles=10)
    pure = (kind[nearest_cells(embedding, 15)] == kind[:, None]).mean()
    return np.array([neighbourhood_entropy(embedding, batch) / chance, pure])


# 600 optimisation steps a seed, after minutes of compilation.
@pytest.mark.slow
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


@pytest.fixture(scope="module")
def trained(adata):
    """Return a copy of the cells that was trained on, and what came back."""
    adata = adata.copy()
    return adata, train_encoder(adata, "batch", **QUICK)


def weighed(found, **weights):
    """Return the weighted sum of the losses of the first step."""
    return sum(weight * found.fitted.history[name][0] for name, weight in weights.items())


class TestTrainEncoder:
    def test_writes_what_it_returns(self, trained):
        adata, found = trained
        np.testing.assert_array_equal(adata.obsm["X_encoder"], found.embedding)
        assert found.latent.shape == (90, 4)
        assert not np.array_equal(found.latent, found.embedding)
        assert {"reconstruction", "mixing", "clustering", "total"} == set(found.fitted.history)
        expected = weighed(found, reconstruction=60, mixing=0.5, clustering=0.5)
        assert found.fitted.history["total"][0] == pytest.approx(expected, rel=1e-4)

    def test_the_gradient_of_mixing_reaches_the_encoder(self, adata):
        # With nothing else to learn, the encoder moves all the same.
        alone = dataclasses.replace(TINY, reconstruction=0.0)
        found = train_encoder(adata, "batch", preset="strong_batch", **{**QUICK, "config": alone})
        new = HarmonyEncoder(alone, len(found.genes), found.model.n_batches, rngs=nnx.Rngs(0))
        before, after = (np.asarray(model.hidden.kernel[...]) for model in (new, found.model))
        assert np.abs(after - before).max() > 1e-4
        # The decoder learns from the reconstruction alone.
        np.testing.assert_array_equal(new.decoder.kernel[...], found.model.decoder.kernel[...])
        expected = weighed(found, mixing=1.0, clustering=0.1)
        assert found.fitted.history["total"][0] == pytest.approx(expected, rel=1e-4)

    def test_presets_weigh_differently(self, adata, trained):
        found = train_encoder(adata, "batch", preset="clear_types", **QUICK)
        expected = weighed(found, reconstruction=60, mixing=0.3, clustering=1.0)
        assert found.fitted.history["total"][0] == pytest.approx(expected, rel=1e-4)
        # The same beginning, and another way on.
        assert found.fitted.history["mixing"][0] == pytest.approx(trained[1].fitted.history["mixing"][0], rel=1e-5)
        assert not np.array_equal(found.latent, trained[1].latent)

    def test_arrays_and_seeds(self, adata, trained):
        counts, batch = adata.X.toarray(), adata.obs["batch"].to_numpy()
        again = train_encoder(counts, batch, **QUICK)
        np.testing.assert_array_equal(again.embedding, trained[1].embedding)

    def test_a_saved_encoder_encodes_new_cells_as_it_did(self, trained, tmp_path):
        adata, found = trained
        np.testing.assert_allclose(found.encode(adata.X), found.latent, atol=1e-5)
        found.save(tmp_path / "encoder.h5")
        loaded = TrainedEncoder.load(tmp_path / "encoder.h5")
        np.testing.assert_array_equal(loaded.encode(adata.X[:7]), found.encode(adata.X[:7]))
        np.testing.assert_array_equal(loaded.embedding, found.embedding)
        assert loaded.model.harmony.seed == found.model.harmony.seed
        assert loaded.fitted is None
        # New cells alone are scaled as those trained on, not by themselves.
        np.testing.assert_allclose(found.encode(adata.X[:1]), found.latent[:1], atol=1e-5)
        with pytest.raises(InputError, match="the encoder reads column"):
            found.encode(np.ones((3, 2)))
        with pytest.raises(FileFormatError, match="not a DifferentiableMMDBatchCorrection"):
            DifferentiableMMDBatchCorrection.load(tmp_path / "encoder.h5")

    def test_minibatches_may_be_of_one_batch(self, adata):
        found = train_encoder(adata, "batch", one_batch=1.0, **{**QUICK, "batch_size": 40})
        # There is nothing to mix in them, and so nothing to lose.
        assert not found.fitted.history["mixing"].any()
        with pytest.raises(InputError, match="one_batch=2"):
            train_encoder(adata, "batch", one_batch=2, **QUICK)

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
