"""``harmonax counts``."""

from __future__ import annotations

from typing import Any

import click

from .terminal import messages
from .values import Names, common_options


@click.command(short_help="Remove batch effects from counts, gene by gene.")
@click.argument("source", metavar="IN")
@click.option("-o", "--output", metavar="OUT", required=True, help="Result: .h5ad or .zarr.")
@click.option(
    "--batch-key", type=Names(), multiple=True, help="Batch columns.  [default: those of the correction in IN]"
)
@click.option("--counts-layer", metavar="NAME", help="Where the counts are: X, or a layer.  [default: counts, or X]")
@click.option("--decimals", is_flag=True, help="Take counts with decimals: ambient RNA removed, EM counts, TPM.")
@click.option("--layer-added", metavar="NAME", default="counts_corrected", show_default=True, help="Of the result.")
@click.option("--rates", is_flag=True, help="Scale counts instead of drawing whole numbers; the result has decimals.")
@click.option("--ridge-lambda", type=float, default=1.0, show_default=True, help="Ridge penalty of effects, in counts.")
@click.option("--alpha", type=float, default=0.2, show_default=True, help="The same, relative to the expected counts.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed gives the same bits."
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads.  [default: the CPUs it may use]")
@click.option("--overwrite", is_flag=True, help="Replace an OUT that is there; never IN.")
@common_options
def counts(source: str, batch_key: tuple[tuple[str, ...], ...], **options: Any) -> None:
    """Remove batch effects from the counts in IN, on the soft clusters of its correction, and write all to OUT.

    IN is .h5ad or .zarr as harmonax integrate writes it; its counts are read in pieces. OUT has all that IN has, and
    the corrected counts in layers. They are for looking, markers and models that need counts; not for testing between
    the batches that were corrected.

    \b
    harmonax integrate cells.h5ad -o corrected.h5ad --batch-key donor
    harmonax counts corrected.h5ad -o counts.h5ad
    """
    with messages(quiet=options["quiet"], verbose=options["verbose"]):
        from ..files.counts import CountsJob, correct_counts_file

        names = ("output", "counts_layer", "decimals", "rates", "ridge_lambda", "alpha", "layer_added", "overwrite")
        job = CountsJob(
            source,
            keys=[name for several in batch_key for name in several],
            also_read=[options["config"]] if options["config"] else [],
            **{name: options[name] for name in names},
        )
        progress = False if options["quiet"] else None
        correct_counts_file(job, rng=options["seed"], n_threads=options["threads"], progress=progress)
