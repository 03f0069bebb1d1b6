"""Batch columns as users have them, read and refused."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import harmonax
from harmonax import HarmonyParams
from harmonax.design import BatchDesign
from harmonax.engine.budget import table_size
from harmonax.engine.run import MAX_TABLES
from harmonax.errors import HarmonaxWarning, InputError, MissingKeyError
from harmonax.inputs.columns import as_table, combined, design_from_table


def read(labels, **kwargs):
    column = labels if isinstance(labels, (pd.Series, pd.Categorical)) else pd.Series(labels)
    return design_from_table(pd.DataFrame({"batch": column}), "batch", **kwargs)


def names_of_cells(design, variable=0):
    """Each cell's level, by name."""
    flat = [name for own in design.levels for name in own]
    return [flat[b] for b in design.joint_levels[design.joint, variable]]


# pandas ends a text at a NUL, which no file of ours could hold either.
_TEXT = st.characters(exclude_characters="\0", codec="utf-8")


@pytest.mark.filterwarnings("ignore:.*(in spaces only|look the same|the same number):harmonax.errors.HarmonaxWarning")
@settings(max_examples=50)
@given(st.lists(st.one_of(st.text(_TEXT, max_size=3), st.integers(-3, 3), st.booleans()), min_size=1, max_size=40))
def test_every_cell_keeps_its_label_as_text(labels):
    """Of whatever types: 1 and "1" are one level, and nothing is lost or renamed."""
    design = read(pd.Series(labels, dtype=object), allow_many_levels=True, missing="literal")
    assert names_of_cells(design) == [str(label) for label in labels]
    assert len(set(design.levels[0])) == len(design.levels[0])


@pytest.mark.parametrize(
    "labels",
    [
        pd.Series(["x", "y", "x", "z"]),
        pd.Series(["x", "y", "x", "z"], dtype=object),
        pd.Series(["x", "y", "x", "z"], dtype="string"),
        pd.Categorical(["x", "y", "x", "z"], categories=["z", "unused", "y", "x"]),
    ],
)
def test_text_in_any_dtype(labels):
    design = read(labels)
    assert names_of_cells(design) == ["x", "y", "x", "z"]
    assert design.level_counts.sum() == 4
    assert "unused" not in design.levels[0]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([True, False, True], ["False", "True"]),
        ([2, 10, 2], ["2", "10"]),
        ([0.5, -1.0, 0.5], ["-1.0", "0.5"]),
        (pd.Series([2, 10, 2], dtype="Int64"), ["2", "10"]),
        (pd.to_datetime(["2024-05-01", "2024-03-01", "2024-05-01"]), ["2024-03-01 00:00:00", "2024-05-01 00:00:00"]),
        ([1, "1", "b"], ["1", "b"]),
        ([("p", 1), "q", ("p", 1)], ["('p', 1)", "q"]),
    ],
)
def test_levels_are_sorted_and_named(labels, names):
    assert list(read(pd.Series(labels)).levels[0]) == names


def test_the_order_of_categories_is_kept():
    assert read(pd.Categorical(["b", "a"], categories=["b", "a"])).levels == (("b", "a"),)


@pytest.mark.parametrize(
    "labels",
    [
        pd.Series(["x", None, "y", np.nan]),
        pd.Categorical(["x", None, "y", None]),
        pd.Series([1.0, np.nan, 2.0, np.nan]),
        pd.Series([1, pd.NA, 2, pd.NA], dtype="Int64"),
        pd.Series(["x", pd.NA, "y", pd.NA], dtype="string"),
        pd.Series([1, None, "y", pd.NaT], dtype=object),
    ],
)
def test_missing_labels(labels):
    with pytest.raises(InputError, match=r"obs\['batch'\] has 2 missing values \(first: cell '1'\).*missing='level'"):
        read(labels)
    design = read(labels, missing="level")
    assert [name == "missing" for name in names_of_cells(design)] == [False, True, False, True]
    assert len(design.levels[0]) == 3


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize(
    "labels",
    [
        np.array([1.0, np.inf, 2.0, -np.inf]),
        [1, np.inf, 2, -np.inf],
        pd.Series([1.0, np.inf, 2.0, -np.inf], dtype=object),
        pd.Series([1.0, np.inf, 2.0, -np.inf], dtype="Float32"),
        pd.Categorical([1.0, np.inf, 2.0, -np.inf]),
    ],
)
def test_infinity_is_no_label(labels, literal):
    says = r"^obs\['batch'\] has 2 missing or infinite values \(first: cell '1' has inf\); fill them, drop"
    with pytest.raises(InputError, match=says):
        read(labels, missing="literal" if literal else "error")
    design = read(labels, missing="level")
    assert names_of_cells(design) == ["1", "missing", "2", "missing"]
    assert len(design.levels[0]) == 3


@pytest.mark.parametrize("text", ["nan", "NaN", "None", "NA", "n/a", "", " ", "<NA>"])
@pytest.mark.parametrize("kind", [list, np.array, pd.Categorical, lambda v: pd.Series(v, dtype="string")])
def test_text_that_stands_for_a_missing_label(text, kind):
    labels = kind(["x", text, "y", text])
    says = rf"has 2 missing values \(first: cell '1' has the text '{text}'; missing='literal' takes it as a name\)"
    with pytest.raises(InputError, match=says):
        read(labels)
    assert names_of_cells(read(labels, missing="level")) == ["x", "missing", "y", "missing"]
    assert names_of_cells(read(labels, missing="literal")) == ["x", text, "y", text]
    # What is missing is so, whatever its neighbours.
    with pytest.raises(InputError, match="1 missing values"):
        read(pd.Series(["x", text, None], dtype=object), missing="literal")


@pytest.mark.parametrize("values", [[1, "1", 1.0], [1.0, 1], ["2", 2, 2.0]])
@pytest.mark.parametrize(
    "kind", [lambda v: pd.Series(v, dtype=object), lambda v: pd.Categorical(v, categories=_kinds(v))]
)
def test_a_number_and_its_text_are_one_level(values, kind):
    design = read(kind([*values, "b"]))
    assert names_of_cells(design) == [str(int(values[0]))] * len(values) + ["b"]
    assert len(design.levels[0]) == 2


def _kinds(values):
    """Return the distinct values, by type too."""
    found = {(type(v), v): v for v in values}
    return list({v: v for v in found.values()})


def test_missing_joins_a_level_that_is_called_so():
    design = read(["missing", None, "x"], missing="level")
    assert names_of_cells(design) == ["missing", "missing", "x"]
    assert len(design.levels[0]) == 2


def test_several_columns_are_variables_and_may_be_combined():
    table = pd.DataFrame({"p": ["a", "b", "a", "b"], 7: [1, 1, 2, 2], "other": 0})
    design = design_from_table(table, ["p", 7])
    assert design.variables == ("p", "7")
    assert design.levels == (("a", "b"), ("1", "2"))
    joined = design_from_table(table, ["p", 7], combine_keys=True)
    assert joined.variables == ("p+7",)
    assert names_of_cells(joined) == ["a|1", "b|1", "a|2", "b|2"]
    assert combined(design).levels == joined.levels
    assert design_from_table(table, ["p"], combine_keys=True).variables == ("p",)


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ("Btach", MissingKeyError, "obs has no column 'Btach'; did you mean 'batch'?"),
        ("BATCH", MissingKeyError, "did you mean 'batch'?"),
        ("zzz", MissingKeyError, "there is 'batch', 'donor'"),
        (["batch", "zzz"], MissingKeyError, "no column 'zzz'"),
        (None, MissingKeyError, "no column 'None'"),
        ([], InputError, "no batch column given"),
        (["batch", "batch"], InputError, "more than once"),
    ],
)
def test_keys_that_cannot_be_used(keys, error, message):
    table = pd.DataFrame({"batch": ["a", "b"], "donor": ["c", "d"]})
    with pytest.raises(error) as caught:
        design_from_table(table, keys)
    assert message in str(caught.value)


def test_two_columns_of_one_name():
    table = pd.DataFrame([["a", "b"], ["c", "d"]], columns=["batch", "batch"])
    with pytest.raises(InputError, match="2 columns called 'batch'"):
        design_from_table(table, "batch")


def test_unknown_way_with_missing_labels():
    with pytest.raises(InputError, match="missing='drop' is not known"):
        read(["a"], missing="drop")


@pytest.mark.parametrize(
    ("labels", "looks_like"),
    [
        (np.arange(1000) % 101, "measurement"),
        (np.random.default_rng(0).normal(size=1000), "measurement"),
        (pd.Series(np.arange(1000) % 101, dtype=object), "measurement"),
        (pd.Series(np.arange(1000) % 101, dtype="Int64"), "measurement"),
        ([f"ACGT-{i}" for i in range(1000)], "barcode"),
        ([f"ACGT-{i // 2 if i < 900 else i}" for i in range(1000)], "barcode"),
        (pd.Categorical([f"ACGT-{i}" for i in range(1000)]), "barcode"),
        ([f"c{i}" for i in range(10)], "barcode"),
    ],
)
def test_what_does_not_look_like_batches_is_refused_unless_insisted_on(labels, looks_like):
    with pytest.raises(InputError, match=rf"looks like a (cell )?{looks_like}.*allow_many_levels=True"):
        read(labels)
    assert read(labels, allow_many_levels=True).n_cells == len(labels)


@pytest.mark.parametrize(
    "labels",
    [
        np.arange(1000) % 100,
        pd.Categorical(np.arange(1000) % 300),
        [f"pool{i % 400}" for i in range(1000)],
        ["a", "b", "c"],
    ],
    ids=["100 numbers", "numbers declared categories", "400 pools", "three cells"],
)
def test_what_may_be_batches_is_read(labels):
    assert read(labels).n_levels == len(set(labels))


def test_an_empty_table_has_no_cells():
    assert read(pd.Series([], dtype=object)).n_cells == 0


@pytest.mark.parametrize(
    ("batches", "variables"),
    [
        (["a", "b", "a"], ("batch",)),
        (("a", "b", "a"), ("batch",)),
        (np.array(["a", "b", "a"]), ("batch",)),
        (np.array([["a"], ["b"], ["a"]]), ("batch",)),
        (pd.Series(["a", "b", "a"], index=[5, 6, 5]), ("batch",)),
        (pd.Series(["a", "b", "a"], name=0), ("0",)),
        (pd.Categorical(["a", "b", "a"]), ("batch",)),
        (pd.Index(["a", "b", "a"]), ("batch",)),
        (iter(["a", "b", "a"]), ("batch",)),
        ([["a", 1], ["b", 1], ["a", 2]], ("batch0", "batch1")),
        (np.array([["a", "1"], ["b", "1"], ["a", "2"]]), ("batch0", "batch1")),
        ({"x": ["a", "b", "a"], "y": (1, 1, 2)}, ("x", "y")),
        # Rows are matched by place: an index must not pair them otherwise.
        ({"x": pd.Series(["a", "b", "a"], index=[3, 1, 2]), "y": pd.Series([1, 1, 2], index=[1, 2, 3])}, ("x", "y")),
        ({"x": pd.Categorical(["a", "b", "a"])}, ("x",)),
        (pd.DataFrame({"x": ["a", "b", "a"]}), ("x",)),
    ],
)
def test_labels_in_any_container(batches, variables):
    table = as_table(batches)
    design = design_from_table(table, table.columns.tolist())
    assert design.variables == variables
    assert names_of_cells(design) == ["a", "b", "a"]


@pytest.mark.parametrize("batches", [["a", None, "b"], ["a", np.nan, "b"], {"batch": ["a", np.nan, "b"]}])
def test_a_missing_label_in_a_list_is_not_the_text_nan(batches):
    with pytest.raises(InputError, match="1 missing values"):
        design_from_table(as_table(batches), "batch")


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([["a"], ["b", "c"]], "rows of labels of one length"),
        ([np.zeros(3), np.zeros(2)], "rows of labels of one length"),
        (3, "batches must be labels"),
        ({"x": ["a"], "y": ["b", "c"]}, "'x' has 1, 'y' has 2"),
        ({"x": np.zeros((2, 2))}, r"'x' have shape \(2, 2\)"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)"),
    ],
)
def test_what_are_no_labels(batches, message):
    with pytest.raises(InputError, match=message):
        as_table(batches)


def test_batch_variables_whose_tables_would_not_fit_are_refused_before_any_work(monkeypatch):
    monkeypatch.setattr("harmonax.engine.run.make_cells", None)
    n = 400_000
    with pytest.raises(
        InputError, match=r"400000 levels in 400000 combinations need tables of \d+\.\d\d GiB; allowed are"
    ):
        harmonax.harmonize(np.ones((n, 50), np.float32), np.arange(n), rng=0, allow_many_levels=True)


def test_donors_nested_in_two_variables_fit_as_far_as_they_are_solved():
    """The largest variable is eliminated: no table has a square of its levels."""
    donor = np.repeat(np.arange(30_000), 20)
    design = BatchDesign.from_codes(np.column_stack([donor, donor % 50, donor % 6]))
    fast, whole = (
        table_size(design, HarmonyParams(n_clusters=100, correction_method=how).resolve(design), 20, 2)
        for how in ("fast", "original")
    )
    assert fast < MAX_TABLES < 4 * 8 * 30_000**2 < whole
    # Crossed variables leave a system of the smaller one for each thread.
    crossed = BatchDesign.from_codes(np.column_stack([donor, donor // 6]))
    more = table_size(crossed, HarmonyParams(n_clusters=100).resolve(crossed), 20, 2)
    assert more > fast + 2 * 8 * 5_000**2


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux")
@pytest.mark.parametrize(("n_donors", "n_studies", "crossed"), [(3000, 50, False), (1200, 900, True)])
def test_tables_take_what_was_estimated(n_donors, n_studies, crossed):
    code = f"""
import numpy as np
from pathlib import Path
from harmonax import HarmonyParams, harmonize
from harmonax.design import BatchDesign
from harmonax.engine.budget import table_size
from harmonax.system.memory import peak, resident
rng = np.random.default_rng(0)
donor = np.concatenate([np.arange({n_donors}), rng.integers({n_donors}, size=6000)])
study = rng.integers({n_studies}, size=len(donor)) if {crossed} else donor % {n_studies}
design = BatchDesign.from_codes(np.column_stack([donor, study]))
Z = rng.normal(size=(len(donor), 20)).astype(np.float32)
params = HarmonyParams(n_clusters=60, max_iter_harmony=2, max_iter_clustering=2, tol_harmony=0, tol_clustering=0)
harmonize(Z[:500], donor[:500] % 3, params, rng=0, backend="memory", n_threads=2, progress=False)
Path("/proc/self/clear_refs").write_text("5")
before = resident()
harmonize(Z, design, params, rng=0, backend="memory", n_threads=2, progress=False)
print(table_size(design, params.resolve(design), 20, 2), peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    estimated, taken = map(int, done.stdout.split())
    # Cells take some megabytes beside them.
    assert 0.5 * estimated < taken < 1.2 * estimated + (16 << 20), (estimated >> 20, taken >> 20)


BYTES = {
    "fixed width": lambda b: np.array(b, "S"),
    "objects": lambda b: pd.Series([v.encode() for v in b]),
    "categories": lambda b: pd.Categorical([v.encode() for v in b]),
    "a list": lambda b: [v.encode() for v in b],
    "with text": lambda b: [v.encode() if i % 2 else v for i, v in enumerate(b)],
    "both as categories": lambda b: pd.Categorical([v.encode() if i % 2 else v for i, v in enumerate(b)]),
}


@pytest.mark.parametrize("kind", BYTES)
def test_bytes_are_the_text_that_they_are(kind):
    labels = ["b", "caf\u00e9" if kind != "fixed width" else "cafe", "b", "a", "a"] * 5
    design = design_from_table(as_table(BYTES[kind](labels)), "batch")
    assert names_of_cells(design) == labels
    assert sorted(design.levels[0]) == sorted(set(labels))
    with pytest.raises(InputError, match=r"5 missing values .first: cell '0' has the text"):
        design_from_table(as_table(BYTES[kind](["nan", *labels[1:5]] * 5)), "batch")


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(InputError, match=r"b'\\xe9' is bytes that are not UTF-8"):
        read([b"\xe9", b"a"] * 5)


def test_records_and_an_index_of_several_levels():
    records = np.array([("a", 1), ("b", 2)] * 5, [("x", "U1"), ("y", int)])
    with pytest.raises(InputError, match=r"got records of .*pandas\.DataFrame"):
        as_table(records)
    table = as_table(pd.MultiIndex.from_arrays([["a", "b"], [1, 2]], names=["x", None]))
    assert table.to_dict("list") == {"x": ["a", "b"], "batch1": [1, 2]}


@pytest.mark.parametrize(("one", "other"), [("a", "A"), ("\u00e9", "e\u0301"), ("a", "a\u200b"), ("x1", "x\u00b9")])
def test_levels_that_look_the_same_are_told(one, other):
    with pytest.warns(HarmonaxWarning, match="look the same but are two batches; give them one spelling if they are"):
        assert len(read([one, other, "c"] * 5).levels[0]) == 3


def test_numbers_that_differ_in_leading_zeros_are_told():
    with pytest.warns(
        HarmonaxWarning, match="'01' and '1' are the same number but are two batches; write it in one way"
    ):
        assert len(read(["01", "1", "c"] * 5).levels[0]) == 3


def test_tables_of_the_same_cells_in_another_order_are_refused():
    cells = [f"c{i}" for i in range(40)]
    Z = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 3)), cells)
    batch = pd.Series(np.repeat(["a", "b"], 20), cells)
    model = harmonax.HarmonyModel.from_result(harmonax.harmonize(Z, batch, rng=0, progress=False))
    turned = batch.iloc[::-1]
    for other in (turned, turned.to_frame("batch"), {"batch": turned}):
        with pytest.raises(InputError, match="the embedding and the batch labels name the same cells in a different"):
            harmonax.harmonize(Z, other, progress=False)
        with pytest.raises(InputError, match="the new cells and their batch labels name the same cells in a different"):
            model.map(Z, other)
    with pytest.raises(InputError, match="the embedding and the labels name the same cells in a different"):
        model.with_reference(Z, turned)
    # Names that say nothing of each other: by place.
    harmonax.harmonize(Z, batch.set_axis([f"d{i}" for i in range(40)]), rng=0, progress=False)


@pytest.mark.parametrize("categorical", [False, True])
def test_levels_that_differ_in_spaces_are_told(categorical):
    column = pd.Series(["a", "b", "a ", "b", " a", "c"] * 5)
    table = pd.DataFrame({"batch": column.astype("category") if categorical else column})
    with pytest.warns(HarmonaxWarning, match=r"'.?a.?' and '.?a.?' differ in spaces only, and are two batches"):
        design = design_from_table(table, "batch", where="obs")
    assert len(design.levels[0]) == 5
    # Of categories without a cell there is nothing to tell.
    used = pd.DataFrame({"batch": pd.Categorical(["a", "b"] * 5, categories=["a", "a ", "b"])})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        design_from_table(used, "batch", where="obs")
