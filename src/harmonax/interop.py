"""What the R package calls, and all that it may import: its names stay.

A change inside harmonax that moves or renames one of these keeps this module as it is.
"""

from __future__ import annotations

import os
from typing import Any

from .compat.names import params_of
from .engine.checkpoint import Checkpoint
from .engine.run import harmonize
from .errors import HarmonaxError, HarmonaxWarning
from .inputs.columns import design_from_table
from .inputs.roles import reference_levels, role_columns
from .inputs.rows import slabs
from .mapping.build import model_of
from .mapping.serialise import check_place
from .result import HarmonyResult, Status

__all__ = [
    "HarmonaxError",
    "HarmonaxWarning",
    "HarmonyResult",
    "Status",
    "checkpoint_has_seed",
    "corrected_counts",
    "design_from_table",
    "harmonize",
    "model_of",
    "model_path",
    "params_of",
    "reference_levels",
    "role_columns",
    "slabs",
]


def model_path(path: str | None) -> str | None:
    """Return the path that a model is to be saved to; refuse, before any work, one that it cannot be saved to."""
    if path is not None:
        check_place(path, overwrite=True)
    return path


def checkpoint_has_seed(directory: str | os.PathLike[str]) -> bool:
    """Return whether a checkpoint is there, whose seed a run resumes with."""
    return Checkpoint(directory).seed is not None


def corrected_counts(X: Any, batches: Any, assignment: Any, **options: Any) -> Any:
    """Return the counts X (N, G) without the effect of the batches, a table, on soft clusters (N, K); CSR."""
    # Only who corrects counts waits for these.
    from anndata import AnnData

    from .pp.counts import correct_counts

    adata = AnnData(X, obs=batches.set_axis(batches.index.astype(str), axis=0))
    correct_counts(adata, list(batches.columns), counts_layer="X", assignment=assignment, progress=False, **options)
    return adata.layers["counts_corrected"]
