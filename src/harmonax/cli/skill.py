"""``harmonax skill``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Print the path of SKILL.md: how to choose, run, judge and report.")
def skill() -> None:
    """Print the path of SKILL.md, which tells programs and people how to choose, run, judge and report."""
    click.echo(Path(__file__).resolve().parents[1] / "SKILL.md")
