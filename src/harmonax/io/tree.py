"""Nested dictionaries of arrays and texts, alone in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .annotated import quiet
from .formats import AnnotatedFormat


def write_tree(path: Path, kind: AnnotatedFormat, tree: Mapping[str, Any], room: int) -> None:
    """Write a nested dictionary, as anndata writes those in ``uns``; `room` is about how many bytes it takes."""
    from anndata.io import write_elem

    with quiet(), kind.create(path, room) as root:
        for name, value in tree.items():
            write_elem(root, name, value)


def read_tree(path: Path, kind: AnnotatedFormat, only: Sequence[str] | None = None) -> dict[str, Any]:
    """Read what `write_tree` wrote, or only some of it."""
    from anndata.io import read_elem

    with quiet(), kind.open(path) as root:
        return {str(name): read_elem(root[name]) for name in root if only is None or name in only}
