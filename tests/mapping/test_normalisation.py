"""Queries of every normalisation on a reference that knows its own: rescaled where both are known, told where not."""

from __future__ import annotations

import math
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from queries import counts
from sampling import first

import harmonax
from harmonax import HarmonyModel
from harmonax.errors import HarmonaxWarning, InputError
from harmonax.mapping.expression import Expression
from harmonax.mapping.projection import Projection
from harmonax.mapping.serialise import from_dict, to_dict

pytestmark = pytest.mark.filterwarnings("ignore:.*unlike:harmonax.errors.HarmonaxWarning")
sc = pytest.importorskip("scanpy", reason="scanpy is not installed")


def cells(seed, n=500, kinds=5, genes=200):
    """Return counts of cells that were sequenced to different depths."""
    gen = np.random.default_rng(seed)
    types, batch = gen.integers(kinds, size=n), gen.choice([0, 1], n)
    X = counts(n, gen, types, batch, genes).astype(np.int64)
    X.data = gen.binomial(X.data, np.repeat(gen.uniform(0.3, 1.0, n), np.diff(X.indptr)))
    obs = pd.DataFrame({"batch": [f"b{b}" for b in batch], "cell_type": [f"t{t}" for t in types]})
    made = anndata.AnnData(X.astype(np.float32), obs=obs.set_index(pd.Index([f"c{seed}_{i}" for i in range(n)])))
    made.var_names = [f"g{i}" for i in range(genes)]
    return made


def normalised(adata, target_sum=None, base=None):
    adata = adata.copy()
    sc.pp.normalize_total(adata, target_sum=target_sum)
    if base != 0:
        sc.pp.log1p(adata, base=base)
    return adata


def of(adata, way="logged", target_sum=None, base=None):
    """Return a reference as scanpy's users make it."""
    original, adata = adata, normalised(adata, target_sum, base)
    if "chosen" in way:
        sc.pp.highly_variable_genes(adata, n_top_genes=80)
        adata.raw = original if "counts" in way else adata
        adata = adata[:, adata.var["highly_variable"]].copy()
    if "scaled" in way:
        adata.X = adata.X.toarray()
        sc.pp.scale(adata, max_value=3)
    sc.pp.pca(adata, n_comps=8)
    return adata


REFERENCE, QUERY = cells(0), cells(1, n=300)
WAYS = ["logged", "scaled", "chosen", "chosen, raw counts", "chosen and scaled", "chosen and scaled, raw counts"]


def projected(projection, X):
    return projection.match(QUERY.var_names).project(Expression(projection, X))[:]


class TestTheReference:
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("total", [None, 1e3, 1e6])
    def test_knows_its_total(self, way, total):
        expected = total or np.median(np.asarray(REFERENCE.X.sum(axis=1)))
        p = Projection.of(of(REFERENCE, way, total))
        assert p.target_sum == pytest.approx(expected, rel=1e-4)
        assert (p.log_base, p.share == pytest.approx(1, abs=1e-6)) == (math.e, "chosen" not in way)

    @pytest.mark.parametrize("base", [2, 10, 0])
    def test_knows_its_logarithm(self, base):
        p = Projection.of(of(REFERENCE, base=base))
        assert p.log_base == base

    def test_does_not_guess(self):
        # Genes were left out, and raw has no more of them; or two data sets each have a total of their own.
        adata = of(REFERENCE, "chosen")
        adata.raw = None
        assert Projection.of(adata).target_sum is None
        both = anndata.concat([normalised(REFERENCE, 1e4), normalised(QUERY, 2e4)])
        sc.pp.pca(both, n_comps=5)
        assert Projection.of(both).target_sum is None

    def test_a_file_keeps_it(self):
        model = fitted(of(REFERENCE, "chosen", base=2))
        again = from_dict(to_dict(model), HarmonyModel).projection
        assert (again.target_sum, again.log_base, again.share) == (
            model.projection.target_sum,
            2.0,
            model.projection.share,
        )
        # A model of an earlier version has no word of base and share: natural, and not known.
        plain = to_dict(model)
        older = {k: v for k, v in plain["projection"].items() if k not in ("log_base", "share")}
        from harmonax import io

        sealed = io.seal(
            from_dict.__globals__["MODEL"],
            io.unseal(plain, from_dict.__globals__["MODEL"], "it"),
            {"tables": plain["tables"], "projection": older, "novelty": plain["novelty"]},
        )
        old = from_dict(sealed, HarmonyModel).projection
        assert (old.log_base, old.share) == (math.e, None)

    @pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
    @pytest.mark.filterwarnings("ignore:Writing zarr v2")
    def test_from_a_file_too(self, suffix, tmp_path):
        from harmonax.cli import run

        adata = of(REFERENCE, "chosen and scaled")
        getattr(adata, "write_zarr" if suffix == ".zarr" else "write_h5ad")(tmp_path / f"a{suffix}")
        where = ["--save-model", str(tmp_path / "m.h5"), "--quiet"]
        assert (
            run(
                [
                    "integrate",
                    str(tmp_path / f"a{suffix}"),
                    "-o",
                    str(tmp_path / "o.h5ad"),
                    "--batch-key",
                    "batch",
                    *where,
                ]
            )
            == 0
        )
        found = HarmonyModel.load(tmp_path / "m.h5").projection
        assert found.target_sum == pytest.approx(Projection.of(adata).target_sum)


def fitted(adata):
    harmonax.pp.harmony_integrate(adata, "batch", rng=0, save_model=True, verbose=False)
    return from_dict(adata.uns["harmonax_model"], HarmonyModel)


class TestTheQuery:
    @pytest.mark.parametrize("way", WAYS)
    def test_any_total_is_brought_to_the_references(self, way):
        p = Projection.of(of(REFERENCE, way, 1e4))
        want = projected(p, normalised(QUERY, 1e4).X)
        for how in ((None, None), (1e3, None), (1e6, None), (1e4, 2), (5e3, 10), (777.0, 0)):
            np.testing.assert_allclose(projected(p, normalised(QUERY, *how).X), want, atol=2e-3, err_msg=str(how))
        np.testing.assert_allclose(projected(p, QUERY.X), want, atol=2e-3)

    @pytest.mark.parametrize("base", [2, 10, 0])
    def test_the_references_logarithm_is_taken(self, base):
        p = Projection.of(of(REFERENCE, "logged", 1e4, base))
        want = projected(p, normalised(QUERY, 1e4, base).X)
        scale = np.abs(want).max()
        for X in (QUERY.X, normalised(QUERY).X):
            np.testing.assert_allclose(projected(p, X) / scale, want / scale, atol=1e-4)

    @pytest.mark.parametrize(
        "kind", [np.asarray, scipy.sparse.csr_matrix, scipy.sparse.csc_matrix, scipy.sparse.csr_array]
    )
    def test_dense_and_sparse(self, kind):
        p = Projection.of(of(REFERENCE, target_sum=1e4))
        X = kind(normalised(QUERY, 2e4).X.toarray())
        np.testing.assert_allclose(projected(p, X), projected(p, normalised(QUERY, 1e4).X), atol=2e-3)

    def test_data_sets_with_totals_of_their_own_that_were_joined(self):
        p = Projection.of(of(REFERENCE, target_sum=1e4))
        X = scipy.sparse.vstack([normalised(QUERY[:150], 2e3).X, normalised(QUERY[150:], 3e3).X]).tocsr()
        np.testing.assert_allclose(projected(p, X), projected(p, normalised(QUERY, 1e4).X), atol=2e-3)

    def test_the_same_total_is_left_alone(self):
        p = Projection.of(of(REFERENCE, target_sum=1e4))
        X = normalised(QUERY, 1e4).X
        expression = Expression(p, X)
        assert (expression[0:9] != X[:9]).nnz == 0
        assert expression.record() == {
            "done": "taken as it is",
            "query": pytest.approx([1e4]),
            "reference": p.target_sum,
        }

    def test_what_was_done_is_said(self, capsys):
        model = fitted(of(REFERENCE, target_sum=1e4))
        query = normalised(QUERY, 5e3)
        harmonax.tl.map_query(query, model, "batch")
        said = query.uns["harmonax_map"]["normalisation"]
        assert said["done"] == "rescaled"
        assert said["query"] == pytest.approx(5e3, rel=1e-3)
        assert said["reference"] == pytest.approx(1e4, rel=1e-3)
        assert "rescaled from 5,000 to 10,000 counts per cell" in harmonax.tl.map_query.__globals__["summary"](
            harmonax.tl.map_query(query, model, "batch")
        )


class TestPartsOfTheQuery:
    @pytest.mark.filterwarnings("ignore:Setting element .*of view")
    def test_a_view_of_dense_expression(self):
        """anndata's views of arrays look like sparse matrices."""
        model, dense = fitted(of(REFERENCE)), normalised(QUERY, 1e3)
        dense.X = dense.X.toarray()
        whole, view = dense.copy(), dense[:, np.random.default_rng(0).permutation(dense.n_vars)]
        for query in (whole, view):
            harmonax.tl.map_query(query, model, "batch")
        np.testing.assert_allclose(view.obsm["X_pca_harmony"], whole.obsm["X_pca_harmony"], atol=1e-4)

    @pytest.mark.parametrize("n_cells", [300, 40], ids=["averaged", "each by itself"])
    @pytest.mark.parametrize("share", [0.0, 0.3, 0.45])
    @pytest.mark.filterwarnings("ignore:.*missing from the query:harmonax.errors.HarmonaxWarning")
    def test_missing_genes_make_no_cell_novel(self, share, n_cells):
        known = REFERENCE[REFERENCE.obs["cell_type"] != "t2"].copy()
        model, query = fitted(of(known, target_sum=1e4)), normalised(QUERY, 1e4)
        gen = np.random.default_rng(3)
        there = np.sort(gen.permutation(query.n_vars)[: round(query.n_vars * (1 - share))])
        query = query[:n_cells, there].copy()
        harmonax.tl.map_query(query, model, "batch", target_sum=1e4 if share else None)
        novel, absent = query.obs["harmonax_novel"].to_numpy(), (query.obs["cell_type"] == "t2").to_numpy()
        assert novel[~absent].mean() < 0.1
        assert n_cells == 40 or novel[absent].mean() > (0.9 if share < 0.4 else 0.5)


class TestNothingIsGuessed:
    def test_a_query_without_all_genes_warns_and_takes_its_total_from_the_user(self):
        model = fitted(of(REFERENCE, "chosen", 1e4))
        whole, part = normalised(QUERY, 1e4), normalised(QUERY, 3e3)[:, model.projection.genes.astype(str)].copy()
        harmonax.tl.map_query(whole, model, "batch")
        with pytest.warns(
            HarmonaxWarning, match=r"cannot be read from X .*genes were left out.*10,000 per cell.*target_sum="
        ):
            harmonax.tl.map_query(part, model, "batch")
        off = np.abs(part.obsm["X_pca_harmony"] - whole.obsm["X_pca_harmony"]).max()
        harmonax.tl.map_query(part, model, "batch", target_sum=3e3)
        assert np.abs(part.obsm["X_pca_harmony"] - whole.obsm["X_pca_harmony"]).max() < 1e-2 < off

    @pytest.mark.parametrize(
        ("query", "target_sum", "says"),
        [
            (normalised(QUERY, 5e3), 1e4, "add up to 5,000; leave target_sum out"),
            (QUERY, 1e4, "has counts; leave it out"),
            (QUERY, "1e4", "target_sum='1e4'"),
            (QUERY, 0, "target_sum=0"),
        ],
    )
    def test_a_total_that_cannot_be_is_refused(self, query, target_sum, says):
        query = query.copy()
        with pytest.raises(InputError, match=says):
            harmonax.tl.map_query(query, fitted(of(REFERENCE, target_sum=1e4)), target_sum=target_sum)
        assert not query.obsm

    def test_a_model_without_a_total_says_so_and_can_be_told(self):
        adata = of(REFERENCE, "chosen", 1e4)
        adata.raw = None
        model, query = fitted(adata), normalised(QUERY, 5e3)
        with pytest.warns(HarmonaxWarning, match="model does not know.*with_target_sum"):
            harmonax.tl.map_query(query, model, "batch")
        with pytest.raises(InputError, match="with_target_sum"):
            harmonax.tl.map_query(QUERY.copy(), model, "batch")
        told, want = model.with_target_sum(1e4), normalised(QUERY, 1e4)
        harmonax.tl.map_query(query, told, "batch")
        harmonax.tl.map_query(want, told, "batch")
        np.testing.assert_allclose(query.obsm["X_pca_harmony"], want.obsm["X_pca_harmony"], atol=2e-3)
        with pytest.raises(InputError, match="add up to 10000"):
            told.with_target_sum(2e4)
        with pytest.raises(InputError, match="log_base=-1"):
            model.with_target_sum(1e4, log_base=-1)

    @pytest.mark.parametrize("as_counts", [True, False])
    def test_totals_over_other_genes_are_told(self, as_counts):
        # Cells that were normalised after genes were left out have the same total, and it is not the same thing.
        model = fitted(of(REFERENCE, "chosen", 1e4))
        few = QUERY[:, model.projection.genes.astype(str)].copy()
        with pytest.warns(HarmonaxWarning, match="but 100% of the query's: were genes left out of the query"):
            harmonax.tl.map_query(few if as_counts else normalised(few, 1e4), model, "batch")

    def test_components_of_counts_say_when_the_query_is_not_counts(self):
        adata = REFERENCE.copy()
        sc.pp.pca(adata, n_comps=5)
        with pytest.warns(HarmonaxWarning, match="components are those of counts, and the query's X is not"):
            harmonax.tl.map_query(normalised(QUERY), fitted(adata), "batch")

    def test_two_cells_may_have_the_references_total(self):
        p = Projection.of(of(REFERENCE, target_sum=1e4))
        assert not Expression(p, normalised(QUERY[:2], 1e4).X).notes
        assert Expression(p, normalised(QUERY[:2], 2e4).X).notes


@pytest.mark.parametrize("kind", first(2, [int, float, str, object, "category", "Int64"]))
def test_batches_that_are_numbers_are_known_however_they_are_stored(kind):
    gen = np.random.default_rng(0)
    Z, batch = gen.normal(size=(150, 4)), np.tile([0, 1, 2], 50)
    for theirs in (int, float, str):
        model = HarmonyModel.from_result(harmonax.harmonize(Z, {"batch": batch.astype(theirs)}, rng=0, progress=False))
        assert model.levels == (("0", "1", "2"),)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            mapped = harmonax.mapping.map_query(model, Z, pd.DataFrame({"batch": pd.Series(batch).astype(kind)}))
        assert sum(mapped.known.values()) == 150


@pytest.mark.thorough
def test_real_cells_are_known_whatever_the_totals(data_dir):
    """Kang et al. split in two: labels within 0.03 of the case with equal totals, an absent type within 5 points."""
    A = anndata.read_h5ad(data_dir / "kang_fullgenes.h5ad")
    A = A[A.obs["cell_type"].astype(str) != "unlabelled"].copy()
    gen = np.random.default_rng(0)
    half = gen.random(A.n_obs) < 0.5
    R = A[half & (A.obs["cell_type"] != "B cells").to_numpy()].copy()
    X = R.X.astype(np.int64)
    X.data = gen.binomial(X.data, 0.5)
    R.X = X.astype(np.float32)
    R = normalised(R)
    sc.pp.highly_variable_genes(R, n_top_genes=2000, batch_key="batch")
    sc.pp.pca(R, n_comps=30, mask_var="highly_variable")
    harmonax.pp.harmony_integrate(R, "batch", rng=0, max_iter_harmony=50, save_model=True, save_labels="cell_type")
    ours = from_dict(R.uns["harmonax_model"], HarmonyModel).projection.target_sum

    def scores(query):
        harmonax.tl.map_query(query, R, "batch")
        absent = (query.obs["cell_type"] == "B cells").to_numpy()
        right = (query.obs["cell_type_mapped"].astype(str) == query.obs["cell_type"].astype(str)).to_numpy()
        return right[~absent].mean(), query.obs["harmonax_novel"].to_numpy()[absent].mean()

    query = A[~half].copy()
    right, found = scores(normalised(query, ours))
    assert right > 0.85
    for other in (normalised(query), normalised(query, 1e3), normalised(query, 1e6), query):
        again, also = scores(other)
        assert again == pytest.approx(right, abs=0.03)
        assert also == pytest.approx(found, abs=0.05)
