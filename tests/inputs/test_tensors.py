"""Tensors of torch itself, where it is installed; what stands in for it and for cupy is in `test_arguments`."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

import harmonax
from harmonax.errors import HarmonaxWarning
from harmonax.evaluation.lisi import lisi

torch = pytest.importorskip("torch", reason="torch is not installed")

N = 60
CODES = np.repeat([0, 1], N // 2)
Z = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32) + CODES[:, None]
HOW = {"rng": 0, "progress": False, "max_iter_harmony": 2}
WANT = harmonax.harmonize(Z, CODES, **HOW).embedding
MODEL = harmonax.HarmonyModel.from_result(harmonax.harmonize(Z, CODES, **HOW))


def fronts(tensor, codes):
    """Return what every front that takes an array makes of a tensor."""
    yield harmonax.harmonize(tensor, codes, **HOW).embedding, WANT
    run = {"max_iter_harmony": 2, "max_iter_kmeans": 200, "epsilon_harmony": 1e-4, "epsilon_cluster": 1e-5}
    meta = pd.DataFrame({"batch": CODES})
    made = (harmonax.run_harmony(x, meta, "batch", random_state=0, verbose=False, **run).Z_corr for x in (tensor, Z))
    yield tuple(made)
    yield MODEL.map(tensor, codes), MODEL.map(Z, CODES)
    yield harmonax.mapping.map_query(MODEL, tensor, codes).embedding, MODEL.map(Z, CODES)
    yield MODEL.nearest_cluster(tensor), MODEL.nearest_cluster(Z)
    yield lisi(tensor, CODES, perplexity=5), lisi(Z, CODES, perplexity=5)


KINDS = {
    "float32": lambda Z: torch.tensor(Z),
    "float64": lambda Z: torch.tensor(Z, dtype=torch.float64),
    "half": lambda Z: torch.tensor(Z).half(),
    "bfloat16": lambda Z: torch.tensor(Z).bfloat16(),
    "strided": lambda Z: torch.tensor(np.repeat(Z, 2, axis=0))[::2],
    "transposed": lambda Z: torch.tensor(np.ascontiguousarray(Z.T)).T,
    "inference": lambda Z: torch.inference_mode()(lambda: torch.tensor(Z))(),
}


@pytest.mark.filterwarnings("ignore:.*not converge|.*maximum:harmonax.errors.HarmonaxWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_every_front(kind):
    exact = kind not in ("half", "bfloat16")
    for found, want in fronts(KINDS[kind](Z), torch.tensor(CODES)):
        if exact:
            np.testing.assert_allclose(found, want, atol=1e-5)
        else:
            assert np.shape(found) == np.shape(want)


def test_a_gradient_is_let_go_with_a_word_at_every_front():
    leaf = torch.tensor(Z, requires_grad=True)
    with pytest.warns(HarmonaxWarning, match="tensor with a gradient: it is detached") as said:
        made = list(fronts(leaf * 1.0, torch.tensor(CODES)))
    for found, want in made:
        np.testing.assert_allclose(found, want, atol=1e-5)
    assert sum("gradient" in str(word.message) for word in said) >= 6
    assert leaf.grad is None


# pandas asks torch's tensors for a copy in a way that they do not know yet.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_embeddings_and_labels_of_an_anndata():
    adata = anndata.AnnData(
        obs=pd.DataFrame(index=[f"c{i}" for i in range(N)]), obsm={"X_pca": torch.tensor(Z).numpy()}
    )
    adata.obs["batch"] = torch.tensor(CODES)
    harmonax.pp.harmony_integrate(adata, "batch", rng=0, verbose=False, max_iter_harmony=2)
    np.testing.assert_allclose(adata.obsm["X_pca_harmony"], WANT, atol=1e-5)


def test_a_sparse_tensor_says_what_it_is():
    with pytest.raises(harmonax.errors.InputError, match=r"is a Tensor that is not an array of numbers|dense"):
        harmonax.harmonize(torch.tensor(Z).to_sparse(), CODES, **HOW)


def test_a_tensor_on_no_device_is_refused():
    with pytest.raises(harmonax.errors.InputError):
        harmonax.harmonize(torch.empty((N, 4), device="meta"), CODES, **HOW)


def test_scikit_learn_takes_them():
    sklearn = pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    assert sklearn
    found = harmonax.Harmony(random_state=0).fit_transform(torch.tensor(Z), batch=torch.tensor(CODES))
    assert found.shape == (N, 4)
