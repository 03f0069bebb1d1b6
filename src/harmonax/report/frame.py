"""The report's maps alone, in a frame of their own that a notebook shows."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import MissingKeyError
from ..system.arguments import check_arguments
from ..system.rng import seed_from
from ..system.validate import whole_number
from .figures import Figures
from .page import maps_page
from .parts import parts_of
from .points import points_of
from .sections.maps import maps as maps_section

if TYPE_CHECKING:
    from anndata import AnnData

# A notebook keeps what it shows.
_LIMIT = 4_000_000


class Maps:
    """Maps before and after a correction, for a notebook to show.

    Attributes
    ----------
    html
        The page that is shown: it contains everything, and loads nothing from the network.
    height
        Of its frame in a notebook, in pixels.
    """

    def __init__(self, page: str, n_cells: int, height: int) -> None:
        self.html, self.height, self._n_cells = page, height, n_cells

    def __repr__(self) -> str:
        return f"Maps of {self._n_cells:,} cells: a notebook shows them"

    def _repr_html_(self) -> str:
        style = f"width: 100%; height: {self.height}px; border: 0"
        # Its scripts run, but cannot reach the notebook.
        return (
            f'<iframe title="Maps before and after correction" sandbox="allow-scripts allow-downloads" '
            f'style="{style}" srcdoc="{html.escape(self.html)}"></iframe>'
        )


def maps(
    adata: AnnData,
    *,
    color_by: Sequence[str] | None = None,
    genes: Sequence[str] | None = None,
    max_points: int = 20_000,
    height: int = 900,
    rng: Any = 0,
) -> Maps:
    """Show the cells before and after a correction on two linked maps in a notebook.

    They are the maps of `write_report`, with the same controls: colour by any column or gene, highlight a level, select
    cells in one map and see where they are in the other, zoom, switch to another embedding, save a picture or the
    barcodes of what is selected.

    Parameters
    ----------
    adata
        The cells, with ``X_umap_uncorrected`` and ``X_umap``, or else the embedding that was corrected and the result.
        Nothing in it is changed.
    color_by, genes, max_points, rng
        As in `write_report`. Raising `max_points` shows more cells in a larger notebook, up to 4 MB.
    height
        Of the frame, in pixels.

    Returns
    -------
    Maps
        What a notebook shows as its cell's last value. Its ``html`` is a page of its own.

    Raises
    ------
    MissingKeyError
        If obsm has no embedding, or a requested column or gene is missing.
    MissingExtraError
        If Jinja2 is not installed (``pip install harmonax[workflow]``).

    Examples
    --------
    >>> import anndata, numpy as np, harmonax as hx
    >>> Z = np.random.default_rng(0).normal(size=(50, 3)).astype("float32")
    >>> adata = anndata.AnnData(obsm={"X_pca": Z}, obs={"batch": ["a", "b"] * 25})
    >>> hx.pp.harmony_integrate(adata, "batch")
    >>> hx.report.maps(adata)
    Maps of 50 cells: a notebook shows them
    """
    check_arguments(maps, locals())
    max_points = whole_number(max_points, "max_points", minimum=1)
    height = whole_number(height, "height", minimum=1)
    parts = parts_of(adata)
    points = points_of(parts, color_by, genes, max_points, seed_from(rng))
    if not points.maps:
        raise MissingKeyError("obsm has no embedding to draw; run pp.harmony_integrate first")
    page = maps_page(maps_section(parts, Figures()), points, _LIMIT)
    return Maps(page, points.n, height)
