"""The cells before and after correction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..errors import InputError, MissingKeyError, nearest
from ..inputs.expression import dense
from ..system.arguments import check_arguments
from ..system.validate import expect_anndata, listed
from .canvas import Canvas, check_save
from .colours import Categories, categories, is_categorical
from .lettering import legend, legend_columns, shown, verbatim
from .palette import MISSING, MUTED, NUMBERS
from .views import BEFORE_AFTER, View, colour_bar, scatter, shuffled, views

if TYPE_CHECKING:
    from os import PathLike

    from anndata import AnnData

_SIDE = 3.6
MAX_NAMED = 120


def embedding(
    adata: AnnData,
    color: str | Sequence[str],
    *,
    bases: str | Sequence[str] = BEFORE_AFTER,
    axes: Any = None,
    show: bool | None = None,
    save: str | PathLike[str] | None = None,
) -> np.ndarray | None:
    """Draw the cells before and after correction, side by side, in the same colours.

    Parameters
    ----------
    adata
        N cells.
    color
        Column of ``adata.obs``, or a gene of ``adata.var_names`` (its values in `X`); several: a row of views each.
        Text, categories, truth values and whole numbers with at most 10 values are names, other numbers a colour scale.
        ``adata.uns[f"{color}_colors"]`` is used if present, as in scanpy.
    bases
        Embeddings in ``adata.obsm``, (N, 2 or more); their first two columns are drawn. Where one of the default two is
        missing, the embedding that was corrected and the corrected one are drawn instead; the axes say so.
    axes
        Axes to draw into, one per color and basis, row by row. None: a new figure.
    show
        Show the figure. None: shown unless `axes` or `save` are given, or the backend has no screen.
    save
        File to write; its suffix sets the format.

    Returns
    -------
    numpy.ndarray or None
        The Axes, (bases,), or (colors, bases) for a list of colors; None where the figure was shown.

    Raises
    ------
    MissingKeyError
        If a column or an embedding is not there.
    InputError
        If an embedding has fewer than two columns, or there are not as many `axes` as views.

    Notes
    -----
    Cells are drawn in one fixed random order, so that no batch covers another. More than 50,000 become an image within
    vector formats. Missing values are grey.

    Examples
    --------
    >>> import anndata, harmonax, matplotlib, numpy as np, pandas as pd
    >>> matplotlib.use("agg")
    >>> gen = np.random.default_rng(0)
    >>> obs = pd.DataFrame({"batch": np.repeat(["a", "b"], 50)}, index=[f"cell{i}" for i in range(100)])
    >>> adata = anndata.AnnData(obs=obs, obsm={"X_pca": gen.normal(size=(100, 5))})
    >>> harmonax.pp.harmony_integrate(adata, "batch", max_iter_harmony=50, rng=0)
    >>> axes = harmonax.pl.embedding(adata, "batch", show=False)
    >>> [ax.get_title(loc="left") for ax in axes]
    ['Before correction', 'After correction']
    >>> matplotlib.pyplot.close(axes[0].figure)
    """
    check_arguments(embedding, locals())
    check_save(save)
    expect_anndata(adata)
    colors = listed(color)
    if not colors:
        raise InputError("color is empty; name a column of obs or a gene")
    columns = [_values(adata, name) for name in colors]
    shown_views = views(adata, bases)
    if not shown_views:
        raise InputError("bases is empty; name an embedding of obsm")
    groups = [categories(c, adata.uns.get(f"{c.name}_colors")) if is_categorical(c) else None for c in columns]
    size = (len(shown_views) * _SIDE + max(_room(g) for g in groups), len(colors) * (_SIDE + 0.3) + 0.3)
    canvas = Canvas(len(colors), len(shown_views), size, axes, layout="compressed")
    for row, column, group in zip(canvas.axes, columns, groups, strict=True):
        _names(row, shown_views, column, group) if group else _numbers(row, shown_views, column)
    for ax, view in zip(canvas.axes[0], shown_views, strict=True):
        verbatim(ax.set_title(shown(view.title), loc="left", fontweight="bold"))
    return canvas.finish(canvas.axes[0] if isinstance(color, str) else canvas.axes, show, save)


def _values(adata: AnnData, name: str) -> pd.Series:
    """Return a column of obs, or a gene's values."""
    if name in adata.obs.columns:
        column = adata.obs[name]
        if isinstance(column, pd.DataFrame):
            raise InputError(f"obs has {column.shape[1]} columns called '{name}'; rename all but one")
        return column
    if name in adata.var_names and adata.X is not None:
        # Of genes that share a name, the first.
        return pd.Series(dense(adata[:, name].X)[:, 0].astype(float), index=adata.obs_names, name=name)
    raise MissingKeyError(f"obs has no column '{name}' and var_names no such gene; {nearest(name, adata.obs.columns)}")


def _room(group: Categories | None) -> float:
    """Return the inches a legend takes."""
    if group is None:
        return 1.0
    if len(group.names) > MAX_NAMED:
        return 1.6
    longest = max((len(shown(name)) for name in group.names), default=0)
    return 0.4 + legend_columns(len(group.names)) * (0.7 + 0.075 * longest)


def _names(row: np.ndarray, drawn: Sequence[View], column: pd.Series, group: Categories) -> None:
    from matplotlib.colors import to_rgba
    from matplotlib.lines import Line2D

    # The last colour is that of code -1.
    colours = np.array([to_rgba(c) for c in [*group.colours, MISSING]])
    order = shuffled(len(group.codes))
    for ax, view in zip(row, drawn, strict=True):
        scatter(ax, view, order, c=colours[group.codes[order]])
    names = [f"{shown(name)} ({n:,})" for name, n in zip(group.names, group.counts, strict=True)]
    keys, absent = list(group.colours), int((group.codes < 0).sum())
    if len(names) > MAX_NAMED:
        verbatim(row[-1].text(1.03, 1, f"{shown(column.name)}:\n{len(names)} groups,\ntoo many to name", va="top",
                              color=MUTED, transform=row[-1].transAxes))  # fmt: skip
        return
    if absent:
        names, keys = [*names, f"missing ({absent:,})"], [*keys, MISSING]
    legend(
        row[-1],
        [Line2D([], [], marker="o", linestyle="", color=c, markeredgewidth=0) for c in keys],
        names,
        shown(column.name),
        loc="upper left",
        bbox_to_anchor=(1.02, 1.02),
        ncols=legend_columns(len(names)),
        columnspacing=1.0,
        fontsize="small" if len(names) > 10 else "medium",
    )


def _numbers(row: np.ndarray, drawn: Sequence[View], column: pd.Series) -> None:
    values = column.to_numpy(np.float64, na_value=np.nan)
    finite = np.isfinite(values)
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 1.0)
    order = shuffled(len(values))
    absent, present = order[~finite[order]], order[finite[order]]
    for ax, view in zip(row, drawn, strict=True):
        if len(absent):
            scatter(ax, view, absent, color=MISSING)
        points = scatter(ax, view, present, c=values[present], cmap=NUMBERS, vmin=low, vmax=high)
    missing = f" (grey: missing, {len(absent):,})" if len(absent) else ""
    colour_bar(points, f"{shown(column.name)}{missing}", cax=row[-1].inset_axes((1.04, 0.25, 0.04, 0.75)))
