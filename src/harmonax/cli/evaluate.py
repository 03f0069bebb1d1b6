"""``harmonax evaluate``."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .terminal import messages
from .values import Names, common_options, missing_option

if TYPE_CHECKING:
    from ..evaluation.scores.table import Evaluation

_FIGURES = (".png", ".pdf", ".svg")


@click.command(short_help="Score how well embeddings mix batches and keep cell types.")
@click.argument("source", metavar="IN")
@click.option("-o", "--output", metavar="TSV", help="Table of the scores.  [default: printed only]")
@click.option("--batch-key", type=Names(), multiple=True, required=True, help="Batch columns, scored one by one.")
@click.option("--label-key", metavar="NAME", help="Column of cell types.  [default: label-free scores only]")
@click.option(
    "--compare",
    "--embedding",
    "--adjusted-basis",
    "embedding",
    type=Names(),
    multiple=True,
    help="Embeddings in obsm.  [default: those of known methods that are there]",
)
@click.option(
    "--basis",
    "--baseline",
    "baseline",
    metavar="NAME",
    default="X_pca",
    show_default=True,
    help="The uncorrected embedding.",
)
@click.option(
    "--max-cells",
    type=click.IntRange(min=1),
    metavar="N",
    default=12_000,
    show_default=True,
    help="Above so many, random cells are scored, with an interval.",
)
@click.option("--controls", is_flag=True, help="Also score the baseline with its cells shuffled.")
@click.option("--allow-many-levels", is_flag=True, help="Accept columns that look like measurements or barcodes.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--figure", metavar="PATH", help="Bars of the scores: .png, .pdf or .svg.")
@missing_option
@click.option("--overwrite", is_flag=True, help="Replace files that are there; never IN.")
@common_options
def evaluate(source: str, batch_key: tuple[tuple[str, ...], ...], **options: Any) -> None:
    """Score embeddings of IN (.h5ad or .zarr) side by side: before against after, and other methods' where IN has them.

    With --label-key scib-metrics' scores of batches and cell types and their total, and further ones that enter no mean
    (CiLISI, kSIM, isolated labels, scGraph); always scores that need no labels:
    iLISI, kBET, variance that batches do not explain, neighbours kept within each batch. All from 0, worst, to 1. Only
    the embeddings and the columns of IN are read. The table goes to the screen.

    \b
    harmonax evaluate corrected.h5ad --batch-key donor --label-key cell_type -o metrics.tsv
    """
    if options["figure"] and Path(options["figure"]).suffix.lower() not in _FIGURES:
        raise click.UsageError(f"--figure {options['figure']}: allowed are {', '.join(_FIGURES)}")
    with messages(quiet=options["quiet"], verbose=options["verbose"]):
        from .. import io
        from ..tl.evaluate import evaluate_file

        also_read = [options["config"]] if options["config"] else []
        wanted = [path for path in (options["output"], options["figure"]) if path]
        places = {
            path: io.check_destination(path, inputs=[source, *also_read, *wanted[:i]], overwrite=options["overwrite"])
            for i, path in enumerate(wanted)
        }
        with io.Unchanged(source):
            found = evaluate_file(
                source,
                _joined(batch_key),
                label_key=options["label_key"],
                embeddings=_joined(options["embedding"]) or None,
                baseline=options["baseline"],
                max_cells=options["max_cells"],
                rng=options["seed"],
                allow_many_levels=options["allow_many_levels"],
                controls=options["controls"],
                missing=options["missing"],
                progress=False if options["quiet"] else None,
            )
        _write(found, places, options)
    click.echo(str(found))


def _joined(names: tuple[tuple[str, ...], ...]) -> list[str]:
    return [name for several in names for name in several]


def _write(found: Evaluation, places: dict[str, Path], options: dict[str, Any]) -> None:
    """Write the table and the figure, both whole or neither."""
    if not places:
        return
    from .. import io

    with io.whole_or_nothing(*places.values(), overwrite=options["overwrite"], needed=1 << 20) as parts:
        for path, part in zip(places, parts, strict=True):
            if path == options["output"]:
                found.scores.to_csv(part, sep="\t", index=False, lineterminator="\n")
                continue
            from ..pl import metrics

            with tempfile.TemporaryDirectory() as folder:
                # The end of the name tells the format.
                drawn = Path(folder) / Path(path).name
                metrics(found, show=False, save=drawn)
                shutil.copyfile(drawn, part)
