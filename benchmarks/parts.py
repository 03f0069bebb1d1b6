"""Tables of a benchmark's parts, shown line by line as they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path


def show(tables: Mapping[str, Callable[[], Iterable[str]]], out: Path | None) -> None:
    """Print each part under its name, and write all of it to a file where one is given."""
    lines = []
    for name, table in tables.items():
        for line in ("", f"### {name}", "", *table()):
            lines.append(line)
            print(line, flush=True)
    if out is not None:
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")
