"""Wrong kinds of arguments get one clear error before any work; arrays and tables of other libraries are taken."""

from __future__ import annotations

import inspect

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import harmonax
from harmonax.errors import HarmonaxError, HarmonaxWarning, InputError
from harmonax.evaluation.lisi import lisi
from harmonax.mapping import map_query
from harmonax.system.arguments import check_arguments

N = 120
BATCH = np.repeat(["a", "b"], N // 2)
Z = np.random.default_rng(0).normal(size=(N, 4)) + (BATCH == "b")[:, None]
SHORT = {"max_iter_harmony": 2}


def cells(**more):
    obs = pd.DataFrame({"batch": BATCH, "type": np.tile(["x", "y", "y"], N // 3)}, index=[f"c{i}" for i in range(N)])
    adata = anndata.AnnData(np.ones((N, 5), np.float32), obs=obs.assign(**more), obsm={"X_pca": Z.copy()})
    return adata


@pytest.fixture(scope="module")
def done():
    adata = cells()
    harmonax.pp.harmony_integrate(adata, "batch", rng=0, verbose=False, save_model=True, save_labels="type", **SHORT)
    harmonax.tl.check(adata, "batch")
    return adata


def fronts(done):
    from harmonax.mapping.build import read_model

    model = read_model(done)
    return {
        "harmonize": (harmonax.harmonize, lambda: {"Z": Z, "batches": BATCH, "progress": False}),
        "run_harmony": (
            harmonax.run_harmony,
            lambda: {"data_mat": Z, "meta_data": cells().obs, "vars_use": "batch", "verbose": False},
        ),
        "pp": (harmonax.pp.harmony_integrate, lambda: {"adata": cells(), "key": "batch"}),
        "check": (harmonax.tl.check, lambda: {"adata": cells(), "batch_key": "batch"}),
        "diagnose": (harmonax.tl.diagnose, lambda: {"adata": done.copy(), "null": False}),
        "verdict": (harmonax.tl.verdict, lambda: {"adata": done.copy()}),
        "map_query": (harmonax.tl.map_query, lambda: {"query": cells(), "reference": model, "basis": "X_pca"}),
        "mapping": (map_query, lambda: {"model": model, "Z": Z}),
        "lisi": (lisi, lambda: {"embedding": Z, "labels": BATCH, "perplexity": 5}),
        "params": (harmonax.HarmonyParams, dict),
        "options": (harmonax.workflow.WorkflowOptions, dict),
        "load": (harmonax.HarmonyModel.load, lambda: {"path": "none.h5"}),
        "labels": (model.with_reference, lambda: {"embedding": Z, "labels": done.obs[["type"]]}),
    }


WRONG = [
    object(),
    np.array([1.0, 2.0]),
    np.array(["a", "b"]),
    {"a": 1},
    "1e3",
    3.5,
    -7,
    True,
    b"x",
    [None],
    [[1]],
    (1, "a"),
    float("nan"),
    pd.DataFrame({"q": [1]}),
    {1, 2},
]


@pytest.mark.filterwarnings("ignore::harmonax.errors.HarmonaxWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "front",
    [
        *("harmonize", "run_harmony", "pp", "check", "diagnose", "verdict", "map_query", "mapping", "lisi", "params"),
        *("options", "load", "labels"),
    ],
)
def test_no_front_ends_in_a_raw_error(front, done, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, given = fronts(done)[front]
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    names = [name for name, p in inspect.signature(function).parameters.items() if p.kind not in kinds]
    raw = []
    for name in names:
        for value in WRONG:
            arguments = given() | {name: value}
            target = arguments.get("adata", arguments.get("query"))
            before = [set(part) for part in (target.obsm, target.uns)] if isinstance(target, anndata.AnnData) else None
            try:
                function(**arguments)
            except HarmonaxError:
                if before and before != [set(target.obsm), set(target.uns)]:
                    raw.append((name, value, "was written before the error"))
            except Exception as error:
                raw.append((name, value, repr(error)))
    assert not raw


def test_the_message_says_what_arrived_and_what_is_allowed():
    for given, says in (
        ({"flavor": np.array(["harmony2"])}, r"flavor=array.*is an ndarray; allowed is 'harmony2' or 'harmony1'"),
        ({"max_iter_harmony": "1e3"}, r"max_iter_harmony='1e3' is text; allowed is a whole number"),
        ({"combine_keys": "yes"}, r"combine_keys='yes' is text; allowed is True or False"),
        ({"n_threads": [2]}, r"n_threads=\[2\] is a list; allowed are a whole number and None"),
    ):
        with pytest.raises(InputError, match=says):
            harmonax.pp.harmony_integrate(cells(), "batch", **given)
    with pytest.raises(InputError, match="ncores='1e3' is text"):
        harmonax.run_harmony(Z, cells().obs, "batch", ncores="1e3")


def test_numbers_of_every_kind_are_numbers():
    def function(a: int, b: float | None = None, c: bool = False): ...

    for value in (1, 1.0, np.int8(1), np.float32(1), np.array(1)):
        check_arguments(function, {"a": value, "b": value, "c": np.bool_(True)})
    for value in (True, "1", [1], None):
        with pytest.raises(InputError):
            check_arguments(function, {"a": value})


def test_a_column_may_have_a_number_for_a_name():
    adata = cells()
    adata.obs[7] = BATCH
    harmonax.pp.harmony_integrate(adata, 7, rng=0, verbose=False, **SHORT)
    assert adata.uns["harmonax"]["batch_keys"] == ["7"]


class Tensor:
    """What torch.Tensor has on the CPU; `.get` only, as cupy's arrays on a GPU."""

    def __init__(self, a, requires_grad=False, on_device=False):
        self.a, self.shape, self.requires_grad, self.on_device = a, a.shape, requires_grad, on_device
        self.dtype = a.dtype if on_device else type("dtype", (), {"__repr__": lambda _: f"torch.{a.dtype}"})()
        if on_device:
            self.get = lambda: a

    def __getitem__(self, k):
        return Tensor(self.a[k])

    def __len__(self):
        return len(self.a)

    def __array__(self, dtype=None, copy=None):
        if self.on_device:
            raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")
        return self.a if dtype is None else self.a.astype(dtype)

    @property
    def detach(self):
        if self.on_device:
            raise AttributeError("cupy has no detach")
        return lambda: Tensor(self.a)

    def cpu(self):
        return self


def polars(kind):
    return pytest.importorskip("polars", reason="polars is not installed").__dict__[kind]


def pyarrow():
    return pytest.importorskip("pyarrow", reason="pyarrow is not installed")


def jax():
    return pytest.importorskip("jax", reason="JAX is not installed").numpy


ARRAYS = {
    "list": lambda a: a.tolist(),
    "float32": lambda a: a.astype(np.float32),
    "float16": lambda a: a.astype(np.float16),
    "big-endian": lambda a: a.astype(">f8"),
    "fortran": np.asfortranarray,
    "objects": lambda a: a.astype(object),
    "masked": np.ma.masked_invalid,
    "frame": pd.DataFrame,
    "nullable": lambda a: pd.DataFrame(a).convert_dtypes(),
    "csr_matrix": scipy.sparse.csr_matrix,
    "csr_array": scipy.sparse.csr_array,
    "torch": Tensor,
    "cupy": lambda a: Tensor(a, on_device=True),
    "jax": lambda a: jax().asarray(a),
    "bfloat16": lambda a: jax().asarray(a, jax().bfloat16),
    "polars": lambda a: polars("DataFrame")(a),
    "pyarrow": lambda a: pyarrow().Table.from_pandas(pd.DataFrame(a)),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_every_kind_of_array(kind):
    want = harmonax.harmonize(Z, BATCH, rng=0, progress=False, **SHORT).embedding
    loose = {"float16": 0.1, "bfloat16": 0.5}.get(kind, 1e-3)
    given = ARRAYS[kind](Z)
    np.testing.assert_allclose(
        harmonax.harmonize(given, BATCH, rng=0, progress=False, **SHORT).embedding, want, atol=loose
    )
    run = harmonax.run_harmony(given, cells().obs, "batch", verbose=False, **SHORT)
    assert run.Z_corr.shape == Z.shape


def test_a_gradient_is_let_go_with_a_word():
    with pytest.warns(HarmonaxWarning, match="tensor with a gradient: it is detached"):
        harmonax.harmonize(Tensor(Z, requires_grad=True), BATCH, rng=0, progress=False, **SHORT)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.ma.masked_greater(Z, 1.0), "masked values; fill or drop them"),
        (np.where(Z > 1, None, Z), "NaN"),
        (np.array([["a", 1.0]] * N, dtype=object), "text among its values"),
        (np.array([[{}, 1.0]] * N, dtype=object), "not numbers"),
        (Z.astype(complex), "complex128"),
        (Z.astype(str), "dtype <U"),
        (3, "single value"),
        ({"a": 1}, "single value .dict"),
        (None, "single value .NoneType"),
        (Z[0], "shape"),
    ],
)
def test_arrays_that_cannot_be_taken(value, says):
    with pytest.raises(InputError, match=says):
        harmonax.harmonize(value, BATCH, progress=False)


COLUMNS = {
    "list": list,
    "tuple": tuple,
    "array": np.array,
    "objects": lambda b: np.array(b, dtype=object),
    "masked": lambda b: np.ma.array(b),
    "Series": pd.Series,
    "other index": lambda b: pd.Series(b, index=np.arange(N)[::-1]),
    "category": pd.Categorical,
    "ordered": lambda b: pd.Categorical(b, ordered=True),
    "string": lambda b: pd.Series(b, dtype="string"),
    "pyarrow string": lambda b: pd.Series(b, dtype="string[pyarrow]") if pyarrow() else None,
    "integers": lambda b: (b == "b").astype(np.int8),
    "unsigned": lambda b: (b == "b").astype(np.uint64),
    "floats": lambda b: (b == "b").astype(float),
    "Int64": lambda b: pd.Series(b == "b").astype("Int64"),
    "booleans": lambda b: b == "b",
    "dates": lambda b: pd.to_datetime(np.where(b == "b", "2024-01-01", "2024-02-01")),
    "frame": lambda b: pd.DataFrame({"batch": b}),
    "dictionary": lambda b: {"batch": list(b)},
    "column": lambda b: np.array(b)[:, None],
    "torch": lambda b: Tensor((b == "b").astype(np.int64)),
    "cupy": lambda b: Tensor((b == "b").astype(np.int64), on_device=True),
    "jax": lambda b: jax().asarray((b == "b").astype(np.int32)),
    "polars": lambda b: polars("Series")("batch", b),
    "polars frame": lambda b: polars("DataFrame")({"batch": b}),
    "pyarrow": lambda b: pyarrow().array(b),
    "pyarrow table": lambda b: pyarrow().table({"batch": b}),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_every_kind_of_batch_column(kind):
    want = harmonax.harmonize(Z, BATCH, rng=0, progress=False, **SHORT).embedding
    found = harmonax.harmonize(Z, COLUMNS[kind](BATCH), rng=0, progress=False, **SHORT)
    # Levels may come in another order, which changes the last bits.
    assert sorted(found.design.level_counts) == [N / 2, N / 2]
    np.testing.assert_allclose(found.embedding, want, atol=1e-2)


@pytest.mark.parametrize(
    ("batches", "says"),
    [
        (np.ma.array(BATCH, mask=np.arange(N) == 3), "1 missing values"),
        ("batch", "got the text 'batch'"),
        (None, "labels, one per cell"),
        (7, "labels, one per cell"),
        (object(), "labels, one per cell"),
        (BATCH[:-1], "119"),
        (np.zeros((2, 2, 2)), "shape"),
    ],
)
def test_batches_that_cannot_be_taken(batches, says):
    with pytest.raises(InputError, match=says):
        harmonax.harmonize(Z, batches, progress=False)


class TestOlderScripts:
    @pytest.mark.parametrize("never", [-np.inf, -1, -1e-9, np.float32(-3)])
    def test_a_negative_tolerance_runs_all_rounds(self, never):
        meta = cells().obs
        run = harmonax.run_harmony(
            Z, meta, "batch", epsilon_cluster=never, epsilon_harmony=never, max_iter_harmony=7, verbose=False
        )
        assert run.kmeans_rounds == [4] * 7
        for flavor in ("harmony1", "harmony2"):
            made = harmonax.harmonize(
                Z, BATCH, flavor=flavor, tol_harmony=never, tol_clustering=never, max_iter_harmony=3,
                max_iter_clustering=6, progress=False,
            )  # fmt: skip
            assert made.history.passes == [6] * 3
            assert made.params.tol_harmony == -1

    @pytest.mark.parametrize("wrong", [np.nan, np.inf, "-inf", None])
    def test_a_tolerance_that_means_nothing_is_refused(self, wrong):
        with pytest.raises(InputError, match="tol_harmony"):
            harmonax.HarmonyParams(tol_harmony=wrong)

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("plot_convergence", [None, False]),
            ("reference_values", [None]),
            ("cluster_prior", [None]),
            ("cluster_fn", [None, "kmeans"]),
            ("device", [None, "cpu"]),
            ("do_pca", [None, False]),
        ],
    )
    def test_what_changes_nothing_is_taken(self, name, values):
        for value in values:
            harmonax.run_harmony(Z, cells().obs, "batch", verbose=False, **SHORT, **{name: value})
            harmonax.pp.harmony_integrate(cells(), "batch", verbose=False, **SHORT, **{name: value})

    @pytest.mark.parametrize(
        ("name", "value", "says"),
        [
            ("cluster_prior", Z[:3], "rng="),
            ("cluster_fn", "hierarchical", "k-means"),
            ("do_pca", True, "scanpy.pp.pca"),
        ],
    )
    def test_what_is_done_otherwise_is_answered_by_name(self, name, value, says):
        for call in (
            lambda **how: harmonax.run_harmony(Z, cells().obs, "batch", **how),
            lambda **how: harmonax.pp.harmony_integrate(cells(), "batch", **how),
        ):
            with pytest.raises(InputError, match=f"{name}=.*{says}"):
                call(**{name: value})

    @pytest.mark.parametrize(("name", "value"), [("device", "cuda"), ("plot_convergence", True)])
    def test_what_does_not_change_the_result_is_a_word(self, name, value):
        with pytest.warns(HarmonaxWarning, match=f"{name}=.*has no effect"):
            harmonax.run_harmony(Z, cells().obs, "batch", verbose=False, **SHORT, **{name: value})

    def test_the_calls_of_harmony_pytorch(self):
        obs, how = cells().obs, {"rng": 0, "progress": False, **SHORT}
        want = harmonax.harmonize(Z, BATCH, **how).embedding
        for found in (
            harmonax.harmonize(Z, obs, "batch", **how),
            harmonax.harmonize(Z, obs, ["batch"], **how),
            harmonax.harmonize(Z, obs, batch_key="batch", **how),
            harmonax.harmonize(
                Z, obs, batch_key="batch", random_state=0, n_jobs=-1, verbose=False, use_gpu=False, **SHORT
            ),
        ):
            np.testing.assert_array_equal(found.embedding, want)
        with pytest.raises(TypeError, match="did you mean 'theta'"):
            harmonax.harmonize(Z, BATCH, thetha=3)
        with pytest.raises(InputError, match="two names of one"):
            harmonax.harmonize(Z, BATCH, rng=0, random_state=0)
        with pytest.raises(InputError, match="no column 'bacth'; did you mean 'batch'"):
            harmonax.harmonize(Z, obs, "bacth")
