"""New cells on a fixed reference: the equations written out, what must not move, and where labels come from."""

from __future__ import annotations

import pickle
import re
import warnings

import anndata
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from queries import SHORT, experiment, fitted, logged, reference
from strategies import cells_with_batches

import harmonax
from harmonax import HarmonyModel, HarmonyParams, files
from harmonax.algorithm.seeding import unit
from harmonax.errors import HarmonaxWarning, InputError, MissingKeyError
from harmonax.mapping import map_query
from harmonax.mapping.projection import Expression, Projection
from harmonax.mapping.query import QueryOptions
from harmonax.mapping.serialise import from_dict


def soft(Z, Y, sigma):
    logits = -2 * (1 - unit(Z) @ Y.T) / sigma
    R = np.exp(logits - logits.max(axis=1, keepdims=True))
    return R / R.sum(axis=1, keepdims=True)


def written_out(model, Z, codes, lam, n_iter):
    """Map as the paper has it: one explicit system per cluster, one-hot batches, the reference in two sums."""
    hot = np.column_stack([codes[:, f] == b for f in range(codes.shape[1]) for b in np.unique(codes[:, f])]).astype(
        float
    )
    X = np.column_stack([np.ones(len(Z)), hot])
    out = Z
    for _ in range(n_iter):
        R, out = soft(out, model.centroids, model.sigma), Z.copy()
        for k in range(model.n_clusters):
            A = X.T @ (R[:, [k]] * X) + np.diag([0.0] + [lam] * hot.shape[1])
            A[0, 0] += model.cluster_mass[k]
            b = X.T @ (R[:, [k]] * Z)
            b[0] += model.cluster_moment[k]
            out -= R[:, [k]] * (hot @ np.linalg.solve(A, b)[1:])
    return out


class TestModel:
    @pytest.mark.parametrize("backend", ["memory", "disk", "dense"])
    @pytest.mark.parametrize("flavor", ["harmony1", "harmony2"])
    @pytest.mark.parametrize("levels", [(3,), (3, 2)])
    def test_its_sums_are_those_of_the_run(self, backend, flavor, levels):
        Z, codes = cells_with_batches(300, 5, levels, 1)
        params = HarmonyParams(flavor=flavor, precision="float64", n_clusters=6, **SHORT)
        result = harmonax.harmonize(Z, codes, params, rng=0, backend=backend, progress=False)
        model, R = HarmonyModel.from_result(result), result.assignments()
        np.testing.assert_allclose(model.cluster_mass, R.sum(axis=0), rtol=1e-10)
        np.testing.assert_allclose(model.cluster_moment, R.T @ result.embedding, rtol=1e-9, atol=1e-9)
        corrected = Z.copy()
        b = 0
        for f in range(len(levels)):
            for level in range(levels[f]):
                own = codes[:, f] == level
                corrected[own] -= R[own] @ model.ridge[b]
                b += 1
        np.testing.assert_allclose(result.embedding, corrected, rtol=1e-9, atol=1e-9)

    def test_a_reference_of_one_batch_gets_clusters(self):
        Z, _ = cells_with_batches(300, 5, (2,), 1)
        with pytest.warns(HarmonaxWarning, match="same batch"):
            result = harmonax.harmonize(Z, np.zeros(300), HarmonyParams(precision="float64"), rng=0)
        model = HarmonyModel.from_result(result)
        R = soft(Z, model.centroids, model.sigma)
        assert model.n_clusters == 10
        np.testing.assert_allclose(model.cluster_mass, R.sum(axis=0), rtol=1e-9)
        np.testing.assert_allclose(model.cluster_moment, R.T @ Z, rtol=1e-9, atol=1e-9)
        shifted = model.map(Z + 0.5, np.repeat("new", 300), n_iter=1)
        assert np.abs(shifted - Z).mean() < 0.5 * 0.5

    def test_its_size_does_not_depend_on_the_cells(self):
        small, large = fitted(n=300)[3], fitted(n=3000)[3]
        arrays = [name for name, value in vars(small).items() if isinstance(value, np.ndarray)]
        assert {name: getattr(small, name).shape for name in arrays} == {
            name: getattr(large, name).shape for name in arrays
        }


class TestPlace:
    @pytest.mark.parametrize("backend", ["memory", "disk", "dense"])
    @pytest.mark.parametrize("n_iter", [1, 2, 4])
    @pytest.mark.parametrize("levels", [(1,), (3,), (3, 2)])
    def test_is_the_equation(self, levels, n_iter, backend):
        model = fitted()[3]
        Z, codes = cells_with_batches(150, 6, levels, 9)
        got = map_query(model, Z, codes, n_iter=n_iter, ridge_lambda=0.7, backend=backend).embedding
        np.testing.assert_allclose(got, written_out(model, Z, codes, 0.7, n_iter), rtol=1e-9, atol=1e-9)

    @settings(max_examples=40)
    @given(n=st.integers(1, 60), n_levels=st.integers(1, 4), seed=st.integers(0, 999), lam=st.floats(1e-3, 1e3))
    def test_is_the_equation_for_few_cells_too(self, n, n_levels, seed, lam):
        model = MODEL
        gen = np.random.default_rng(seed)
        Z, codes = gen.normal(size=(n, 6)) * 3, gen.integers(n_levels, size=(n, 1))
        got = map_query(model, Z, codes, ridge_lambda=lam, allow_many_levels=True).embedding
        np.testing.assert_allclose(got, written_out(model, Z, codes, lam, 2), rtol=1e-7, atol=1e-7)

    def test_the_reference_does_not_move(self):
        model = fitted()[3]
        before = {name: value.copy() for name, value in vars(model).items() if isinstance(value, np.ndarray)}
        Z = np.random.default_rng(0).normal(size=(100, 6))
        given_Z = Z.copy()
        model.map(Z, np.repeat(["x", "y"], 50))
        for name, value in before.items():
            np.testing.assert_array_equal(getattr(model, name), value)
        np.testing.assert_array_equal(Z, given_Z)

    def test_a_shift_of_a_new_batch_is_taken_back(self):
        _, names, result, model = fitted(n=2000, max_iter_harmony=20)
        own = names["v0"] == "00"
        shift = np.array([1.0, -0.5, 0.5, 0.0, 0.5, -1.0])
        near = np.linalg.norm(
            model.map(result.embedding[own] + shift, np.repeat("new", own.sum())) - result.embedding[own], axis=1
        )
        assert np.median(near) < 0.35 * np.linalg.norm(shift)

    @pytest.mark.parametrize("flavor", ["harmony1", "harmony2"])
    @pytest.mark.parametrize("levels", [(3,), (3, 2)])
    def test_known_batches_get_what_was_learned(self, flavor, levels):
        Z, names, result, model = fitted(levels, flavor, n=1500, max_iter_harmony=30)
        placed = map_query(model, Z, names)
        moved = np.median(np.linalg.norm(result.embedding - Z, axis=1))
        assert np.median(np.linalg.norm(placed.embedding - result.embedding, axis=1)) < 0.05 * moved
        assert sum(placed.known.values()) == 1500
        assert not placed.new
        # One of them alone, since nothing is estimated.
        own = names["v0"] == "01"
        alone = model.map(Z[own], {name: column[own] for name, column in names.items()})
        np.testing.assert_allclose(alone, placed.embedding[own], rtol=1e-10, atol=1e-10)

    def test_known_batches_settle_in_ten_rounds_however_few_are_asked_for(self):
        Z, names, _, model = fitted()
        settled = map_query(model, Z, names, n_iter=10).embedding
        np.testing.assert_array_equal(map_query(model, Z, names, n_iter=1).embedding, settled)
        assert not np.array_equal(map_query(model, Z, names, n_iter=11).embedding, settled)

    def test_known_batches_may_be_others(self):
        Z, names, _, model = fitted()
        as_new = model.map(Z, {"v0": np.char.add("new", names["v0"])})
        np.testing.assert_array_equal(model.map(Z, names, known_batches="new"), as_new)
        assert not np.allclose(model.map(Z, names), as_new)
        # A column of another name is another variable.
        np.testing.assert_array_equal(model.map(Z, {"other": names["v0"]}), as_new)

    @pytest.mark.parametrize(
        ("own", "said"),
        [
            ("LAB", "'LAB' and 'Lab' look the same but the first is taken as a batch that the reference does not have"),
            ("Lab\u200b", r"'Lab\\u200b' and 'Lab' look the same but the first .*; give them one spelling if they are"),
            ("Lab ", "'Lab ' and 'Lab' differ in spaces only, and the first is taken .*; strip the labels if they are"),
            ("7", r"'7' and '07' are the same number but the first \(and 1 more\) is taken"),
        ],
    )
    def test_a_new_batch_that_looks_like_one_of_the_reference_is_told(self, own, said):
        Z, codes = cells_with_batches(200, 4, (3,), 0)
        model = HarmonyModel.from_result(
            harmonax.harmonize(Z, {"lab": np.array(["Lab", "07", "08"])[codes[:, 0]]}, rng=0, progress=False)
        )
        labels = np.array([own, "07", "x"] if own != "7" else ["Lab", "7", "8"])[codes[:, 0]]
        with pytest.warns(HarmonaxWarning) as warned:
            placed = map_query(model, Z, {"lab": labels})
        assert own in placed.new
        assert [
            re.search(f"^lab of the new cells and of the reference: {said}", str(w.message)) is None for w in warned
        ] == [False]
        # The same names, and those that are said to be others, are not told.
        for name, known in (("Lab", "learned"), (own, "new")):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                map_query(model, Z, {"lab": np.array([name, "08", "x"])[codes[:, 0]]}, known_batches=known)

    def test_known_and_new_batches_together_are_as_apart(self):
        Z, names, _, model = fitted((3, 2))
        new = {"v0": np.where(np.arange(len(Z)) % 2 == 0, "x", "00"), "v1": names["v1"]}
        is_new = new["v0"] == "x"
        both = map_query(model, Z, new, n_iter=3)
        alone = map_query(model, Z[is_new], {name: column[is_new] for name, column in new.items()}, n_iter=3)
        np.testing.assert_allclose(both.embedding[is_new], alone.embedding, rtol=1e-9, atol=1e-9)
        assert sum(both.new.values()) == is_new.sum()
        assert all(name.startswith("00") for name in both.known)

    def test_variables_may_come_in_any_order_and_joined(self):
        Z, names, _, model = fitted((3, 2))
        expected = map_query(model, Z, names)
        turned = map_query(model, Z, {name: names[name] for name in reversed(names)})
        assert turned.known == expected.known
        np.testing.assert_array_equal(turned.embedding, expected.embedding)
        with pytest.warns(HarmonaxWarning, match="all of the query's batches are taken as new"):
            assert not map_query(model, Z, {"v0": names["v0"]}).known
        joined = harmonax.harmonize(Z, names, rng=0, combine_keys=True, progress=False)
        assert map_query(HarmonyModel.from_result(joined), Z, names).known

    def test_a_query_without_batches_is_a_new_one_whatever_the_reference_calls_its_own(self):
        Z, codes = cells_with_batches(200, 4, (2,), 0)
        labels = {"query": np.where(codes[:, 0] == 0, "query", "other")}
        model = HarmonyModel.from_result(harmonax.harmonize(Z, labels, rng=0, progress=False))
        assert map_query(model, Z).new == {"query": 200}

    def test_one_cell_and_no_batches(self):
        model = fitted()[3]
        assert model.map(np.zeros((1, 6))).shape == (1, 6)
        Z = np.random.default_rng(1).normal(size=(50, 6))
        np.testing.assert_array_equal(model.map(Z), model.map(Z, np.repeat("query", 50), known_batches="new"))

    def test_threads_and_disk_give_the_same_bits(self, tmp_path):
        Z, codes = cells_with_batches(3000, 6, (3,), 5)
        model = fitted()[3]
        one = map_query(model, Z, codes, n_threads=1).embedding
        np.testing.assert_array_equal(map_query(model, Z, codes, n_threads=2).embedding, one)
        on_disk = map_query(model, Z, codes, backend="disk", scratch=tmp_path, out="lazy").embedding
        np.testing.assert_array_equal(on_disk[:], one)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"Z": np.zeros((10, 5))}, "5 features; the model has 6"),
            ({"Z": np.full((10, 6), np.nan)}, "NaN"),
            ({"Z": np.zeros((0, 6))}, "0 cells"),
            ({"batches": np.zeros(9)}, "10 new cells but 9"),
            ({"n_iter": 0}, "n_iter=0"),
            ({"known_batches": "maybe"}, "allowed are 'learned', 'new'"),
            ({"ridge_lambda": 0.0}, "ridge_lambda"),
            ({"backend": "dask"}, "Dask"),
            ({"dtype": "int8"}, "dtype=int8"),
            ({"out": np.empty((3, 6))}, "out has shape"),
        ],
    )
    def test_bad_input_is_refused(self, change, says):
        arguments = {"Z": np.zeros((10, 6)), "batches": np.repeat("a", 10)} | change
        with pytest.raises(InputError, match=says):
            map_query(MODEL, **arguments)


MODEL = fitted()[3]


@pytest.fixture(scope="module", params=[False, True], ids=["logged", "scaled"])
def model(request):
    adata = reference(request.param)
    harmonax.pp.harmony_integrate(
        adata, "batch", rng=0, max_iter_harmony=50, save_model=True, save_labels="cell_type", verbose=False
    )
    return from_dict(adata.uns["harmonax_model"], HarmonyModel)


class TestMapQuery:
    def test_projects_and_hands_labels_on(self, model):
        query = logged(experiment(5, n=300, batches=(2,)))
        mapped = harmonax.tl.map_query(query, model, "batch")
        right = query.obs["cell_type"] == query.obs["cell_type_nearest"].astype(str)
        assert right.mean() > 0.97
        sure = query.obs["cell_type_mapped"] != "unknown"
        assert sure.mean() > 0.8
        assert query.obsm["X_pca_harmony"].shape == (300, 8)
        assert query.obs["harmonax_novel"].mean() < 0.1
        assert mapped.record["genes"] == {"reference": 60, "missing": 0}
        assert query.uns["harmonax_map"]["adjusted_basis"] == "X_pca_harmony"

    def test_the_projection_is_that_of_the_reference(self, model):
        adata = reference(model.projection.scaled)
        again = logged(experiment(0))
        Z = model.projection.match(again.var_names).project(again.X)[:]
        np.testing.assert_allclose(Z, adata.obsm["X_pca"], atol=2e-3)

    def test_genes_are_matched_by_name(self, model):
        query = logged(experiment(5, n=200, batches=(2,)))
        shuffled = query[:, np.random.default_rng(0).permutation(60)].copy()
        extra = anndata.concat([shuffled, anndata.AnnData(np.ones((200, 1)), obs=query.obs[[]])], axis=1)
        extra.obs = query.obs.copy()
        harmonax.tl.map_query(query, model, "batch")
        harmonax.tl.map_query(extra, model, "batch")
        np.testing.assert_allclose(extra.obsm["X_pca_harmony"], query.obsm["X_pca_harmony"], atol=1e-4)

    def test_missing_genes_are_told_and_refused_below_the_share(self, model):
        query = logged(experiment(5, n=200, batches=(2,)))
        with pytest.warns(HarmonaxWarning, match=r"6 of the reference's 60 genes \(10.0%\)"):
            harmonax.tl.map_query(query[:, 6:].copy(), model, "batch")
        with pytest.raises(InputError, match=r"20 of the reference's 60 genes.*at least 50%"):
            harmonax.tl.map_query(query[:, 40:].copy(), model, "batch")
        query.var_names = [f"ENSG{i}" for i in range(60)]
        with pytest.raises(InputError, match=r"0 of the reference's 60 genes.*'g0'.*'ENSG0'"):
            harmonax.tl.map_query(query, model, "batch")

    def test_a_type_that_the_reference_lacks_is_novel_and_not_forced(self, model):
        query = logged(experiment(6, n=400, kinds=6, batches=(2,)))
        with pytest.warns(HarmonaxWarning, match="unlike anything"):
            harmonax.tl.map_query(query, model, "batch")
        new = (query.obs["cell_type"] == "t5").to_numpy()
        assert query.obs["harmonax_novel"][new].mean() > 0.9
        assert query.obs["harmonax_novel"][~new].mean() < 0.1
        assert (query.obs["cell_type_mapped"][new] == "unknown").mean() > 0.9
        clusters = query.uns["harmonax_map"]["clusters"]
        assert clusters["n_cells"].sum() == 400
        assert clusters["novel"].max() > 0.5

    @pytest.mark.filterwarnings("ignore:Some cells have zero counts:UserWarning")
    def test_cells_without_counts_are_told_and_not_labelled(self, model, tmp_path):
        query = experiment(5, n=200, batches=(2,))
        X = query.X.toarray()
        X[[7, 150]] = 0
        # A count in a gene that the reference does not have says nothing either.
        other = np.zeros((200, 1), np.float32)
        other[150] = 3
        more = anndata.concat([query, anndata.AnnData(other, obs=query.obs[[]])], axis=1)
        more.X = scipy.sparse.csr_matrix(np.column_stack([X, other]))
        more.obs = query.obs.copy()
        more = logged(more)
        told = "2 of the 200 new cells .first: row 7. have no count"
        with pytest.warns(HarmonaxWarning, match=told):
            mapped = harmonax.tl.map_query(more, model, "batch")
        empty = np.isin(np.arange(200), [7, 150])
        assert mapped.record["cells_without_counts"] == 2
        assert (more.obs["cell_type_mapped"][empty] == "unknown").all()
        assert (more.obs["cell_type_confidence"][empty] == 0).all()
        assert more.obs["harmonax_novel"][empty].all()
        assert more.obs["harmonax_novel"][~empty].mean() < 0.1
        # From a file, piece by piece.
        more[:, :].copy().write_h5ad(tmp_path / "q.h5ad")
        model.save(tmp_path / "m.h5")
        job = files.MapJob(tmp_path / "q.h5ad", tmp_path / "m.h5", tmp_path / "o.h5ad", keys=["batch"])
        with pytest.warns(HarmonaxWarning, match=told):
            found = files.map_file(job, QueryOptions(how={"max_memory": "1G"}))
        assert found.columns["harmonax_novel"].to_numpy()[empty].all()

    def test_scaled_expression_and_counts(self, model):
        import scanpy as sc

        query = experiment(5, n=200, batches=(2,))
        if model.projection.target_sum is None:
            with pytest.raises(InputError, match="has counts"):
                harmonax.tl.map_query(query, model, "batch")
        else:
            harmonax.tl.map_query(query, model, "batch")
            from_logs = logged(query.copy())
            harmonax.tl.map_query(from_logs, model, "batch")
            np.testing.assert_allclose(query.obsm["X_pca_harmony"], from_logs.obsm["X_pca_harmony"], atol=1e-4)
        scaled = logged(query.copy())
        scaled.X = scaled.X.toarray()
        sc.pp.scale(scaled)
        with pytest.raises(InputError, match="negative values"):
            harmonax.tl.map_query(scaled, model, "batch")

    def test_confidence_is_the_share_that_is_right(self, model):
        labels = model.reference.labels["cell_type"]
        assert (np.diff(labels.right) >= 0).all()
        assert 0 < labels.right[-1] < 1
        assert labels.right[-1] > 0.95

    @pytest.mark.parametrize(
        ("arguments", "error", "says"),
        [
            ({"batch_key": "bacth"}, MissingKeyError, "did you mean 'batch'"),
            ({"labels": "cel_type"}, MissingKeyError, "did you mean 'cell_type'"),
            ({"basis": "X_pca"}, MissingKeyError, "obsm has no 'X_pca'"),
            ({"layer": "logs"}, MissingKeyError, "layers has no 'logs'"),
            ({"reference": 3}, InputError, "reference is a int"),
            ({"adjusted_basis": "X_pca_reference"}, InputError, "cannot both be"),
            ({"adjusted_basis": "a/b"}, InputError, "slash"),
            ({"min_genes": "0.5"}, InputError, "min_genes='0.5'"),
            ({"min_confidence": float("nan")}, InputError, "min_confidence=nan"),
        ],
    )
    def test_bad_input_is_refused_and_nothing_written(self, model, arguments, error, says):
        query = logged(experiment(5, n=100, batches=(2,)))
        with pytest.raises(error, match=says):
            harmonax.tl.map_query(query, **({"reference": model, "batch_key": "batch"} | arguments))
        assert not query.obsm
        assert list(query.obs.columns) == ["batch", "cell_type"]


class TestKeeping:
    def test_labels_may_come_later(self, adata):
        harmonax.pp.harmony_integrate(adata, "batch", rng=0, save_model=True, verbose=False)
        model = from_dict(adata.uns["harmonax_model"], HarmonyModel)
        assert model.reference is None
        assert model.novelty.kind == "clusters"
        with pytest.raises(InputError, match="keeps no cells"):
            harmonax.tl.map_query(adata.copy(), model, basis="X_pca", labels="group")
        with_labels = model.with_reference(adata.obsm["X_pca_harmony"], adata.obs[["group"]], adata.obs["batch"])
        query = adata.copy()
        harmonax.tl.map_query(query, with_labels, "batch", basis="X_pca")
        assert (query.obs["group_nearest"].astype(str) == query.obs["group"]).mean() > 0.98
        with pytest.raises(InputError, match="180 cells x 6"):
            model.with_reference(adata.obsm["X_pca_harmony"][:9], adata.obs[["group"]][:9])

    def test_one_cell_from_expression_and_a_model_that_pickles(self):
        adata = reference(False)
        harmonax.pp.harmony_integrate(adata, "batch", rng=0, save_model=True, save_labels="cell_type", verbose=False)
        model = from_dict(adata.uns["harmonax_model"], HarmonyModel)
        query = logged(experiment(5, n=1, batches=(1,)))
        harmonax.tl.map_query(query, model, "batch", labels=["cell_type", "cell_type"])
        assert query.obsm["X_pca_harmony"].shape == (1, 8)
        again, Z = pickle.loads(pickle.dumps(model)), query.obsm["X_pca_reference"]
        np.testing.assert_array_equal(again.map(Z), model.map(Z))

    @pytest.mark.parametrize(
        ("column", "says"),
        [(["type", "type"], "more than once"), ("none", "no labels"), ("a/b", "slash")],
    )
    def test_labels_are_looked_at_before_any_work(self, adata, column, says):
        adata.obs = adata.obs.assign(type="t", none=np.nan, **{"a/b": "t"})
        with pytest.raises(InputError, match=says):
            harmonax.pp.harmony_integrate(adata, "batch", save_model=True, save_labels=column)
        assert "X_pca_harmony" not in adata.obsm

    def test_labels_need_a_model(self, adata):
        with pytest.raises(InputError, match="save_model"):
            harmonax.pp.harmony_integrate(adata, "batch", save_labels="group")
        with pytest.raises(MissingKeyError, match="'grou'"):
            harmonax.pp.harmony_integrate(adata, "batch", save_model=True, save_labels="grou")
        assert "X_pca_harmony" not in adata.obsm

    def test_loadings_of_another_embedding_are_not_kept(self, adata):
        adata = anndata.AnnData(np.random.default_rng(0).normal(size=(180, 9)), obs=adata.obs, obsm=dict(adata.obsm))
        adata.varm["PCs"] = np.ones((9, 6))
        with pytest.warns(HarmonaxWarning, match=r"X @ varm\['PCs'\] is not obsm\['X_pca'\]"):
            harmonax.pp.harmony_integrate(adata, "batch", rng=0, save_model=True, verbose=False)
        with pytest.raises(InputError, match="no loadings"):
            harmonax.tl.map_query(adata.copy(), adata, "batch")
        with pytest.raises(MissingKeyError, match="integrate it with save_model"):
            harmonax.tl.map_query(adata.copy(), anndata.AnnData(np.ones((2, 2))))


def prepared(how):
    """Return a reference made in one of the ways of scanpy's users, and its cells before scaling."""
    import scanpy as sc

    adata = logged(experiment(0, n=600))
    adata.X = adata.X.toarray()
    before = adata.copy()
    if how == "regressed":
        adata.X = adata.X - 0.3 * (adata.obs["batch"] == "b1").to_numpy()[:, None]
    if how not in ("logged", "chosen", "subset"):
        sc.pp.scale(adata, zero_center=how != "uncentered", max_value=2 if how == "clipped" else None)
    if how == "negative side":
        adata.X = np.maximum(adata.X, -1.0)
    if how == "sparse":
        adata.X = scipy.sparse.csr_matrix(adata.X)
    if how == "chosen":
        sc.pp.highly_variable_genes(before, n_top_genes=40)
        adata.var["highly_variable"] = before.var["highly_variable"]
    sc.pp.pca(adata, n_comps=8, **({"mask_var": "highly_variable"} if how == "chosen" else {}))
    return adata[:500].copy() if how == "subset" else adata, before


WAYS = ["logged", "scaled", "uncentered", "clipped", "sparse", "chosen", "subset"]


@pytest.mark.parametrize("how", WAYS)
def test_the_projection_reproduces_the_reference(how):
    adata, before = prepared(how)
    projection = Projection.of(adata)
    Z = projection.match(before.var_names).project(before.X)[:][: adata.n_obs]
    assert np.abs(Z - adata.obsm["X_pca"]).max() < 5e-3 * adata.obsm["X_pca"].std()


def test_what_cannot_be_reproduced_is_no_projection():
    with pytest.raises(InputError, match="queries cannot be treated alike"):
        Projection.of(prepared("regressed")[0])
    adata, _ = prepared("logged")
    adata.X[0] += 1
    with pytest.raises(InputError, match="not what the components"):
        Projection.of(adata)
    adata, _ = prepared("logged")
    adata.var_names = ["g", "g", *adata.var_names[2:]]
    with pytest.raises(InputError, match="gene 'g' is in var_names more than once"):
        Projection.of(adata)


def test_components_of_counts_take_counts():
    import scanpy as sc

    adata = experiment(0, n=300)
    sc.pp.pca(adata, n_comps=5)
    projection = Projection.of(adata)
    Z = projection.match(adata.var_names).project(Expression(projection, adata.X))[:]
    np.testing.assert_allclose(Z, adata.obsm["X_pca"], atol=2e-3)


class TestExpression:
    def test_empty_cells_do_not_hide_counts(self):
        projection = Projection.of(reference(False))
        query = experiment(1, n=400)
        X = query.X.toarray()
        X[:380] = 0
        got = projection.match(query.var_names).project(Expression(projection, X))[380:400]
        want = projection.match(query.var_names).project(logged(query).X)[380:400]
        np.testing.assert_allclose(got, want, atol=1e-4)

    @pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_matrix, scipy.sparse.csc_matrix])
    def test_bad_values_anywhere_are_named(self, kind):
        projection = Projection.of(reference(False))
        for value, says in ((np.nan, "query's X has NaN"), (-1.0, "negative values")):
            X = logged(experiment(1, n=1000)).X.toarray()
            X[777, 3] = value
            with pytest.raises(InputError, match=says):
                projection.match([f"g{i}" for i in range(60)]).project(Expression(projection, kind(X)))[:]


class TestNovel:
    def test_a_query_of_one_unknown_type_is_not_forced(self):
        adata = reference(False)
        harmonax.pp.harmony_integrate(adata, "batch", rng=0, save_model=True, save_labels="cell_type", verbose=False)
        query = logged(experiment(6, n=600, kinds=6, batches=(2,)))
        query = query[query.obs["cell_type"] == "t5"].copy()
        with pytest.warns(HarmonaxWarning, match="as a whole is unlike"):
            harmonax.tl.map_query(query, adata, "batch")
        assert (query.obs["cell_type_mapped"] == "unknown").all()
        # A batch that the reference has cannot be of another protocol.
        query.obs["batch"] = "b1"
        with pytest.warns(HarmonaxWarning):
            harmonax.tl.map_query(query, adata, "batch")
        assert query.obs["harmonax_novel"].mean() > 0.9


@pytest.mark.parametrize("held", ["stim", "ctrl"])
@pytest.mark.filterwarnings("ignore:.*unlike:harmonax.errors.HarmonaxWarning")
def test_real_reference_of_one_batch(data_dir, held):
    sc = pytest.importorskip("scanpy", reason="scanpy is not installed")
    cells = anndata.read_h5ad(data_dir / "kang_fullgenes.h5ad")
    # Other labels were made after an integration.
    by_authors = cells.obs["label_source"].astype(str).str.contains("GEO")
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).where(by_authors)
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    own = (cells.obs["batch"] == held).to_numpy()
    ref, query = cells[~own].copy(), cells[own].copy()
    sc.pp.highly_variable_genes(ref, n_top_genes=1000)
    sc.pp.pca(ref, n_comps=30, mask_var="highly_variable", random_state=0)
    with pytest.warns(HarmonaxWarning, match="same batch"):
        harmonax.pp.harmony_integrate(ref, "batch", rng=0, save_model=True, save_labels="cell_type")
    harmonax.tl.map_query(query, ref, "batch")
    shared = query.obs["cell_type"].isin(ref.obs["cell_type"].dropna())
    right = (query.obs["cell_type_nearest"].astype(str) == query.obs["cell_type"])[shared]
    assert right.mean() > 0.8
