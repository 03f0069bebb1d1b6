"""The metrics: what each one computes, and what tables, plots and the report say of it.

How to add a metric:

1. Write one function, in a module of its own or in one that is there: of `LabelledCells`, giving a number, or of
   `UnlabelledCells`, giving a number for each cell. It lies between 0 and 1, higher is better, and it is nan where the
   data do not define it.
2. Add an entry to `METRICS` below: in its kind, in the order of the tables. It is then computed, stored, printed, drawn
   and explained in the report.
3. Name it in the docstring of `harmonax.tl.evaluate`, and say on the page docs/metrics.md what it misses.

The overall scores: batch and bio are the means of their metrics, nan where one of them is; total, which scib-metrics
ranks methods by, is 0.4 batch + 0.6 bio.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from . import further, labelfree, scib

Kind = Literal["batch", "bio", "further", "label-free"]
BATCH_WEIGHT, BIO_WEIGHT = 0.4, 0.6


@dataclass(frozen=True)
class Metric:
    """A score of an embedding.

    Attributes
    ----------
    name
        As it is stored.
    kind
        ``"batch"`` or ``"bio"``, which need labels and enter the mean of that name; ``"further"``, which need labels,
        and ``"label-free"``: in no mean. What is new belongs there, or the means would no longer be scib-metrics'.
    compute
        The function: of `scib.LabelledCells`, or where no labels are needed of `labelfree.UnlabelledCells`.
    meaning
        One sentence for the report.
    average
        How the values of cells make one, where there are no labels.
    needs_batches
        Whether it is undefined for one batch only.
    """

    name: str
    kind: Kind
    compute: Callable[[Any], Any]
    meaning: str
    average: Callable[[np.ndarray], Any] = np.nanmean
    needs_batches: bool = True

    @property
    def needs_labels(self) -> bool:
        return self.kind != "label-free"


METRICS: list[Metric] = [
    Metric("iLISI", "batch", scib.batch_ilisi, "How many batches there are among a cell's neighbours."),
    Metric("BRAS", "batch", scib.bras, "Within each label, how much a batch overlaps with the others."),
    Metric(
        "graph connectivity",
        "batch",
        scib.graph_connectivity,
        "Whether the cells of a label are connected, whatever their batch.",
    ),
    Metric(
        "kBET per label",
        "batch",
        scib.kbet_per_label,
        "Within each label, how often a neighbourhood has the label's batch proportions.",
    ),
    Metric("cLISI", "bio", scib.clisi, "Whether a cell's neighbours share its label."),
    Metric("NMI", "bio", scib.nmi, "Agreement of clusters with the labels: shared information."),
    Metric("ARI", "bio", scib.ari, "Agreement of clusters with the labels: pairs of cells."),
    Metric(
        "ASW label",
        "bio",
        scib.asw_label,
        "How far the cells of a label are from other labels, compared with from each other.",
    ),
    Metric(
        "CiLISI",
        "further",
        further.cilisi,
        "How many batches there are among a cell's neighbours of its own label: not lowered where a "
        "batch lacks a label.",
    ),
    Metric(
        "kSIM",
        "further",
        further.ksim,
        "How often nine in ten of a cell's 25 nearest have its label.",
        needs_batches=False,
    ),
    Metric(
        "isolated labels (ASW)",
        "further",
        further.isolated_asw,
        "How far the labels that are in the fewest batches are from other labels.",
    ),
    Metric(
        "isolated labels (F1)",
        "further",
        further.isolated_f1,
        "Whether clustering finds the labels that are in the fewest batches.",
    ),
    Metric(
        "scGraph",
        "further",
        further.scgraph,
        "Whether labels lie as far from one another as they do within each batch before correction.",
    ),
    Metric(
        "iLISI",
        "label-free",
        labelfree.ilisi,
        "How many batches there are among a cell's neighbours.",
        # As scib-metrics takes it.
        average=np.nanmedian,
    ),
    Metric(
        "kBET",
        "label-free",
        labelfree.kbet,
        "How often a neighbourhood has the batch proportions of all cells. Strict: it also falls where batches differ "
        "in their cell types; compare embeddings by it, not data sets.",
    ),
    Metric(
        "variance not explained by batch",
        "label-free",
        labelfree.unexplained,
        "Share of the variance that the batches do not explain.",
    ),
    Metric(
        "own-batch neighbors kept",
        "label-free",
        labelfree.neighbours_kept,
        "Share of a cell's same-batch neighbours that are still its neighbours; low: too much was removed.",
        needs_batches=False,
    ),
]


def of_kind(kind: Kind) -> list[Metric]:
    """Return the metrics of a kind, in order."""
    return [metric for metric in METRICS if metric.kind == kind]


def batch_scores(cells: scib.LabelledCells) -> dict[str, float]:
    """Return how well batches mix within labels, and the mean, "batch"."""
    return _with_mean("batch", cells, len(np.unique(cells.own_batch)) > 1)


def bio_scores(cells: scib.LabelledCells) -> dict[str, float]:
    """Return how well labels stay apart, and the mean, "bio"."""
    return _with_mean("bio", cells, len(np.unique(cells.label)) > 1)


def further_scores(cells: scib.LabelledCells, *, of_batches: bool) -> dict[str, float]:
    """Return the scores that enter no mean: those that look at batches, or those that do not."""
    several = len(np.unique(cells.batch)) > 1
    return {
        metric.name: metric.compute(cells) if several or not of_batches else float("nan")
        for metric in of_kind("further")
        if metric.needs_batches == of_batches
    }


def total_score(batch: float, bio: float) -> float:
    """Return the weighted mean that scib-metrics ranks methods by."""
    return BATCH_WEIGHT * batch + BIO_WEIGHT * bio


def cell_values(cells: labelfree.UnlabelledCells) -> np.ndarray:
    """Return what the label-free scores are made of: a column for each metric, and a row for each cell asked for."""
    metrics = of_kind("label-free")
    values = np.full((len(cells.near.rows), len(metrics)), np.nan)
    for column, metric in enumerate(metrics):
        if cells.n_batches > 1 or not metric.needs_batches:
            values[:, column] = metric.compute(cells)
    return values


def scores_of(values: np.ndarray) -> dict[str, float]:
    """Return the label-free scores of cells, of which `cell_values` are given."""
    return {
        metric.name: float("nan") if np.isnan(own).all() else float(metric.average(own))
        for metric, own in zip(of_kind("label-free"), values.T, strict=True)
    }


def _with_mean(kind: Kind, cells: scib.LabelledCells, defined: bool) -> dict[str, float]:
    scores = {metric.name: metric.compute(cells) if defined else float("nan") for metric in of_kind(kind)}
    return scores | {kind: float(np.mean(list(scores.values())))}
