"""Score embeddings side by side: scib-metrics' scores where there are labels, label-free ones always."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from ...errors import InputError
from ...system.arguments import check_arguments
from ...system.extras import need
from ...system.rng import seed_from
from ...system.validate import one_of, whole_number
from ..labels import FEWEST_CELLS, UNLABELLED, Cells, read_cells
from ..neighbours import MAX_CELLS, OF_BATCH, own_batch_neighbours
from . import labelfree, registry, scib
from .population import Around, Population, around
from .sample import N_SAMPLES, disjoint_samples, interval
from .table import KINDS, Evaluation, frame_of

__all__ = ["Evaluation", "evaluate"]

Progress = Callable[[int, int, str], None]
SHUFFLED = "shuffled"
_PACKAGES = ("scib-metrics", "jax", "pynndescent", "scikit-learn", "numpy")


def evaluate(
    embeddings: Mapping[str, Any],
    batches: pd.DataFrame,
    labels: Any = None,
    *,
    label_key: str = "label",
    max_cells: int = MAX_CELLS,
    rng: Any = 0,
    unlabelled: Iterable[str] = UNLABELLED,
    allow_many_levels: bool = False,
    controls: bool = False,
    progress: Progress | None = None,
    missing: Literal["leave_out", "literal"] = "leave_out",
) -> Evaluation:
    """Score embeddings of the same cells side by side; for AnnData there is `harmonax.tl.evaluate`.

    Parameters
    ----------
    embeddings
        Arrays of N cells x dimensions by name, the uncorrected one first.
    batches
        A column for each batch variable, N rows; cells with a missing one are left out, with a warning.
    labels
        Cell type of each cell, (N,); None: label-free scores only.
    label_key, max_cells, rng, unlabelled, allow_many_levels, controls, progress, missing
        As in `harmonax.tl.evaluate`.

    Raises
    ------
    InputError
        If embeddings, batches and labels do not fit together or cannot be scored.

    Examples
    --------
    >>> gen = np.random.default_rng(0)
    >>> batch = pd.DataFrame({"batch": np.repeat(["a", "b"], 100)})
    >>> x = gen.normal(size=(200, 5))
    >>> result = evaluate({"apart": x + 9 * (batch == "b").to_numpy(), "mixed": x}, batch)  # doctest: +SKIP
    """
    check_arguments(evaluate, locals())
    seed, literal = seed_from(rng), one_of(missing, "missing", ("leave_out", "literal")) == "literal"
    max_cells = whole_number(max_cells, "max_cells", minimum=N_SAMPLES * FEWEST_CELLS)
    need("sklearn", "workflow")
    if labels is not None and not scib.is_installed():
        need("scib_metrics", "workflow")
    cells = read_cells(embeddings, batches, labels, label_key, unlabelled, allow_many_levels, literal=literal)
    gen = np.random.default_rng(seed)
    anyone = disjoint_samples(np.arange(cells.n), max_cells, gen)
    # The same samples where all cells have labels, and so the same neighbours.
    labelled = anyone if len(cells.labelled) == cells.n else disjoint_samples(cells.labelled, max_cells, gen)
    if controls:
        _add_control(cells, gen)
    found = _score_all(cells, anyone, labelled, progress)
    return Evaluation(
        frame_of([_summed_up(row, values) for row, values in found.items() if np.isfinite(values).any()]),
        n_cells=cells.n_cells,
        n_used=sum(map(len, anyone)),
        label_key=label_key if cells.labels is not None else "",
        batch_keys=tuple(cells.batches),
        embeddings=tuple(cells.embeddings),
        baseline=next(iter(cells.embeddings)),
        seed=seed,
        versions=_versions(),
        notes=tuple(cells.notes + _words(cells, found, anyone, labelled)),
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        # Without labels the first two are not needed.
        with contextlib.suppress(PackageNotFoundError):
            found[name.replace("-", "_")] = version(name)
    return found


class _Row(NamedTuple):
    embedding: str
    batch_key: str
    metric: str
    kind: str


def _score_all(
    cells: Cells, anyone: list[np.ndarray], labelled: list[np.ndarray], progress: Progress | None
) -> dict[_Row, list[float]]:
    """Return every score of every sample, by kind."""
    found: dict[_Row, list[float]] = {}
    combined, baseline = cells.combined, None
    for done, name in enumerate(cells.embeddings):
        tell = _teller(progress, done, len(cells.embeddings), name)
        tell("")
        near = labelfree.near_of(cells.embeddings[name], np.concatenate(anyone))
        own = own_batch_neighbours(cells.embeddings[name][near.rows], combined[near.rows], OF_BATCH)
        baseline = own if baseline is None else baseline
        scores = chain(
            _without_labels(cells, name, near, len(anyone), (baseline, own)),
            _with_labels(cells, name, near, labelled, tell),
        )
        for row, value in scores:
            found.setdefault(row, []).append(value)
    return dict(sorted(found.items(), key=lambda item: KINDS.index(item[0].kind)))


def _teller(progress: Progress | None, done: int, of: int, name: str) -> Callable[[str], None]:
    def tell(part: str) -> None:
        if progress is not None:
            progress(done, of, name + part)

    return tell


def _without_labels(
    cells: Cells, name: str, near: labelfree.Near, n_samples: int, own: tuple[np.ndarray, np.ndarray]
) -> Iterator[tuple[_Row, float]]:
    """Score samples of one embedding; `own` are their neighbours in their batch, in the first embedding and in this."""
    for key, batch in cells.batches.items():
        seen = labelfree.UnlabelledCells(near, cells.embeddings[name], batch, *own)
        values = registry.cell_values(seen)
        for part in np.split(values, n_samples):
            for metric, value in registry.scores_of(part).items():
                yield _Row(name, key, metric, "label-free"), value


def _with_labels(
    cells: Cells, name: str, near: labelfree.Near, samples: list[np.ndarray], tell: Callable[[str], None]
) -> Iterator[tuple[_Row, float]]:
    """Score samples of the labelled cells of one embedding; `near` is of use where all cells have labels."""
    if cells.labels is None:
        return
    all_rows = cells.labelled
    x, before = (cells.embeddings[which][all_rows] for which in (name, next(iter(cells.embeddings))))
    places = [np.searchsorted(all_rows, rows) for rows in samples]
    own = Around(near.rows, near.distances, near.indices)
    if len(all_rows) < cells.n:
        own = around(x, np.concatenate(places))
    of = Population(x, before, cells.labels[all_rows], own)
    for number, rows in enumerate(places):
        if number:
            tell(f", sample {number + 1} of {len(places)}")
        whole = own[1:] if len(rows) == len(x) else None
        graph = scib.SampleGraph(x[rows], of.label[rows], whole)
        for row, value in _of_sample(cells, of, rows, graph):
            yield row._replace(embedding=name), value


def _of_sample(cells: Cells, of: Population, rows: np.ndarray, graph: scib.SampleGraph) -> Iterator[tuple[_Row, float]]:
    alone = scib.LabelledCells(of, rows, np.zeros(len(of.label), int), graph)
    bio = registry.bio_scores(alone)
    yield from _labelled("", "", "bio", bio)
    yield from _labelled("", "", "further", registry.further_scores(alone, of_batches=False))
    for key, codes in cells.batches.items():
        mixed = scib.LabelledCells(of, rows, codes[cells.labelled], graph)
        scores = registry.batch_scores(mixed)
        yield from _labelled("", key, "batch", scores)
        yield from _labelled("", key, "further", registry.further_scores(mixed, of_batches=True))
        yield _Row("", key, "total", "total"), registry.total_score(scores["batch"], bio["bio"])


def _labelled(name: str, key: str, kind: str, scores: dict[str, float]) -> Iterator[tuple[_Row, float]]:
    for metric, value in scores.items():
        yield _Row(name, key, metric, "total" if metric == kind else kind), value


def _summed_up(row: _Row, values: list[float]) -> tuple[Any, ...]:
    return (*row, *interval(np.array(values)))


def _add_control(cells: Cells, gen: np.random.Generator) -> None:
    """Add the baseline with its cells shuffled: what perfect mixing without any structure left scores."""
    if SHUFFLED in cells.embeddings:
        raise InputError(f"an embedding is called '{SHUFFLED}', as the control is; rename it, or leave out controls")
    first = next(iter(cells.embeddings.values()))
    cells.embeddings[SHUFFLED] = first[gen.permutation(len(first))]


def _words(
    cells: Cells, found: dict[_Row, list[float]], anyone: list[np.ndarray], labelled: list[np.ndarray]
) -> list[str]:
    """Return what was sampled, and which scores the data do not define."""
    words = []
    if not scib.is_installed():
        words.append("iLISI is left out: scib-metrics is not installed (pip install 'harmonax[workflow]')")
    if len(anyone) > 1:
        words.append(f"label-free scores are those of {sum(map(len, anyone))} random cells, with 95 % intervals")
    if len(labelled) > 1:
        words.append(
            f"scores with labels are means over {len(labelled)} disjoint random samples of {len(labelled[0])} cells, "
            "with 95 % intervals for samples of that size; LISI and kSIM seek neighbours among all cells, and kBET per "
            "label would be lower with more cells"
        )
    gone: dict[str, list[str]] = {}
    for row, values in found.items():
        several = row.kind == "batch" and len(np.unique(cells.batches[row.batch_key])) > 1
        if several and not np.isfinite(values).any() and row.metric not in gone.setdefault(row.batch_key, []):
            gone[row.batch_key].append(row.metric)
    words += [
        f"no label has enough cells of two batches of '{key}' for {', '.join(metrics)}: there is no mean over them"
        for key, metrics in gone.items()
        if metrics
    ]
    return words
