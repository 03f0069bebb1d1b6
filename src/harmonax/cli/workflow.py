"""``harmonax run``."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from ..errors import NotConvergedError
from ..params import HarmonyParams
from .integrate import integrate, method_params
from .terminal import messages
from .values import Names, Numbers, common_options, flat, read_markers

# Options that mean here what they mean to `harmonax integrate`: the method's own, and how batch columns are read.
_METHOD = [field.name for field in dataclasses.fields(HarmonyParams)]
_ROLES = ("reference", "protect", "covariates")
_COLUMNS = ["combine_keys", "missing", "allow_many_levels", "backend", "threads", *_ROLES]
# Options that are lists of names.
_LISTS = (
    *("batch_key", "condition_key", "compare", "color_by", "genes", "recompute", "skip"),
    *_ROLES,
)
_PLAIN = (
    *("label_key", "min_genes", "max_genes", "min_cells", "max_pct_mt", "mt_prefix", "counts_layer"),
    *("decimals", "feature_type"),
    *("target_sum", "n_top_genes", "hvg_flavor", "n_comps", "combine_keys", "missing", "allow_many_levels", "backend"),
    *("n_neighbors", "min_dist", "resolutions", "n_marker_genes", "seed", "max_memory", "save_model"),
    *("corrector", "start_from", "tune"),
)
_STEPS = (
    "qc, normalise, hvg, pca, check, harmony, neighbors, umap, umap_uncorrected, leiden, markers, evaluate, diagnose"
)


def _names(name: str, says: str) -> Any:
    return click.option("--" + name.replace("_", "-"), name, type=Names(), multiple=True, help=says)


def _number(name: str, kind: type, default: float | None, says: str) -> Any:
    shown = default is not None
    return click.option("--" + name.replace("_", "-"), name, type=kind, default=default, show_default=shown, help=says)


def _text(name: str, says: str) -> Any:
    return click.option("--" + name.replace("_", "-"), name, metavar="NAME", help=says)


@click.command("run", short_help="Do the whole job: counts to a corrected, judged data set and its report.")
@click.argument("sources", metavar="IN...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="DIR", required=True, help="Folder for the results.")
@_names("batch_key", 'Batch columns of obs; several are separate variables.  [default, for several IN: "batch"]')
@click.option("--batch-from", type=click.Choice(["file"]), help="Make the batch column of the names of several IN.")
@_text("label_key", "Column of obs with cell types, for evaluation and diagnosis only.")
@_names("condition_key", "Columns of obs with what the experiment compares, for the check only.")
@_text("counts_layer", 'Where the raw counts are: a layer, "X" or "raw".  [default: layers["counts"], else X]')
@click.option("--decimals", is_flag=True, help="Take counts with decimals: ambient RNA removed, EM counts, TPM.")
@_text(
    "feature_type", "Features of var['feature_types'] to run: genes, antibodies, peaks, or its name.  [default: genes]"
)
@_number("min_genes", int, 200, "Fewest genes in a cell.")
@_number("max_genes", int, None, "Most genes in a cell.  [default: no limit]")
@_number("min_cells", int, 3, "Fewest cells with a gene.")
@_number("max_pct_mt", float, 20.0, "Largest percentage of mitochondrial counts in a cell.")
@_text("mt_prefix", 'How mitochondrial genes begin.  [default: "MT-", else "mt-"]')
@_number("target_sum", float, 1e4, "Counts per cell after normalisation.")
@_number("n_top_genes", int, 2000, "Highly variable genes, chosen within batches.")
@click.option(
    "--hvg-flavor",
    type=click.Choice(["seurat", "cell_ranger", "seurat_v3", "seurat_v3_paper"]),
    default="seurat",
    show_default=True,
    help="How they are chosen; see scanpy.",
)
@_number("n_comps", int, 50, "Principal components.")
@click.option(
    "--corrector",
    metavar="NAME",
    default="harmony",
    show_default=True,
    help="What removes the batches: harmony, of the principal components; or of the expression mmd or wgan "
    "(autoencoders; they need the extra jax).",
)
@click.option("--tune", is_flag=True, help="Choose --theta and --sigma by a sweep, without labels; see harmonax sweep.")
@_number("n_neighbors", int, 15, "Neighbours of a cell in the graph.")
@_number("min_dist", float, 0.5, "Of UMAP.")
@click.option(
    "--resolutions",
    type=Numbers(),
    default="0.3,0.5,0.8",
    show_default=True,
    help="Of Leiden; the middle one is obs['leiden'], which the markers are for.",
)
@_number("n_marker_genes", int, 50, "Marker genes kept per cluster.")
@click.option(
    "--compare",
    "--embedding",
    "compare",
    type=Names(),
    multiple=True,
    help="Further embeddings in obsm to evaluate beside ours, such as X_scVI.",
)
@_names("color_by", "Columns of obs that the report's maps can be coloured by.  [default: all that show something]")
@_names("genes", "Genes that they can be coloured by.  [default: the clusters' top markers]")
@click.option("--markers", metavar="TOML", help="Genes by cell type, for the diagnosis; needs --label-key.")
@_names("recompute", f'Steps whose results in IN are not kept, with what follows from them, or "all". Steps: {_STEPS}.')
@click.option(
    "--start-from",
    type=click.Choice(["counts", "normalise", "hvg", "pca", "harmony", "neighbors", "leiden"]),
    help="What of IN is used, whoever made it, with its cells and genes.  [default: what a run with these settings "
    "made of these data; else counts; of IN without counts, pca or hvg]",
)
@click.option("--from-counts", is_flag=True, help="Use no result that IN has: the same as --start-from counts.")
@_names("skip", "Steps to leave out: qc, check, umap, umap_uncorrected, leiden, markers, evaluate, diagnose.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed gives the same result."
)
@click.option(
    "--max-memory",
    metavar="SIZE",
    help="Room for the expression, such as 4G; where that of IN (.h5ad, .zarr) takes more, it stays on the disk, and "
    "the result has no X.  [default: no limit]",
)
@click.option("--save-model", is_flag=True, help="Keep in the result what was learned, for harmonax map.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print how long each step would take and with how much memory; do nothing, write nothing.",
)
@click.option("--overwrite", is_flag=True, help="Replace the results of a finished run in DIR; never IN.")
@click.option(
    "--strict", is_flag=True, help="Exit with 4 where Harmony did not converge; results are written all the same."
)
@common_options
@click.pass_context
def run_workflow(ctx: click.Context, sources: tuple[str, ...], **options: Any) -> None:
    """Take raw counts in IN to a corrected, clustered and evaluated data set, and say whether to trust it.

    IN is .h5ad, .zarr, .zarr.zip, .h5mu, a 10x .h5, a 10x folder (matrix.mtx, barcodes, features), or Cell Ranger's
    folder of a sample or of several; several are joined, and without --batch-key their names are the batches. Results
    that a run with the same settings left in IN are kept; an X_pca that others made is used with --start-from pca.

    DIR gets integrated.h5ad, report.html, metrics.tsv, run.json, versions.yml, harmonax_mqc.json and figures/, all or
    none. When a run is interrupted, the same command takes it up after the last finished step.

    \b
    harmonax run counts.h5ad -o results --batch-key donor
    harmonax run ctrl/outs/filtered_feature_bc_matrix stim/outs/filtered_feature_bc_matrix -o results
    """
    with messages(quiet=options["quiet"], verbose=options["verbose"]):
        from ..workflow import WorkflowOptions, run_files
        from ..workflow.forecast import as_text
        from ..workflow.run import command_line

        given = {name: options[name] for name in _PLAIN}
        given |= {name: tuple(flat(options[name])) for name in _LISTS}
        if options["from_counts"]:
            given["start_from"] = "counts"
        if options["markers"]:
            given["markers"] = read_markers(options["markers"])
        asked = WorkflowOptions(**given, n_threads=options["threads"], harmony=method_params(ctx, options))
        if options["dry_run"]:
            click.echo(as_text(sources, asked))
            return
        try:
            made = run_files(
                sources,
                options["output"],
                batch_from=options["batch_from"],
                options=asked,
                progress=False if options["quiet"] else None,
                overwrite=options["overwrite"],
                also_read=[path for path in (options["config"], options["markers"]) if path],
                command=command_line(),
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; the same command takes the run up where it was") from None
    if options["strict"] and made.uns.get("harmonax", {}).get("status") == "max_iterations":
        raise NotConvergedError(f"--strict: {made.uns['harmonax']['advice']}")


run_workflow.params += [option for option in integrate.params if option.name in (*_METHOD, *_COLUMNS)]
