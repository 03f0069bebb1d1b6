"""What a run reads: an embedding, the batch columns beside it, and the cells' names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from .formats import Format


@dataclass(frozen=True, eq=False)
class Source:
    """An embedding as read from a file.

    Attributes
    ----------
    path, format
        Where it came from.
    Z
        The embedding, (N, d): an array, or `Rows` of the file.
    table
        The batch columns asked for and no others, N rows, indexed by the cells' names or by 0..N-1.
    named
        Whether the index holds names.
    features
        Names of the d columns, where the file has some.
    notes
        What the user may want to know about the reading.
    parts
        The files, where they are several; `path` is the first.
    """

    path: Path
    format: Format
    Z: Any
    table: pd.DataFrame
    named: bool
    features: list[str] | None = None
    notes: tuple[str, ...] = ()
    parts: tuple[Path, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether it is one AnnData file, all of which goes into a result of that kind."""
        return self.format.annotated and not self.parts
