"""``harmonax check``."""

from __future__ import annotations

from typing import Any

import click

from .terminal import messages
from .values import Names, common_options, flat, missing_option

_DEFAULT_BASIS = "X_pca"


@click.command(short_help="Find out, before correcting, whether it is needed and possible.")
@click.argument("source", metavar="IN")
@click.option("--batch-key", type=Names(), multiple=True, required=True, help="Batch columns, each checked on its own.")
@click.option("--label-key", metavar="NAME", help="Column of cell types.")
@click.option(
    "--condition-key", type=Names(), multiple=True, help="Columns of what will be compared: treatment, disease."
)
@click.option("--basis", metavar="NAME", default=_DEFAULT_BASIS, show_default=True, help="Embedding in obsm.")
@click.option("-o", "--output", metavar="JSON", help="Also write the findings and tables here.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="For shuffling and sampling.")
@click.option("--max-cells", type=int, default=20_000, show_default=True, help="Measure a sample above so many cells.")
@missing_option
@click.option("--overwrite", is_flag=True, help="Replace a JSON that is there; never IN.")
@common_options
def check(
    source: str,
    batch_key: tuple[tuple[str, ...], ...],
    condition_key: tuple[tuple[str, ...], ...],
    output: str | None,
    **options: Any,
) -> None:
    """Find out whether the batches in IN differ, and whether that can be distinguished from biology.

    IN is .h5ad or .zarr, of which X is not read. The exit code is 0 whatever the verdict.

    \b
    harmonax check atlas.h5ad --batch-key donor --label-key cell_type --condition-key disease
    """
    with messages(quiet=options["quiet"], verbose=options["verbose"]):
        from .. import io
        from ..tl.check import check as run_check

        also_read = [options["config"]] if options["config"] else []
        inputs = [source, *also_read]
        place = None
        if output is not None:
            place = io.check_destination(output, inputs=inputs, overwrite=options["overwrite"])
        # Without principal components the design alone is checked; an embedding that was named must be there.
        wanted = {"optional" if options["basis"] == _DEFAULT_BASIS else "bases": [options["basis"]]}
        with io.Unchanged(source):
            made = run_check(
                io.read_parts(source, **wanted),
                flat(batch_key),
                label_key=options["label_key"],
                condition_key=flat(condition_key),
                basis=options["basis"],
                rng=options["seed"],
                max_cells=options["max_cells"],
                missing=options["missing"],
            )
        if place is not None:
            with io.whole_or_nothing(place, overwrite=options["overwrite"], needed=0) as (part,):
                io.write_json(part, made.to_record())
    click.echo(str(made))
