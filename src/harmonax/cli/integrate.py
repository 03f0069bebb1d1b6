"""``harmonax integrate``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

import click
from click.core import ParameterSource

from ..cells import BACKENDS
from ..errors import NotConvergedError
from ..params import Flavor, HarmonyParams
from .terminal import messages
from .values import Names, Numbers, Threshold, column_options, common_options, flat, roles_of

_FILES = ("output", "basis", "adjusted_basis", "metadata", "run_json", "overwrite", "batch_from", "save_model")
_COLUMNS = ("combine_keys", "missing", "allow_many_levels")
_HOW = {"seed": "rng", "threads": "n_threads"} | {
    name: name for name in ("dtype", "backend", "max_memory", "scratch", "checkpoint")
}
_FLOATS = click.Choice(["float32", "float64"])


def _param(name: str, kind: Any, says: str, default: str | None = None) -> Callable[[Any], Any]:
    """Make the option of a parameter, whose default has its home in `HarmonyParams`."""
    value = getattr(HarmonyParams, name)
    says += f"  [default: {default if default is not None else f'{value:g}' if isinstance(value, float) else value}]"
    return click.option("--" + name.replace("_", "-"), name, type=kind, default=value, help=says)


@click.command(short_help="Correct the embedding of a file.")
@click.argument("sources", metavar="IN...", nargs=-1, required=True)
@click.option(
    "-o", "--output", metavar="OUT", required=True, help="Result: .h5ad, .zarr, .csv, .tsv (.gz), .parquet or .npy."
)
@click.option(
    "--batch-key", type=Names(), multiple=True, required=True, help="Batch columns; several are separate variables."
)
@click.option("--batch-from", type=click.Choice(["file"]), help="Make the batch column of the names of several IN.")
@click.option("--basis", metavar="NAME", default="X_pca", show_default=True, help="Embedding in obsm.")
@click.option(
    "--adjusted-basis",
    metavar="NAME",
    default="X_pca_harmony",
    show_default=True,
    help="Where in obsm the result goes.",
)
@click.option(
    "--metadata", metavar="META", help="Table with the batch columns of a bare embedding: .parquet, .csv, .tsv (.gz)."
)
@_param("flavor", click.Choice(get_args(Flavor)), "Harmony of 2026 or of 2019.")
@_param("theta", Numbers(), "Strength of the diversity penalty: one, per column, or per level.")
@_param("sigma", Numbers(), "Width of the soft clusters: one, or per cluster.")
@_param("tau", float, "Protects small batches; 0 is off.")
@_param("ridge", click.Choice(["dynamic", "fixed"]), "Kind of ridge penalty.", "the flavor's own")
@_param("ridge_lambda", Numbers(), "Fixed ridge penalty: one, per column, or per level. Given, --ridge is fixed.")
@_param("alpha", float, "Dynamic ridge penalty (harmony2).")
@_param("batch_prune_threshold", Threshold(), "Smallest share of a batch in a cluster that is corrected (harmony2).")
@_param("n_clusters", int, "Number of soft clusters.", "cells / 30, from 2 to 100")
@_param("max_iter_harmony", int, "Maximum number of rounds.")
@_param("max_iter_clustering", int, "Maximum number of passes in a round.")
@_param("tol_harmony", float, "Relative change of the objective that ends the run.")
@_param("tol_clustering", float, "Relative change of the objective that ends a round.")
@_param("block_proportion", float, "Share of the cells reassigned at a time.")
@_param("correction_method", click.Choice(["fast", "original"]), "Equal to rounding.")
@_param("precision", _FLOATS, "Arithmetic of the cells.")
@click.option("--dtype", type=_FLOATS, help="Numbers of the result.  [default: those of the arithmetic]")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed gives the same bits."
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads.  [default: the CPUs it may use]")
@click.option(
    "--backend",
    # Files are not read as Dask arrays.
    type=click.Choice(["auto", *(name for name in BACKENDS if name != "dask")]),
    default="auto",
    show_default=True,
    help="Where the cells live: memory while it suffices, else disk; jax is a GPU or TPU.",
)
@click.option("--max-memory", metavar="SIZE", help="Maximum memory to use, such as 4G.  [default: what is free]")
@click.option("--scratch", metavar="DIR", help="Where the scratch file of cells on disk goes.  [default: beside OUT]")
@click.option("--checkpoint", metavar="DIR", help="Keep every round here; run again, a stopped run resumes.")
@column_options
@click.option("--save-model", metavar="MODEL", help="Keep what was learned, for harmonax map: .h5 or .zarr.")
@click.option(
    "--save-labels",
    "--label-key",
    "save_labels",
    type=Names(),
    multiple=True,
    help="Label columns that go into MODEL, with the cells.",
)
@click.option("--overwrite", is_flag=True, help="Replace an OUT that is there; never IN.")
@click.option("--run-json", metavar="PATH", help="Record of the run.  [default: OUT.run.json]")
@click.option("--strict", is_flag=True, help="Exit with 4 where the run did not converge; OUT is written all the same.")
@common_options
@click.pass_context
def integrate(
    ctx: click.Context, sources: tuple[str, ...], batch_key: tuple[tuple[str, ...], ...], **options: Any
) -> None:
    """Remove batch effects from an embedding in IN, and write it to OUT.

    IN is .h5ad or .zarr, of which only the embedding and the batch columns are read (X never is), or a bare embedding
    (.csv, .tsv, .gz of these, .parquet, .npy) with --metadata. An OUT of .h5ad or .zarr has all that IN has and the
    corrected embedding; any other is the embedding alone. OUT.run.json says how it was made. Both appear whole
    or not at all.

    Several IN (.h5ad, .zarr) are corrected together without being joined; OUT then has embeddings and batch columns
    only. What does not fit into memory is corrected from disk, with the same result.

    --theta 0 removes the diversity penalty, not the correction: cells still move.

    \b
    harmonax integrate atlas.h5ad -o corrected.h5ad --batch-key donor,chemistry
    harmonax integrate lab1.h5ad lab2.h5ad -o both.h5ad --batch-key lab --batch-from file
    harmonax integrate pca.csv --metadata cells.csv -o corrected.csv --batch-key batch
    """
    with messages(quiet=options["quiet"], verbose=options["verbose"]):
        from ..files.integrate import FileJob, integrate_file
        from ..result import Status

        keys = flat(batch_key)
        also_read = [options["config"]] if options["config"] else []
        named = {name: options[name] for name in (*_FILES, *_COLUMNS)} | roles_of(options, keys)
        job = FileJob(sources, keys=keys, also_read=also_read, save_labels=flat(options["save_labels"]), **named)
        how = {ours: options[name] for name, ours in _HOW.items()}
        result = integrate_file(
            job,
            method_params(ctx, options),
            progress=False if options["quiet"] else None,
            **how,
        )
    if options["strict"] and result.status is Status.MAX_ITERATIONS:
        raise NotConvergedError(f"--strict: {result.summary()}")


def method_params(ctx: click.Context, options: dict[str, Any]) -> HarmonyParams:
    """Return the method's parameters as the options of a command give them."""
    given = {field.name: options[field.name] for field in dataclasses.fields(HarmonyParams)}
    if given["batch_prune_threshold"] == "none":
        given["batch_prune_threshold"] = None
    if given["ridge"] is None and ctx.get_parameter_source("ridge_lambda") is not ParameterSource.DEFAULT:
        given["ridge"] = "fixed"
    return HarmonyParams(**given)
