"""What must stay: reference levels and protected biology, against an explicit design matrix and known effects."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cells_with_batches

import harmonax
from harmonax.algorithm.penalty import expected_mass
from harmonax.algorithm.regressors import kept_levels
from harmonax.algorithm.ridge import ridge
from harmonax.design import BatchDesign
from harmonax.errors import HarmonaxWarning, InputError, MissingKeyError
from harmonax.files import FileJob, integrate_file
from harmonax.params import HarmonyParams
from harmonax.workflow import WorkflowOptions

K = 4


def explicit(Z, R_k, one_hot, lam):
    """Solve one cluster by least squares."""
    X = np.column_stack([np.ones(len(Z)), one_hot])
    root = np.sqrt(R_k)[:, None]
    A = np.concatenate([root * X, np.diag(np.sqrt(np.concatenate([[0.0], lam])))])
    b = np.concatenate([root * Z, np.zeros((X.shape[1], Z.shape[1]))])
    W = np.linalg.lstsq(A, b, rcond=None)[0]
    return W[0], W[1:]


def tables(Z, design, R):
    joint = np.eye(design.n_joint)[design.joint]
    return np.einsum("ij,ik,id->jkd", joint, R, Z), np.einsum("ij,ik->jk", joint, R)


@given(
    seed=st.integers(0, 1000),
    levels=st.lists(st.integers(2, 4), min_size=1, max_size=2).map(tuple),
    protected=st.booleans(),
    held=st.integers(0, 2),
    fixed=st.booleans(),
    method=st.sampled_from(["fast", "original"]),
    threshold=st.sampled_from([None, 0.2]),
)
@settings(max_examples=80)
def test_the_ridge_equals_an_explicit_design_matrix(seed, levels, protected, held, fixed, method, threshold):
    Z, codes = cells_with_batches(150, 3, (*levels, 3), seed)
    R = np.random.default_rng(seed).dirichlet(np.full(K, 0.2), size=len(Z))
    plain = BatchDesign.from_codes(codes[:, :-1])
    names = plain.levels[0][: min(held, len(plain.levels[0]) - 1)]
    design = plain.keeping({plain.variables[0]: names}) if names else plain
    condition = BatchDesign.from_codes(codes[:, -1], ["condition"])
    design = design.protecting(condition) if protected else design
    params = HarmonyParams(
        n_clusters=K, ridge="fixed" if fixed else "dynamic", ridge_lambda=0.7, correction_method=method,
        batch_prune_threshold=threshold,
    )  # fmt: skip
    found = ridge(design, params.resolve(design), *tables(Z, design, R))

    cell_levels = design.joint_levels[design.joint]
    one_hot = (cell_levels[:, :, None] == np.arange(design.n_levels)).any(axis=1).astype(float)
    stays = np.isin(cell_levels, design.reference).any(axis=1)
    mass_of, n = one_hot.T @ R, plain.n_levels
    there = mass_of / one_hot.sum(axis=0)[:, None] > (-1 if threshold is None else threshold)
    one_hot[stays] = 0.0
    for k in range(K):
        columns = there[:, k].copy()
        for first, last in zip(plain.offsets[:-1], plain.offsets[1:], strict=True):
            columns[first:last] &= there[first:last, k].sum() > 1 or threshold is None
        assert found.skipped[k] == (not columns[:n].any())
        if found.skipped[k]:
            continue
        columns[list(design.reference)] = False
        # Cells of a reference, and cells with a batch level that is kept.
        part = stays | one_hot[:, :n][:, columns[:n]].any(axis=1)
        if fixed:
            lam = np.where(np.arange(design.n_levels) < n, 0.7, 0.7e-3)
        else:
            mass = np.bincount(condition.joint, R[:, k]) if protected else np.array([R[:, k].sum()])
            share = np.array([
                [(cell_levels[condition.joint == c] == b).any(axis=1).mean() for c in range(len(mass))]
                if protected else [(cell_levels == b).any(axis=1).mean()]
                for b in range(n)
            ])  # fmt: skip
            alpha = 0.1 if names else 0.2
            lam = np.concatenate([alpha * share @ mass, np.full(design.n_levels - n, 0.2e-3 * R[:, k].sum())])
        W0, W = explicit(Z[part], R[part, k], one_hot[part][:, columns], np.where(lam > 0, lam, 1.0)[columns])
        want = np.zeros((design.n_levels, 3))
        want[columns] = W
        np.testing.assert_allclose(found.W0[k], W0, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found.W[:n, k], want[:n], rtol=1e-6, atol=1e-6)
    # What is subtracted: nothing of the condition, and nothing from a cell of the reference.
    of_cells = found.W[design.carried.joint_levels[design.joint]].sum(axis=1)
    of_batches = found.W[plain.joint_levels[plain.joint]].sum(axis=1)
    np.testing.assert_allclose(of_cells[~stays], of_batches[~stays], atol=1e-12)
    np.testing.assert_allclose(of_cells[stays], 0, atol=1e-12)


def test_the_expected_mixture_is_that_of_the_conditions_that_a_cluster_holds():
    batch = np.repeat([0, 0, 1, 1], [30, 10, 5, 55])
    condition = BatchDesign.from_codes(np.repeat([0, 1, 0, 1], [30, 10, 5, 55]), ["condition"])
    design = BatchDesign.from_codes(batch).protecting(condition)
    cases_only = np.array([[6.0], [1.0], [7.0], [0.0]])
    E = expected_mass(design, cases_only, cases_only[:2].sum(axis=0))
    np.testing.assert_allclose(E[:, 0], [6, 1])
    both = np.array([[4.0], [6.0], [3.5], [6.5]])
    np.testing.assert_allclose(
        expected_mass(design, both, both[:2].sum(axis=0))[:, 0],
        [30 / 35 * 3.5 + 10 / 65 * 6.5, 5 / 35 * 3.5 + 55 / 65 * 6.5],
    )


def test_pruning_counts_the_reference_among_the_levels_that_are_there():
    codes = np.repeat([0, 1, 2], 50)
    design = BatchDesign.from_codes(codes).keeping({"batch": ["0"]})
    R = np.zeros((150, 2))
    R[:100, 0] = R[100:, 1] = 1.0
    Z = np.random.default_rng(0).normal(size=(150, 3)) + codes[:, None]
    found = ridge(design, HarmonyParams(n_clusters=2).resolve(design), *tables(Z, design, R))
    # Cluster 0 has the reference and one other level, cluster 1 a level alone.
    assert found.skipped.tolist() == [False, True]
    assert kept_levels(design, design.fold(tables(Z, design, R)[1]), 1e-5)[0][:, 0].tolist() == [True, True, False]
    np.testing.assert_array_equal(found.W.any(axis=(1, 2)), [False, True, False])
    # The reference outweighs what the penalty leaves of the other level.
    assert np.linalg.norm(found.W0[0] - Z[:50].mean(axis=0)) < 0.5 * np.linalg.norm(
        found.W0[0] - Z[50:100].mean(axis=0)
    )


def study(confounded=0.5, seed=0, n=3000, effect=2.0):
    """Return cells of 5 types in 4 batches, with an effect of a condition in each type, confounded with the batch."""
    gen = np.random.default_rng(seed)
    kind, batch = gen.integers(0, 5, n), gen.integers(0, 4, n)
    condition = (gen.random(n) < np.where(batch % 2 == 0, 0.5 + confounded / 2, 0.5 - confounded / 2)).astype(int)
    direction = gen.normal(size=(5, 20))
    direction *= effect / np.linalg.norm(direction, axis=1, keepdims=True)
    centre = 3 * gen.normal(size=(5, 20))[kind] + 0.7 * gen.normal(size=(4, 20))[batch]
    Z = centre + direction[kind] * condition[:, None] + 0.6 * gen.normal(size=(n, 20))
    obs = pd.DataFrame({"batch": batch, "condition": np.where(condition == 1, "stim", "ctrl"), "kind": kind})
    return Z, obs, direction


def kept_effect(Z, obs, direction):
    """Return how much of the condition's effect is left, as a share, averaged over types."""
    stim = (obs["condition"] == "stim").to_numpy()
    shares = []
    for kind, along in enumerate(direction):
        of = (obs["kind"] == kind).to_numpy()
        shares.append((Z[of & stim].mean(axis=0) - Z[of & ~stim].mean(axis=0)) @ along / (along @ along))
    return float(np.mean(shares))


def apart(Z, obs):
    """Return how far batches lie apart within types and conditions, in squared distance between their means."""
    means = pd.DataFrame(Z).groupby([obs["kind"], obs["condition"], obs["batch"]]).mean()
    return float(means.groupby(level=[0, 1]).var().to_numpy().mean())


@pytest.mark.parametrize("flavor", ["harmony2", "harmony1"])
def test_a_protected_effect_stays_where_plain_harmony_removes_it(flavor):
    Z, obs, direction = study()
    how = {"rng": 0, "progress": False, "n_threads": 1, "flavor": flavor}
    plain = harmonax.harmonize(Z, obs["batch"], **how).embedding
    stays = harmonax.harmonize(Z, obs, batch_key="batch", protect="condition", **how).embedding
    assert kept_effect(plain, obs, direction) < 0.9
    assert 0.93 < kept_effect(stays, obs, direction) < 1.07
    assert apart(stays, obs) <= 1.05 * apart(plain, obs) < 0.2 * apart(Z, obs)


def test_protecting_what_does_not_depend_on_the_batch_changes_little():
    Z, obs, _ = study(confounded=0.0)
    how = {"rng": 0, "progress": False, "n_threads": 1}
    plain = harmonax.harmonize(Z, obs["batch"], **how).embedding
    stays = harmonax.harmonize(Z, obs["batch"], protect=obs["condition"], **how).embedding
    assert np.linalg.norm(plain - stays) < 0.05 * np.linalg.norm(plain - Z)


@pytest.mark.parametrize("variables", [1, 2])
@pytest.mark.parametrize("flavor", ["harmony2", "harmony1"])
def test_every_place_of_the_cells_has_the_same_answer(flavor, variables, tmp_path):
    Z, codes = cells_with_batches(300, 4, (3, 2, 2)[: variables + 1], 1)
    batches = pd.DataFrame({f"b{f}": codes[:, f] for f in range(variables)})
    found = {}
    for backend in ("dense", "memory", "disk"):
        found[backend] = harmonax.harmonize(
            Z, batches, flavor=flavor, precision="float64", n_clusters=6, max_iter_harmony=2, max_iter_clustering=4,
            reference={"b0": ["1"]}, protect=codes[:, -1], backend=backend, rng=0, dtype=float, progress=False,
            scratch=tmp_path, n_threads=1,
        )  # fmt: skip
        stays = codes[:, 0] == 1
        np.testing.assert_array_equal(found[backend].embedding[stays], Z[stays])
        assert found[backend].ridge.shape == (batches.nunique().sum(), 6, 4)
        assert found[backend].cluster_mass.sum() == pytest.approx(300 * variables)
    np.testing.assert_allclose(found["memory"].embedding, found["dense"].embedding, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(found["disk"].embedding, found["memory"].embedding)
    # The same where the result takes the place of the embedding.
    over = Z.astype(np.float32)
    harmonax.harmonize(over, batches, reference={"b0": ["1"]}, out=over, rng=0, progress=False, n_clusters=6)
    np.testing.assert_array_equal(over[stays], Z.astype(np.float32)[stays])
    # Nothing is held back from the others.
    assert np.abs(found["dense"].embedding - Z)[codes[:, 0] != 1].max(axis=1).min() > 0


def test_between_the_rounds_too_a_reference_cell_is_where_it_was():
    plain = BatchDesign.from_codes(cells_with_batches(200, 2, (3, 2), 3)[1])
    design = plain.keeping({plain.variables[0]: plain.levels[0][1:2]})
    W = np.random.default_rng(0).normal(size=(plain.n_levels, K, 2))
    moves = design.applied(W)[design.carried.joint_levels].sum(axis=1)
    assert 0 < design.fixed.sum() < len(design.fixed)
    np.testing.assert_allclose(moves[design.fixed], 0, atol=1e-12)
    np.testing.assert_allclose(moves[~design.fixed], W[plain.joint_levels].sum(axis=1)[~design.fixed])


def test_the_others_come_to_the_reference():
    Z, obs, _ = study(confounded=0.0)
    obs["batch"] = obs["batch"] % 2
    fixed = harmonax.harmonize(Z, obs["batch"], reference=0, rng=0, dtype=float, progress=False)
    before, after = (
        np.linalg.norm(E[obs["batch"] == 1].mean(axis=0) - E[obs["batch"] == 0].mean(axis=0))
        for E in (Z, fixed.embedding)
    )
    assert after < 0.35 * before
    assert fixed.record()["reference"] == {"batch_key": ["batch"], "level": ["0"]}


def test_what_is_not_there_is_named():
    Z, obs, _ = study(n=200)
    how = {"rng": 0, "progress": False}
    for wrong, says in (
        ("9", "no level '9'"),
        ({"batches": [1]}, "did you mean 'batch'"),
        ([0, 1, 2, 3], "none may move"),
        ([], "names no level"),
    ):
        with pytest.raises(InputError, match=says):
            harmonax.harmonize(Z, obs, batch_key="batch", reference=wrong, **how)
    both = obs.assign(other=obs["batch"] % 2)
    with pytest.raises(InputError, match="batch, other have a level '1'"):
        harmonax.harmonize(Z, both, batch_key=["batch", "other"], reference=1, **how)
    with pytest.raises(InputError, match="batch is a batch variable"):
        harmonax.harmonize(Z, obs, batch_key="batch", protect="batch", **how)
    with pytest.raises(MissingKeyError, match="no column 'sex'"):
        harmonax.harmonize(Z, obs, batch_key="batch", protect="sex", **how)
    with pytest.raises(InputError, match="199 cells, batches of 200"):
        harmonax.harmonize(Z, obs["batch"], protect=np.arange(199) % 2, **how)


def test_a_condition_with_one_batch_is_warned_of():
    Z, obs, _ = study(n=400)
    obs.loc[obs["batch"] == 3, "condition"] = "rare"
    with pytest.warns(HarmonaxWarning, match="condition rare: cells of one batch only"):
        harmonax.harmonize(Z, obs, batch_key="batch", protect="condition", rng=0, progress=False)


def test_a_checkpoint_belongs_to_what_stays(tmp_path):
    Z, obs, _ = study(n=300)
    how = {"rng": 0, "progress": False, "checkpoint": tmp_path / "rounds", "max_iter_harmony": 2}
    first = harmonax.harmonize(Z, obs["batch"], reference=0, **how)
    again = harmonax.harmonize(Z, obs["batch"], reference=0, **how)
    np.testing.assert_array_equal(first.embedding, again.embedding)
    for other in ({}, {"reference": 1}, {"protect": obs["condition"]}):
        with pytest.raises(InputError):
            harmonax.harmonize(Z, obs["batch"], **how, **other)


def test_a_sweep_and_the_estimator_keep_them_too():
    Z, obs, _ = study(n=300)
    obs["depth"] = np.random.default_rng(0).normal(size=300)
    stays = (obs["batch"] == 0).to_numpy()
    adata = anndata.AnnData(obs=obs.set_axis([f"c{i}" for i in obs.index]), obsm={"X_pca": Z})
    roles = {"reference": [0], "protect": "condition", "covariates": "depth"}
    found = harmonax.tl.sweep(adata, "batch", theta=(1, 2), sigma=0.1, max_iter_harmony=3, **roles)
    assert adata.uns["harmonax"]["columns"]["protect"] == ["condition"]
    assert adata.uns["harmonax"]["covariates"] == ["depth"]
    swept = adata.obsm["X_pca_harmony"].copy()
    np.testing.assert_allclose(swept[stays], Z[stays], rtol=1e-6)
    how = {"theta": found.params.theta, "sigma": found.params.sigma, "rng": 0}
    harmonax.pp.harmony_integrate(adata, "batch", max_iter_harmony=3, **how, **roles)
    np.testing.assert_allclose(adata.obsm["X_pca_harmony"], swept, rtol=1e-6)

    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    made = harmonax.Harmony(reference=["0"], random_state=0, max_iter_harmony=2, tol_harmony=1).fit_transform(
        Z, batch=obs["batch"]
    )
    np.testing.assert_array_equal(made[stays], Z[stays])
    assert np.abs(made - Z)[~stays].max(axis=1).min() > 0


def test_all_interfaces_have_both(tmp_path):
    Z, obs, _ = study(n=300)
    obs.index = [f"cell{i}" for i in obs.index]
    stays = {"reference": [0], "protect": "condition"}
    want = harmonax.harmonize(
        Z, obs, batch_key="batch", rng=0, progress=False, dtype=float, max_iter_harmony=3, **stays
    ).embedding
    adata = anndata.AnnData(obs=obs, obsm={"X_pca": Z})
    adata.write_h5ad(tmp_path / "in.h5ad")
    harmonax.pp.harmony_integrate(adata, "batch", rng=0, max_iter_harmony=3, **stays)
    np.testing.assert_array_equal(adata.obsm["X_pca_harmony"], want)
    assert adata.uns["harmonax"]["protect"] == "condition"
    ho = harmonax.run_harmony(
        Z, obs, "batch", verbose=False, max_iter_harmony=3, max_iter_kmeans=200, epsilon_cluster=1e-5,
        epsilon_harmony=1e-4, reference_values=["0"], protect="condition",
    )  # fmt: skip
    np.testing.assert_array_equal(ho.Z_corr, want)
    job = FileJob(
        str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad"), ["batch"], reference=[0], protect=["condition"]
    )
    integrate_file(job, HarmonyParams(max_iter_harmony=3), rng=0, dtype=float, progress=False)
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_allclose(written.obsm["X_pca_harmony"], want, atol=1e-6)
    assert written.uns["harmonax"]["reference"]["level"].tolist() == ["0"]
    assert written.uns["harmonax"]["columns"]["protect"].tolist() == ["condition"]
    options = WorkflowOptions(batch_key="batch", reference="0", protect="condition")
    assert (options.reference, options.protect) == (("0",), ("condition",))
    with pytest.raises(InputError, match="reference and protect are for Harmony"):
        WorkflowOptions(batch_key="batch", corrector="mmd", protect="condition")
