"""`write_report`: from an AnnData, or a file that holds one, to one HTML file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HarmonaxError, InputError, warn
from ..io import Unchanged, check_destination, whole_or_nothing
from ..system.arguments import check_arguments
from ..system.rng import seed_from
from ..system.validate import whole_number
from .figures import Figures
from .page import page
from .parts import Parts, parts_of
from .points import Points, points_of
from .sections import SECTIONS, Maker, Section
from .sections.verdict import broken_values
from .text import TIMES, as_names, clean, count

if TYPE_CHECKING:
    from anndata import AnnData


def write_report(
    adata: AnnData | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    color_by: Sequence[str] | None = None,
    genes: Sequence[str] | None = None,
    max_points: int = 100_000,
    overwrite: bool = True,
    rng: Any = 0,
) -> Path:
    """Write a report on a correction as one HTML file that opens without a network.

    The page says whether the correction can be trusted and why, and shows what there is: quality control by batch,
    maps of every embedding, cell types in batches and clusters, markers, convergence, metrics, the diagnosis, the
    check, and how to reproduce the correction. A part that is missing from the data becomes a line that names the
    command to make it. The file stays below 10 MB, whatever the data.

    Parameters
    ----------
    adata
        An AnnData, or an .h5ad or .zarr file; of a file's X only the genes that are shown are kept. Nothing in it is
        changed.
    path
        File to write; its name ends in .html.
    title
        Heading of the page; by default the file's name.
    color_by
        Columns of obs that the maps can be coloured by, in this order; by default all with at least two values.
    genes
        Genes that the maps can be coloured by; by default the top markers of ``uns["rank_genes_groups"]``, up to
        200 where there is room.
    max_points
        Maximum number of cells on the maps. If there are more, a random sample is shown, and the page says so. Raising
        it shows more detail in a larger file, up to 10 MB: where the columns leave no room, fewer cells are shown.
    overwrite
        Replace an existing file.
    rng
        Seed of that sample.

    Returns
    -------
    pathlib.Path
        The page.

    Raises
    ------
    MissingKeyError
        If a column or gene that was asked for is not there.
    OutputError
        If the page cannot be written there.
    MissingExtraError
        If plotly or Jinja2 is not installed (``pip install harmonax[workflow]``).

    Examples
    --------
    >>> import anndata, numpy as np, tempfile
    >>> adata = anndata.AnnData(obsm={"X_pca": np.random.default_rng(0).normal(size=(50, 2))})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = write_report(adata, folder + "/report.html", title="Fifty cells")
    ...     page.name
    'report.html'
    """
    check_arguments(write_report, locals())
    if not str(path).lower().endswith((".html", ".htm")):
        raise InputError(f"{path}: a report is a page; let its name end in .html")
    max_points = whole_number(max_points, "max_points", minimum=1)
    inputs = [adata] if isinstance(adata, (str, os.PathLike)) else []
    place = check_destination(path, inputs=inputs, overwrite=overwrite)
    unchanged = Unchanged(*inputs)
    parts = parts_of(adata)
    for finding in broken_values(parts):
        warn(f"{finding.message} {finding.advice}")
    points = points_of(parts, color_by, genes, max_points, seed_from(rng))
    figures = Figures()
    made = [_made(make, parts, points, figures) for make in SECTIONS]
    sections = [section for section in made if section is not None]
    about = f"{count(len(parts.obs), 'cell')} {TIMES} {count(len(parts.genes), 'gene')}"
    name = title if title is not None else parts.name or "Batch correction"
    about += f" · {parts.name}" if parts.name and title is not None else ""
    text = page({"title": clean(name), "about": about, "run": _run(parts)}, sections, figures, points)
    data = text.encode("utf-8", errors="replace")
    with whole_or_nothing(place, overwrite=overwrite, needed=len(data)) as (part,), unchanged:
        part.write_bytes(data)
    return place


def _made(make: Maker, parts: Parts, points: Points, figures: Figures) -> Section | None:
    """Return a section, or in its place why it cannot be made of what is stored: no other suffers from that."""
    section, n_figures = None, len(figures)
    try:
        section = make(parts, figures)
        if section is not None:
            section.body(points)
    except (HarmonaxError, MemoryError):
        raise
    # Records may come from another version, or from anybody.
    except Exception as error:
        del figures[n_figures:]
        section = section or Section(make.__name__, make.__name__.capitalize())
        warn(f"the part '{section.title}' of the report cannot be made of what is stored ({error}); it says so")
        return section.unreadable(error)
    return section


def _run(parts: Parts) -> list[tuple[str, str]]:
    """Return what the page says first about the run: of which input, when, by which command."""
    own = parts.part("harmonax_workflow")
    inputs = [os.path.basename(name.rstrip("/")) or name for name in as_names(own.get("inputs"))]
    said = ", ".join(inputs[:5]) + (f" and {len(inputs) - 5} more" if len(inputs) > 5 else "")
    facts = (("Input", said), ("Date", str(own.get("started", ""))), ("Command", str(own.get("command", ""))))
    return [(name, value) for name, value in facts if value]
