"""The bridge to PyTorch: values and gradients are those of JAX."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pip install 'harmonax[torch]'")
jax = pytest.importorskip("jax", reason="pip install 'harmonax[jax]'")

import jax.numpy as jnp  # noqa: E402

from harmonax import functional  # noqa: E402
from harmonax.torch import from_jax  # noqa: E402

BATCH = np.arange(40) % 2
CELLS = (np.random.default_rng(0).normal(size=(40, 4)) + 2 * BATCH[:, None]).astype(np.float32)


def loss(cells, batch):
    config = functional.BatchCorrectionConfig(n_clusters=3, n_features=4, n_batches=2, n_iterations=2, n_passes=2)
    found = functional.harmony(cells, batch, config)
    corrected = found["corrected_embeddings"]
    mixed = functional.mixing(corrected, batch, n_neighbors=5, n_batches=2)
    return {"loss": mixed, "label": jnp.argmax(found["cluster_assignments"], axis=1)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_and_gradients_are_those_of_jax(dtype):
    value, slope = jax.value_and_grad(lambda x: loss(x, BATCH)["loss"])(CELLS)
    cells = torch.tensor(CELLS, dtype=dtype, requires_grad=True)
    bridge = from_jax(loss)
    found = bridge(cells, torch.tensor(BATCH))
    assert float(found["loss"].detach()) == pytest.approx(float(value), abs=1e-5)
    assert found["label"].shape == (40,)
    assert not found["label"].requires_grad
    (3 * found["loss"]).backward()
    assert cells.grad.dtype == dtype
    np.testing.assert_allclose(cells.grad, 3 * slope, atol=1e-5)
    with torch.no_grad():
        assert not bridge(cells, torch.tensor(BATCH))["loss"].requires_grad


def test_a_tensor_changed_before_backward_is_refused():
    cells = torch.tensor(CELLS, requires_grad=True)
    moved = cells * 1
    value = from_jax(lambda x: (x**2).sum())(moved)
    moved.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_what_comes_back_may_be_changed():
    bridge = from_jax(lambda x: x**2)
    cells = torch.tensor(CELLS, requires_grad=True)
    with torch.no_grad():
        bridge(cells).zero_()
    bridge(cells).sum().backward()
    np.testing.assert_allclose(cells.grad, 2 * CELLS, rtol=1e-6)
