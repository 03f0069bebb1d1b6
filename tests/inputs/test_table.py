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


@pytest.mark.parametrize("column", [*GOOD, *BAD])
def test_every_front_is_right_or_says_why(column):
    batch = (GOOD | BAD)[column](BATCH)
    try:
        obs = pd.DataFrame({"batch": batch})
        obs.index = [f"c{i}" for i in range(N)]
    except Exception:
        # pandas itself has no such column.
        return
    good = column in GOOD and not isinstance(batch, (dict, pd.DataFrame)) and isinstance(batch, (pd.Series, np.ndarray))
    for call in (
        lambda: harmonax.run_harmony(Z, obs, "batch", verbose=False, **SHORT),
        lambda: integrated(obs),
        lambda: harmonax.tl.check(anndata.AnnData(obs=obs, obsm={"X_pca": Z}), "batch"),
        lambda: harmonax.tl.evaluate(anndata.AnnData(obs=obs, obsm={"X_pca": Z}), "batch"),
    ):
        try:
            call()
        except HarmonaxError:
            assert not good or (isinstance(batch, np.ma.MaskedArray)), column


def integrated(obs):
    adata = anndata.AnnData(obs=obs, obsm={"X_pca": Z})
    try:
        harmonax.pp.harmony_integrate(adata, "batch", rng=0, verbose=False, **SHORT)
    finally:
        done = "X_pca_harmony" in adata.obsm
        assert done == ("harmonax" in adata.uns)
