"""``harmonax diagnose``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .terminal import messages
from .values import Names, common_options, flat, read_markers

if TYPE_CHECKING:
    from anndata import AnnData

# What is read of uns: the correction, and what was found before it.
_UNS = ["harmonax", "harmonax_evaluation", "harmonax_workflow"]


@click.command(short_help="Measure whether a correction did too little, too much, or the right thing.")
@click.argument("source", metavar="IN")
@click.option(
    "--batch-key", type=Names(), multiple=True, help="Batch columns.  [default: those of the correction in IN]"
)
@click.option("--label-key", metavar="NAME", help="Column of cell types.")
@click.option("--group-key", metavar="NAME", help="Column by which results are shown.  [default: the types, or leiden]")
@click.option("--markers", metavar="TOML", help='Genes by cell type: "B cells" = ["MS4A1"]; needs --label-key.')
@click.option("--basis", metavar="NAME", help="Embedding before.  [default: that of the correction in IN, or X_pca]")
@click.option("--adjusted-basis", metavar="NAME", help="Embedding after.  [default: its, or X_pca_harmony]")
@click.option("-o", "--output", metavar="JSON", help="Also write the findings and tables here.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="For splitting and sampling.")
@click.option("--max-cells", type=int, default=20_000, show_default=True, help="Measure a sample above so many cells.")
@click.option("--overwrite", is_flag=True, help="Replace a JSON that is there; never IN.")
@common_options
def diagnose(source: str, batch_key: tuple[tuple[str, ...], ...], **options: Any) -> None:
    """Measure what the correction in IN did: within batches, between them, and where there was nothing to correct.

    IN is .h5ad or .zarr; its X is read for --markers only. The exit code is 0 whatever the verdict.

    \b
    harmonax diagnose corrected.h5ad --label-key cell_type
    """
    with messages(quiet=options["quiet"], verbose=options["verbose"]):
        from .. import io
        from ..tl.diagnose import diagnose as run_diagnose
        from ..tl.verdict import of_diagnosis

        inputs = [source, *(path for path in (options["config"], options["markers"]) if path)]
        place = None
        if options["output"] is not None:
            place = io.check_destination(options["output"], inputs=inputs, overwrite=options["overwrite"])
        with io.Unchanged(source):
            adata = _read(source, options)
        found = run_diagnose(
            adata,
            flat(batch_key) or None,
            label_key=options["label_key"],
            group_key=options["group_key"],
            markers=read_markers(options["markers"]) if options["markers"] else None,
            basis=options["basis"],
            adjusted_basis=options["adjusted_basis"],
            max_cells=options["max_cells"],
            rng=options["seed"],
        )
        answer = of_diagnosis(adata, found, label_key=options["label_key"], rng=options["seed"])
        if place is not None:
            with io.whole_or_nothing(place, overwrite=options["overwrite"], needed=0) as (part,):
                overall = {"code": answer.code, "headline": answer.headline, "summary": answer.summary}
                io.write_json(part, found.to_record() | {"overall": overall})
    click.echo(f"{answer.headline}\n\n{found}")


def _read(source: str, options: dict[str, Any]) -> AnnData:
    from .. import io
    from ..adata import stored_run

    if options["markers"]:
        from ..workflow.inputs import read

        return read(source)
    run = stored_run(io.read_parts(source, uns=_UNS).uns)
    before = options["basis"] or str(run.get("basis", "X_pca"))
    after = options["adjusted_basis"] or str(run.get("adjusted_basis", "X_pca_harmony"))
    return io.read_parts(source, bases=[before, after], uns=_UNS)
