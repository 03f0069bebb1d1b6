"""Optional dependencies: imported when needed, and named with their install command where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import MissingExtraError


def need(module: str, extra: str) -> Any:
    """Import and return a module that an extra of this package brings.

    Examples
    --------
    >>> need("json", "workflow").dumps([1])
    '[1]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{module.split('.')[0]} is not installed; it comes with: pip install 'harmonax[{extra}]'"
        ) from None
