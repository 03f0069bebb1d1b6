"""The program around a run: Python's logging, and scanpy's settings where scanpy is loaded (it is never imported)."""

from __future__ import annotations

import logging
import sys
from typing import Any

logger = logging.getLogger("harmonax")

# scanpy's verbosity from which messages of a level are shown.
_SHOWN_FROM = {logging.ERROR: 0, logging.WARNING: 1, logging.INFO: 2}


def say(level: int, message: str) -> None:
    """Log through the "harmonax" logger, as much as scanpy's verbosity asks for.

    A level set on that logger itself wins over scanpy's. Where the logger would drop what scanpy's verbosity asks for,
    the line goes where scanpy's lines go.
    """
    settings = _scanpy_settings()
    if settings is None or logger.level != logging.NOTSET:
        logger.log(level, message)
    elif int(settings.verbosity) >= _SHOWN_FROM[level]:
        if logger.isEnabledFor(level):
            logger.log(level, message)
        else:
            sys.modules["scanpy"].logging.info(message)


def chosen_threads() -> int | None:
    """Return the thread count that the user set in ``scanpy.settings.n_jobs``; None: not set, or all CPUs (-1).

    Only a changed value counts: scanpy's default (1 up to 1.12, 4 since) is not the user's choice. Up to 1.12 a 1
    that was set cannot be distinguished from the default.
    """
    settings = _scanpy_settings()
    if settings is None:
        return None
    changed = getattr(settings, "model_fields_set", None)
    was_set = "n_jobs" in changed if changed is not None else settings.n_jobs != 1
    return int(settings.n_jobs) if was_set and settings.n_jobs > 0 else None


def _scanpy_settings() -> Any:
    return getattr(sys.modules.get("scanpy"), "settings", None)
