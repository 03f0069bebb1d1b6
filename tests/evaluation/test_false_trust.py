"""Corrections that were once said to be trusted, and right ones that were said not to be used."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from sampling import first

from harmonax import tl
from harmonax.evaluation.after.measured import Measured
from harmonax.evaluation.after.rules import judge
from harmonax.evaluation.after.states import composition_states
from harmonax.evaluation.after.structure import alignment
from harmonax.evaluation.after.types import blended, merged, type_table
from harmonax.evaluation.neighbours import Neighbourhoods, nearest_cells

pytestmark = pytest.mark.thorough


def made(counts: dict[tuple[str, str], int], shift: float = 9.0, seed: int = 0) -> anndata.AnnData:
    """Return cells of (batch, type) with the right correction: types 4 apart in 12 dimensions, batches shifted."""
    gen = np.random.default_rng(seed)
    rows = [(b, t) for (b, t), n in counts.items() for _ in range(n)]
    obs = pd.DataFrame(rows, columns=["batch", "kind"], index=[f"c{i}" for i in range(len(rows))])
    Z = gen.normal(size=(len(rows), 12)) * np.linspace(2.0, 0.5, 12)
    types = sorted({t for _, t in counts})
    Z[np.arange(len(rows)), [types.index(t) for _, t in rows]] += 8
    before = Z.copy()
    before[:, 11] += shift * (obs["batch"] == "b").to_numpy()
    return anndata.AnnData(obs=obs.astype("category"), obsm={"X_pca": before, "X_pca_harmony": Z})


def of(adata: anndata.AnnData, kind: str = "", batch: str = "") -> np.ndarray:
    """Return which cells are of a type, and of a batch."""
    right = (adata.obs["kind"] == kind) | (kind == "")
    return (right & ((adata.obs["batch"] == batch) | (batch == ""))).to_numpy()


def said(adata: anndata.AnnData, label_key: str | None = "kind") -> tuple[str, set[str]]:
    found = tl.verdict(adata, "batch", label_key=label_key)
    return found.code, {finding.code for finding in found.findings if finding.level in ("warning", "problem")}


EVEN = {(b, t): 90 for b in "ab" for t in "TBM"}


@pytest.mark.parametrize("label_key", ["kind", None])
def test_the_right_correction_is_trusted(label_key):
    code, warnings = said(made(EVEN), label_key)
    assert (code, warnings) == ("trust", set())


@pytest.mark.parametrize("label_key", ["kind", None])
@pytest.mark.parametrize("how", first(2, ["mirrored", "permuted", "mirrored in two axes", "turned"], later="slow"))
def test_a_batch_that_was_turned_in_itself_is_not_trusted(how, label_key):
    adata, gen = made(EVEN), np.random.default_rng(1)
    Z, own = adata.obsm["X_pca_harmony"], np.flatnonzero(of(adata, batch="b"))
    middle = Z[own].mean(axis=0)
    turn = np.linalg.qr(gen.normal(size=(12, 12)))[0]
    if how.startswith("mirrored"):
        turn = np.diag([-1.0] * 6 + [1.0] * 6 if how == "mirrored" else [1.0] * 3 + [-1.0] * 2 + [1.0] * 7)
    Z[own] = Z[gen.permutation(own)] if how == "permuted" else (Z[own] - middle) @ turn + middle
    code, warnings = said(adata, label_key)
    assert code in ("caution", "do_not_trust")
    assert "batches_turned" in warnings
    _, alike, _ = alignment(adata.obsm["X_pca"], Z, adata.obs["batch"].cat.codes.to_numpy(), 2)
    assert alike[0] > 0.99
    assert alike[1] < 0.6


@pytest.mark.parametrize(
    "change", [lambda Z: Z[:, ::-1], lambda Z: Z / 1000, lambda Z: Z[:, :6], lambda Z: Z * np.r_[-1, np.ones(11)]]
)
def test_other_axes_or_another_scale_are_no_moves(change):
    adata = made(EVEN)
    adata.obsm["X_pca_harmony"] = change(adata.obsm["X_pca_harmony"]).copy()
    assert not said(adata)[1] & {"groups_moved", "batches_turned"}


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_a_type_of_one_batch_laid_as_one_on_a_type_of_the_other_is_not_trusted(width):
    counts = {(b, t): 90 for b in "ab" for t in "TBM"} | {("a", "X"): 120, ("b", "Y"): 25}
    adata = made(counts)
    assert said(adata)[0] == "trust"
    Z, x, y = adata.obsm["X_pca_harmony"], of(adata, "X"), of(adata, "Y")
    Z[x] = width * (Z[x] - Z[x].mean(axis=0)) + Z[y].mean(axis=0)
    code, warnings = said(adata)
    assert code in ("caution", "do_not_trust")
    assert "groups_moved" in warnings


def test_what_batches_explain_of_a_type_is_no_doubtful_move():
    adata = made(EVEN)
    # The batch acts on T in another way, which the right correction undoes.
    adata.obsm["X_pca"][of(adata, "T", "b"), 10] += 8
    assert "groups_moved" not in said(adata)[1]


@pytest.mark.parametrize("n", [12, 20, 30])
def test_a_rare_type_scattered_among_others_is_found(n):
    adata = made(EVEN | {("a", "X"): n})
    Z, own, gen = adata.obsm["X_pca_harmony"], of(adata, "X"), np.random.default_rng(2)
    assert said(adata)[0] == "trust"
    Z[own] = Z[gen.choice(np.flatnonzero(~own), n)] + 0.1 * gen.normal(size=(n, 12))
    code, warnings = said(adata)
    assert code in ("caution", "do_not_trust")
    assert warnings & {"types_merged", "types_blended"}


def test_a_type_that_was_half_among_others_and_now_is_wholly_is_blended():
    adata = made(EVEN | {("a", "X"): 25})
    own, gen = of(adata, "X"), np.random.default_rng(3)
    half = np.flatnonzero(own)[::2]
    for name in ("X_pca", "X_pca_harmony"):
        Z = adata.obsm[name]
        Z[half] = Z[gen.choice(np.flatnonzero(of(adata, batch="a") & ~own), len(half))]
    batch, kinds = adata.obs["batch"].cat.codes.to_numpy(), adata.obs["kind"].to_numpy(str)

    def found() -> list[pd.DataFrame]:
        near = (Neighbourhoods(adata.obsm[name], batch) for name in ("X_pca", "X_pca_harmony"))
        table = type_table(*near, kinds, ["a", "b"])
        return [rows[rows["type"] == "X"] for rows in (merged(table), blended(table))]

    assert not any(len(rows) for rows in found())
    Z = adata.obsm["X_pca_harmony"]
    Z[own] = Z[gen.choice(np.flatnonzero(~own), own.sum())]
    assert any(len(rows) for rows in found())


def test_the_purity_to_expect_follows_from_the_types_around():
    counts = {("a", "T"): 60, ("a", "B"): 20, ("b", "T"): 60, ("b", "B"): 180}
    gen, names = np.random.default_rng(4), [key for key, n in counts.items() for _ in range(n)]
    batch = np.array([b == "b" for b, _ in names]).astype(int)
    # One cloud: a neighbour is of a type as often as the type is in the batch.
    Z = gen.normal(size=(len(names), 3))
    near = Neighbourhoods(Z + 50 * batch[:, None], batch), Neighbourhoods(Z, batch)
    row = type_table(*near, np.array([t for _, t in names]), ["a", "b"]).set_index(["type", "batch"]).loc["T", "a"]
    assert row["share"] == 0.75
    assert abs(row["pure_before"] - 0.75) < 0.08
    odds = row["pure_before"] / (1 - row["pure_before"]) * (120 / 60) / (200 / 20)
    assert row["by_type"] == pytest.approx(odds / (1 + odds))
    assert abs(row["by_type"] - 120 / 320) < 0.1


@pytest.mark.parametrize("label_key", ["kind", None])
def test_batches_that_were_mixed_and_were_moved_apart_are_no_correction_to_go_on_with(label_key):
    adata = made(EVEN, shift=0)
    assert said(adata, label_key)[0] == "not_needed"
    adata.obsm["X_pca_harmony"][of(adata, batch="b")] += 9
    code, warnings = said(adata, label_key)
    assert code == "caution"
    assert "batches_parted" in warnings


@pytest.mark.parametrize("label_key", ["kind", None])
@pytest.mark.parametrize("shift", [9.0, 0.0])
def test_one_of_many_batches_that_was_mixed_and_was_moved_away_is_not_trusted(shift, label_key):
    adata = made({(b, t): 18 for b in "abcdefghijklmnop" for t in "TBM"}, shift)
    # Batches differ, but d lies with seven others.
    adata.obsm["X_pca"][:, 10] += shift * (adata.obs["batch"].cat.codes.to_numpy() % 2)
    assert said(adata, label_key)[0] == ("trust" if shift else "not_needed")
    # The average of sixteen batches hides it.
    adata.obsm["X_pca_harmony"][of(adata, batch="d")] += 9
    code, warnings = said(adata, label_key)
    assert code == "caution"
    assert warnings & ({"some_batches_apart", "batches_apart"} if shift else {"batches_parted"})


@pytest.mark.parametrize("label_key", ["kind", None])
def test_noise_where_no_correction_was_needed_is_told(label_key):
    adata = made(EVEN, shift=0)
    adata.obsm["X_pca_harmony"] += 3 * np.random.default_rng(5).normal(size=(adata.n_obs, 12))
    assert said(adata, label_key)[0] == "caution"


def test_other_proportions_are_no_reason_not_to_use_a_right_correction():
    counts = {("a", "T"): 360, ("a", "B"): 40, ("a", "M"): 40, ("b", "T"): 40, ("b", "B"): 360, ("b", "M"): 360}
    adata = made(counts)
    assert said(adata)[0] in ("trust", "caution")
    # Without types it cannot be known, and that is what is said.
    assert said(adata, None)[0] == "caution"


@pytest.mark.parametrize(("shift", "doubt"), [(0.0, True), (30.0, False)])
def test_states_that_every_batch_has_leave_in_doubt_whether_batches_lie_apart(shift, doubt):
    gen, batch = np.random.default_rng(6), np.repeat([0, 1], 400)
    Z = gen.normal(size=(800, 4)) + shift * batch[:, None]
    Z[:, 0] += np.where(gen.random(800) < np.where(batch == 1, 0.85, 0.15), 4.0, 0.0)
    found = composition_states(Z, batch, nearest_cells(Z, 30), np.random.default_rng(0), cells=50, most_inside=0.5)
    assert found[1] is doubt


def test_a_state_in_two_pieces_is_found_without_labels():
    adata = made(EVEN | {("a", "X"): 60, ("b", "X"): 60})
    own, gen = np.flatnonzero(of(adata, "X")), np.random.default_rng(5)
    adata.obsm["X_pca_harmony"][own[gen.random(len(own)) < 0.5], 11] += 15
    code, warnings = said(adata, None)
    assert code == "caution"
    assert "groups_torn" in warnings


@pytest.mark.parametrize(("purity", "level"), [(0.9, "note"), (0.8, "warning")])
def test_a_type_that_moved_a_little_is_in_doubt_where_a_type_became_less_pure(purity, level):
    adata = made(EVEN)
    tl.diagnose(adata, "batch", label_key="kind")
    stored = adata.uns["harmonax_diagnosis"]
    types = stored["types"].assign(pure_before=0.9, pure_within=purity)
    groups = stored["clusters"].assign(movement=0.6, batch_offset=0.4)
    measured = Measured(
        stored["numbers"],
        stored["mixing"],
        None,
        stored["batches"],
        groups,
        stored["one_batch_states"],
        stored["markers"],
        n_levels=2,
        n_labelled=2,
        n_linked=1,
        types=types,
        type_moves=np.full(len(groups), 0.6),
    )
    (moved,) = (finding for finding in judge(measured)[2] if finding.code == "groups_moved")
    assert moved.level == level


def test_where_batches_still_lie_apart_nothing_was_over_corrected():
    adata, gen = made(EVEN), np.random.default_rng(6)
    adata.obsm["X_pca_harmony"] = adata.obsm["X_pca"] + 2 * gen.normal(size=(adata.n_obs, 12))
    assert said(adata)[0] == "do_not_trust"
    assert adata.uns["harmonax_diagnosis"]["verdict"] == "under_corrected"


def test_a_type_of_six_cells_in_every_batch_that_was_laid_on_another_is_found():
    batches = [f"b{i}" for i in range(8)]
    adata = made({(b, t): n for b in batches for t, n in {"T": 60, "B": 60, "X": 6}.items()}, shift=0)
    adata.obsm["X_pca"][:, 11] += 9 * adata.obs["batch"].cat.codes.to_numpy()
    # Nothing but neighbours: along other axes no type is seen to move.
    Z = adata.obsm["X_pca_harmony"] = adata.obsm["X_pca_harmony"][:, ::-1].copy()
    assert said(adata)[0] == "trust"
    x, gen = of(adata, "X"), np.random.default_rng(7)
    Z[x] = Z[gen.choice(np.flatnonzero(of(adata, "B")), x.sum())] + 0.1 * gen.normal(size=(x.sum(), 12))
    code, warnings = said(adata)
    assert code == "caution"
    assert warnings & {"types_merged", "types_blended"}


def test_labels_that_no_batch_has_ten_cells_of_say_nothing():
    adata = made(EVEN)
    adata.obs["kind"] = [f"clone {i % 200}" for i in range(adata.n_obs)]
    found = tl.verdict(adata, "batch", label_key="kind")
    assert "types_unknown" in {finding.code for finding in found.findings}


@pytest.mark.parametrize("label_key", ["kind", None])
@pytest.mark.parametrize("how", ["a type laid on another", "a type in two pieces"])
def test_where_nothing_was_needed_damage_to_one_type_is_no_correction_to_go_on_with(how, label_key):
    adata = made(EVEN, shift=0)
    Z, own, gen = adata.obsm["X_pca_harmony"], np.flatnonzero(of(adata, "T", "b")), np.random.default_rng(8)
    if how == "a type laid on another":
        Z[own] += Z[of(adata, "B")].mean(axis=0) - Z[own].mean(axis=0)
    else:
        Z[own[gen.random(len(own)) < 0.5], 11] += 15
    assert said(adata, label_key)[0] == "caution"


def test_fifteen_cells_of_a_type_that_were_left_where_they_were_are_found():
    adata = made(EVEN | {("a", "X"): 40, ("b", "X"): 15})
    # Nothing but neighbours: along other axes no type is seen to move.
    before = adata.obsm["X_pca"][:, ::-1].copy()
    adata.obsm["X_pca_harmony"] = adata.obsm["X_pca_harmony"][:, ::-1].copy()
    adata.obsm["X_pca"] = before[:, np.r_[6:12, 0:6]]
    assert said(adata)[0] == "trust"
    adata.obsm["X_pca_harmony"][of(adata, "X", "b")] = before[of(adata, "X", "b")]
    code, warnings = said(adata)
    assert (code, warnings) == ("caution", {"types_apart"})
