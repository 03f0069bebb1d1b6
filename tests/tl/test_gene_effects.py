"""What a correction did to genes, against what it did to each cell's expression."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

import harmonax
from harmonax.errors import InputError, MissingKeyError
from harmonax.report import write_report

N, G, D = 400, 30, 8


@pytest.fixture
def corrected():
    gen = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"batch": gen.choice(["a", "b", "c"], N), "kind": gen.choice(["T", "B"], N)},
        index=[f"cell{i}" for i in range(N)],
    )
    Z = gen.normal(size=(N, D)) + 2 * gen.normal(size=(3, D))[obs["batch"].astype("category").cat.codes]
    adata = anndata.AnnData(obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(G)]), obsm={"X_pca": Z})
    weights = gen.normal(size=(G, D))
    weights[[3, 7]] = 0  # not variable
    adata.varm["PCs"] = weights
    harmonax.pp.harmony_integrate(adata, "batch", rng=0)
    return adata


def test_equals_what_was_subtracted_from_each_cell(corrected):
    found = harmonax.tl.gene_effects(corrected, group_key="kind", n_genes=5)
    per_cell = (corrected.obsm["X_pca"] - corrected.obsm["X_pca_harmony"]) @ corrected.varm["PCs"].T
    expression = corrected.obsm["X_pca"] @ corrected.varm["PCs"].T
    moved = pd.Series(np.sqrt((per_cell**2).mean(axis=0)), corrected.var_names).drop(["g3", "g7"])
    np.testing.assert_allclose(found.genes["moved"], moved.sort_values(ascending=False), rtol=1e-9)
    assert found.genes.index.tolist() == moved.sort_values(ascending=False).index.tolist()
    share = pd.Series(
        (per_cell**2).mean(axis=0) / np.where((v := expression.var(axis=0)) > 0, v, 1), corrected.var_names
    )
    np.testing.assert_allclose(found.genes["share"], share[found.genes.index], rtol=1e-9)
    assert len(found.effects) == 5 * 6
    for row in found.effects.itertuples():
        cells = ((corrected.obs["batch"] == row.batch) & (corrected.obs["kind"] == row.group)).to_numpy()
        assert row.n_cells == cells.sum()
        want = per_cell[cells, corrected.var_names.get_loc(row.gene)].mean()
        assert row.removed == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_the_ridge_coefficients_through_the_loadings(corrected):
    result = harmonax.harmonize(corrected.obsm["X_pca"], corrected.obs["batch"].to_numpy(), rng=0, dtype=float)
    corrected.obsm["X_pca_harmony"] = result.embedding
    found = harmonax.tl.gene_effects(corrected, "batch", n_genes=3)
    R, levels = result.assignments().astype(float), result.design.levels[0]
    for row in found.effects.itertuples():
        cells = (corrected.obs["batch"] == row.batch).to_numpy()
        W = result.ridge[levels.index(row.batch)]  # (K, d)
        loadings = corrected.varm["PCs"][corrected.var_names.get_loc(row.gene)]
        assert row.removed == pytest.approx(R[cells].mean(axis=0) @ W @ loadings, rel=1e-3, abs=1e-4)


def test_is_stored_reread_and_on_the_page(corrected, tmp_path):
    found = harmonax.tl.gene_effects(corrected)
    assert set(found.effects["group"]) == {"all cells"}
    corrected.write_h5ad(tmp_path / "c.h5ad")
    pd.testing.assert_frame_equal(
        anndata.read_h5ad(tmp_path / "c.h5ad").uns["harmonax_genes"]["genes"], found.genes, check_names=False
    )
    page = write_report(tmp_path / "c.h5ad", tmp_path / "page.html").read_text()
    assert "Genes that the correction moved most" in page
    assert found.genes.index[0] in page[page.index("Genes that the correction moved most") :]


def test_what_is_missing_is_named(corrected):
    with pytest.raises(MissingKeyError, match="no loadings 'loads'"):
        harmonax.tl.gene_effects(corrected, loadings="loads")
    corrected.obsm["X_other"] = corrected.obsm["X_pca"][:, :3]
    with pytest.raises(InputError, match="has 3 columns, the embedding before 8"):
        harmonax.tl.gene_effects(corrected, adjusted_basis="X_other")
    del corrected.uns["harmonax"]
    with pytest.raises(InputError, match="no batch column given"):
        harmonax.tl.gene_effects(corrected)
    with pytest.raises(InputError, match="n_genes"):
        harmonax.tl.gene_effects(corrected, "batch", n_genes=0)
