"""What is evaluated: embeddings, batch columns and labels of the same cells, checked before any work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError, warn
from ..inputs.columns import absent, design_from_table
from ..inputs.embedding import read_embedding
from ..inputs.levels import native
from .variables import UNLABELLED as UNLABELLED

# Fewer cells have no neighbourhoods to speak of; below the second number, scores are rough.
FEWEST_CELLS, FEW_CELLS = 30, 100
# Cell types have names, and hardly more numbers than this.
_MAX_NUMBERS = 100


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells that have a batch."""

    embeddings: dict[str, np.ndarray]  # (n, d) float32 each; the first is the baseline
    batches: dict[str, np.ndarray]  # code of each cell's level, (n,), for each batch variable
    labels: np.ndarray | None  # code of each cell's label, (n,), -1 where it has none; None without labels
    n_cells: int  # cells before any were left out
    notes: list[str]  # what was left out, and what cannot be scored

    @property
    def n(self) -> int:
        return len(next(iter(self.batches.values())))

    @property
    def combined(self) -> np.ndarray:
        """Code of each cell's combination of levels of all batch variables, (n,)."""
        return np.unique(np.column_stack(list(self.batches.values())), axis=0, return_inverse=True)[1].ravel()

    @property
    def labelled(self) -> np.ndarray:
        """Rows of the cells that have a label."""
        return np.flatnonzero(self.labels >= 0) if self.labels is not None else np.array([], np.int64)


def read_cells(
    embeddings: Mapping[str, Any],
    batches: pd.DataFrame,
    labels: Any,
    label_key: str,
    unlabelled: Iterable[str],
    allow_many_levels: bool,
    *,
    literal: bool = False,
) -> Cells:
    """Check what was passed, and leave out cells without a batch, with a warning."""
    n = len(batches)
    arrays = {str(name): _embedding(array, str(name), n) for name, array in embeddings.items()}
    if not arrays:
        raise InputError("no embedding given; name at least one")
    keep = _with_batches(batches, literal)
    if keep.sum() < FEWEST_CELLS:
        raise InputError(f"there are {int(keep.sum())} cells with a batch; at least {FEWEST_CELLS} are needed")
    notes = []
    if not keep.all():
        notes.append(f"{int((~keep).sum())} of {n} cells have no batch and are left out")
        warn(notes[0])
    columns = list(batches.columns)
    design = design_from_table(batches[keep], columns, allow_many_levels=allow_many_levels, missing="literal")
    own = design.joint_levels[design.joint] - design.offsets[:-1]
    codes = None if labels is None else _labels(labels, n, label_key, unlabelled)[keep]
    cells = Cells(
        {name: np.ascontiguousarray(array[keep]) for name, array in arrays.items()},
        {name: own[:, f] for f, name in enumerate(design.variables)},
        codes if codes is not None and (codes >= 0).sum() >= FEWEST_CELLS else None,
        n,
        notes,
    )
    notes += _words(cells, codes, label_key)
    return cells


def _with_batches(batches: pd.DataFrame, literal: bool) -> np.ndarray:
    """Return which cells have a level of every batch variable; see `columns.absent`."""
    keys = [str(key) for key in batches.columns]
    if not keys:
        raise InputError("no batch column given; name at least one")
    for key in keys:
        if keys.count(key) > 1:
            raise InputError(f"batch column '{key}' is given more than once; name each once")
    keep = np.ones(len(batches), bool)
    for key in batches.columns:
        gaps = absent(native(batches[key]), literal=literal)
        keep &= ~gaps
        if gaps.all():
            raise InputError(f"batch column '{key}' has no value for any cell; name another")
    return keep


def _labels(labels: Any, n: int, label_key: str, unlabelled: Iterable[str]) -> np.ndarray:
    """Return codes of labels in sorted order, -1 for none."""
    column = native(pd.Series(np.asarray(labels, object)))
    if len(column) != n:
        raise InputError(f"there are {len(column)} labels for {n} cells; allowed is one per cell")
    none = {str(word).strip().casefold() for word in unlabelled}
    text = column.astype(str).str.strip()
    has = np.asarray(column.notna() & ~text.str.casefold().isin(none))
    codes = np.full(n, -1)
    codes[has], levels = pd.factorize(text[has], sort=True)
    numbers = pd.api.types.is_numeric_dtype(column.infer_objects().dtype)
    if len(levels) > (_MAX_NUMBERS if numbers else max(_MAX_NUMBERS, has.sum() // 2)):
        raise InputError(
            f"label column '{label_key}' has {len(levels)} different values in {int(has.sum())} cells: it looks like a "
            "measurement or like cell barcodes, not like cell types; name another"
        )
    return codes


def _words(cells: Cells, labels: np.ndarray | None, label_key: str) -> list[str]:
    """Return what the user should know about what is, or cannot be, scored."""
    words = []
    if cells.n < FEW_CELLS:
        words.append(f"{cells.n} cells are few: the scores are rough")
    for key, codes in cells.batches.items():
        if len(np.unique(codes)) < 2:
            words.append(f"'{key}' has one batch only: nothing says how batches mix")
    if labels is None:
        return words
    has = labels >= 0
    if not has.all():
        words.append(
            f"{int((~has).sum())} of {cells.n} cells have no label in '{label_key}': no part in scores with labels"
        )
    if has.sum() < FEWEST_CELLS:
        words.append(
            f"{int(has.sum())} cells have a label in '{label_key}', {FEWEST_CELLS} are needed: no scores with labels"
        )
    elif len(np.unique(labels[has])) < 2:
        words.append(f"'{label_key}' has one label only: nothing says how labels stay apart, and there is no total")
    return words


def _embedding(value: Any, name: str, n: int) -> np.ndarray:
    """Return an embedding as scib-metrics is given it, or refuse it."""
    array = read_embedding(value, what=f"embedding '{name}'", min_cells=0).array()
    if len(array) != n:
        raise InputError(f"embedding '{name}' has shape {array.shape}; allowed is ({n}, features): one row per cell")
    return array.astype(np.float32)
