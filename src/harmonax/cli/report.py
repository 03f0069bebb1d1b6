"""``harmonax report``."""

from __future__ import annotations

import logging

import click

from .terminal import messages
from .values import Names, common_options, flat


@click.command(short_help="Write what a file says about its correction as one HTML page.")
@click.argument("source", metavar="IN")
@click.option("-o", "--output", metavar="HTML", default="report.html", show_default=True, help="The page.")
@click.option("--title", metavar="TEXT", help="Heading of the page.  [default: the name of IN]")
@click.option("--color-by", type=Names(), multiple=True, help="Columns of obs to colour by.  [default: all]")
@click.option("--genes", type=Names(), multiple=True, help="Genes to colour by.  [default: the top markers]")
@click.option(
    "--max-points",
    type=click.IntRange(min=1),
    default=100_000,
    show_default=True,
    help="Maximum number of cells on the maps; of more, a random sample.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the sample.")
@click.option("--overwrite", is_flag=True, help="Replace a page that is there.")
@common_options
def report(
    source: str,
    output: str,
    title: str | None,
    color_by: tuple[tuple[str, ...], ...],
    genes: tuple[tuple[str, ...], ...],
    max_points: int,
    seed: int,
    overwrite: bool,
    config: str | None,
    quiet: bool,
    verbose: bool,
) -> None:
    """Write a page on the correction in IN (.h5ad or .zarr): can it be trusted, and why.

    It shows what IN has, and names the command that makes each part it lacks. One file below 10 MB, which opens
    in any browser without a network.

    \b
    harmonax report corrected.h5ad -o report.html
    harmonax report corrected.h5ad -o report.html --color-by batch,cell_type --genes CD3E,MS4A1
    """
    with messages(quiet=quiet, verbose=verbose):
        from ..report import write_report
        from ..system.memory import human

        place = write_report(
            source,
            output,
            title=title,
            color_by=flat(color_by) or None,
            genes=flat(genes) or None,
            max_points=max_points,
            overwrite=overwrite,
            rng=seed,
        )
        logging.getLogger("harmonax").info("%s written, %s", place, human(place.stat().st_size))
