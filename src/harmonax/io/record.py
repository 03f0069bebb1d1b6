"""The record of a run: what goes to run.json and to ``uns["harmonax"]``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

_PACKAGES = ("numpy", "scipy", "pandas", "anndata", "h5py")


def file_facts(path: Path) -> dict[str, Any]:
    """Return the path, size and time of a file (of a directory: its time)."""
    facts = path.stat()
    size = {} if path.is_dir() else {"bytes": facts.st_size}
    return {"path": str(path.resolve()), **size, "modified": facts.st_mtime}


def versions() -> dict[str, str]:
    """Return the versions of the packages behind a run from a file."""
    return {name: version(name) for name in _PACKAGES}


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as JSON that every reader takes: nan and infinity become null."""
    path.write_text(json.dumps(_plain(record), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def recorded_output(path: Path) -> str | None:
    """Return the output whose record a file holds; None where it is not a record of ours, or not there."""
    if not path.is_file():
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["output"]["path"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float)):
        return value
    return str(value)
