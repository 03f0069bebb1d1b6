"""The demo, from nothing to a table, a file and a figure."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd

from .. import pp, tl
from ..datasets.preparation import prepare
from ..datasets.simulation import ABSENT, simulate
from ..errors import InputError, OutputError
from ..io import check_destination, whole_or_nothing
from .figure import Labels, View, draw
from .layout import INSTALL, has_igraph, lay_out, leiden
from .scores import N_NEIGHBOURS, Scores, neighbours, score

_LEAST_CELLS = 100
# Scores and figure take a sample of more cells than this.
_MOST_SHOWN = 10_000
_MAX_ROUNDS = 50
_EMBEDDINGS = ("X_pca", "X_pca_harmony")
_VIEWS = ("X_umap_uncorrected", "X_umap")
_VIEW = {
    True: "UMAP of each embedding, which sees no labels; same settings left and right",
    False: "the first two components of each embedding",
}


class Demo(NamedTuple):
    """What the demo made; no report without the packages that it needs."""

    h5ad: Path
    figure: Path
    report: Path | None
    before: Scores
    after: Scores


def run_demo(out_dir: str | Path, *, n_cells: int = 5000, seed: int = 0, quiet: bool = False) -> Demo:
    """Make a multi-batch data set, correct it, and show what that did.

    Parameters
    ----------
    out_dir
        Directory for ``demo.h5ad``, ``demo.png`` and ``report.html``; made if it is missing. An earlier demo there is
        replaced.
    n_cells
        Cells to draw, at least 100.
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
    OutputError
        If the directory cannot be written.
    """
    if n_cells < _LEAST_CELLS:
        raise InputError(f"n_cells={n_cells} is too few for a demo; pass at least {_LEAST_CELLS}")
    h5ad, png, html = _destinations(Path(out_dir))
    say = _Steps(quiet)
    rng = np.random.default_rng(seed)
    with say.step("simulate counts"):
        adata = simulate(n_cells, rng)
    with say.step("normalise, choose genes, PCA"):
        prepare(adata)
    with say.step("correct"):
        pp.harmony_integrate(adata, "batch", max_iter_harmony=_MAX_ROUNDS, rng=seed, verbose=False)
    with say.step("score and lay out"):
        shown = adata if n_cells <= _MOST_SHOWN else adata[np.sort(rng.choice(n_cells, _MOST_SHOWN, replace=False))]
        scores, layouts = zip(*(_assess(shown, basis, seed) for basis in _EMBEDDINGS), strict=True)
        if has_igraph() and shown is adata:
            adata.obsm.update(zip(_VIEWS, layouts, strict=True))
            _, index = neighbours(np.asarray(adata.obsm["X_pca_harmony"], np.float64), N_NEIGHBOURS)
            adata.obs["leiden"] = pd.Categorical(leiden(index, seed).astype(str))
    with say.step("check and diagnose"):
        reported = _reportable()
        if reported:
            tl.check(adata, "batch", label_key="cell_type")
            tl.diagnose(adata, label_key="cell_type")
    demo = Demo(h5ad, png, html if reported else None, *scores)
    adata.uns["harmonax_demo"] = _record(demo, n_cells, seed)
    with (
        say.step("write and draw"),
        whole_or_nothing(h5ad, png, overwrite=True, needed=adata.X.data.nbytes * 3) as (h5ad_part, png_part),
    ):
        adata.write_h5ad(h5ad_part, compression="gzip")
        _draw(png_part, shown, demo, layouts, seed)
    if demo.report is not None:
        from ..report import write_report

        with say.step("report"):
            write_report(adata, demo.report, title="harmonax demo", color_by=["batch", "cell_type"])
    if not quiet:
        print(_report(adata, demo))
    return demo


def _destinations(out_dir: Path) -> tuple[Path, Path, Path]:
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out_dir}: cannot make this directory: {error.strerror}") from None
    names = ("demo.h5ad", "demo.png", "report.html")
    h5ad, png, html = (check_destination(out_dir / name, inputs=(), overwrite=True) for name in names)
    return h5ad, png, html


def _reportable() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("sklearn", "plotly", "jinja2"))


def _assess(adata: ad.AnnData, basis: str, seed: int) -> tuple[Scores, np.ndarray]:
    """Return an embedding's scores and its view."""
    embedding = np.asarray(adata.obsm[basis], np.float64)
    distance, index = neighbours(embedding, N_NEIGHBOURS)
    batch, cell_type = (adata.obs[name].cat for name in ("batch", "cell_type"))
    absent = list(cell_type.categories).index(ABSENT[0])
    rng = np.random.default_rng(seed)
    scores = score(index, batch.codes.to_numpy(), cell_type.codes.to_numpy(), absent, rng)
    return scores, lay_out(embedding, distance, index, seed)


def _draw(path: Path, adata: ad.AnnData, demo: Demo, layouts: tuple[np.ndarray, ...], seed: int) -> None:
    captions = [f"batch mixing {s.mixing:.2f} · same-type neighbours {s.purity:.2f}" for s in (demo.before, demo.after)]
    titles = ("Before: principal components", "After: harmonax")
    batch, cell_type = (
        Labels(adata.obs[name].cat.codes.to_numpy(), list(adata.obs[name].cat.categories))
        for name in ("batch", "cell_type")
    )
    footnote = (
        f"{adata.n_obs:,} simulated cells. Batch mixing: 0 apart, 1 as by chance. {ABSENT[0]} cells are absent from "
        f"{ABSENT[1]}.\nViews: {_VIEW[has_igraph()]}."
    )
    views = [View(*view) for view in zip(layouts, titles, captions, strict=True)]
    draw(path, views, batch, cell_type, footnote, np.random.default_rng(seed))


def _record(demo: Demo, n_cells: int, seed: int) -> dict[str, object]:
    return {
        "n_cells": n_cells,
        "seed": seed,
        "absent_type": ABSENT[0],
        "absent_from": ABSENT[1],
        "before": demo.before._asdict(),
        "after": demo.after._asdict(),
    }


def _report(adata: ad.AnnData, demo: Demo) -> str:
    """Return the table, and where the files are."""
    run = adata.uns["harmonax"]
    n_batches, n_types = (len(adata.obs[name].cat.categories) for name in ("batch", "cell_type"))
    rows = (
        ("batch mixing among neighbours (0 apart, 1 as by chance)", "mixing"),
        ("share of neighbours of the same cell type", "purity"),
        (f"  the same for {ABSENT[0]} cells, absent from {ABSENT[1]}", "absent_purity"),
    )
    table = [f"{label:<58}{getattr(demo.before, f):>8.2f}{getattr(demo.after, f):>8.2f}" for label, f in rows]
    return "\n".join(
        [
            "",
            f"{adata.n_obs:,} cells x {adata.n_vars:,} genes, {n_batches} batches, {n_types} cell types; "
            f"{run['params']['flavor']} {run['status']} after {len(run['history']['passes'])} rounds",
            "",
            f"{'':<58}{'before':>8}{'after':>8}",
            *table,
            "",
            f"report  {demo.report or 'not made: ' + INSTALL}",
            f"figure  {demo.figure}" + ("" if has_igraph() else f"  (for UMAP views: {INSTALL})"),
            f"data    {demo.h5ad}  (counts, obsm: {', '.join(_EMBEDDINGS)})",
        ]
    )


class _Steps:
    """Says on stderr what is being done, and how long it took."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if not self._quiet:
            print(f"{what:<34}{time.perf_counter() - start:6.1f} s", file=sys.stderr, flush=True)
