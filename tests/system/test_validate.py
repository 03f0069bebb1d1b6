"""Single values: what arrived, what is allowed, what to do; and nothing else in the package says it anew."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import harmonax
from harmonax.errors import InputError
from harmonax.system.validate import entry_name, expect_anndata, number, one_of, whole_number

PACKAGE = Path(harmonax.__file__).parent
NOT_NUMBERS = [None, "many", "", "3", b"3", [1, 2], {}, math.nan, np.nan, True, False, np.True_, 1j, object()]


class TestWholeNumber:
    @pytest.mark.parametrize("value", [3, 3.0, np.int8(3), np.uint64(3), np.float32(3), np.array(3)])
    def test_what_is_whole_becomes_an_int(self, value):
        found = whole_number(value, "n", minimum=1)
        assert type(found) is int
        assert found == 3

    def test_large_ones_keep_every_digit(self):
        assert whole_number(2**63 + 1, "seed", minimum=0) == 2**63 + 1
        assert whole_number(np.uint64(2**63 + 1), "seed", minimum=0) == 2**63 + 1

    @pytest.mark.parametrize("value", [*NOT_NUMBERS, 2.5, math.inf, -math.inf, 0, -1, -1e300])
    def test_all_else_is_refused(self, value):
        with pytest.raises(InputError, match=rf"^n={re.escape(repr(value))} must be a whole number of at least 1$"):
            whole_number(value, "n", minimum=1)

    def test_bounds_are_allowed_and_named(self):
        assert [whole_number(n, "n", minimum=2, maximum=4) for n in (2, 4)] == [2, 4]
        for n in (1, 5):
            with pytest.raises(InputError, match=f"^n={n} must be a whole number from 2 to 4$"):
                whole_number(n, "n", minimum=2, maximum=4)

    def test_what_else_is_allowed_is_said(self):
        with pytest.raises(InputError, match=r"^n=0 must be a whole number of at least 1, or None for all cells$"):
            whole_number(0, "n", minimum=1, alternative="None for all cells")


class TestNumber:
    @pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2), np.array(2.0)])
    def test_a_number_becomes_a_float(self, value):
        found = number(value, "x", minimum=0)
        assert type(found) is float
        assert found == 2.0

    @pytest.mark.parametrize("value", [*NOT_NUMBERS, math.inf, -math.inf, -1])
    def test_all_else_is_refused(self, value):
        with pytest.raises(InputError, match=rf"^x={re.escape(repr(value))} must be a finite number of at least 0$"):
            number(value, "x", minimum=0)

    @pytest.mark.parametrize(
        ("how", "inside", "outside", "message"),
        [
            ({}, [-1e300, 0], [math.inf], "a finite number"),
            ({"minimum": 0}, [0, 1e300], [-1e-300], "a finite number of at least 0"),
            ({"minimum": 0, "exclusive": True}, [1e-300], [0, -1], "a finite number greater than 0"),
            ({"minimum": 0, "maximum": 1}, [0, 1], [-0.1, 1.1], "a number from 0 to 1"),
            (
                {"minimum": 0, "maximum": 1, "exclusive": True},
                [0.5, 1],
                [0, 1.1, math.nan],
                "a number greater than 0 and at most 1",
            ),
        ],
    )
    def test_bounds(self, how, inside, outside, message):
        assert [number(value, "x", **how) for value in inside] == inside
        for value in outside:
            with pytest.raises(InputError, match=f"^x={value!r} must be {message}$"):
                number(value, "x", **how)


class TestOneOf:
    def test_what_is_known_is_returned(self):
        assert one_of("a", "kind", ("a", "b")) == "a"
        assert one_of(np.str_("b"), "kind", iter("ab")) == "b"

    @pytest.mark.parametrize("value", ["c", "A", "", None, 1, ["a"], np.array(["a", "b"])])
    def test_all_else_is_refused_with_what_is_allowed(self, value):
        with pytest.raises(InputError, match=rf"^kind={re.escape(repr(value))} is not known; allowed are 'a', 'b'$"):
            one_of(value, "kind", ("a", "b"))

    def test_a_single_one(self):
        with pytest.raises(InputError, match=r"^kind='c' is not known; allowed is 'a'$"):
            one_of("c", "kind", ("a",))


class TestEntryName:
    def test_a_name_is_returned(self):
        assert entry_name("X_pca", "basis") == "X_pca"

    @pytest.mark.parametrize("value", ["", "a/b", "/", None, 3, ["X_pca"]])
    def test_all_else_is_refused(self, value):
        with pytest.raises(InputError, match=rf"^basis={re.escape(repr(value))} must be a name without a slash$"):
            entry_name(value, "basis")


class TestExpectAnnData:
    def test_what_has_the_parts_is_one(self):
        expect_anndata(SimpleNamespace(obs=0, obsm=0, uns=0))

    def test_all_else_is_refused(self):
        with pytest.raises(InputError, match=r"^adata is a ndarray, not an AnnData$"):
            expect_anndata(np.zeros(2))

    def test_with_what_takes_it(self):
        with pytest.raises(InputError, match=r"^query is a dict, not an AnnData; for arrays there is f$"):
            expect_anndata({}, "query", instead="for arrays there is f")

    def test_which_parts_are_needed_may_be_said(self):
        parts = SimpleNamespace(obs=0, obsm=0, uns=0)
        with pytest.raises(InputError, match="not an AnnData"):
            expect_anndata(parts, parts=("obs", "layers"))


@pytest.mark.parametrize(
    "wording",
    ["must be a whole number", "allowed is a whole number", ", not an AnnData", "must be a name without a slash"],
)
def test_a_refusal_is_worded_in_one_place(wording):
    found = [path for path in PACKAGE.rglob("*.py") if wording in path.read_text(encoding="utf-8")]
    assert {path.relative_to(PACKAGE).as_posix() for path in found} <= {"system/validate.py"}
