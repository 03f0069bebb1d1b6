"""`harmonax demo`: a multi-batch data set from nothing, corrected, scored and drawn.

`datasets.simulate` -> `workflow.run` -> `tl.evaluate` -> `pl.embedding` and the report. Nothing imports it but the
command line.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from .. import datasets
from ..errors import InputError, OutputError
from ..io import check_destination, whole_or_nothing
from ..pl.embedding import embedding
from ..report import write_report
from ..system.arguments import check_arguments
from ..system.extras import need
from ..system.validate import whole_number
from ..tl.evaluate import evaluate
from ..workflow import run

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Demo", "run_demo"]

_MIN_CELLS, _MAX_CELLS = 100, 10**9
_COLUMNS = ["batch", "cell_type"]
# The simulated cells have nothing that quality control would remove, and genes without names that say anything. The
# scores are made without labels afterwards, as those with labels need JAX, which takes long to install and to load.
_SKIPPED = ("qc", "markers", "evaluate")
_N_GENES, _N_COMPONENTS = 1000, 30
_DPI = 130


class Demo(NamedTuple):
    """What the demo made: its files, and the scores before and after, one row a metric."""

    h5ad: Path
    figure: Path
    report: Path
    scores: pd.DataFrame


def run_demo(out_dir: str | Path, *, n_cells: int = 5000, seed: int = 0, quiet: bool = False) -> Demo:
    """Make a multi-batch data set, correct it, and show what that did.

    Parameters
    ----------
    out_dir
        Directory for ``demo.h5ad``, ``demo.png`` and ``report.html``; made if it is missing. An earlier demo there is
        replaced.
    n_cells
        Number of cells to draw, at least 100.
    seed
        The same seed gives the same data and the same correction.
    quiet
        Print nothing.

    Returns
    -------
    Demo
        Paths of the files, and the scores before and after.

    Raises
    ------
    InputError
        If there would be too few cells.
    MissingExtraError
        If the extra ``demo`` is not installed.
    OutputError
        If the directory cannot be written.
    """
    check_arguments(run_demo, locals())
    n_cells = whole_number(n_cells, "n_cells", minimum=-_MAX_CELLS, maximum=_MAX_CELLS)
    seed = whole_number(seed, "seed", minimum=0)
    if n_cells < _MIN_CELLS:
        raise InputError(f"n_cells={n_cells} is too few for a demo; pass at least {_MIN_CELLS}")
    for module in ("scanpy", "umap", "sklearn", "plotly", "jinja2"):
        need(module, "demo")
    h5ad, png, html = _destinations(Path(out_dir))
    adata = _integrated(datasets.simulate(n_cells, np.random.default_rng(seed)), seed, quiet)
    scores = evaluate(adata, "batch", rng=seed).table().droplevel(["kind", "batch_key"])
    demo = Demo(h5ad, png, html, scores.set_axis(["before", "after"], axis=1))
    needed = 3 * adata.X.data.nbytes
    with whole_or_nothing(h5ad, png, overwrite=True, needed=needed) as (h5ad_part, png_part):
        adata.write_h5ad(h5ad_part, compression="gzip")
        _draw(adata, png_part)
    colours = [name for name in (*_COLUMNS, "leiden") if name in adata.obs]
    write_report(adata, html, title="harmonax demo", color_by=colours)
    if not quiet:
        print(_summary(adata, demo))
    return demo


def _destinations(out_dir: Path) -> tuple[Path, Path, Path]:
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out_dir}: cannot make this directory: {error.strerror}") from None
    names = ("demo.h5ad", "demo.png", "report.html")
    h5ad, png, html = (check_destination(out_dir / name, inputs=(), overwrite=True) for name in names)
    return h5ad, png, html


def _integrated(adata: AnnData, seed: int, quiet: bool) -> AnnData:
    return run(
        adata,
        "batch",
        label_key="cell_type",
        rng=seed,
        progress=False if quiet else None,
        # igraph, which finds the clusters, is GPL and not everywhere.
        skip=_SKIPPED if find_spec("igraph") else (*_SKIPPED, "leiden"),
        n_top_genes=_N_GENES,
        n_comps=_N_COMPONENTS,
    )


def _draw(adata: AnnData, path: Path) -> None:
    import matplotlib.pyplot as plt

    embedding(adata, _COLUMNS, show=False)
    plt.savefig(path, format="png", dpi=_DPI)
    plt.close()


def _summary(adata: AnnData, demo: Demo) -> str:
    """Return the table, the verdict, and where the files are."""
    harmony = adata.uns["harmonax"]
    n_batches, n_types = (adata.obs[name].nunique() for name in _COLUMNS)
    return "\n".join(
        [
            "",
            f"{adata.n_obs:,} cells x {adata.n_vars:,} genes, {n_batches} batches, {n_types} cell types; "
            f"{harmony['params']['flavor']} {harmony['status']} after {len(harmony['history']['passes'])} rounds",
            "",
            "Scores from 0 to 1; higher is better:",
            demo.scores.to_string(float_format="{:.2f}".format, index_names=False),
            "",
            str(adata.uns.get("harmonax_diagnosis", {}).get("summary", "The diagnosis needs more cells.")),
            "",
            f"report  {demo.report}",
            f"figure  {demo.figure}",
            f"data    {demo.h5ad}  (layers: counts; obsm: {', '.join(adata.obsm)})",
        ]
    )
