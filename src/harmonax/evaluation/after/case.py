"""What is diagnosed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd


@dataclass(frozen=True, eq=False)
class Case:
    """What is diagnosed: N cells before and after, and what is known of them.

    Attributes
    ----------
    before, after
        Embeddings, (N, d) and (N, any).
    batch, levels
        Code of each cell's batch, (N,), and the batches' names; of several batch variables, of their combinations.
    variables
        Code of each cell's level, (N,), of each batch variable by its name.
    labels
        Name of each cell's type, "" for none; None: no types are known.
    groups
        Name of each cell's group, by which results are shown; None: the labels, else one group.
    expression, markers
        Expression (N cells x genes) of the genes of `markers`, which are named by cell type.
    status, last_change
        How the run ended, if known: "converged", "max_iterations" or "".
    hvg_per_batch
        Whether variable genes were chosen within batches; None: not known.
    known_method
        Whether `after` is Harmony's, for which limits on neighbours kept are known. Another method's embedding differs
        from `before` in more than the correction.
    """

    before: np.ndarray
    after: np.ndarray
    batch: np.ndarray
    levels: list[str]
    variables: Mapping[str, np.ndarray] = field(default_factory=dict)
    labels: np.ndarray | None = None
    groups: np.ndarray | None = None
    expression: pd.DataFrame | None = None
    markers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    status: str = ""
    last_change: float = float("nan")
    hvg_per_batch: bool | None = None
    known_method: bool = True
    sweep: pd.DataFrame | None = None  # the table of the sweep that chose this correction, for advice

    def take(self, rows: np.ndarray) -> Case:
        """Return the case of some of the cells."""
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in ("before", "after", "batch", "labels", "groups"):
            parts[name] = None if parts[name] is None else parts[name][rows]
        parts["variables"] = {name: codes[rows] for name, codes in self.variables.items()}
        parts["expression"] = None if self.expression is None else self.expression.iloc[rows]
        return Case(**parts)
