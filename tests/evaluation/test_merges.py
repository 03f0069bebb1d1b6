"""Without cell types: merges that follow the shift of their batch, and merges that do not."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

from harmonax import tl
from harmonax.evaluation.after.merges import doubtful_merges
from harmonax.evaluation.neighbours import nearest_cells

TYPES = "TBMNX"
EVEN = {(b, t): 120 for b in "ab" for t in "TBM"}
# X is only in a, N only in b.
ONE_SIDED = EVEN | {("a", "X"): 120, ("b", "N"): 120}


def cells(counts: dict[tuple[str, str], int], per_type: float = 0.0) -> anndata.AnnData:
    """Return cells as a correction without fault leaves them; before it, a shift per batch, and one per type in it."""
    gen = np.random.default_rng(0)
    rows = [(b, t) for (b, t), n in counts.items() for _ in range(n)]
    obs = pd.DataFrame(rows, columns=["batch", "cell_type"], index=[f"cell{i}" for i in range(len(rows))])
    after = gen.normal(size=(len(rows), 8))
    after[np.arange(len(rows)), [TYPES.index(t) for _, t in rows]] += 12
    before = after.copy()
    for b, t in counts:
        own = ((obs["batch"] == b) & (obs["cell_type"] == t)).to_numpy()
        before[own, 7] += 9.0 * (b == "b")
        before[own] += per_type * gen.normal(size=8)
    return anndata.AnnData(obs=obs.astype("category"), obsm={"X_pca": before, "X_pca_harmony": after})


def merges_of(adata: anndata.AnnData, **how) -> pd.DataFrame:
    batch = adata.obs["batch"].cat
    near = nearest_cells(adata.obsm["X_pca_harmony"], 30)
    codes = batch.codes.to_numpy().astype(np.int64)
    return doubtful_merges(adata.obsm["X_pca"], codes, list(batch.categories), near, **how)


def laid(adata: anndata.AnnData, one: str, other: str) -> anndata.AnnData:
    """Lay the cells of one type on another."""
    Z, own = adata.obsm["X_pca_harmony"], (adata.obs["cell_type"] == one).to_numpy()
    Z[own] += 12 * (np.eye(8)[TYPES.index(other)] - np.eye(8)[TYPES.index(one)])
    return adata


@pytest.mark.parametrize("per_type", [0.0, 0.5])
@pytest.mark.parametrize("counts", [EVEN, ONE_SIDED], ids=["even", "one-sided"])
def test_a_shift_of_the_batch_explains_every_merge(counts, per_type):
    assert not len(merges_of(cells(counts, per_type)))


@pytest.mark.parametrize("per_type", [0.0, 0.5])
def test_a_type_of_one_batch_on_a_type_of_the_other_is_doubtful(per_type):
    adata = laid(cells(ONE_SIDED, per_type), "X", "N")
    found = merges_of(adata, names=adata.obs["cell_type"].to_numpy(str))
    assert set(zip(found["state"], found["batch"], found["other_batch"], strict=True)) >= {("X", "a", "b")}
    assert set(found["state"]) <= {"X", "N"}
    assert (found["apart"] > 5).all()


def test_two_states_cannot_say_which_of_them_is_wrong():
    two = {(b, t): 60 for b in "ab" for t in "TB"}
    assert not len(merges_of(laid(cells(two), "T", "B")))


def test_the_verdict_without_labels_is_not_trust_and_says_why():
    adata = laid(cells(ONE_SIDED), "X", "N")
    found = tl.verdict(adata, "batch")
    assert found.code == "caution"
    (doubt,) = (finding for finding in found.findings if finding.code == "merges_doubtful")
    assert "cannot be told" in doubt.message
    assert "label_key" in doubt.advice
    assert tl.verdict(cells(EVEN), "batch").code == "trust"
    # With cell types these decide.
    assert "merges_doubtful" not in {
        finding.code for finding in tl.verdict(adata, "batch", label_key="cell_type").findings
    }
