"""Kinds of batch columns x kinds of arrays x fronts: the right answer, or one clear error before any work."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from test_arguments import ARRAYS, COLUMNS

import harmonax
from harmonax.errors import HarmonaxError, InputError

pytestmark = pytest.mark.filterwarnings("ignore::harmonax.errors.HarmonaxWarning", "ignore::FutureWarning")

N = 40
BATCH = np.repeat(["a", "b"], N // 2)
Z = np.random.default_rng(0).normal(size=(N, 3)) + 2 * (BATCH == "b")[:, None]
SHORT = {"max_iter_harmony": 1}
WANT = harmonax.harmonize(Z, BATCH, rng=0, progress=False, **SHORT).embedding

# Those of `test_arguments` are for as many cells as it has.
GOOD = {
    **{name: kind for name, kind in COLUMNS.items() if name != "other index"},
    "bytes": lambda b: np.array([v.encode() for v in b]),
    "complex strings": lambda b: np.array([f"{v}, of \u00fc/\u00df" for v in b]),
    "mixed numbers": lambda b: np.array([1 if v == "a" else "2" for v in b], dtype=object),
    "number and its text": lambda b: np.array([(1, "1", 1.0)[i % 3] if v == "a" else 2 for i, v in enumerate(b)], "O"),
    "periods": lambda b: pd.PeriodIndex(np.where(b == "b", "2024-01", "2024-02"), freq="M"),
    "intervals": lambda b: pd.cut((b == "b").astype(int), 2),
    "unused categories": lambda b: pd.Categorical(b, categories=["z", "b", "a", "y"]),
    "float16": lambda b: (b == "b").astype(np.float16),
    "big-endian": lambda b: (b == "b").astype(">i4"),
    "negative": lambda b: -(b == "b").astype(int),
    "fractions": lambda b: np.where(b == "b", 0.5, 1.0),
    "two columns": lambda b: pd.DataFrame({"one": b, "other": np.tile(["x", "y"], len(b) // 2)}),
}  # fmt: skip
BAD = {
    "missing": lambda b: np.where(np.arange(len(b)) == 3, None, b),
    "nan": lambda b: np.where(np.arange(len(b)) == 3, np.nan, (b == "b").astype(float)),
    "NA": lambda b: pd.Series(b, dtype="string").mask(np.arange(len(b)) == 3),
    "text for missing": lambda b: np.where(np.arange(len(b)) == 3, "nan", b),
    "some masked": lambda b: np.ma.array(b, mask=np.arange(len(b)) == 3),
    "short": lambda b: b[:-1],
    "measurements": lambda b: np.arange(len(b)) / 7,
    "scalar": lambda b: "a",
    "nothing": lambda b: None,
    "three dimensions": lambda b: np.zeros((2, 2, 2)),
    "lists": lambda b: [["x"]] * (len(b) - 1) + [["x", "y"]],
    "object": lambda b: object(),
}
KINDS = {
    name: kind for name, kind in ARRAYS.items() if name not in ("float16", "bfloat16", "big-endian", "list", "fortran")
}


@pytest.mark.parametrize("column", GOOD)
def test_kinds_that_are_taken(column):
    batch = GOOD[column](BATCH)
    several = column == "two columns"
    want = harmonax.harmonize(Z, batch, rng=0, progress=False, **SHORT).embedding if several else WANT
    for name, kind in KINDS.items():
        found = harmonax.harmonize(kind(Z), batch, rng=0, progress=False, **SHORT).embedding
        # Levels in another order change the last bits.
        np.testing.assert_allclose(found, want, atol=2e-2, err_msg=f"{name} x {column}")


@pytest.mark.parametrize("column", BAD)
def test_kinds_that_are_refused(column):
    for kind in KINDS.values():
        with pytest.raises(InputError) as caught:
            harmonax.harmonize(kind(Z), BAD[column](BATCH), progress=False)
        assert len(str(caught.value)) > 20


class RefusedByOthers(Exception):
    """pandas or anndata themselves have no such column, or no such array."""


def table(batch):
    """Return obs with a column of the batches, or with several."""
    try:
        named = isinstance(batch, (dict, pd.DataFrame))
        obs = pd.DataFrame(batch) if named else pd.DataFrame({"batch": batch}, index=range(N))
        obs = pd.DataFrame({"batch": pd.Series(batch).array}) if isinstance(batch, pd.Series) else obs
        return obs.set_axis([f"c{i}" for i in range(N)]), list(obs.columns)
    except Exception as error:
        raise RefusedByOthers from error


def annotated(X, batch):
    obs, keys = table(batch)
    try:
        adata = anndata.AnnData(obs=obs, obsm={"X_pca": X})
    except Exception as error:
        raise RefusedByOthers from error
    return adata, keys


def harmonized(X, batch):
    return harmonax.harmonize(X, batch, rng=0, progress=False, **SHORT).embedding


def by_run_harmony(X, batch):
    obs, keys = table(batch)
    how = {"epsilon_cluster": 1e-5, "max_iter_kmeans": 200, "max_iter_harmony": 1}
    return harmonax.run_harmony(X, obs, keys, random_state=0, verbose=False, **how).Z_corr


def integrated(X, batch):
    adata, keys = annotated(X, batch)
    try:
        harmonax.pp.harmony_integrate(adata, keys, rng=0, verbose=False, **SHORT)
    finally:
        assert ("X_pca_harmony" in adata.obsm) == ("harmonax" in adata.uns)
    return adata.obsm["X_pca_harmony"]


def mapped(X, batch):
    return MODEL.map(X, batch, known_batches="new")


def checked(X, batch):
    adata, keys = annotated(X, batch)
    found = harmonax.tl.check(adata, keys)
    assert "harmonax_check" in adata.uns
    return np.array([found.n_cells])


MODEL = harmonax.HarmonyModel.from_result(harmonax.harmonize(Z, BATCH, rng=0, progress=False, **SHORT))
FRONTS = {f.__name__: f for f in (harmonized, by_run_harmony, integrated, mapped, checked)}
RIGHT = {
    (front, several): function(Z, GOOD["two columns"](BATCH) if several else BATCH)
    for front, function in FRONTS.items()
    for several in (False, True)
}


# What takes batches as they come; the others have them in obs, and pandas makes what it will of other libraries' own.
OF_BATCHES = ("harmonized", "mapped")
FOREIGN = ("torch", "cupy", "pyarrow table")


def judge(column, array, front):
    """A good column gives the right answer, a bad one an error, unless pandas makes a good one of it."""
    X, batch = KINDS[array](Z), (GOOD | BAD)[column](BATCH)
    try:
        found = FRONTS[front](X, batch)
    except RefusedByOthers:
        return
    except HarmonaxError as error:
        refused = str(error)
    else:
        refused = None
    if refused is not None:
        assert len(refused) > 20
        assert column in BAD or (column in FOREIGN and front not in OF_BATCHES), refused
        return
    # Of what is not a column pandas makes one label for all cells; the check leaves cells without a label out, and
    # cells may be mapped as one batch.
    one_label = column in ("scalar", "object", *FOREIGN) and front not in OF_BATCHES
    assert column in GOOD or one_label or front == "checked" or (column, front) == ("nothing", "mapped")
    if column in GOOD and not one_label:
        np.testing.assert_allclose(found, RIGHT[front, column == "two columns"], atol=2e-2)


# Every column meets every front, and every array does; where slow tests run, every combination.
SQUARE = [
    (column, list(KINDS)[(i + 5 * j) % len(KINDS)], front)
    for i, column in enumerate([*GOOD, *BAD])
    for j, front in enumerate(FRONTS)
]


def test_the_table_is_as_large_as_it_was_asked_for():
    assert len(GOOD) + len(BAD) >= 44
    assert (len(KINDS), len(FRONTS)) == (12, 5)
    assert {(array, front) for _, array, front in SQUARE} == {(array, front) for array in KINDS for front in FRONTS}


@pytest.mark.parametrize("front", FRONTS)
def test_every_column_and_every_array_at_every_front(front):
    for case in SQUARE:
        if case[2] == front:
            judge(*case)


@pytest.mark.slow
@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("array", KINDS)
def test_every_combination(array, front):
    for column in [*GOOD, *BAD]:
        judge(column, array, front)
