"""``harmonax tune``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from .terminal import messages
from .values import Names, Numbers, column_options, common_options, flat, roles_of

if TYPE_CHECKING:
    from anndata import AnnData

    from ..tl.tune import Tuning

FIGURES = (".png", ".pdf", ".svg")


@click.command(short_help="Learn how strongly to correct, and correct with it.")
@click.argument("source", metavar="IN")
@click.option("-o", "--output", metavar="OUT", required=True, help="Result: .h5ad or .zarr.")
@click.option(
    "--batch-key", type=Names(), multiple=True, required=True, help="Batch columns; several are separate variables."
)
@click.option("--basis", metavar="NAME", default="X_pca", show_default=True, help="Embedding in obsm.")
@click.option(
    "--adjusted-basis",
    metavar="NAME",
    default="X_pca_harmony",
    show_default=True,
    help="Where in obsm the result goes.",
)
@click.option(
    "--weights", type=Numbers(), help="Weights of preservation, a run of learning each.  [default: 0.3,1,3,10]"
)
@click.option("--steps", type=click.IntRange(min=1), default=30, show_default=True, help="Steps of learning.")
@click.option("--learning-rate", type=float, default=0.1, show_default=True, help="How far a step goes.")
@click.option(
    "--max-cells",
    type=click.IntRange(min=30),
    default=2000,
    show_default=True,
    help="Learn from a sample above so many.",
)
@click.option("--flavor", type=click.Choice(["harmony2", "harmony1"]), default="harmony2", show_default=True)
@click.option("--n-clusters", type=click.IntRange(min=1), help="Soft clusters.  [default: cells / 30, from 2 to 100]")
@click.option(
    "--max-iter-harmony", type=click.IntRange(min=1), default=50, show_default=True, help="Maximum number of rounds."
)
@column_options
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads.  [default: the CPUs it may use]")
@click.option("--figure", metavar="PATH", help="The trade-off: .png, .pdf or .svg.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there; never IN.")
@common_options
def tune(source: str, batch_key: tuple[tuple[str, ...], ...], **options: Any) -> None:
    """Learn theta, sigma and the ridge penalty of Harmony without labels, and write the correction of IN to OUT.

    Batches should mix, and each batch should keep its own neighbourhoods: learned by gradient on a sample of the cells
    for several weights of the second, then judged on the exact engine's results, with the defaults among them. The
    table of the trade-off goes to the screen, and with the choice into uns["harmonax_tune"] of OUT.

    \b
    harmonax tune atlas.h5ad -o corrected.h5ad --batch-key donor --figure tradeoff.png
    """
    figure = options["figure"]
    if figure and not figure.lower().endswith(FIGURES):
        raise click.UsageError(f"--figure {figure}: allowed are {', '.join(FIGURES)}")
    with messages(quiet=options["quiet"], verbose=options["verbose"]):
        found = _run(source, flat(batch_key), options)
    click.echo(str(found))


def _run(source: str, keys: list[str], options: dict[str, Any]) -> Tuning:
    from ..tl.tune import tune as run_tune

    given = {name: options[name] for name in _PASSED}
    given |= {} if options["weights"] is None else {"weights": options["weights"]}
    return chosen(run_tune, source, keys, given, options)


def chosen(
    choose: Callable[..., Any],
    source: str,
    keys: list[str],
    given: dict[str, Any],
    options: dict[str, Any],
) -> Any:
    """Correct IN by a function that chooses parameters, showing how far it is on a terminal, and write the result."""
    how = roles_of(options, keys) | {"n_threads": options["threads"], "rng": options["seed"]}
    with corrected(source, options) as (adata, keep):
        found = choose(adata, keys, **given, **how, progress=False if options["quiet"] else None)
        keep(found)
    return found


@contextlib.contextmanager
def corrected(source: str, options: dict[str, Any]) -> Iterator[tuple[AnnData, Callable[[Any], None]]]:
    """Read IN, and give what writes it to OUT with the figure of what was found, both whole or neither."""
    from .. import io
    from ..workflow.inputs import read

    also_read = [options["config"]] if options["config"] else []
    output, figure = options["output"], options["figure"]
    # A bare table could not hold the trade-off beside the embedding.
    kind = io.format_of(output, io.ANNOTATED)
    io.check_writable(kind)
    wanted = [path for path in (figure, output) if path]
    places = [
        io.check_destination(path, inputs=[source, *also_read, *wanted[:i]], overwrite=options["overwrite"])
        for i, path in enumerate(wanted)
    ]
    with io.Unchanged(source):
        adata = read(source)

    def keep(found: Any) -> None:
        with io.whole_or_nothing(*places, overwrite=options["overwrite"], needed=0) as parts:
            if figure:
                _draw(found, figure, parts[0])
            kind.write(parts[-1], adata)

    yield adata, keep


_PASSED = (
    *("basis", "adjusted_basis", "steps", "learning_rate", "max_cells", "flavor", "n_clusters"),
    *("max_iter_harmony", "combine_keys", "missing", "allow_many_levels"),
)


def _draw(found: Any, figure: str, part: Any) -> None:
    import shutil
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        # The end of the name tells the format.
        drawn = Path(folder) / Path(figure).name
        found.pareto(show=False, save=drawn)
        shutil.copyfile(drawn, part)
