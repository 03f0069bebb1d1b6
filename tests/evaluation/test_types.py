"""Types in batches, mixed, merged or apart, where the truth is known; and the verdict over corrections made by hand."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from sampling import first

from harmonax import tl
from harmonax.evaluation.after.inside import inside
from harmonax.evaluation.after.types import apart, batch_states, blended, blurred, merged, order_within, type_table
from harmonax.evaluation.neighbours import Neighbourhoods

TYPES = "TBMNX"


def cells(counts: dict[tuple[str, str], int], seed: int = 0) -> anndata.AnnData:
    """Return cells of (batch, type) as a correction without fault leaves them, and a batch shift before it."""
    gen = np.random.default_rng(seed)
    rows = [(b, t) for (b, t), n in counts.items() for _ in range(n)]
    obs = pd.DataFrame(rows, columns=["batch", "cell_type"], index=[f"cell{i}" for i in range(len(rows))])
    after = gen.normal(size=(len(rows), 8))
    after[np.arange(len(rows)), [TYPES.index(t) for _, t in rows]] += 12
    before = after.copy()
    before[:, 7] += 9.0 * obs["batch"].map({b: i for i, b in enumerate(sorted({b for b, _ in counts}))}).to_numpy()
    return anndata.AnnData(obs=obs.astype("category"), obsm={"X_pca": before, "X_pca_harmony": after})


def test_types_of_few_cells_in_every_batch_are_judged_over_all_batches():
    adata = cells({(b, t): 6 for b in "abcdefghijklmnop" for t in "TBM"})
    table = tl.diagnose(adata, "batch", label_key="cell_type").types
    assert set(table["batch"]) == {"all batches"}
    assert table.drop(columns=["type", "batch", "inside"]).dtypes.map(lambda kind: kind.kind in "if").all()


def onto(adata: anndata.AnnData, batch: str, one: str, other: str) -> anndata.AnnData:
    """Lay the cells of a type in a batch on another type."""
    Z, own = adata.obsm["X_pca_harmony"], (adata.obs["batch"] == batch) & (adata.obs["cell_type"] == one)
    Z[own.to_numpy()] += 12 * (np.eye(8)[TYPES.index(other)] - np.eye(8)[TYPES.index(one)])
    return adata


def table_of(adata: anndata.AnnData) -> pd.DataFrame:
    batch = adata.obs["batch"].cat
    labels = adata.obs["cell_type"].to_numpy(str)
    near = (Neighbourhoods(adata.obsm[name], batch.codes.to_numpy()) for name in ("X_pca", "X_pca_harmony"))
    return type_table(*near, labels, list(batch.categories))


EVEN = {(b, t): 60 for b in "abc" for t in "TBM"}
RARE = EVEN | {(b, "N"): 12 for b in "abc"}
# X is only in a, N only in b and c.
ONE_SIDED = EVEN | {("a", "X"): 60, ("b", "N"): 60, ("c", "N"): 60}


@pytest.mark.parametrize("counts", [EVEN, RARE, ONE_SIDED], ids=["even", "rare", "one-sided"])
def test_a_correction_without_fault_merges_and_leaves_nothing(counts):
    table = table_of(cells(counts))
    assert not len(merged(table))
    assert not len(apart(table))
    assert (table["pure_after"] > 0.95).all()
    shared = table.dropna(subset="apart_before")
    assert (shared["apart_before"] > 0.7).all()
    assert (shared["apart_after"].abs() < 0.35).all()


@pytest.mark.parametrize(
    ("counts", "batch", "one", "other"),
    first(1, [(EVEN, "a", "T", "B"), (RARE, "b", "N", "M"), (ONE_SIDED, "a", "X", "N")], names=4),
    ids=["common", "rare", "never in one batch"],
)
def test_a_type_laid_on_another_is_found(counts, batch, one, other):
    found = merged(table_of(onto(cells(counts), batch, one, other)))
    assert (one, batch) in set(zip(found["type"], found["batch"], strict=True))


def test_what_was_not_distinct_before_cannot_be_merged():
    adata = cells(EVEN)
    adata.obs["cell_type"] = pd.Categorical(np.random.default_rng(0).permutation(adata.obs["cell_type"].to_numpy(str)))
    assert not len(merged(table_of(onto(adata, "a", "T", "B"))))


def test_cells_that_lie_by_themselves_in_one_batch_are_found():
    adata = cells(EVEN)
    own = ((adata.obs["batch"] == "c") & (adata.obs["cell_type"] == "B")).to_numpy()
    adata.obsm["X_pca_harmony"][own, 7] += 20
    found = apart(table_of(adata))
    assert {("B", "c")} <= set(zip(found["type"], found["batch"], strict=True))
    assert set(found["type"]) == {"B"}


def test_another_representation_is_not_blurred_and_noise_is():
    adata = cells(EVEN)
    before, labels = adata.obsm["X_pca"], adata.obs["cell_type"].to_numpy(str)
    batch, nothing = adata.obs["batch"].cat.codes.to_numpy(), np.full(adata.n_obs, "")
    turned = before @ np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    noise = np.random.default_rng(2).normal(size=before.shape)
    for names in (labels, nothing):
        start, other, lost = (Neighbourhoods(Z, batch) for Z in (before, turned[:, :6], noise))
        assert abs(blurred(start, other, names)) < 0.06
        assert blurred(start, lost, names) > 0.3
    assert len(set(batch_states(before, batch)[batch == 0]) & set(batch_states(before, batch)[batch == 1])) == 0


class TestVerdict:
    """`harmonax.tl.verdict` over corrections made by hand: "trust" only where it is deserved."""

    def said(self, adata: anndata.AnnData, label_key: str | None = "cell_type") -> str:
        return tl.verdict(adata, "batch", label_key=label_key).code

    @pytest.mark.parametrize("counts", [EVEN, RARE, ONE_SIDED], ids=["even", "rare", "one-sided"])
    def test_right(self, counts):
        assert self.said(cells(counts)) == "trust"

    @pytest.mark.parametrize(
        ("counts", "batch", "one", "other"),
        [(EVEN, "a", "T", "B"), (RARE, "b", "N", "M"), (ONE_SIDED, "a", "X", "N")],
        ids=["common", "rare", "never in one batch"],
    )
    def test_merged(self, counts, batch, one, other):
        adata = onto(cells(counts), batch, one, other)
        assert self.said(adata) in {"caution", "do_not_trust"}
        assert "types_merged" in {f.code for f in tl.verdict(adata, "batch", label_key="cell_type").findings}

    def test_one_of_many_batches_apart(self):
        adata = cells({(b, t): 40 for b in "abcdefghijkl" for t in "TBM"})
        adata.obsm["X_pca_harmony"][(adata.obs["batch"] == "d").to_numpy(), 7] += 25
        assert self.said(adata) in {"caution", "do_not_trust"}

    @pytest.mark.parametrize("label_key", ["cell_type", None])
    def test_nothing_corrected_by_another_representation(self, label_key):
        adata = cells(EVEN)
        turn = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
        adata.obsm["X_pca_harmony"] = (adata.obsm["X_pca"] @ turn).astype(np.float32)
        found = tl.verdict(adata, "batch", label_key=label_key)
        assert found.code == "do_not_trust"
        assert tl.diagnose(adata, "batch", label_key=label_key).verdict == "under_corrected"

    @pytest.mark.parametrize("width", [3, 8, 20])
    def test_any_width(self, width):
        adata = cells(EVEN)
        turn = np.random.default_rng(1).normal(size=(8, width)) if width != 8 else np.eye(8)
        adata.obsm["X_other"] = adata.obsm["X_pca_harmony"] @ turn
        assert tl.verdict(adata, "batch", label_key="cell_type", adjusted_basis="X_other").code in {"trust", "caution"}

    @pytest.mark.parametrize("label_key", ["cell_type", None])
    def test_composition_is_no_batch_effect(self, label_key):
        gen = np.random.default_rng(3)
        adata = cells({("a", t): 250 for t in "TBM"})
        first = np.where(adata.obs["cell_type"] == "T", 0.9, 0.2)
        adata.obs["batch"] = pd.Categorical(np.where(gen.random(adata.n_obs) < first, "r1", "r2"))
        adata.obsm["X_pca"] = adata.obsm["X_pca_harmony"].copy()
        assert self.said(adata, label_key) == "not_needed"

    def test_advice_does_not_contradict_itself(self):
        adata = onto(cells(ONE_SIDED), "a", "X", "N")
        adata.obsm["X_pca_harmony"][(adata.obs["batch"] == "c").to_numpy(), 7] += 25
        advice = " ".join(f.advice for f in tl.verdict(adata, "batch", label_key="cell_type").findings).casefold()
        assert not ("raise theta" in advice and "lower theta" in advice)


def test_a_pure_type_that_is_partly_among_others_is_told_and_not_trusted():
    adata = cells(EVEN)
    Z, one = adata.obsm["X_pca_harmony"], (adata.obs["cell_type"] == "T").to_numpy()
    # A sixth of the T cells of every batch lie among B cells.
    Z[np.flatnonzero(one)[::6]] += 12 * (np.eye(8)[TYPES.index("B")] - np.eye(8)[TYPES.index("T")])
    assert {"T"} <= set(blended(table_of(adata))["type"]) <= {"T", "B"}
    assert not len(blended(table_of(cells(EVEN))))
    found = tl.verdict(adata, "batch", label_key="cell_type")
    assert found.code == "caution"
    assert "types_blended" in {finding.code for finding in found.findings}
    assert "types_kept" not in {finding.code for finding in found.findings}


def test_another_representation_is_not_torn_by_whose_neighbour_is_whose():
    adata = cells(EVEN)
    gen = np.random.default_rng(1)
    # The types as they were, the cells within them in another order: as another method's latent has them.
    types = adata.obs["cell_type"].map({t: i for i, t in enumerate(TYPES)}).to_numpy(int)
    adata.obsm["X_other"] = 12 * np.eye(20)[types] + gen.normal(size=(adata.n_obs, 20))
    found = tl.verdict(adata, "batch", label_key="cell_type", adjusted_basis="X_other")
    # Nobody knows whether that order mattered.
    assert found.code == "caution"
    assert adata.uns["harmonax_diagnosis"]["numbers"]["neighbours_kept"] < 0.5
    assert not any("theta" in finding.advice for finding in found.findings)


def drawn_together(adata: anndata.AnnData, batch: str, one: str, other: str, n: int) -> anndata.AnnData:
    """Keep so many cells of a type, in one batch only, and lay them as one on a cell of another type."""
    kind, own = adata.obs["cell_type"].to_numpy(str), (adata.obs["batch"] == batch).to_numpy()
    rows = np.flatnonzero((kind == one) & own)
    adata = adata[np.setdiff1d(np.arange(adata.n_obs), np.setdiff1d(np.flatnonzero(kind == one), rows[:n]))].copy()
    Z, kind = adata.obsm["X_pca_harmony"], adata.obs["cell_type"].to_numpy(str)
    mine, target = kind == one, Z[kind == other]
    place = target[np.linalg.norm(target - target.mean(axis=0), axis=1).argmin()]
    Z[mine] = 0.3 * (Z[mine] - Z[mine].mean(axis=0)) + place
    return adata


@pytest.mark.parametrize("n", [12, 15, 60])
def test_a_type_laid_on_another_as_one_is_found_though_its_neighbours_are_its_own(n):
    right = cells(EVEN)
    adata = drawn_together(right, "a", "T", "B", n)
    table = table_of(adata)
    row = table[(table["type"] == "T") & (table["batch"] == "a")].iloc[0]
    assert row["pure_after"] > 0.7, "purity does not tell"
    assert row["inside"] == "B"
    assert ("T", "a") in set(zip(merged(table)["type"], merged(table)["batch"], strict=True))
    found = tl.verdict(adata, "batch", label_key="cell_type")
    assert found.code != "trust"
    assert any("T in a (inside B)" in finding.message for finding in found.findings)
    assert (table_of(right)["inside"] == "").all()


def test_inside_needs_to_have_been_outside_and_knows_who_moved():
    gen = np.random.default_rng(0)
    types, batch = np.repeat([0, 1, 2], 60), np.tile([0, 1], 90)
    Z = gen.normal(size=(180, 4)) + 15 * np.eye(4)[types]
    moved = Z.copy()
    one = (types == 0) & (batch == 0)
    moved[one] += 15 * (np.eye(4)[1] - np.eye(4)[0])
    start, end = Neighbourhoods(Z, batch), Neighbourhoods(moved, batch)
    assert inside(start, end, types) == {(0, 0): 1}
    assert inside(end, end, types) == {}
    assert inside(start, start, types) == {}


def test_the_order_within_types():
    adata = cells(EVEN)
    Z, labels, batch = (
        adata.obsm["X_pca"],
        adata.obs["cell_type"].to_numpy(str),
        adata.obs["batch"].cat.codes.to_numpy(),
    )
    start, gen = Neighbourhoods(Z, batch), np.random.default_rng(3)
    shuffled = Z.copy()
    for name in set(labels):
        rows = np.flatnonzero(labels == name)
        shuffled[rows] = Z[gen.permutation(rows)]
    assert order_within(start, start, labels) == 1
    assert order_within(start, Neighbourhoods(shuffled, batch), labels) == pytest.approx(0, abs=0.08)
    assert order_within(start, Neighbourhoods(Z * np.linspace(0.7, 1.4, 8), batch), labels) > 0.7
    assert np.isnan(order_within(start, start, np.full(len(labels), "")))


def test_another_weighing_of_the_components_is_trusted_and_noise_within_types_is_not():
    adata = cells({(b, t): 120 for b in "ab" for t in "TBM"})
    right, gen = adata.obsm["X_pca_harmony"].copy(), np.random.default_rng(4)
    adata.obsm["X_other"] = right * np.linspace(0.6, 1.6, 8)
    assert tl.verdict(adata, "batch", label_key="cell_type", adjusted_basis="X_other").code == "trust"
    kept = {f.code: f for f in tl.diagnose(adata, "batch", label_key="cell_type", adjusted_basis="X_other").findings}
    assert kept["neighbours_kept"].level == "note"
    adata.obsm["X_other"] = right + gen.normal(size=right.shape)
    assert tl.verdict(adata, "batch", label_key="cell_type", adjusted_basis="X_other").code != "trust"
