"""harmonax: batch correction for single-cell data, Harmony and Harmony2, exact and fast."""

from __future__ import annotations

from . import pl, pp, report, tl, workflow
from .engine import harmonize
from .harmonypy import run_harmony
from .mapping import HarmonyModel
from .params import HarmonyParams, harmony1, harmony2
from .result import HarmonyResult, Status
from .version import __version__

__all__ = [
    "HarmonyModel",
    "HarmonyParams",
    "HarmonyResult",
    "Status",
    "__version__",
    "harmonize",
    "harmony1",
    "harmony2",
    "pl",
    "pp",
    "report",
    "run_harmony",
    "tl",
    "workflow",
]
