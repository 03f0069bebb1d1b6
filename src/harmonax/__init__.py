"""harmonax: batch correction for single-cell data, Harmony and Harmony2, exact and fast.

A run goes from `inputs` (what users pass) through `engine` (one run) and `cells` (where the cells live) to `algorithm`
(the method); `pp`, `tl`, `pl`, `compat`, `files`, `workflow` and `cli` are interfaces to it. Each folder's ``__init__``
says what its files do.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from . import _interpreter  # noqa: F401
from .compat import moved
from .compat.harmonypy import run_harmony
from .engine.run import harmonize
from .mapping import HarmonyModel
from .params import HarmonyParams, harmony1, harmony2
from .result import HarmonyResult, Status
from .system.version import __version__

if TYPE_CHECKING:
    from . import datasets, pl, pp, report, tl, workflow
    from .compat.sklearn import Harmony

__all__ = [
    "Harmony",
    "HarmonyModel",
    "HarmonyParams",
    "HarmonyResult",
    "Status",
    "__version__",
    "datasets",
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

moved.install()

# Loaded when asked for, so that ``import harmonax`` stays quick.
_SUBPACKAGES = frozenset({"datasets", "evaluation", "pl", "pp", "report", "tl", "workflow"})

# ``from harmonax import *`` must not ask for scikit-learn where it is not installed.
if find_spec("sklearn") is None:
    __all__.remove("Harmony")


def __getattr__(name: str) -> Any:
    """Load interfaces and scikit-learn when they are asked for, not before."""
    if name in _SUBPACKAGES:
        return import_module(f".{name}", __name__)
    if name == "Harmony":
        from .compat.sklearn import Harmony

        return Harmony
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
