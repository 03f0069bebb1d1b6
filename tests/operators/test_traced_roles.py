"""The differentiable operator with what must stay and what is removed: the engine's answer, with gradients."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import harmonax
from harmonax.errors import InputError, MissingKeyError

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")
nnx = pytest.importorskip("flax.nnx")

from harmonax import functional  # noqa: E402
from harmonax.operators import BatchCorrectionConfig, DifferentiableHarmony  # noqa: E402

pytestmark = pytest.mark.thorough

N = 120
SIZES = {"n_clusters": 3, "n_features": 4, "n_iterations": 3, "n_passes": 2, "sigma": 0.3, "alpha": 0.2}


def study(n_variables=1):
    """Return cells, batches, a condition and a covariate that all move them."""
    gen = np.random.default_rng(0)
    lab, donor, condition = gen.integers(0, 3, N), gen.integers(0, 2, N), gen.integers(0, 2, N)
    depth = gen.normal(size=N) + 0.5 * lab
    Z = 3 * gen.normal(size=(3, 4))[gen.integers(0, 3, N)] + gen.normal(size=(N, 4))
    Z += gen.normal(size=(3, 4))[lab] + 2 * gen.normal(size=(2, 4))[condition] + 0.5 * depth[:, None]
    table = pd.DataFrame({"lab": lab, "donor": donor}).iloc[:, :n_variables]
    return Z, table, condition, depth


def problem(n_variables, roles, **changes):
    """Return the operator, its data, and what the engine takes for the same."""
    Z, table, condition, depth = study(n_variables)
    config, engine = SIZES | {"n_batches": (3, 2)[:n_variables]} | changes, {}
    data = {"embeddings": jnp.asarray(Z), "batch_labels": jnp.asarray(table.to_numpy())}
    if "reference" in roles:
        config["reference"], engine["reference"] = 1, {"lab": [1]}
    if "protect" in roles:
        config["n_protected"], engine["protect"] = 2, condition
        data["protect"] = jnp.asarray(condition)
    if "covariates" in roles:
        config["n_covariates"], engine["covariates"] = 1, depth
        data["covariates"] = jnp.asarray(100 + 20 * depth)
    op = DifferentiableHarmony(BatchCorrectionConfig(**config), rngs=nnx.Rngs(0))
    return op, data, (Z, table, op.harmony_params(), engine)


ALL = ("reference", "protect", "covariates")


@pytest.mark.parametrize(
    ("n_variables", "roles", "changes"),
    [
        (1, ("reference",), {}),
        (1, ("protect",), {}),
        (1, ("covariates",), {}),
        (1, ("reference", "covariates"), {"flavor": "harmony1"}),
        (2, ALL, {"batch_prune_threshold": 0.2}),
        (2, ALL, {"ridge": "fixed", "early_stop": True}),
    ],
)
def test_equals_the_engine_at_equal_parameters(n_variables, roles, changes):
    with jax.enable_x64(True):
        op, data, (Z, table, params, engine) = problem(n_variables, roles, **changes)
        found = np.asarray(op.apply(data)[0]["corrected_embeddings"])
        how = {"rng": op.seed, "progress": False, "dtype": float, "precision": "float64"}
        want = harmonax.harmonize(Z, table, params, batch_key=list(table), **engine, **how).embedding
        plain = harmonax.harmonize(Z, table, params, batch_key=list(table), **how).embedding
        assert np.abs(want - plain).max() > 0.05
        np.testing.assert_allclose(found, want, atol=1e-8)
        if "reference" in roles:
            stays = (table["lab"] == 1).to_numpy()
            np.testing.assert_array_equal(found[stays], Z[stays])


@pytest.mark.parametrize("differentiation", ["unrolled", "implicit"])
def test_gradients_are_those_of_finite_differences(differentiation):
    with jax.enable_x64(True):
        rounds = {"n_iterations": 80, "sigma": 1.0} if differentiation == "implicit" else {}
        op, data, _ = problem(2, ALL, differentiation=differentiation, **rounds)
        gen = np.random.default_rng(1)
        weight = gen.normal(size=(N, 4))
        graph, strengths, rest = nnx.split(op, nnx.Param, ...)
        data["centroids"] = jnp.asarray(gen.normal(size=(3, 4)))

        @jax.jit
        def loss(Z, x, strengths):
            given = {**data, "embeddings": Z, "covariates": x}
            made = nnx.merge(graph, strengths, rest).apply(given)[0]["corrected_embeddings"]
            return (made * weight).sum()

        at = (data["embeddings"], data["covariates"], strengths)
        slopes = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*at)
        for part in range(3):
            along = jax.tree.map(lambda leaf: jnp.asarray(gen.normal(size=leaf.shape)), at[part])
            moved = [
                [jax.tree.map(lambda a, v, h=h: a + h * v, at[part], along) if i == part else at[i] for i in range(3)]
                for h in (1e-5, -1e-5)
            ]
            want = (float(loss(*moved[0])) - float(loss(*moved[1]))) / 2e-5
            pairs = zip(jax.tree.leaves(slopes[part]), jax.tree.leaves(along), strict=True)
            assert sum(float((g * v).sum()) for g, v in pairs) == pytest.approx(want, rel=1e-4, abs=1e-6), part


def test_padding_changes_nothing_and_traced_nonsense_is_nan():
    op, data, _ = problem(1, ALL)
    plain = op.apply(data)[0]["corrected_embeddings"]
    padded = {name: jnp.concatenate([value, value[:5]]) for name, value in data.items()}
    padded |= {"mask": jnp.arange(N + 5) < N, "covariates": padded["covariates"].at[N:].set(jnp.nan)}
    params, seed = op.config, op.seed
    keep = {"embeddings": padded.pop("embeddings"), "batch_labels": padded.pop("batch_labels")}
    whole = functional.harmony(**keep, config=params, seed=seed, **padded, centroids=plain[:3])
    alone = functional.harmony(
        data["embeddings"], data["batch_labels"], params, seed=seed, centroids=plain[:3], protect=data["protect"],
        covariates=data["covariates"],
    )  # fmt: skip
    # Blocks are drawn for other cells, so that only a round's cells are alike, not its last bits.
    assert jnp.isfinite(whole["corrected_embeddings"]).all()
    np.testing.assert_array_equal(whole["corrected_embeddings"][N:], keep["embeddings"][N:])
    assert float(jnp.abs(whole["corrected_embeddings"][:N] - alone["corrected_embeddings"]).max()) < 0.5
    wrong = jax.jit(lambda c: op.apply({**data, "protect": c})[0]["corrected_embeddings"])(data["protect"] + 1)
    assert jnp.isnan(wrong).all()


def test_what_cannot_be_is_refused():
    op, data, _ = problem(1, ALL)
    plain = {name: data[name] for name in ("embeddings", "batch_labels")}
    with pytest.raises(MissingKeyError, match="no 'protect'"):
        op.apply(plain)
    for name, wrong, says in (
        ("protect", jnp.full(N, 2), r"has 2 \(first: row 0\); allowed are 0 to 1, as n_protected=2 says"),
        ("protect", jnp.zeros((N, 1), int), "allowed are integers"),
        ("covariates", jnp.zeros((N, 2)), r"allowed are real numbers \(120, 1\)"),
        ("covariates", jnp.full(N, jnp.nan), "NaN or infinite values in 120 cells"),
    ):
        with pytest.raises(InputError, match=says):
            op.apply({**data, name: wrong})
    without = DifferentiableHarmony(BatchCorrectionConfig(**SIZES, n_batches=3))
    for name, says in (("protect", "no n_protected"), ("covariates", "no n_covariates")):
        with pytest.raises(InputError, match=says):
            without.apply({**plain, name: data[name]})
    for reference in (3, (0, 1, 2), -1, 0.5):
        with pytest.raises(InputError, match="reference"):
            BatchCorrectionConfig(n_batches=3, reference=reference)
