"""Corrected counts against a dense Poisson regression, SciPy's quantiles, and what must not change."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, sparse, stats

import harmonax
from harmonax import cli
from harmonax.counts.assignment import soft_clusters
from harmonax.counts.model import Penalty, fit, penalties
from harmonax.counts.quantile import same_quantile
from harmonax.errors import HarmonaxWarning, InputError, MissingKeyError, OutputError
from harmonax.files import CountsJob, correct_counts_file

N, G, D = 400, 12, 5


def study(seed=0, batches=3):
    """Return cells of two types whose genes are shifted by batch, and their rates without that."""
    gen = np.random.default_rng(seed)
    batch, kind = gen.integers(0, batches, N), gen.integers(0, 2, N)
    rate = np.exp(gen.normal(0.5, 1, (2, G)))[kind] * gen.lognormal(0, 0.3, (N, 1))
    effect = np.exp(gen.normal(0, 0.7, (batches, G)))
    obs = pd.DataFrame({"batch": [f"b{b}" for b in batch], "kind": [f"k{k}" for k in kind]})
    obs.index = [f"cell{i}" for i in range(N)]
    X = sparse.csr_matrix(gen.poisson(rate * effect[batch]).astype(np.float32))
    Z = gen.normal(size=(N, D)) + 6 * gen.normal(size=(2, D))[kind] + gen.normal(size=(batches, D))[batch]
    return anndata.AnnData(X, obs=obs, obsm={"X_pca": Z.astype(np.float32)}), rate


@pytest.fixture
def corrected():
    adata, _ = study()
    harmonax.pp.harmony_integrate(adata, "batch", rng=0, n_clusters=4)
    return adata


def cells_of(adata, R):
    make, _ = soft_clusters(adata, "batch", R, 1)
    return make(np.asarray(adata.X.sum(axis=1)).ravel())


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(2, 3), st.floats(0.3, 5), st.floats(0, 1))
def test_equals_a_penalised_poisson_regression_with_an_explicit_design(seed, K, B, counts, share):
    gen = np.random.default_rng(seed)
    n = 60
    adata = anndata.AnnData(
        sparse.csr_matrix(gen.poisson(gen.lognormal(0, 1, 2), (n, 2)).astype(float)),
        obs=pd.DataFrame({"batch": np.arange(n) % B}).astype(str).set_axis([f"c{i}" for i in range(n)]),
    )
    cells, penalty = cells_of(adata, gen.dirichlet(np.full(K, 0.5), n)), Penalty(counts, share)
    R = cells.R.toarray().astype(float)
    own = np.zeros((n, B, K))
    own[np.arange(n), adata.obs["batch"].astype(int)] = R
    X = np.hstack([R, own.reshape(n, -1)])
    Y = np.stack([own.transpose(1, 2, 0) @ adata.X[:, g].toarray().ravel() for g in (0, 1)], axis=-1)
    found = fit(cells, Y, penalty, max_steps=4000, tol=1e-6)
    sums = np.einsum("nbk,n->bk", own, cells.size)
    mean, to_mean, ridge = penalties(sums, Y, cells, penalty)
    for g in (0, 1):
        y = adata.X[:, g].toarray().ravel()
        weight = np.concatenate([to_mean[:, g], ridge[:, :, g].ravel()])
        start = np.concatenate([mean[:, g], np.zeros(B * K)])

        def objective(w, y=y, weight=weight, start=start):
            mu = cells.size * np.exp(X @ w)
            value = mu.sum() - y @ (X @ w) + 0.5 * (weight * (w - start) ** 2).sum()
            return value, X.T @ (mu - y) + weight * (w - start)

        limits = [(None, None)] * K + [(None, None) if ok else (0, 0) for ok in cells.keep.ravel()]
        best = optimize.minimize(
            objective, start, jac=True, bounds=limits, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-14}
        )
        ours = np.concatenate([found.base[:, g], found.effect[:, :, g].ravel()])
        assert objective(ours)[0] == pytest.approx(best.fun, rel=1e-5, abs=1e-4)
        np.testing.assert_allclose(X @ ours, X @ best.x, atol=5e-3)


RATES = st.floats(0.05, 50)


@given(st.lists(st.tuples(st.integers(0, 60), st.floats(0, 0.999), RATES, RATES), min_size=1))
def test_equals_the_quantile_of_scipy(rows):
    y, u, mu, nu = np.array(rows, float).T
    ours = same_quantile(y, u, mu, nu)
    level = stats.poisson.cdf(y - 1, mu) + u * stats.poisson.pmf(y, mu)
    clear = (level > 1e-9) & (level < 1 - 1e-9)
    below, at = stats.poisson.cdf(ours - 1, nu), stats.poisson.cdf(ours, nu)
    assert (below[clear] < level[clear] + 1e-12).all()
    assert (at[clear] > level[clear] - 1e-12).all()
    assert (same_quantile(y, u, mu, mu)[level > 1e-250] == y[level > 1e-250]).all()


def test_a_count_that_no_tail_reaches_is_scaled():
    y = np.array([1e5, 3e6])
    np.testing.assert_allclose(same_quantile(y, y * 0 + 0.3, y * 0 + 1.0, y * 0 + 2.0), 2 * y)


def test_rates_without_batches_are_found_again():
    adata, truth = study()
    R = pd.get_dummies(adata.obs["kind"]).to_numpy(float)
    harmonax.pp.correct_counts(adata, "batch", assignment=R, alpha=0.001, rng=1)
    C = adata.layers["counts_corrected"].toarray()
    of = lambda X, by: pd.DataFrame(X).groupby([adata.obs[key].to_numpy() for key in by]).mean()  # noqa: E731

    def apart(X):
        # Each cell keeps its depth, which the batch effects of so few genes are a part of.
        shares = X / np.maximum(adata.X.sum(axis=1), 1)
        return np.log(of(np.asarray(shares), ["kind", "batch"])).groupby(level=0).var().to_numpy().mean()

    assert apart(C) < 0.1 * apart(adata.X.toarray())
    between = lambda X: np.subtract(*np.log(of(X, ["kind"])).to_numpy())  # noqa: E731
    assert np.corrcoef(between(C), between(truth))[0, 1] > 0.99


def test_whole_numbers_of_the_same_kind_and_zeros_stay_where_no_rate_rises(corrected):
    before = corrected.X.copy()
    harmonax.pp.correct_counts(corrected)
    C = corrected.layers["counts_corrected"]
    assert (C.dtype, C.format, C.has_canonical_format) == (np.float32, "csr", True)
    assert (C.data == np.floor(C.data)).all()
    assert (C.data > 0).all()
    harmonax.pp.correct_counts(corrected, rates=True, layer_added="rates")
    rates, old, new = (X.toarray() for X in (corrected.layers["rates"], corrected.X, C))
    assert ((rates > 0) == (old > 0)).all()
    lowered = (old > 0) & (rates <= old)
    assert (new[lowered] <= old[lowered]).all()
    assert (new[rates > old] >= old[rates > old]).all()
    assert (new[old == 0] > 0).any()
    assert (before != corrected.X).nnz == 0
    assert corrected.uns["harmonax_counts"]["batch_keys"].tolist() == ["batch"]


def test_one_batch_and_levels_of_the_reference_keep_their_counts(corrected):
    corrected.obs["one"] = "a"
    with pytest.warns(HarmonaxWarning, match="one: every cell has the same batch: nothing to correct, the counts are"):
        harmonax.pp.correct_counts(corrected, "one", layer_added="same")
    assert (corrected.layers["same"] != corrected.X).nnz == 0
    harmonax.pp.harmony_integrate(corrected, "batch", reference="b1", rng=0)
    harmonax.pp.correct_counts(corrected)
    own = (corrected.obs["batch"] == "b1").to_numpy()
    changed = np.asarray((corrected.layers["counts_corrected"] != corrected.X).sum(axis=1)).ravel() > 0
    assert not changed[own].any()
    assert changed[~own].any()


def test_a_run_with_covariates_is_repeated(corrected):
    corrected.obs["depth"] = np.log(np.asarray(corrected.X.sum(axis=1)).ravel() + 1)
    harmonax.pp.harmony_integrate(corrected, "batch", covariates="depth", rng=0)
    harmonax.pp.correct_counts(corrected)
    assert (corrected.layers["counts_corrected"] != corrected.X).nnz > 0


def test_an_effect_of_a_protected_condition_stays():
    adata, _ = study()
    gen = np.random.default_rng(1)
    treated = gen.random(N) < np.where(adata.obs["batch"] == "b0", 0.8, 0.2)
    X = adata.X.toarray()
    X[:, 0] = gen.poisson(np.where(treated, 12.0, 4.0))
    adata.X, adata.obs["condition"] = sparse.csr_matrix(X), np.where(treated, "treated", "control")
    harmonax.pp.harmony_integrate(adata, "batch", protect="condition", n_clusters=2, rng=0)
    harmonax.pp.correct_counts(adata)
    C = adata.layers["counts_corrected"][:, 0].toarray().ravel()
    assert C[treated].mean() / C[~treated].mean() > 2.6


def test_the_seed_alone_decides(corrected, monkeypatch):
    monkeypatch.setattr("harmonax.counts.stream._PIECE", 50 * G)
    layers, said = [], []
    for seed, threads in ((0, 1), (0, 3), (1, 1)):
        harmonax.pp.correct_counts(
            corrected, rng=seed, n_threads=threads, progress=lambda what, share: said.append((what, share))
        )
        layers.append(corrected.layers["counts_corrected"].copy())
    assert {what for what, share in said if share == 1} == {"reading", "fitting", "correcting"}
    assert (layers[0] != layers[1]).nnz == 0
    assert (layers[0] != layers[2]).nnz > 0


@pytest.mark.parametrize("make", [sparse.csc_matrix, sparse.csr_array, lambda X: X.toarray(), lambda X: X.astype(int)])
def test_every_kind_of_matrix_gives_the_same(corrected, make):
    harmonax.pp.correct_counts(corrected)
    first = corrected.layers["counts_corrected"].toarray()
    corrected.layers["other"] = make(corrected.X)
    harmonax.pp.correct_counts(corrected, counts_layer="other")
    assert (corrected.layers["counts_corrected"].toarray() == first).all()


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_files_give_the_bits_of_memory(corrected, tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("harmonax.counts.stream._PIECE", 64 * G)
    monkeypatch.setattr("harmonax.files.counts._larger.__defaults__", (300,))
    source, out = tmp_path / "in.h5ad", tmp_path / f"out.{suffix}"
    corrected.write_h5ad(source)
    assert cli.run(["counts", str(source), "-o", str(out), "--quiet"]) == 0
    harmonax.pp.correct_counts(corrected)
    read = getattr(anndata, f"read_{suffix}")(out)
    assert (read.layers["counts_corrected"] != corrected.layers["counts_corrected"]).nnz == 0
    assert (read.X != corrected.X).nnz == 0
    assert read.uns["harmonax_counts"]["steps"] == corrected.uns["harmonax_counts"]["steps"]
    backed = anndata.read_h5ad(source, backed="r")
    harmonax.pp.correct_counts(backed)
    assert (backed.layers["counts_corrected"] != corrected.layers["counts_corrected"]).nnz == 0


def test_a_file_appears_whole_or_not_at_all(corrected, tmp_path, monkeypatch):
    source, out = tmp_path / "in.h5ad", tmp_path / "out.h5ad"
    corrected.write_h5ad(source)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("harmonax.counts.stream._whole", stop)
    with pytest.raises(KeyboardInterrupt):
        correct_counts_file(CountsJob(source, out), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5ad"]
    with pytest.raises(OutputError, match="is the input"):
        correct_counts_file(CountsJob(source, source, overwrite=True))


def test_what_is_not_counts_is_refused_and_decimals_are_taken_when_asked(corrected):
    corrected.X = corrected.X * np.float32(0.7)
    with pytest.raises(InputError, match=r"not whole numbers.*decimals=True"):
        harmonax.pp.correct_counts(corrected)
    harmonax.pp.correct_counts(corrected, decimals=True)
    C = corrected.layers["counts_corrected"]
    assert (C.data == np.floor(C.data)).all()
    assert C.sum() == pytest.approx(corrected.X.sum(), rel=0.1)
    corrected.uns["log1p"] = {}
    with pytest.raises(InputError, match="raw counts"):
        harmonax.pp.correct_counts(corrected, decimals=True)
    corrected.X = -corrected.X
    with pytest.raises(InputError, match="negative"):
        harmonax.pp.correct_counts(corrected, decimals=True, counts_layer="X")


def test_soft_clusters_that_do_not_belong_are_refused(corrected):
    part = corrected[:300].copy()
    with pytest.raises(InputError, match="were changed since"):
        harmonax.pp.correct_counts(part)
    with pytest.raises(InputError, match="assignment has shape"):
        harmonax.pp.correct_counts(part, assignment=np.ones((3, 2)))
    with pytest.raises(InputError, match="none below 0"):
        harmonax.pp.correct_counts(part, assignment=np.zeros((300, 2)))
    with pytest.raises(MissingKeyError, match="no 'R'"):
        harmonax.pp.correct_counts(part, assignment="R")
    del part.uns["harmonax"]
    with pytest.raises(InputError, match="harmony_integrate first"):
        harmonax.pp.correct_counts(part, "batch")
    corrected.layers["counts"] = corrected.X
    with pytest.raises(InputError, match="where the counts are"):
        harmonax.pp.correct_counts(corrected, layer_added="counts")


def test_a_result_a_name_and_the_run_repeated_are_the_same_clusters(corrected):
    result = harmonax.harmonize(
        corrected.obsm["X_pca"],
        corrected.obs["batch"],
        harmonax.HarmonyParams(**{k: v for k, v in corrected.uns["harmonax"]["params"].items()}),
        rng=0,
        progress=False,
    )
    corrected.obsm["R"] = result.assignments()
    layers = []
    for assignment in (None, result, "R", sparse.csr_matrix(corrected.obsm["R"])):
        harmonax.pp.correct_counts(corrected, assignment=assignment)
        layers.append(corrected.layers["counts_corrected"].toarray())
    assert all((layer == layers[0]).all() for layer in layers)
