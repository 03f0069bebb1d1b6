"""What the steps work on, and what each of them leaves in the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..pp.correctors import corrector_of
from .options import WorkflowOptions

if TYPE_CHECKING:
    from anndata import AnnData

BASIS = "X_pca"
UMAP, UMAP_UNCORRECTED = "X_umap", "X_umap_uncorrected"


class Skip(Exception):
    """Raised by a step that finds it cannot be done, or need not, with the words that say so."""


@dataclass(eq=False)
class State:
    """The data on their way through the steps.

    Attributes
    ----------
    adata
        The data; a step may put others in their place.
    options
        What was asked for.
    counts
        Where the raw counts were found: see `counts.where_counts`.
    progress
        What Harmony's own progress is given.
    beyond
        Whether the expression is beyond memory (see `beyond`): after the PCA there is none.
    """

    adata: AnnData
    options: WorkflowOptions
    counts: str | None = None
    progress: Any = False
    beyond: bool = False

    @property
    def adjusted(self) -> str:
        """Name of the corrected embedding in ``obsm``."""
        return corrector_of(self.options.corrector).adjusted_basis


@dataclass(frozen=True)
class Step:
    """One step of the workflow.

    Attributes
    ----------
    name
        As in `options.STEPS`.
    work
        Does it, and returns what there is to say about it; raises `Skip` where it cannot.
    makes
        Where the data have its result: parts of an AnnData, such as ``obsm/X_pca``.
    after
        The steps from whose results it works: where one of them is done anew, so is this.
    reads
        Options that change its result.
    """

    name: str
    work: Callable[[State], str]
    makes: tuple[str, ...]
    after: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Done:
    """How a step went.

    Attributes
    ----------
    step
        Its name.
    status
        "done", "kept" (the input's result is used) or "skipped".
    note
        What there is to say about it.
    seconds, cpu_seconds, peak_memory_bytes
        What it took, by the clock and on all CPUs; the most memory the process held during it (0 where the system
        does not tell).
    resumed
        Whether it was done by an earlier, interrupted call.
    """

    step: str
    status: str
    note: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    resumed: bool = field(default=False, compare=False)
