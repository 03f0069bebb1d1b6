"""What the R package calls, and all that it may import: its names stay.

A change inside harmonax that moves or renames one of these keeps this module as it is.
"""

from __future__ import annotations

import os

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
