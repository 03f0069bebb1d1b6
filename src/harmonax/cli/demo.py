"""``harmonax demo``."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from .terminal import messages


@click.command(short_help="Make a data set with batch effects, correct it, and show the difference.")
@click.option("-o", "--output", metavar="DIR", default="harmonax-demo", show_default=True, help="Where the files go.")
@click.option("--cells", type=click.IntRange(min=100), metavar="N", help="Number of cells.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--open", "show", is_flag=True, help="Open the report in a browser, where there is a screen.")
@click.option("--quiet", is_flag=True, help="Errors only.")
def demo(output: str, cells: int | None, seed: int, show: bool, quiet: bool) -> None:
    """Make counts of several batches, run PCA and the correction, and write the h5ad, a figure and a report to DIR."""
    with messages(quiet=quiet, verbose=False):
        from ..demo import run_demo

        size: dict[str, Any] = {} if cells is None else {"n_cells": cells}
        made = run_demo(output, seed=seed, quiet=quiet, **size)
    if show and made.report is not None and _has_screen():
        import webbrowser

        webbrowser.open(made.report.as_uri())


def _has_screen() -> bool:
    # Without one, a browser that works in the terminal would take it over.
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
