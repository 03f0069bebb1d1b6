"""The scores of embeddings side by side, as programs, people and files read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from ...errors import InputError

COLUMNS = ("embedding", "batch_key", "metric", "kind", "value", "low", "high")
KINDS = ("batch", "bio", "total", "further", "label-free")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of embeddings of the same cells: from 0 to 1 (ARI, by chance, a little below), and higher is better.

    Attributes
    ----------
    scores
        One row a score: embedding, batch_key ("" where it depends on labels only), metric, kind ("batch", "bio",
        "total", "further" or "label-free"), value, and low and high, its 95 % interval where cells were sampled, else
        nan. Scores that are not defined for the data have no row.
    n_cells, n_used
        Cells there are, and cells scored.
    label_key
        Column of the labels, "" without.
    batch_keys, embeddings
        Their names, in order.
    baseline
        The uncorrected embedding that others are compared with: the first.
    seed
        Of the samples.
    versions
        Of the packages that computed the scores. Quote scib-metrics' with them.
    notes
        What was left out, sampled, or could not be scored.
    """

    scores: pd.DataFrame
    n_cells: int
    n_used: int
    label_key: str
    batch_keys: tuple[str, ...]
    embeddings: tuple[str, ...]
    baseline: str
    seed: int
    versions: dict[str, str]
    notes: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """Return the values with a row for each kind, batch_key and metric, and a column for each embedding."""
        rows = ["kind", "batch_key", "metric"]
        order = pd.MultiIndex.from_frame(self.scores[rows].drop_duplicates())
        wide = self.scores.pivot(index=rows, columns="embedding", values="value")
        return wide.reindex(index=order, columns=list(self.embeddings)).rename_axis(columns=None)

    @property
    def totals(self) -> pd.DataFrame:
        """The means "batch" and "bio" and the "total", a row for each embedding and batch_key; empty without labels."""
        found = self.scores[self.scores["kind"] == "total"]
        value = {(row.embedding, row.batch_key, row.metric): row.value for row in found.itertuples()}
        rows = []
        for name, key in product(self.embeddings, self.batch_keys):
            wanted = ((key, "batch"), ("", "bio"), (key, "total"))
            rows.append((name, key, *(value.get((name, *one), np.nan) for one in wanted)))
        return pd.DataFrame(rows if len(found) else [], columns=["embedding", "batch_key", "batch", "bio", "total"])

    def to_uns(self) -> dict[str, Any]:
        """Return it as ``adata.uns`` holds it: plain values that .h5ad and .zarr keep."""
        text = {name: np.array(getattr(self, name), object) for name in ("batch_keys", "embeddings")}
        return {
            "scores": self.scores.copy(),
            **{name: getattr(self, name) for name in ("n_cells", "n_used", "label_key", "baseline", "seed")},
            **text,
            "versions": dict(self.versions),
            # An empty array of text is none that files keep.
            "notes": np.array(self.notes, object if self.notes else np.float64),
        }

    @classmethod
    def from_uns(cls, stored: Mapping[str, Any]) -> Evaluation:
        """Return what `to_uns` made, also after a file held it."""
        if "scores" not in stored:
            raise InputError("this is not an evaluation: it has no 'scores'; run harmonax.tl.evaluate")
        scores = frame_of([tuple(row) for row in stored["scores"][list(COLUMNS)].itertuples(index=False)])
        texts = {name: tuple(str(v) for v in stored[name]) for name in ("batch_keys", "embeddings", "notes")}
        return cls(
            scores,
            n_cells=int(stored["n_cells"]),
            n_used=int(stored["n_used"]),
            label_key=str(stored["label_key"]),
            baseline=str(stored["baseline"]),
            seed=int(stored["seed"]),
            versions={str(k): str(v) for k, v in stored["versions"].items()},
            **texts,
        )

    def __str__(self) -> str:
        used = f"{self.n_used} of {self.n_cells} cells" if self.n_used < self.n_cells else f"{self.n_cells} cells"
        labels = f"labels '{self.label_key}'" if self.label_key else "no labels"
        head = f"{used}, batches {', '.join(map(repr, self.batch_keys))}, {labels}; 0 worst, 1 best"
        shown = self.table().map("{:.3f}".format).reset_index()
        if len(self.batch_keys) == 1:
            shown = shown.drop(columns="batch_key")
        lines = [head, shown.to_string(index=False)]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


def frame_of(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    """Return the scores as a table that files can hold."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS), index=[str(i) for i in range(len(rows))])
    return frame.astype({name: np.float64 if name in ("value", "low", "high") else object for name in COLUMNS})
