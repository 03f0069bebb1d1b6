"""Advice that is followed has to help: each finding's advice is taken, and what it complained of gets better."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

import harmonax as hx
from harmonax import tl
from harmonax.evaluation.after.advice import from_sweep
from harmonax.evaluation.findings import Finding
from harmonax.evaluation.scores.choice import Judge
from harmonax.evaluation.verdict import overall

pytestmark = pytest.mark.thorough


def made(shift: float = 4.0, n: int = 360, seed: int = 0) -> anndata.AnnData:
    """Three types in two batches of equal size, the second of them shifted in every feature."""
    gen = np.random.default_rng(seed)
    batch, kind = np.arange(n) % 2, np.arange(n) // 2 % 3
    Z = gen.normal(size=(n, 8)) + 7 * np.eye(8)[kind] + shift * batch[:, None] * np.linspace(0.5, 1.5, 8)
    obs = pd.DataFrame({"batch": np.array(["a", "b"])[batch], "kind": np.array(["T", "B", "M"])[kind]})
    obs.index = [f"c{i}" for i in range(n)]
    return anndata.AnnData(np.ones((n, 2), np.float32), obs=obs, obsm={"X_pca": Z.astype(np.float32)})


def corrected(adata: anndata.AnnData, **params: float) -> anndata.AnnData:
    hx.pp.harmony_integrate(adata, "batch", rng=0, **({"max_iter_harmony": 50} | params))
    return adata


def advised(adata: anndata.AnnData, code: str, label_key: str | None = "kind") -> tuple[Finding, dict[str, float]]:
    found = tl.diagnose(adata, "batch", label_key=label_key, rng=0)
    return next(finding for finding in found.findings if finding.code == code), found.numbers


def test_raise_theta():
    adata = corrected(made(), theta=0, sigma=0.03, max_iter_harmony=1)
    finding, before = advised(adata, "batches_apart")
    assert "Raise theta to 3 or 4" in finding.advice
    for theta in (3, 4):
        after = tl.diagnose(corrected(adata, theta=theta), label_key="kind").numbers
        assert after["excess_after"] < before["excess_after"] - 0.1


def test_lower_theta():
    strong = {"theta": 60.0, "alpha": 1e-6}
    finding, before = advised(corrected(made(), **strong), "neighbours_kept")
    assert "ower theta (1) and compare" in finding.advice
    after = tl.diagnose(corrected(made(), **(strong | {"theta": 1.0})), label_key="kind").numbers
    assert after["neighbours_kept"] > before["neighbours_kept"]


def test_raise_max_iter_harmony():
    adata = corrected(made(), max_iter_harmony=1)
    assert tl.verdict(adata, label_key="kind").code != "trust"
    assert "Raise max_iter_harmony" in advised(adata, "not_converged")[0].advice
    found = tl.diagnose(corrected(adata), label_key="kind")
    assert "not_converged" not in {finding.code for finding in found.findings}


@pytest.mark.parametrize("label_key", ["kind", None])
def test_continue_with_the_uncorrected_embedding(label_key):
    adata = corrected(made(shift=0))
    assert "uncorrected" in advised(adata, "not_needed", label_key)[0].advice
    adata.obsm["X_kept"] = adata.obsm["X_pca"]
    kept = tl.diagnose(adata, "batch", label_key=label_key, adjusted_basis="X_kept").numbers
    assert kept["neighbours_kept"] == 1
    assert abs(kept["excess_after"]) < 0.02


def test_give_the_cell_types():
    adata = corrected(made())
    finding, _ = advised(adata, "types_unknown", None)
    assert "label_key" in finding.advice
    assert "types_unknown" not in {found.code for found in tl.diagnose(adata, label_key="kind").findings}


def test_add_batches_that_share_types_or_leave_it():
    adata = made()
    apart = adata[((adata.obs["batch"] == "a") == (adata.obs["kind"] == "T")).to_numpy()].copy()
    finding, _ = advised(corrected(apart), "confounded")
    assert "add batches that share cell types" in finding.advice
    assert tl.verdict(apart, label_key="kind").code == "impossible"
    assert tl.verdict(corrected(adata), label_key="kind").code != "impossible"


@pytest.mark.parametrize("more", [True, False], ids=["more", "less"])
def test_what_the_sweep_advises_is_what_its_runs_did(more):
    adata = made(shift=2.0)
    tl.sweep(adata, "batch", theta=(0.0, 8.0), sigma=(0.02, 0.1))
    table = adata.uns["harmonax"]["sweep"]
    gain = "mixing" if more else "kept"
    now = table[gain].idxmin()
    said = from_sweep(table.assign(chosen=table.index == now), more=more)
    better = table[table[gain] > table[gain][now] + 0.02]
    if not len(better):
        assert said.startswith("No run")
        return
    row = better.loc[better["score"].idxmax()]
    params = {name: row[name] for name in ("theta", "sigma")} | {"n_clusters": int(row["n_clusters"])}
    assert all(f"{name} {row[name]:g}" in said for name in ("theta", "sigma") if row[name] != table[name][now])
    judge = Judge.of(adata.obsm["X_pca"], (adata.obs["batch"] == "b").to_numpy() * 1, 2000, 0)
    assert judge.scores(corrected(adata, **params).obsm["X_pca_harmony"])[gain] > table[gain][now] + 0.02


def test_a_page_of_a_sweep_that_tore_says_which_run_keeps_more():
    adata = made()
    table = pd.DataFrame({"theta": [60.0, 1.0], "sigma": 0.1, "n_clusters": 12})
    table["mixing"], table["kept"] = [0.9, 0.85], [0.4, 0.9]
    table["score"], table["chosen"] = 0.75 * table["mixing"] + 0.25 * table["kept"], [True, False]
    corrected(adata, theta=60, alpha=1e-6)
    adata.uns["harmonax"]["sweep"] = table
    finding, _ = advised(adata, "neighbours_kept")
    assert "In the sweep theta 1 would keep 90% of the neighbours in place of 40%" in finding.advice


def one_sided(n: int = 400, seed: int = 0, apart: float = 4.0) -> anndata.AnnData:
    """Two batches that share one type of three: the other two must not be mixed, which a high theta does."""
    gen = np.random.default_rng(seed)
    batch = np.arange(n) % 2
    kind = np.where(batch == 0, np.arange(n) // 2 % 2, np.where(np.arange(n) // 2 % 5 == 0, 1, 2))
    Z = gen.normal(size=(n, 8)) + apart * np.eye(8)[kind] + 3 * batch[:, None] * np.linspace(0.5, 1.5, 8)
    obs = pd.DataFrame({"batch": np.array(["a", "b"])[batch], "kind": np.array(["T", "B", "M"])[kind]})
    obs.index = [f"c{i}" for i in range(n)]
    return anndata.AnnData(np.ones((n, 2), np.float32), obs=obs, obsm={"X_pca": Z.astype(np.float32)})


@pytest.fixture(scope="module")
def mixed_too_much() -> tuple[dict[str, Finding], dict[str, Finding], anndata.AnnData, anndata.AnnData]:
    """The findings on a correction that merged types, and on one with the advised theta; and their cells."""
    pytest.importorskip("scib_metrics")
    found = []
    for theta in (60.0, 1.0):
        adata = corrected(one_sided(), theta=theta)
        tl.evaluate(adata, "batch", label_key="kind")
        tl.verdict(adata, label_key="kind")
        found.append(({finding.code: finding for finding in overall(adata.uns).findings}, adata))
    (before, first), (after, second) = found
    return before, after, first, second


def test_lower_theta_where_the_labels_fell(mixed_too_much):
    before, after, first, second = mixed_too_much
    assert "lower theta (1)" in before["labels_fell"].advice
    assert "labels_fell" not in after
    bio = [
        a.uns["harmonax_evaluation"]["scores"].query("metric == 'bio'").set_index("embedding")["value"]
        for a in (first, second)
    ]
    assert bio[1]["X_pca_harmony"] > bio[0]["X_pca_harmony"] + 0.05


def test_lower_theta_where_types_were_merged(mixed_too_much):
    before, after, first, second = mixed_too_much
    codes = {"types_merged", "types_blended"} & set(before)
    assert codes
    for code in codes:
        assert "ower theta (1)" in before[code].advice
        # What a program cannot do, look at markers, says of which cells.
        assert "markers of these types" in before[code].advice
        assert " in a (" in before[code].message or " in b (" in before[code].message
    assert not codes & set(after)
    pure = [a.uns["harmonax_diagnosis"]["types"].set_index(["type", "batch"])["pure_after"] for a in (first, second)]
    assert (pure[1] - pure[0]).loc[[("T", "a"), ("M", "b")]].min() > 0.05


def test_lower_theta_where_a_state_of_one_batch_was_merged(mixed_too_much):
    before, after, *_, second = mixed_too_much
    assert "lower theta (1)" in before["one_batch_state_merged"].advice
    assert "T of a" in before["one_batch_state_merged"].message
    assert "one_batch_state_merged" not in after
    assert (second.uns["harmonax_diagnosis"]["one_batch_states"]["verdict"] == "kept apart").all()


def test_lower_theta_where_markers_were_lost():
    found = []
    for theta in (60.0, 1.0):
        adata = corrected(one_sided(apart=3.0), theta=theta)
        # A gene for each type, with noise; no whole numbers, which would be taken for counts.
        noise = np.random.default_rng(1).gamma(2.0, 0.5, size=(adata.n_obs, 3))
        on = adata.obs["kind"].to_numpy()[:, None] == np.array(["T", "B", "M"])
        adata = anndata.AnnData(noise + on, obs=adata.obs, obsm=dict(adata.obsm), uns=adata.uns)
        adata.var_names = ["of T", "of B", "of M"]
        markers = {kind: [f"of {kind}"] for kind in ("T", "B", "M")}
        found.append(tl.diagnose(adata, label_key="kind", markers=markers, null=False))
    lost = next(finding for finding in found[0].findings if finding.code == "markers_lost")
    assert "lower theta (1)" in lost.advice
    assert "of M of M" in lost.message
    assert "markers_kept" in {finding.code for finding in found[1].findings}
    gained = found[1].markers.set_index("gene")["after"] - found[0].markers.set_index("gene")["after"]
    assert gained["of M"] > 0.02
