"""``harmonax map``."""

from __future__ import annotations

from typing import Any

import click

from .terminal import messages
from .values import Names, common_options


@click.command("map", short_help="Map new cells onto an integrated reference.")
@click.argument("source", metavar="IN")
@click.option("-o", "--output", metavar="OUT", required=True, help="Result: .h5ad or .zarr.")
@click.option("--model", metavar="MODEL", required=True, help="The reference's model, from --save-model; or its .h5ad.")
@click.option("--batch-key", type=Names(), multiple=True, help="Batch columns of the new cells.  [default: one batch]")
@click.option(
    "--label-key",
    "--label",
    "label",
    type=Names(),
    multiple=True,
    help="Labels to transfer.  [default: all that the model keeps]",
)
@click.option("--basis", metavar="NAME", help="Entry of obsm that is projected already.  [default: from X]")
@click.option("--layer", metavar="NAME", help="Layer to take instead of X.")
@click.option("--adjusted-basis", metavar="NAME", default="X_pca_harmony", show_default=True, help="Of the result.")
@click.option(
    "--projected-basis", metavar="NAME", default="X_pca_reference", show_default=True, help="Of the uncorrected cells."
)
@click.option(
    "--known-batches",
    type=click.Choice(["learned", "new"]),
    default="learned",
    show_default=True,
    help="Whether batches with the names of the reference's are the same.",
)
@click.option("--ridge-lambda", type=float, default=1.0, show_default=True, help="Ridge penalty of new batches.")
@click.option(
    "--n-iter", type=click.IntRange(min=1), default=2, show_default=True, help="Rounds; 1 is the published method."
)
@click.option(
    "--min-gene-share",
    "--min-genes",
    "min_genes",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of the reference's genes that must be there.",
)
@click.option(
    "--min-confidence", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Below it a label is unknown."
)
@click.option(
    "--target-sum",
    type=float,
    metavar="N",
    help="Counts per cell that IN was normalised to, where genes were left out since.  [default: read from X]",
)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads.  [default: the CPUs it may use]")
@click.option("--max-memory", metavar="SIZE", help="Maximum memory to use, such as 4G.  [default: what is free]")
@click.option(
    "--missing",
    type=click.Choice(["error", "level", "literal"]),
    default="error",
    show_default=True,
    help="What missing batch labels are.",
)
@click.option("--allow-many-levels", is_flag=True, help="Accept columns that look like measurements or barcodes.")
@click.option("--overwrite", is_flag=True, help="Replace an OUT that is there; never IN.")
@common_options
def map_command(source: str, batch_key: tuple[tuple[str, ...], ...], **options: Any) -> None:
    """Map the cells of IN onto an integrated reference, which does not move, and write them to OUT.

    IN is .h5ad or .zarr with counts or log-normalised expression, which is read in pieces. OUT has all that IN has, the
    mapped cells in obsm, and in obs how novel each cell is and the labels transferred from the model.

    \b
    harmonax integrate atlas.h5ad -o corrected.h5ad --batch-key donor --save-model atlas.h5 --save-labels type
    harmonax map new.h5ad -o new_mapped.h5ad --model atlas.h5 --batch-key donor
    """
    with messages(quiet=options["quiet"], verbose=options["verbose"]):
        from ..files.map import MapJob, map_file
        from ..mapping.query import QueryOptions
        from ..tl.map_query import summary

        names = ("model", "output", "basis", "layer", "adjusted_basis", "projected_basis", "overwrite")
        job = MapJob(
            source,
            keys=[name for several in batch_key for name in several],
            also_read=[options["config"]] if options["config"] else [],
            columns={name: options[name] for name in ("missing", "allow_many_levels")},
            **{name: options[name] for name in names},
        )
        how = {name: options[name] for name in ("known_batches", "ridge_lambda", "n_iter", "dtype", "max_memory")}
        labels = [name for several in options["label"] for name in several] or None
        wanted = QueryOptions(
            labels,
            options["min_genes"],
            options["min_confidence"],
            options["target_sum"],
            how | {"n_threads": options["threads"], "out": "lazy"},
        )
        mapped = map_file(job, wanted)
    if not options["quiet"]:
        click.echo(summary(mapped), err=True)
