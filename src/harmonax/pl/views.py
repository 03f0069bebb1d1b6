"""Two-dimensional views of the cells before and after correction, and how a scatter of them looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..adata import stored_run
from ..errors import MissingKeyError
from ..system.validate import listed
from .lettering import shown, verbatim
from .palette import FAINT
from .stored import CORRECT, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.colorbar import Colorbar

BEFORE_AFTER = ("X_umap_uncorrected", "X_umap")
# More points than this are drawn as an image in vector formats.
_RASTERIZE = 50_000


class View(NamedTuple):
    """One view: coordinates (N, 2), a title, and what its axes are called."""

    xy: np.ndarray
    title: str
    axis: str


def views(adata: Any, bases: str | Sequence[str]) -> list[View]:
    """Return the views asked for; of the usual two UMAPs, where one is missing, the embeddings themselves."""
    names = tuple(listed(bases))
    titles: Sequence[str] = names
    if names == BEFORE_AFTER:
        titles = ("Before correction", "After correction")
        if any(name not in adata.obsm for name in names):
            names = _embeddings(adata)
    return [View(points(adata, name), title, _axis(name)) for name, title in zip(names, titles, strict=True)]


def corrected_view(adata: Any, basis: str | None) -> View:
    """Return the view of the corrected cells: the UMAP, or the corrected embedding where there is none."""
    if basis is None:
        basis = "X_umap" if "X_umap" in adata.obsm else _embeddings(adata)[1]
    return View(points(adata, basis), "", _axis(basis))


def _embeddings(adata: Any) -> tuple[str, str]:
    record = stored_run(adata.uns)
    pair = str(record.get("basis", "X_pca")), str(record.get("adjusted_basis", "X_pca_harmony"))
    missing = [name for name in pair if name not in adata.obsm]
    if missing:
        raise MissingKeyError(
            f"obsm has neither both of {', '.join(BEFORE_AFTER)} nor '{missing[0]}'; the corrected embedding is made "
            f"by {CORRECT}, both UMAPs by harmonax.workflow.run; or name what there is: bases=(...)"
        )
    return pair


def _axis(basis: str) -> str:
    return "UMAP" if basis in BEFORE_AFTER else f"{shown(basis)}, column"


def scatter(ax: Axes, view: View, order: np.ndarray, **colouring: Any) -> PathCollection:
    """Draw cells in a given order, in a square frame that they fill."""
    xy = view.xy[order]
    drawn = ax.scatter(
        xy[:, 0],
        xy[:, 1],
        s=float(np.clip(30_000 / max(len(xy), 1), 1.5, 30)),
        linewidths=0,
        alpha=0.75,
        rasterized=len(xy) > _RASTERIZE,
        **colouring,
    )
    finite = view.xy[np.isfinite(view.xy).all(axis=1)]
    centre = (finite.max(axis=0) + finite.min(axis=0)) / 2
    half = np.maximum(np.ptp(finite, axis=0), 1e-9) / 2 * 1.06
    (left, low), (right, high) = centre - half, centre + half
    ax.set(xlim=(left, right), ylim=(low, high), xticks=[], yticks=[])
    ax.set_box_aspect(1)
    verbatim(ax.xaxis.label).set_text(f"{view.axis} 1")
    verbatim(ax.yaxis.label).set_text(f"{view.axis} 2")
    for spine in ax.spines.values():
        spine.set_color(FAINT)
    return drawn


def colour_bar(drawn: Any, label: str, **where: Any) -> Colorbar:
    """Add a colour scale, opaque where the points are not."""
    bar = drawn.figure.colorbar(drawn, **where)
    if bar.solids is not None:
        bar.solids.set_alpha(1)
    bar.outline.set_visible(False)
    verbatim(bar.ax.yaxis.label).set_text(label)
    return bar


def shuffled(n: int) -> np.ndarray:
    """Return the one order in which n cells are drawn, so that no group lies on top because it came last."""
    return np.random.default_rng(0).permutation(n)
