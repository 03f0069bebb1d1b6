"""Queries with features of several kinds: those of the reference's kind are taken, and the others said."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import harmonax
from harmonax.errors import HarmonaxWarning
from harmonax.files import MapJob, map_file
from harmonax.mapping.query import QueryOptions

sc = pytest.importorskip("scanpy", reason="scanpy is not installed")
from queries import counts  # noqa: E402

GENES, TAGS = 60, 6


def cells(seed, n=300):
    """Return genes and antibodies, which have most of the counts, of the same cells; some are called alike."""
    gen = np.random.default_rng(seed)
    types, batch = gen.integers(4, size=n), gen.choice([0, 1], n)
    rna = counts(n, gen, types, batch, GENES)
    tags = gen.poisson(gen.lognormal(5, 1, (4, TAGS))[types]).astype(np.float32)
    obs = pd.DataFrame({"batch": [f"b{b}" for b in batch]}, index=[f"c{i}" for i in range(n)])
    var = pd.DataFrame({"feature_types": ["Gene Expression"] * GENES + ["Antibody Capture"] * TAGS})
    var.index = [*(f"g{i}" for i in range(GENES)), *(f"g{i}" if i < 3 else f"tag{i}" for i in range(TAGS))]
    return anndata.AnnData(scipy.sparse.hstack([rna, scipy.sparse.csr_matrix(tags)], "csr"), obs=obs, var=var)


def model(part):
    reference = cells(0)[:, part].copy()
    sc.pp.normalize_total(reference)
    sc.pp.log1p(reference)
    sc.pp.pca(reference, n_comps=min(5, reference.n_vars - 1))
    harmonax.pp.harmony_integrate(reference, "batch", rng=0, verbose=False, save_model=True)
    return harmonax.mapping.build.read_model(reference)


@pytest.mark.filterwarnings("ignore:.*unlike|Variable names:UserWarning")
@pytest.mark.parametrize("part", [slice(0, GENES), slice(GENES, None)], ids=["genes", "antibodies"])
@pytest.mark.parametrize("column", ["feature_types", "feature_type"])
def test_those_of_the_references_kind(part, column, tmp_path):
    fitted, whole = model(part), cells(1)
    whole.var = whole.var.rename(columns={"feature_types": column})
    alone = whole[:, part].copy()
    harmonax.tl.map_query(alone, fitted, "batch")
    kind = "Antibody Capture" if part.start == 0 else "Gene Expression"
    says = rf"{GENES + TAGS - alone.n_vars} of the query's 66 features are left aside.*'{kind}' in var\['{column}'\]"
    with pytest.warns(HarmonaxWarning, match=says):
        harmonax.tl.map_query(whole, fitted, "batch")
    np.testing.assert_array_equal(whole.obsm["X_pca_harmony"], alone.obsm["X_pca_harmony"])
    np.testing.assert_array_equal(whole.obs["harmonax_novelty"], alone.obs["harmonax_novelty"])
    fitted.save(tmp_path / "m.h5")
    cells(1).write_h5ad(tmp_path / "q.h5ad")
    with pytest.warns(HarmonaxWarning, match="left aside"):
        map_file(MapJob(tmp_path / "q.h5ad", tmp_path / "m.h5", tmp_path / "o.h5ad", ["batch"]), QueryOptions())
    np.testing.assert_allclose(
        anndata.read_h5ad(tmp_path / "o.h5ad").obsm["X_pca_harmony"], alone.obsm["X_pca_harmony"], atol=1e-5
    )


@pytest.mark.filterwarnings("error::harmonax.errors.HarmonaxWarning", "ignore:.*unlike|Variable names:UserWarning")
def test_a_reference_of_both_kinds_keeps_both():
    whole = cells(0)
    whole.var_names_make_unique()
    sc.pp.normalize_total(whole)
    sc.pp.log1p(whole)
    sc.pp.pca(whole, n_comps=5)
    harmonax.pp.harmony_integrate(whole, "batch", rng=0, verbose=False, save_model=True)
    query = cells(1)
    query.var_names_make_unique()
    mapped = harmonax.tl.map_query(query, whole, "batch")
    assert mapped.record["genes"] == {"reference": GENES + TAGS, "missing": 0}
