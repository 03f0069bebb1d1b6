"""``harmonax sweep``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .terminal import messages
from .tune import FIGURES, chosen
from .values import Names, Numbers, column_options, common_options, flat

if TYPE_CHECKING:
    from ..tl.sweep import Sweep


class _Clusters(Numbers):
    """Whole numbers."""

    name = "integer[,integer...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        numbers = super().convert(value, param, ctx)
        each = numbers if isinstance(numbers, tuple) else (numbers,)
        if any(number != int(number) for number in each):
            self.fail(f"{value!r} is not a whole number or a list of them with commas", param, ctx)
        return tuple(int(number) for number in each)


@click.command(short_help="Try several parameters, judge each result, and keep the best.")
@click.argument("source", metavar="IN")
@click.option("-o", "--output", metavar="OUT", required=True, help="Result: .h5ad or .zarr.")
@click.option(
    "--batch-key", type=Names(), multiple=True, required=True, help="Batch columns; several are separate variables."
)
@click.option("--theta", type=Numbers(), default="0.5,1,2,4,8", show_default=True, help="Values of theta to try.")
@click.option("--sigma", type=Numbers(), default="0.05,0.1,0.2", show_default=True, help="Values of sigma to try.")
@click.option("--n-clusters", type=_Clusters(), help="Numbers of soft clusters.  [default: cells / 30, from 2 to 100]")
@click.option("--max-runs", type=click.IntRange(min=1), default=30, show_default=True, help="Maximum number of runs.")
@click.option("--label-key", metavar="NAME", help="Column of cell types, for verdicts; the choice does not look at it.")
@click.option("--scib", is_flag=True, help="Add scib-metrics' scores; needs --label-key.")
@click.option("--basis", metavar="NAME", default="X_pca", show_default=True, help="Embedding in obsm.")
@click.option(
    "--adjusted-basis",
    metavar="NAME",
    default="X_pca_harmony",
    show_default=True,
    help="Where in obsm the result goes.",
)
@click.option("--flavor", type=click.Choice(["harmony2", "harmony1"]), default="harmony2", show_default=True)
@click.option(
    "--max-iter-harmony", type=click.IntRange(min=1), default=50, show_default=True, help="Maximum number of rounds."
)
@click.option(
    "--max-cells", type=click.IntRange(min=30), default=2000, show_default=True, help="Judge a sample above so many."
)
@column_options
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads.  [default: the CPUs it may use]")
@click.option("--figure", metavar="PATH", help="The trade-off: .png, .pdf or .svg.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there; never IN.")
@common_options
def sweep(source: str, batch_key: tuple[tuple[str, ...], ...], **options: Any) -> None:
    """Correct IN with several parameters, judge every result, and write the best to OUT.

    Every combination of --theta, --sigma and --n-clusters is run, and so are the defaults. The score that decides
    looks at no labels: the mean of how well batches mix, and of how well each batch keeps its distances. The table
    goes to the screen and into uns["harmonax"]["sweep"] of OUT.

    \b
    harmonax sweep atlas.h5ad -o corrected.h5ad --batch-key donor --figure tradeoff.png
    """
    figure = options["figure"]
    if figure and not figure.lower().endswith(FIGURES):
        raise click.UsageError(f"--figure {figure}: allowed are {', '.join(FIGURES)}")
    with messages(quiet=options["quiet"], verbose=options["verbose"]):
        found = _run(source, flat(batch_key), options)
    click.echo(str(found))


_PASSED = (
    *("theta", "sigma", "n_clusters", "max_runs", "label_key", "scib", "basis", "adjusted_basis", "flavor"),
    *("max_iter_harmony", "max_cells", "combine_keys", "missing", "allow_many_levels"),
)


def _run(source: str, keys: list[str], options: dict[str, Any]) -> Sweep:
    from ..tl.sweep import sweep as run_sweep

    return chosen(run_sweep, source, keys, {name: options[name] for name in _PASSED}, options)
