"""The scikit-learn transformer: scikit-learn's own checks, and what a pipeline's user counts on."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import fields

import joblib
import numpy as np
import pandas as pd
import pytest

import harmonax
from harmonax.errors import HarmonaxWarning, InputError
from harmonax.inputs.columns import table_like

pytest.importorskip("sklearn", minversion="1.6")
import sklearn
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.fixes import parse_version

from harmonax import Harmony

NO_BATCH = "no batch labels: nothing is corrected"


@pytest.fixture(scope="module")
def cells():
    """Four groups of cells in three batches that are shifted: X (600, 6), the batches, the groups."""
    gen = np.random.default_rng(3)
    code, group = gen.integers(3, size=600), gen.integers(4, size=600)
    shift = np.array([[0, 0, 0, 0, 0, 0], [0, 1.5, 0, 0, 1, 0], [0, 0, -1, 1, 0, 1.5]])
    X = gen.normal(size=(600, 6)) + 6 * np.eye(4, 6)[group] + shift[code]
    return X, np.array(["a", "b", "c"])[code], group


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def settled(**changes) -> Harmony:
    """Return a transformer whose runs over `cells` converge."""
    return Harmony(**{"n_clusters": 6, "tol_harmony": 1e-3, "random_state": 0} | changes)


def spread(Z: np.ndarray, batch: np.ndarray) -> float:
    """Return the largest distance between two batches' means."""
    means = np.array([Z[batch == b].mean(axis=0) for b in np.unique(batch)])
    return float(np.linalg.norm(means[:, None] - means[None], axis=2).max())


class ByValue(Harmony):
    """Finds the batch of a cell in its values, for checks that pass no labels: with them something is corrected."""

    def fit(self, X, y=None, *, batch=None):
        return super().fit(X, y, batch=self.labels(X))

    def fit_transform(self, X, y=None, *, batch=None):
        return super().fit_transform(X, y, batch=self.labels(X))

    def transform(self, X, *, batch=None):
        return super().transform(X, batch=self.labels(X))

    @staticmethod
    def labels(X):
        try:
            first = np.asarray(X)[:, 0].real.astype(float)
        except (AttributeError, TypeError, ValueError, IndexError):
            return None
        return np.where(np.floor(np.nan_to_num(first, posinf=0) * 8) % 2 == 0, "even", "odd")


# None of them is excepted. They pass no labels, which is said each time.
@pytest.mark.filterwarnings("ignore::harmonax.errors.HarmonaxWarning")
@parametrize_with_checks([Harmony(n_jobs=1), ByValue(n_jobs=1), ByValue(flavor="harmony1", precision="float64")])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


class TestFit:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_fit_transform_has_the_bits_of_harmonize(self, cells, dtype):
        X, batch, _ = cells
        X = X.astype(dtype)
        params = harmonax.HarmonyParams(theta=1.5, n_clusters=7)
        expected = harmonax.harmonize(X, batch, params, rng=5, dtype=dtype)
        harmony = Harmony(theta=1.5, n_clusters=7, random_state=5)
        got = harmony.fit_transform(X, batch=batch)
        assert got.dtype == dtype
        assert np.dtype(dtype).name in get_tags(harmony).transformer_tags.preserves_dtype
        np.testing.assert_array_equal(got, expected.embedding)
        assert (harmony.n_iter_, harmony.status_) == (len(expected.history.passes), expected.status)
        np.testing.assert_array_equal(harmony.objective_, expected.history.rounds)
        assert harmony.model_.record["seed"] == 5

    def test_every_parameter_of_the_method_reaches_it(self, cells):
        X, batch, _ = cells
        asked = {
            **{"flavor": "harmony2", "n_clusters": 4, "max_iter_harmony": 3, "max_iter_clustering": 5},
            **{"tol_harmony": 0.1, "tol_clustering": 0.01, "sigma": 0.2, "theta": (1.0, 2.0, 3.0), "tau": 2.0},
            **{"ridge": "dynamic", "ridge_lambda": 1.0, "alpha": 0.3, "batch_prune_threshold": None},
            **{"correction_method": "original", "block_proportion": 0.1, "precision": "float64"},
        }
        assert set(asked) == {own.name for own in fields(harmonax.HarmonyParams)}
        harmony = Harmony(**asked, random_state=0).fit(X, batch=batch)
        assert harmony.model_.params == harmonax.HarmonyParams(**asked)

    def test_defaults_are_those_of_the_method(self):
        own = Harmony().get_params()
        assert harmonax.HarmonyParams(**{f.name: own[f.name] for f in fields(harmonax.HarmonyParams)}) == (
            harmonax.HarmonyParams()
        )

    def test_fit_and_fit_transform_learn_the_same(self, cells):
        X, batch, _ = cells
        one, other = settled(random_state=1), settled(random_state=1)
        one.fit(X, batch=batch)
        other.fit_transform(X, batch=batch)
        np.testing.assert_array_equal(one.transform(X, batch=batch), other.transform(X, batch=batch))

    def test_the_fitted_transformer_does_not_keep_the_cells(self, cells):
        X, batch, _ = cells
        many = np.tile(X, (20, 1))
        harmony = settled().fit(many, batch=np.tile(batch, 20))
        assert len(pickle.dumps(harmony)) < many.nbytes / 10

    def test_random_state_is_scikit_learns(self, cells):
        X, batch, _ = cells
        seed = lambda state: settled(random_state=state).fit(X, batch=batch).model_.record["seed"]  # noqa: E731
        assert seed(3) == 3
        assert seed(np.random.RandomState(0)) == seed(np.random.RandomState(0))
        before = np.random.get_state()  # noqa: NPY002
        np.random.seed(0)  # noqa: NPY002
        first = seed(None)
        np.random.seed(0)  # noqa: NPY002
        assert seed(None) == first != seed(None)
        np.random.set_state(before)  # noqa: NPY002

    def test_several_variables_as_table_dictionary_and_array(self, cells):
        X, batch, group = cells
        table = pd.DataFrame({"batch": batch, "group": np.array(list("wxyz"))[group]})
        harmony = settled()
        expected = harmony.fit_transform(X, batch=table)
        assert harmony.batch_names_in_ == ["batch", "group"]
        for other in (dict(table), table.to_numpy()):
            np.testing.assert_array_equal(harmony.fit_transform(X, batch=other), expected)

    def test_stopping_early_is_a_convergence_warning(self, cells):
        X, batch, _ = cells
        harmony = settled(max_iter_harmony=1)
        with pytest.warns(ConvergenceWarning, match="raise max_iter_harmony"):
            harmony.fit(X, batch=batch)
        assert not harmony.converged_
        assert settled().fit(X, batch=batch).converged_

    @pytest.mark.parametrize(("n_jobs", "threads"), [(1, 1), (3, 3), (None, 1), (-1, 6), (-2, 5), (-9, 1)])
    def test_n_jobs(self, cells, monkeypatch, n_jobs, threads):
        module = sys.modules["harmonax.compat.sklearn"]
        monkeypatch.setattr(module, "available_cpus", lambda: 6)
        harmony = settled(n_jobs=n_jobs).fit(cells[0], batch=cells[1])
        assert harmony.model_.record["backend"]["n_threads"] == threads

    def test_n_jobs_none_follows_joblib(self, cells):
        with joblib.parallel_config("threading", n_jobs=2):
            harmony = settled(n_jobs=None).fit(cells[0], batch=cells[1])
        assert harmony.model_.record["backend"]["n_threads"] == 2


class TestNoBatch:
    def test_nothing_is_corrected_and_that_is_said(self, cells):
        X = cells[0]
        harmony = settled()
        with pytest.warns(HarmonaxWarning, match=NO_BATCH) as said:
            Z = harmony.fit_transform(X)
        assert len(said) == 1
        np.testing.assert_array_equal(Z, X)
        assert not np.shares_memory(Z, X)
        assert harmony.status_ is harmonax.Status.SINGLE_BATCH
        assert harmony.batch_names_in_ == []
        again = harmony.transform(X[:3])
        np.testing.assert_array_equal(again, X[:3])
        assert not np.shares_memory(again, X)

    def test_labelled_cells_are_mapped_to_it_even_if_a_label_is_its_inner_name(self, cells):
        X, batch, _ = cells
        own = batch == "a"
        with pytest.warns(HarmonaxWarning, match=NO_BATCH):
            harmony = settled().fit(X[own])
        moved = harmony.transform(X[batch == "b"], batch=np.repeat("reference", np.sum(batch == "b")))
        assert np.linalg.norm(moved.mean(axis=0) - X[own].mean(axis=0)) < 1.0

    def test_one_given_batch_warns_as_harmonize_does(self, cells):
        X = cells[0]
        with pytest.warns(HarmonaxWarning, match="every cell has the same batch"):
            harmony = settled().fit(X, batch=np.repeat("a", len(X)))
        np.testing.assert_allclose(harmony.transform(X, batch=np.repeat("a", len(X))), X, atol=1e-5)
        # Without labels they are another batch's, and it is brought to the reference.
        shifted = harmony.transform(X + np.array([0.0, 0.0, 0.0, 0.0, 2.0, 0.0]))
        assert np.linalg.norm(shifted.mean(axis=0) - X.mean(axis=0)) < 0.5


class TestTransform:
    @pytest.fixture
    def fitted(self, cells):
        X, batch, _ = cells
        harmony = settled()
        return harmony, harmony.fit_transform(X, batch=batch)

    def test_cells_of_the_fit_come_near_where_it_put_them(self, cells, fitted):
        X, batch, _ = cells
        harmony, Z = fitted
        apart = np.linalg.norm(harmony.transform(X, batch=batch) - Z, axis=1)
        assert np.median(apart) < 0.05 * np.median(np.linalg.norm(Z - X, axis=1))
        assert spread(harmony.transform(X, batch=batch), batch) < 0.5 * spread(X, batch)

    def test_it_is_the_models_mapping(self, cells, fitted):
        X, batch, _ = cells
        harmony = clone(fitted[0]).set_params(map_n_iter=1, map_ridge_lambda=3.0, known_batches="new")
        harmony.fit(X, batch=batch)
        expected = harmony.model_.map(X, batch, known_batches="new", n_iter=1, ridge_lambda=3.0)
        np.testing.assert_array_equal(harmony.transform(X, batch=batch), expected)
        assert not np.allclose(expected, fitted[0].transform(X, batch=batch), atol=0.01)

    @pytest.mark.parametrize("label", [None, "new"])
    def test_a_new_batch_is_brought_to_the_reference(self, cells, fitted, label):
        X, batch, _ = cells
        new = X[batch == "a"] + np.array([0.0, 0.0, 0.0, 0.0, 2.0, -2.0])
        Z = fitted[0].transform(new, batch=label and np.repeat(label, len(new)))
        assert np.linalg.norm(Z.mean(axis=0) - fitted[1].mean(axis=0)) < 0.5

    def test_cells_of_known_batches_are_mapped_one_by_one(self, cells, fitted):
        X, batch, _ = cells
        whole = fitted[0].transform(X, batch=batch)
        parts = [fitted[0].transform(X[i : i + 1], batch=batch[i : i + 1]) for i in range(5)]
        np.testing.assert_allclose(np.concatenate(parts), whole[:5], atol=1e-5)

    def test_variables_are_found_by_name_and_arrays_by_place(self, cells):
        X, batch, group = cells
        table = pd.DataFrame({"batch": batch, "group": np.array(list("wxyz"))[group]})
        harmony = settled().fit(X, batch=table)
        expected = harmony.transform(X, batch=table)
        for same in (table[["group", "batch"]], table.to_numpy(), dict(table)):
            np.testing.assert_array_equal(harmony.transform(X, batch=same), expected)
        one = settled().fit(X, batch=table["batch"].rename("donor"))
        np.testing.assert_array_equal(one.transform(X, batch=batch), one.transform(X, batch=table["batch"]))

    def test_other_variables_are_refused_unless_all_batches_are_new(self, cells):
        X, batch, group = cells
        table = pd.DataFrame({"batch": batch, "group": np.array(list("wxyz"))[group]})
        harmony = settled().fit(X, batch=table)
        with pytest.raises(InputError, match=r"variables 'plate', the fit had 'batch', 'group'"):
            harmony.transform(X, batch=table[["batch"]].rename(columns={"batch": "plate"}))
        harmony.set_params(known_batches="new")
        assert harmony.transform(X, batch=batch).shape == X.shape

    def test_combined_variables(self, cells):
        X, batch, _ = cells
        table = pd.DataFrame({"batch": batch, "half": np.where(np.arange(len(X)) % 2, "odd", "even")})
        harmony = settled(combine_keys=True)
        Z = harmony.fit_transform(X, batch=table)
        assert len(harmony.model_.levels[0]) == 6
        apart = np.linalg.norm(harmony.transform(X, batch=table[["half", "batch"]]) - Z, axis=1)
        assert np.median(apart) < 0.05 * np.median(np.linalg.norm(Z - X, axis=1))

    def test_table_like_keeps_rows_by_place(self):
        table = pd.DataFrame({"x": ["1", "2"], "y": ["3", "4"]}, index=[7, 5])
        assert table_like(table, ["y", "x"]).to_numpy().tolist() == [["3", "1"], ["4", "2"]]


class TestInPipelines:
    @pytest.fixture
    def pipe(self):
        return make_pipeline(StandardScaler(), PCA(4, random_state=0), settled())

    def test_labels_are_routed_to_fit_and_transform(self, cells, pipe, routing):
        X, batch, _ = cells
        Z = pipe.fit_transform(X, batch=batch)
        pcs = pipe[:-1].transform(X)
        np.testing.assert_array_equal(Z, settled().fit_transform(pcs, batch=batch))
        np.testing.assert_array_equal(pipe.transform(X, batch=batch), pipe[-1].transform(pcs, batch=batch))
        assert spread(pipe.transform(X, batch=batch), batch) < 0.5 * spread(pcs, batch)

    def test_requests_can_be_changed(self, cells, routing):
        X, batch, _ = cells
        harmony = settled().set_fit_request(batch="donor").set_transform_request(batch="donor")
        pipe = make_pipeline(StandardScaler(), harmony)
        assert spread(pipe.fit_transform(X, donor=batch), batch) < 0.5 * spread(
            StandardScaler().fit_transform(X), batch
        )

    def test_without_routing_the_labels_reach_fit_by_the_steps_name(self, cells, pipe):
        X, batch, _ = cells
        Z = pipe.fit_transform(X, harmony__batch=batch)
        assert spread(Z, batch) < 0.5 * spread(pipe[:-1].transform(X), batch)
        with pytest.warns(HarmonaxWarning, match=NO_BATCH):
            pipe.fit(X)

    def test_pandas_in_and_out(self, cells, pipe, routing):
        X, batch, _ = cells
        frame = pd.DataFrame(X, columns=list("uvwxyz"), index=[f"cell{i}" for i in range(len(X))])
        pipe.set_output(transform="pandas")
        out = pipe.fit_transform(frame, batch=pd.Series(batch))
        assert out.columns.tolist() == pipe.get_feature_names_out().tolist() == [f"harmony{i}" for i in range(4)]
        assert out.index.equals(frame.index)
        np.testing.assert_array_equal(out, clone(pipe).set_output(transform="default").fit_transform(X, batch=batch))
        harmony = settled().set_output(transform="pandas").fit(frame, batch=batch)
        assert harmony.feature_names_in_.tolist() == list("uvwxyz")
        assert isinstance(harmony.transform(frame, batch=batch), pd.DataFrame)

    def test_cells_in_another_order_than_their_batches_are_refused(self, cells, routing):
        X, batch, _ = cells
        frame = pd.DataFrame(X, index=[f"cell{i}" for i in range(len(X))])
        turned = pd.Series(batch, index=frame.index[::-1])
        harmony = settled().fit(frame, batch=pd.Series(batch, index=frame.index))
        for call in (settled().fit, harmony.transform):
            with pytest.raises(ValueError, match="X and batch name the same cells in a different order"):
                call(frame, batch=turned)

    def test_grid_search_over_its_parameters(self, cells, routing):
        X, batch, group = cells
        pipe = make_pipeline(StandardScaler(), settled(), KNeighborsClassifier())
        grid = {"harmony__theta": [0.5, (1.0, 1.0, 2.0)], "harmony__n_clusters": [np.int64(5), 6]}
        search = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(X, group, batch=batch)
        assert search.best_score_ > 0.95
        fitted = search.best_estimator_[1]
        assert fitted.model_.n_clusters == fitted.n_clusters
        assert (search.best_estimator_.predict(X, batch=batch) == group).mean() > 0.95

    @pytest.mark.skipif(parse_version(sklearn.__version__) < parse_version("1.8"), reason="scores get no labels before")
    def test_cross_validation_hands_each_fold_its_labels(self, cells, routing):
        X, batch, group = cells
        seen = []

        class Noting(Harmony):
            def transform(self, X, *, batch=None):
                seen.append(batch)
                return super().transform(X, batch=batch)

        pipe = make_pipeline(Noting(**settled().get_params()), KNeighborsClassifier())
        cv = KFold(2, shuffle=True, random_state=0)
        GridSearchCV(pipe, {"noting__theta": [1.0]}, cv=cv, refit=False).fit(X, group, batch=batch)
        for (_, test), labels in zip(cv.split(X), seen, strict=True):
            np.testing.assert_array_equal(labels, batch[test])

    def test_clone_pickle_and_repr(self, cells):
        X, batch, _ = cells
        harmony = settled(theta=[1, 2, 3], sigma=0.2, random_state=4, map_n_iter=1)
        copy = clone(harmony)
        assert copy.get_params() == harmony.get_params()
        assert "sigma=0.2" in repr(copy)
        Z = harmony.fit(X, batch=batch).transform(X, batch=batch)
        assert not hasattr(clone(harmony), "model_")
        back = pickle.loads(pickle.dumps(harmony))
        assert back.get_params() == harmony.get_params()
        np.testing.assert_array_equal(back.transform(X, batch=batch), Z)

    def test_parameters_are_stored_as_they_come(self):
        theta = [1, 2]
        assert Harmony(theta=theta).theta is theta
        assert Harmony().set_params(theta=theta).get_params()["theta"] is theta
        with pytest.raises(ValueError, match="Invalid parameter 'thta'"):
            Harmony().set_params(thta=1)


class TestErrors:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"sigma": 0}, "sigma=0 must be"),
            ({"flavor": "harmony3"}, "flavor='harmony3' is not known"),
            ({"known_batches": "old"}, "known_batches='old' is not known"),
            ({"map_n_iter": 0}, "map_n_iter == 0, must be >= 1"),
            ({"map_ridge_lambda": 0.0}, "map_ridge_lambda == 0.0, must be > 0"),
            ({"n_jobs": 0}, "n_jobs=0 has no meaning"),
            ({"random_state": "x"}, "random_state='x' must be"),
            ({"missing": "drop"}, "missing='drop' is not known"),
        ],
    )
    def test_parameters_are_refused_by_fit_not_before(self, cells, changes, message):
        harmony = Harmony(**changes)
        with pytest.raises(ValueError, match=message):
            harmony.fit(cells[0], batch=cells[1])
        assert not hasattr(harmony, "model_")

    def test_labels_that_are_refused_can_be_insisted_on(self, cells):
        X, batch, _ = cells
        harmony = settled(missing="level").fit(X, batch=[*[None] * 50, *batch[50:]])
        assert harmony.model_.levels == (("a", "b", "c", "missing"),)
        many = np.arange(600) % 120
        with pytest.raises(InputError, match="looks like a measurement"):
            settled().fit(X, batch=many)
        harmony = Harmony(allow_many_levels=True, n_clusters=2, theta=0, tol_harmony=0.1, random_state=0)
        assert len(harmony.fit(X, batch=many).model_.levels[0]) == 120

    @pytest.mark.parametrize("name", ["n_jobs", "map_n_iter", "map_ridge_lambda"])
    def test_text_for_a_number(self, cells, name):
        with pytest.raises(TypeError, match=name):
            Harmony(**{name: "2"}).fit(cells[0], batch=cells[1])

    def test_labels(self, cells):
        X, batch, _ = cells
        with pytest.raises(InputError, match="600 cells but the batch labels have 599"):
            Harmony().fit(X, batch=batch[1:])
        with pytest.raises(InputError, match=r"batch\['batch'\] has 1 missing values .* missing='level'"):
            Harmony().fit(X, batch=[None, *batch[1:]])
        with pytest.raises(InputError, match=r"looks like a cell barcode; .*allow_many_levels=True"):
            Harmony().fit(X, batch=[f"cell{i}" for i in range(600)])
        harmony = settled().fit(X, batch=batch)
        with pytest.raises(InputError, match="5 new cells but 600 batch labels"):
            harmony.transform(X[:5], batch=batch)

    def test_embedding(self, cells):
        X, batch, _ = cells
        harmony = settled().fit(X, batch=batch)
        with pytest.raises(ValueError, match="X has 4 features, but Harmony is expecting 6"):
            harmony.transform(X[:, :4], batch=batch)
        bad = X.copy()
        bad[3, 1] = np.nan
        for call in (Harmony().fit, Harmony().fit_transform, harmony.transform):
            with pytest.raises(ValueError, match="contains NaN"):
                call(bad, batch=batch)
        with pytest.raises(NotFittedError, match="not fitted yet"):
            Harmony().transform(X)


class TestTheExtra:
    def run(self, code: str) -> str:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    def test_without_scikit_learn_the_message_says_what_to_install(self):
        out = self.run(
            "import sys; sys.modules['sklearn'] = None\n"
            "import harmonax\n"
            "from harmonax import *\n"
            "print(harmonize.__name__, 'Harmony' in dir(harmonax))\n"
            "try: harmonax.Harmony\n"
            "except harmonax.errors.MissingExtraError as error: print(error)\n"
        )
        assert out.splitlines() == [
            "harmonize False",
            "sklearn is not installed; it comes with: pip install 'harmonax[sklearn]'",
        ]

    def test_an_older_scikit_learn_is_named(self):
        out = self.run(
            "import harmonax, sklearn.utils.validation as own; del own.validate_data\n"
            "try: from harmonax import Harmony\n"
            "except ImportError as error: print(error)\n"
        )
        assert "scikit-learn 1.6 or later" in out

    def test_it_is_among_the_packages_names_and_loaded_when_asked_for(self):
        out = self.run(
            "import sys, harmonax\n"
            "print('Harmony' in dir(harmonax), 'sklearn' in sys.modules)\n"
            "print(harmonax.Harmony.__module__, 'sklearn' in sys.modules)\n"
        )
        assert out.splitlines() == ["True False", "harmonax.compat.sklearn True"]
        with pytest.raises(AttributeError, match="no attribute 'Harmonie'"):
            _ = harmonax.Harmonie
