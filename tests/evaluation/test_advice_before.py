"""Advice of the check and on quality control is followed, and what it complained of is gone or smaller."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from harmonax.evaluation.before.check import Check, check
from harmonax.evaluation.before.quality_control import CELLS, TYPES, losses
from harmonax.evaluation.findings import Finding

N = 600
Z = np.random.default_rng(0).normal(size=(N, 4))
AT = np.arange(N)


def table(**columns) -> pd.DataFrame:
    given = {"batch": np.array(["a", "b"])[AT % 2], "kind": np.array(["T", "B", "M"])[AT // 2 % 3]} | columns
    return pd.DataFrame(given, index=[f"c{i}" for i in AT])


def found(obs: pd.DataFrame, keys: tuple[str, ...] = ("batch",), **options) -> Check:
    return check(obs, list(keys), Z[[int(name[1:]) for name in obs.index]], **options)


def codes(result: Check) -> set[str]:
    return {finding.code for finding in result.findings}


def said(result: Check, code: str) -> Finding:
    return next(finding for finding in result.findings if finding.code == code)


SMALL = np.where(AT < 5, "c", np.where(AT == 5, "d", np.array(["a", "b"])[AT % 2]))
APART = np.where(AT % 2 == 0, "T", "B")
TWO = np.array(["a", "b", "c", "d"])[AT % 4]


def dropped(level: str) -> Callable[[], Check]:
    return lambda: found(table(batch=SMALL)[level != SMALL])


@pytest.mark.parametrize(
    ("first", "code", "advice", "names", "followed"),
    [
        (lambda: found(table(batch=SMALL)), "tiny_batches", "drop them", "'c'", dropped("c")),
        (lambda: found(table(batch=SMALL)), "singleton_batches", "drop them", "'d'", dropped("d")),
        (
            lambda: found(table(batch=SMALL)),
            "singleton_batches",
            "join such batches with others",
            "'d'",
            lambda: found(table(batch=np.where(SMALL == "d", "a", SMALL))),
        ),
        (
            lambda: found(table(batch="a")),
            "one_batch",
            "Name the column that tells the batches apart",
            "'batch'",
            lambda: found(table(lane=TWO), ("lane",)),
        ),
        (
            lambda: found(table(copy=np.array(["x", "y"])[AT % 2]), ("batch", "copy")),
            "batches_identical",
            "Name one of them",
            "'copy'",
            lambda: found(table()),
        ),
        (
            lambda: found(table(lane=TWO), ("batch", "lane")),
            "batches_nested",
            "'lane' alone says as much",
            "'batch'",
            lambda: found(table(lane=TWO), ("lane",)),
        ),
        (
            lambda: found(table(one=TWO, two=np.array(["p", "q", "p", "q"])[AT % 4], three=TWO), ("one", "two")),
            "batches_nested",
            "'one' alone",
            "'two'",
            lambda: found(table(one=TWO), ("one",)),
        ),
        (
            lambda: found(table(kind=APART), label_key="kind"),
            "confounded",
            "add a batch that has cell types of several of them",
            "'kind'",
            lambda: found(table(kind=APART, batch=np.where(AT >= N // 2, "new", table()["batch"])), label_key="kind"),
        ),
        (
            lambda: found(table(batch=TWO, kind=np.array(["T", "B"])[AT % 4 // 2]), label_key="kind"),
            "partly_confounded",
            "Correct within such a group only",
            "'c', 'd'",
            lambda: found(table(batch=TWO)[AT % 4 < 2], label_key="kind"),
        ),
        (
            lambda: found(table(kind=np.where(AT % 2 == 0, table()["kind"], "unknown")), label_key="kind"),
            "labels_missing",
            "Label the other batches",
            "'kind'",
            lambda: found(table(), label_key="kind"),
        ),
        (
            lambda: found(table(batch=np.array(["ctrl", "stim"])[AT % 2])),
            "batch_may_be_condition",
            "name the column as condition_key",
            "'batch'",
            lambda: found(
                table(batch=np.array(["ctrl", "stim"])[AT % 2], lane=TWO), ("lane",), condition_keys=["batch"]
            ),
        ),
        (
            lambda: found(table(state=APART)),
            "related_columns",
            "name it (label_key, condition_key)",
            "'state'",
            lambda: found(table(state=APART), condition_keys=["state"]),
        ),
        (
            lambda: found(table(), var_columns=["highly_variable"]),
            "hvg_not_per_batch",
            "batch_key=...",
            "variable genes",
            lambda: found(table(), var_columns=["highly_variable", "highly_variable_nbatches"]),
        ),
        (lambda: check(table(), ["batch"]), "no_embedding", "Compute it", "'X_pca'", lambda: found(table())),
    ],
)
def test_what_the_check_advises(first, code, advice, names, followed):
    result = first()
    finding = said(result, code)
    assert advice in finding.advice
    # The exact place.
    assert names in finding.message + finding.advice
    assert code not in codes(followed())


@pytest.mark.parametrize(
    ("made", "code", "place"),
    [
        (lambda: found(table(batch=np.where(AT < 40, "small", "large"))), "unbalanced_batches", "40 to 560 cells"),
        (
            lambda: found(table(kind=np.where((AT < 60) & (AT % 2 == 0), "only", table()["kind"])), label_key="kind"),
            "in_one_batch",
            "of 'batch' only: 'only'",
        ),
    ],
)
def test_what_a_person_has_to_look_at_is_named(made, code, place):
    assert place in said(made(), code).message


def test_keep_the_embedding_where_batches_are_mixed():
    result = found(table())
    assert "Keep the embedding as it is" in said(result, "batches_mixed").advice
    assert result.verdict == "not_needed"


class TestQualityControl:
    gen = np.random.default_rng(0)
    batch = np.repeat(["deep", "shallow"], 500)
    kind = np.where(np.arange(1000) % 5 == 0, "small", "large")
    # Genes of a cell: half as many in one protocol, and fewer in the small cells.
    genes = gen.poisson(np.where(batch == "deep", 2000, 900) * np.where(kind == "small", 0.5, 1.0))

    def left_by(self, limit: dict[str, float]) -> list[Finding]:
        keep = self.genes >= pd.Series(self.batch).map(limit).to_numpy()
        rows = [("batch", b, int((own := self.batch == b).sum()), int((own & keep).sum())) for b in limit]
        kinds = [
            ("batch", b, k, int((own := (self.batch == b) & (self.kind == k)).sum()), int((own & keep).sum()))
            for b in limit
            for k in ("small", "large")
        ]
        return losses(pd.DataFrame(rows, columns=CELLS), pd.DataFrame(kinds, columns=TYPES))

    def test_thresholds_from_the_distributions_by_batch(self):
        lost = {finding.code: finding for finding in self.left_by({"deep": 1500, "shallow": 1500})}
        assert "by batch before you set thresholds" in lost["cells_lost"].advice
        assert "100% of 'shallow'" in lost["cells_lost"].message
        limit = {b: float(np.quantile(self.genes[self.batch == b], 0.02)) for b in ("deep", "shallow")}
        assert self.left_by(limit) == []

    def test_loosened_thresholds_where_a_type_is_gone(self):
        lost = {finding.code: finding for finding in self.left_by({"deep": 700, "shallow": 700})}
        assert "Loosen them and compare" in lost["types_gone"].advice
        assert "small in shallow (100 of 100)" in lost["types_gone"].message
        after = {finding.code for finding in self.left_by({"deep": 300, "shallow": 300})}
        assert "types_gone" not in after
