"""Loaded before anything else: in a subinterpreter NumPy stops with words that say nothing of the reason."""

from __future__ import annotations

import contextlib
import importlib
import sys

with contextlib.suppress(ModuleNotFoundError):
    _interpreters = importlib.import_module("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
    if _interpreters.get_current() != _interpreters.get_main():
        raise ImportError(
            "harmonax cannot be used in a subinterpreter: NumPy and its own kernels are made for one interpreter per "
            "process; use the main interpreter, or another process"
        )
