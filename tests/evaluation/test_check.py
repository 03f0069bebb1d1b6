"""`tl.check`: what it measures against hand computations, what it reports of bad columns, its verdict on real data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonax.cli.check import check as command
from harmonax.errors import InputError, MissingKeyError, OutputError
from harmonax.evaluation.before.association import (
    Relation,
    associate,
    cramers_v,
    design_rank,
    linked,
    linked_groups,
    relation,
)
from harmonax.evaluation.before.check import Check
from harmonax.evaluation.before.check import check as check_table
from harmonax.evaluation.findings import Level
from harmonax.evaluation.mixing import explained_by_batch, own_batch_excess, stand_for
from harmonax.evaluation.variables import Variable
from harmonax.io.annotated import quiet
from harmonax.tl.check import check


def table(**columns: Any) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame(columns, index=[f"cell{i}" for i in range(n)])


def variable(codes: Any, name: str = "v") -> Variable:
    codes = np.asarray(codes)
    return Variable(name, codes, tuple(f"{name}{i}" for i in range(codes.max() + 1)))


def codes_of(made: Check) -> set[str]:
    return {finding.code for finding in made.findings}


def message(made: Check, code: str) -> str:
    (found,) = [str(finding) for finding in made.findings if finding.code == code]
    return found


def real(data_dir: Path, name: str) -> anndata.AnnData:
    full = anndata.read_h5ad(data_dir / f"{name}.h5ad", backed="r")
    return anndata.AnnData(obs=full.obs.copy(), obsm={"X_pca": np.asarray(full.obsm["X_pca"])})


# Association ------------------------------------------------------------------------------------------------------


def test_cramers_v_by_hand():
    counts = np.array([[10, 20], [30, 40]])
    # chi2 = n (ad - bc)^2 / (product of the margins); both corrected table sides are 2 - 1 / 99.
    chi2 = 100 * (10 * 40 - 20 * 30) ** 2 / (30 * 70 * 40 * 60)
    by_hand = np.sqrt(max(0, chi2 / 100 - 1 / 99) / (1 - 1 / 99))
    assert cramers_v(counts) == pytest.approx(by_hand)
    assert cramers_v(np.array([[30, 10], [10, 30]])) == pytest.approx(np.sqrt((0.25 - 1 / 79) / (1 - 1 / 79)))


def test_cramers_v_of_many_small_levels_is_not_inflated():
    gen = np.random.default_rng(0)
    counts = gen.multinomial(400, np.full(400, 1 / 400)).reshape(20, 20)
    expected = np.outer(counts.sum(1), counts.sum(0)) / 400
    uncorrected = np.sqrt(((counts - expected) ** 2 / expected).sum() / 400 / 19)
    assert uncorrected > 0.2
    assert cramers_v(counts) < 0.1


@given(st.integers(0, 2**16), st.integers(2, 6), st.integers(2, 6))
def test_cramers_v_ignores_order_and_empty_levels(seed: int, r: int, k: int):
    gen = np.random.default_rng(seed)
    counts = gen.integers(0, 9, (r, k))
    counts[0, 0] += 5
    v = cramers_v(counts)
    mixed = np.insert(counts[gen.permutation(r)][:, gen.permutation(k)], 1, 0, axis=0).T
    assert cramers_v(mixed) == pytest.approx(v, nan_ok=True)
    assert np.isnan(v) or 0 <= v <= 1


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([[9, 0], [0, 7]], Relation.IDENTICAL),
        ([[9, 0], [8, 0], [0, 7]], Relation.NESTED),
        ([[9, 9, 0], [9, 9, 0], [0, 0, 9]], Relation.SPLIT),
        ([[40, 10], [10, 40]], Relation.ASSOCIATED),
        ([[25, 25], [25, 25]], Relation.INDEPENDENT),
        ([[25, 25]], Relation.CONSTANT),
        # One stray cell does not link two cell lines, a few per cent of the cells do.
        ([[800, 1], [0, 700]], Relation.IDENTICAL),
        ([[800, 40], [0, 700]], Relation.ASSOCIATED),
    ],
)
def test_relation(counts: list[list[int]], expected: Relation):
    assert relation(np.array(counts)) is expected


def test_what_is_nested_comes_first():
    lane, donor = variable([0, 0, 1, 1, 2, 2], "lane"), variable([0, 0, 0, 0, 1, 1], "donor")
    assert associate(donor, lane)[:2] == associate(lane, donor)[:2] == ("lane", "donor")


@given(st.integers(0, 2**16), st.integers(1, 12), st.integers(1, 12))
def test_linked_groups_by_spreading(seed: int, n: int, m: int):
    links = np.random.default_rng(seed).random((n, m)) < 0.15
    reach = (links.astype(int) @ links.T.astype(int)) > 0
    for _ in range(n):
        reach |= (reach.astype(int) @ reach.astype(int)) > 0
    groups = linked_groups(links)
    present = links.any(axis=1)
    np.testing.assert_array_equal(groups >= 0, present)
    np.testing.assert_array_equal((groups[:, None] == groups)[present][:, present], reach[present][:, present])
    assert set(groups[present]) == set(range(len(set(groups[present]))))


@given(st.integers(0, 2**16), st.integers(2, 40), st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_design_rank_is_that_of_the_one_hot_matrix(seed: int, n: int, sizes: list[int]):
    gen = np.random.default_rng(seed)
    columns = [np.unique(gen.integers(k, size=n), return_inverse=True)[1] for k in sizes]
    one_hot = np.hstack([np.eye(c.max() + 1)[c] for c in columns] + [np.ones((n, 1))])
    assert design_rank([variable(c) for c in columns]) == np.linalg.matrix_rank(one_hot)


# Mixing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_explained_is_the_adjusted_r2_of_least_squares(dtype: Any):
    gen = np.random.default_rng(3)
    codes = gen.choice(4, 200, p=[0.6, 0.2, 0.15, 0.05])
    Z = (gen.normal(size=(200, 5)) * [5, 3, 2, 1, 1] + np.outer(codes, [2, 0, 1, 0, 0.1]) + 50).astype(dtype)
    one_hot = np.eye(4)[codes]
    left = Z - one_hot @ np.linalg.lstsq(one_hot, Z.astype(float), rcond=None)[0]
    adjusted = 1 - (left**2).sum(0) / 196 / Z.astype(float).var(0, ddof=1)
    shares, explained = explained_by_batch(Z, codes)
    np.testing.assert_allclose(explained, np.clip(adjusted, 0, 1), atol=1e-6)
    np.testing.assert_allclose(shares, Z.astype(float).var(0) / Z.astype(float).var(0).sum(), atol=1e-6)


def test_excess_by_hand():
    gen = np.random.default_rng(5)
    Z, codes = gen.normal(size=(60, 2)), np.repeat([0, 1, 2], [30, 20, 10])
    Z[codes == 1] += 2
    distance = np.linalg.norm(Z[:, None] - Z, axis=2)
    np.fill_diagonal(distance, np.inf)
    above, most = 0.0, 0.0
    for i in range(60):
        nearest = np.argsort(distance[i])[:7]
        e = ((codes == codes[i]).sum() - 1) / 59
        above += (codes[nearest] == codes[i]).mean() - e
        most += 1 - e
    assert own_batch_excess(Z, codes, gen, k=7).overall == pytest.approx(above / most)


def test_other_shares_of_types_are_no_excess_within_types():
    gen = np.random.default_rng(0)
    types = np.repeat([0, 1], 400)
    batch = (gen.random(800) < np.where(types == 0, 0.9, 0.1)).astype(int)
    Z = gen.normal(size=(800, 5)) + 20 * types[:, None]
    assert own_batch_excess(Z, batch, gen).overall > 0.5
    inside = own_batch_excess(Z, batch, gen, groups=types)
    assert abs(inside.overall) < inside.chance
    obs = table(batch=batch.astype(str), cell_type=np.array(["T", "B"])[types])
    assert check_table(obs, ["batch"], Z).verdict == "needed"
    with_types = check_table(obs, ["batch"], Z, label_key="cell_type")
    assert with_types.verdict == "not_needed"
    assert {"composition", "associated"} <= codes_of(with_types)


def test_shuffled_labels_tell_chance():
    gen = np.random.default_rng(1)
    Z = gen.normal(size=(300, 4))
    seen = [own_batch_excess(Z, gen.permutation(np.repeat([0, 1], [240, 60])), gen).overall for _ in range(40)]
    chance = own_batch_excess(Z, np.repeat([0, 1], [240, 60]), gen).chance
    assert np.std(seen) * 2.5 < chance < np.std(seen) * 6


def test_one_batch_apart_does_not_hide_among_mixed_ones():
    gen = np.random.default_rng(0)
    batch = np.repeat([f"b{i:02}" for i in range(21)], [*[200] * 20, 20])
    Z = gen.normal(size=(len(batch), 6)) + 9 * (batch == "b20")[:, None]
    made = check_table(table(batch=batch), ["batch"], Z)
    assert made.own_batch_excess < 0.02
    assert made.verdict == "needed"
    assert "'b20'" in message(made, "some_batches_apart")


# What holds whatever the data -------------------------------------------------------------------------------------


@pytest.mark.thorough
@settings(max_examples=25)
@given(st.integers(0, 2**16), st.integers(2, 4))
def test_names_of_levels_and_order_of_cells_change_nothing(seed: int, n_batches: int):
    gen = np.random.default_rng(seed)
    n = int(gen.integers(40, 120))
    batch, kind = gen.integers(n_batches, size=n), gen.integers(3, size=n)
    batch[:n_batches] = np.arange(n_batches)
    Z = gen.normal(size=(n, 3)) + 4 * kind[:, None] + gen.choice([0, 3]) * batch[:, None]
    before = check_table(table(batch=batch.astype(str), t=kind.astype(str)), ["batch"], Z, label_key="t")
    order = gen.permutation(n)
    renamed = np.array(list("zyxw"))[batch]
    obs = table(batch=renamed, t=np.array(["p", "o", "n"])[kind]).iloc[order]
    after = check_table(obs, ["batch"], Z[order], label_key="t")
    for name in ("own_batch_excess", "within_types", "explained"):
        np.testing.assert_allclose(after.mixing[name], before.mixing[name], atol=1e-9)
    np.testing.assert_allclose(after.components["explained"], before.components["explained"], atol=1e-9)
    assert sorted(after.batches["n_cells"]) == sorted(before.batches["n_cells"])
    assert after.associations.equals(before.associations) or np.allclose(
        after.associations["cramers_v"], before.associations["cramers_v"], equal_nan=True
    )
    design = {"confounded", "partly_confounded", "associated", "in_one_batch", "shared", "tiny_batches"}
    assert codes_of(after) & design == codes_of(before) & design


@settings(max_examples=25)
@given(st.data())
def test_any_columns_give_a_verdict_that_can_be_read(data: st.DataObject):
    n = data.draw(st.integers(2, 40))
    values = st.one_of(st.none(), st.sampled_from(["a", "<b>", "1", "unknown"]), st.integers(0, 3))
    obs = table(
        batch=data.draw(st.lists(values, min_size=n, max_size=n)),
        t=data.draw(st.lists(values, min_size=n, max_size=n)),
    ).astype(object)
    Z = np.random.default_rng(0).normal(size=(n, 2)) if data.draw(st.booleans()) else None
    made = check_table(obs, ["batch"], Z, label_key="t", condition_keys=["batch"])
    assert made.verdict in ("one_batch", "not_needed", "needed", "impossible", "unknown")
    assert made.summary.endswith(".")
    assert str(made)
    json.dumps(made.to_record()["findings"])


# Reported, not raised ---------------------------------------------------------------------------------------------


def test_sizes_are_reported(adata: anndata.AnnData):
    sizes = {"big": 4000, "mid": 300, "tiny": 12, "one": 1}
    obs = table(batch=pd.Categorical(np.repeat(list(sizes), list(sizes.values())), categories=[*sizes, "none", "no"]))
    made = check_table(obs, ["batch"])
    assert "'one'" in message(made, "singleton_batches")
    assert "fewer than 30 cells: 'tiny'" in message(made, "tiny_batches")
    assert "4000 times" in message(made, "unbalanced_batches")
    assert "2 categories" in message(made, "empty_levels")
    assert dict(zip(made.batches["level"], made.batches["n_cells"], strict=True)) == sizes


def test_one_batch():
    made = check_table(table(batch=["a"] * 50), ["batch"], np.random.default_rng(0).normal(size=(50, 3)))
    assert made.verdict == "one_batch"
    assert made.components.empty


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ([f"AAAC{i}" for i in range(120)], "looks like a cell barcode"),
        (np.random.default_rng(0).random(120), "looks like a measurement"),
        ([None] * 120, "no label at all"),
    ],
)
def test_columns_that_hold_no_batches(column: Any, says: str):
    Z = np.random.default_rng(0).normal(size=(120, 3))
    made = check_table(table(wrong=column, batch=["a", "b"] * 60), ["wrong"], Z)
    assert made.verdict == "impossible"
    assert says in message(made, "unusable_column")
    # The other column is checked all the same.
    both = check_table(table(wrong=column, batch=["a", "b"] * 60), ["wrong", "batch"], Z)
    assert both.verdict == "not_needed"
    assert "unusable_column" in codes_of(both)


def test_missing_labels_are_counted_and_left_out():
    gen = np.random.default_rng(0)
    batch = np.array(["a", "b"] * 100, object)
    Z = gen.normal(size=(200, 3))
    batch[7:17], Z[7:17] = np.nan, 1e6
    made = check_table(table(batch=batch), ["batch"], Z)
    assert message(made, "missing_labels").startswith(
        "problem: 10 cells (5.0%) have no label in 'batch' (first: 'cell7')"
    )
    assert made.batches["n_cells"].tolist() == [95, 95]
    kept = np.r_[0:7, 17:200]
    alone = check_table(table(batch=batch[kept]), ["batch"], Z[kept])
    assert made.own_batch_excess == pytest.approx(alone.own_batch_excess)


def test_duplicate_names_and_genes():
    obs = table(batch=["a", "b"] * 30).set_axis(["x", *[f"c{i}" for i in range(58)], "x"])
    made = check_table(obs, ["batch"], var_columns=["highly_variable"])
    assert "first: 'x'" in message(made, "duplicate_names")
    assert "batch_key" in message(made, "hvg_not_per_batch")
    batch_aware = check_table(obs, ["batch"], var_columns=["highly_variable", "highly_variable_nbatches"])
    assert "hvg_per_batch" in codes_of(batch_aware)


# Confounding ------------------------------------------------------------------------------------------------------


def test_batches_linked_over_a_third_are_not_confounded():
    linked_by = {"jurkat": ["j"], "t293": ["t"], "half": ["j", "t"]}
    rows = [(b, t) for b, ts in linked_by.items() for t in ts for _ in range(40)]
    obs = table(batch=[b for b, _ in rows], t=[t for _, t in rows])
    assert "associated" in codes_of(check_table(obs, ["batch"], label_key="t"))
    pure = obs[obs["batch"] != "half"]
    made = check_table(pure, ["batch"], label_key="t")
    assert made.verdict == "impossible"
    assert "no two batches share one" in message(made, "confounded")


def test_groups_of_batches_without_a_link_are_named():
    obs = table(batch=np.repeat(["a", "b", "c"], 60), t=["T", "B"] * 60 + ["liver"] * 60)
    made = check_table(obs, ["batch"], np.random.default_rng(0).normal(size=(180, 3)) * 5, label_key="t")
    assert "('a', 'b' | 'c')" in message(made, "partly_confounded")
    assert "only within groups" in made.summary


def test_donors_nested_in_a_condition():
    obs = table(donor=np.repeat(["d1", "d2", "d3", "d4"], 50), disease=np.repeat(["sick", "well"], 100))
    made = check_table(obs, ["donor"], condition_keys=["disease"])
    assert "uncorrected counts" in message(made, "partly_confounded")
    undeclared = check_table(obs, ["donor"])
    assert "each batch is in one level of 'disease'" in message(undeclared, "related_columns")


def test_condition_that_two_columns_tell_together():
    # Each lane and the middle day have cells with and without the drug, but day - lane tells who had it.
    lane, day = np.repeat([0, 0, 1, 1], 40), np.repeat([0, 1, 1, 2], 40)
    drug = day - lane
    obs = table(lane=lane.astype(str), day=day.astype(str), drug=drug.astype(str))
    one_hot = [np.eye(k)[c] for k, c in ((2, lane), (3, day), (2, drug))]
    assert [np.linalg.matrix_rank(np.hstack(one_hot[:i])) for i in (2, 3)] == [4, 4]
    told = check_table(obs, ["lane", "day"], condition_keys=["drug"])
    assert message(told, "inseparable").startswith("warning: 1 of the differences")
    assert "inseparable" not in codes_of(check_table(obs, ["lane"], condition_keys=["drug"]))
    # With all four combinations, the exclusive or of both is free of their sum.
    lane, day = np.repeat([0, 0, 1, 1], 40), np.tile(np.repeat([0, 1], 40), 2)
    free = table(lane=lane.astype(str), day=day.astype(str), drug=(lane ^ day).astype(str))
    assert "inseparable" not in codes_of(check_table(free, ["lane", "day"], condition_keys=["drug"]))


def test_batch_columns_that_say_the_same():
    lane = np.repeat(["l1", "l2", "l3", "l4"], 40)
    obs = table(lane=lane, alias=np.char.add("x", lane), day=np.repeat(["d1", "d2"], 80), plate=["p", "q"] * 80)
    assert "'lane' and 'alias'" in message(check_table(obs, ["lane", "alias"]), "batches_identical")
    nested = check_table(obs, ["lane", "day", "plate"])
    assert "'lane' is nested" in message(nested, "batches_nested")
    assert "batches_separable" in codes_of(check_table(obs, ["day", "plate"]))
    # Six of nine pairs in a ring are enough for all effects; three pairs are not nested only where levels repeat.
    a, b, c = np.repeat([0, 0, 1, 1], 40), np.tile(np.repeat([0, 1], 40), 2), np.repeat([0, 1, 1, 2], 40)
    dependent = table(a=a.astype(str), b=b.astype(str), c=c.astype(str))
    rank = np.linalg.matrix_rank(np.hstack([np.eye(2)[a], np.eye(2)[b], np.eye(3)[c]]))
    assert rank == 4
    lost = check_table(dependent, ["a", "b", "c"])
    assert message(lost, "batches_inseparable").startswith("warning: 1 of")


def test_labels_of_one_batch_say_nothing():
    obs = table(batch=np.repeat(["a", "b"], 60), t=["unlabelled"] * 60 + ["T", "B"] * 30)
    made = check_table(obs, ["batch"], np.random.default_rng(0).normal(size=(120, 3)), label_key="t")
    assert made.verdict == "not_needed"
    assert {"labels_missing", "not_within_types"} <= codes_of(made)


# The front --------------------------------------------------------------------------------------------------------


def test_stored_and_read_back(adata: anndata.AnnData, tmp_path: Path):
    obs, Z = adata.obs.copy(), adata.obsm["X_pca"].copy()
    made = check(adata, ["batch", "donor"], label_key="group")
    pd.testing.assert_frame_equal(adata.obs, obs)
    np.testing.assert_array_equal(adata.obsm["X_pca"], Z)
    with quiet():
        adata.write_h5ad(tmp_path / "a.h5ad")
        stored = anndata.read_h5ad(tmp_path / "a.h5ad").uns["harmonax_check"]
    read = Check.from_uns(stored)
    assert str(read) == str(made)
    for name in ("batches", "associations", "components", "mixing"):
        pd.testing.assert_frame_equal(getattr(read, name), getattr(made, name), check_dtype=False)
    assert stored["mixing"]["own_batch_excess"] == made.own_batch_excess
    assert len(made.components) == 2 * Z.shape[1]


def test_without_embedding(adata: anndata.AnnData, tmp_path: Path):
    del adata.obsm["X_pca"]
    made = check(adata, "batch", label_key="group")
    assert made.verdict == "unknown"
    assert "no embedding 'X_pca'" in message(made, "no_embedding")
    with quiet():
        adata.write_h5ad(tmp_path / "a.h5ad")
        assert str(Check.from_uns(anndata.read_h5ad(tmp_path / "a.h5ad").uns["harmonax_check"])) == str(made)
    with pytest.raises(MissingKeyError, match="no 'X_lsi'"):
        check(adata, "batch", basis="X_lsi")


def test_refused(adata: anndata.AnnData):
    with pytest.raises(MissingKeyError, match="did you mean 'batch'"):
        check(adata, "Bacth")
    with pytest.raises(MissingKeyError, match="no column 'cell_typ'"):
        check(adata, "batch", label_key="cell_typ")
    with pytest.raises(InputError, match="more than once"):
        check(adata, ["batch", "batch"])
    with pytest.raises(InputError, match="no batch column"):
        check(adata, [])
    with pytest.raises(InputError, match="max_cells"):
        check(adata, "batch", max_cells=1)
    with pytest.raises(InputError, match="key_added"):
        check(adata, "batch", key_added="a/b")
    adata.obsm["X_pca"][3, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        check(adata, "batch")


def test_sample_of_many_cells():
    gen = np.random.default_rng(0)
    batch = np.repeat(["a", "b"], [3000, 1000])
    Z = gen.normal(size=(4000, 4)) + 1.5 * (batch == "b")[:, None]
    obs = table(batch=batch)
    whole, part = check_table(obs, ["batch"], Z), check_table(obs, ["batch"], Z, max_cells=1000)
    assert "1,000 of 4,000" in message(part, "sampled")
    assert part.own_batch_excess == pytest.approx(whole.own_batch_excess, abs=0.1)
    assert part.verdict == whole.verdict == "needed"
    assert check_table(obs, ["batch"], Z, max_cells=1000).mixing.equals(part.mixing)


def call(*arguments: str) -> Any:
    return CliRunner().invoke(command, arguments)


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_command(adata: anndata.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    if kind == "zarr":
        pytest.importorskip("zarr", reason="zarr is not installed")
    monkeypatch.chdir(tmp_path)
    with quiet():
        getattr(adata, f"write_{kind}")(f"in.{kind}")
    Path("c.toml").write_text('label-key = "group"\n')
    done = call(f"in.{kind}", "--batch-key", "batch,donor", "--config", "c.toml", "-o", "out.json")
    assert done.exit_code == 0, done.output
    made = check(adata, ["batch", "donor"], label_key="group")
    assert done.stdout == f"{made}\n"
    record = json.loads(Path("out.json").read_text())
    assert record["verdict"] == made.verdict
    assert len(record["components"]) == len(made.components)
    again = call(f"in.{kind}", "--batch-key", "batch", "-o", "out.json")
    assert isinstance(again.exception, OutputError)
    assert "exists already" in str(again.exception)
    onto = call(f"in.{kind}", "--batch-key", "batch", "-o", f"in.{kind}", "--overwrite")
    assert isinstance(onto.exception, OutputError)


def test_command_reads_files_without_embedding(adata: anndata.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    var = pd.DataFrame({"highly_variable": [True, False]}, index=["g1", "g2"])
    bare = anndata.AnnData(X=np.ones((len(adata), 2), np.float32), obs=adata.obs, var=var)
    with quiet():
        bare.write_h5ad("in.h5ad")
    done = call("in.h5ad", "--batch-key", "batch")
    assert done.exit_code == 0, done.output
    assert "highly_variable_genes" in done.stdout
    assert "was not measured" in done.stdout
    assert isinstance(call("in.h5ad", "--batch-key", "batch", "--basis", "X_lsi").exception, MissingKeyError)
    Path("no.h5ad").write_text("no")
    assert isinstance(call("no.h5ad", "--batch-key", "batch").exception, InputError)


# Real data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "excess"), [("onek1k_subset", 0.083), ("pancreas_3prot", 0.985), ("pbmc_sorted", 0.833)]
)
def test_real_batches_need_correction(data_dir: Path, name: str, excess: float):
    data = real(data_dir, name)
    made = check(data, "batch")
    assert made.verdict == "needed"
    assert made.own_batch_excess == pytest.approx(excess, abs=0.001)
    assert check(data, "batch", label_key="cell_type").verdict == "needed"
    if name == "onek1k_subset":
        assert "slightly" in made.summary
        assert "do not raise theta" in message(made, "batches_apart")
        assert "each level of 'donor' is in one batch" in message(made, "related_columns")


def test_kang_batch_is_the_treatment(data_dir: Path):
    data = real(data_dir, "kang_fullgenes")
    made = check(data, "batch", label_key="cell_type")
    assert made.verdict == "needed"
    assert made.own_batch_excess == pytest.approx(0.772, abs=0.001)
    data.obs["treatment"] = data.obs["batch"].map({"ctrl": "none given", "stim": "IFN-beta"})
    declared = check(data, "batch", condition_key="treatment")
    assert declared.verdict == "impossible"
    assert "removes the condition" in message(declared, "confounded")
    assert "'treatment' is the same grouping" in message(check(data, "batch"), "related_columns")


def test_cell_lines_with_and_without_the_mixture(data_dir: Path):
    data = real(data_dir, "cell_lines")
    assert check(data, "batch", label_key="cell_type").verdict == "needed"
    pure = data[data.obs["batch"] != "half"].copy()
    made = check(pure, "batch", label_key="cell_type")
    assert made.verdict == "impossible"
    assert next(f for f in made.findings if f.code == "confounded").level is Level.PROBLEM
    assert made.associations["relation"].tolist()[0] == "identical"


@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize(
    ("name", "batch"), [("kang_donors", "ctrl"), ("pbmc_sorted", "donorA"), ("onek1k_subset", "pool57")]
)
def test_random_split_of_one_batch_needs_nothing(data_dir: Path, name: str, batch: str, share: float):
    data = real(data_dir, name)
    data = data[data.obs["batch"] == batch].copy()
    for seed in range(2):
        data.obs["half"] = np.where(np.random.default_rng(seed).random(data.n_obs) < share, "x", "y")
        made = check(data, "half")
        assert made.verdict == "not_needed", str(made)
        assert "batches_mixed" in codes_of(made)


def test_linked_is_not_fooled_by_size():
    # A hundredth of a batch is a link where the cell type is as rare everywhere.
    counts = np.array([[990, 10], [1980, 20]])
    assert linked(counts).all()


@pytest.mark.parametrize(
    ("levels", "asked"),
    [
        (["ctrl", "stim"], True),
        (["Healthy 1", "Healthy 2"], True),
        (["tumour_1", "b"], True),
        (["posterior", "koala"], False),
    ],
)
def test_the_question_whether_the_batch_is_the_condition(levels, asked):
    obs = pd.DataFrame({"batch": np.repeat(levels, 40), "day": ["1", "2"] * 40})
    assert ("batch_may_be_condition" in codes_of(check_table(obs, ["batch"]))) == asked
    # Who names a condition has answered it.
    assert "batch_may_be_condition" not in codes_of(check_table(obs, ["batch"], condition_keys=["day"]))


def test_cells_that_stand_for_all_have_their_excess():
    gen = np.random.default_rng(2)
    codes = np.repeat([0, 1, 2], [3000, 2000, 60])
    Z = gen.normal(size=(len(codes), 5)) + 0.8 * (codes == 1)[:, None] + 9 * (codes == 2)[:, None]
    types = gen.integers(0, 2, len(codes))
    rows = stand_for(codes, 1500, gen)
    assert rows is not None
    np.testing.assert_array_equal(np.bincount(codes[rows]), [890, 593, 60])
    for groups in (None, types):
        full = own_batch_excess(Z, codes, gen, groups=groups)
        part = own_batch_excess(Z, codes, gen, groups=groups, asked=rows)
        assert part.overall == pytest.approx(full.overall, abs=0.015)
        np.testing.assert_allclose(part.per_level, full.per_level, atol=0.03)
        # All cells of the small batch were asked.
        assert part.per_level[2] == full.per_level[2]
        assert full.chance < part.chance < 3 * full.chance
    assert stand_for(codes, len(codes), gen) is None
    shuffled = gen.permutation(codes)
    null = own_batch_excess(Z, shuffled, gen, asked=stand_for(shuffled, 1500, gen))
    assert abs(null.overall) < null.chance
    assert (np.abs(null.per_level) < null.chance_per_level).all()
