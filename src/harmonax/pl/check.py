"""How much of the data the batches explain, and how large they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..errors import InputError
from ..system.arguments import check_arguments
from .canvas import Canvas, check_save, tidy
from .lettering import legend, shown, tick_names
from .palette import INK, MUTED, palette
from .stored import part, stored

if TYPE_CHECKING:
    from os import PathLike

    from matplotlib.axes import Axes

CHECK = "harmonax.tl.check(adata, batch_key)"
MAX_COMPONENTS = 30


def check(
    source: Any,
    *,
    key: str = "harmonax_check",
    axes: Any = None,
    show: bool | None = None,
    save: str | PathLike[str] | None = None,
) -> np.ndarray | None:
    """Draw the share of each principal component that batches explain, and the batches' sizes.

    Parameters
    ----------
    source
        An AnnData that was checked, or what ``harmonax.tl.check`` returned.
    key
        Where in ``adata.uns`` the check is.
    axes
        Two Axes to draw into: components, and sizes. None: a new figure.
    show
        Show the figure. None: shown unless `axes` or `save` are given, or the backend has no screen.
    save
        File to write; its suffix sets the format.

    Returns
    -------
    numpy.ndarray or None
        The two Axes; None where the figure was shown.

    Raises
    ------
    MissingKeyError
        If there is no check.

    Notes
    -----
    Wide bars are the variance of a component that a batch variable explains (adjusted R^2); the line is the component's
    share of all variance: what batches explain matters where that is large. The first 30 components are drawn.

    Examples
    --------
    >>> import anndata, harmonax, matplotlib, numpy as np, pandas as pd
    >>> matplotlib.use("agg")
    >>> uns = {"harmonax_check": {
    ...     "verdict": "needed",
    ...     "components": pd.DataFrame({"component": [0, 1], "variance_share": [0.6, 0.4], "batch_key": "batch",
    ...                                 "explained": [0.1, 0.7]}),
    ...     "batches": pd.DataFrame({"batch_key": "batch", "level": ["a", "b"], "n_cells": [40, 60]})}}
    >>> axes = harmonax.pl.check(anndata.AnnData(uns=uns), show=False)
    >>> [round(float(bar.get_height()), 1) for bar in axes[0].patches]
    [0.1, 0.7]
    >>> matplotlib.pyplot.close(axes[0].figure)
    """
    check_arguments(check, locals())
    check_save(save)
    entry = stored(source, key, CHECK) if hasattr(source, "uns") else source
    components, batches = (part(entry, name, CHECK) for name in ("components", "batches"))
    verdict = str(part(entry, "verdict", CHECK))
    if not len(batches):
        raise InputError("the check has no batch: no batch column could be used; print it to see why")
    keys = list(dict.fromkeys([*batches["batch_key"].astype(str), *components["batch_key"].astype(str)]))
    colours = dict(zip(keys, palette(len(keys)), strict=True))
    height = max(3.4, 1.2 + 0.17 * min(len(batches), 45))
    canvas = Canvas(1, 2, (10.4, height), axes, width_ratios=[1.7, 1])
    left, right = canvas.axes[0]
    _components(left, components, colours)
    _sizes(right, batches, colours)
    left.set_title(f"Correction: {verdict.replace('_', ' ')}", loc="left", fontweight="bold", fontsize="medium")
    right.set_title("Cells per batch", loc="left", fontsize="medium")
    return canvas.finish(canvas.axes[0], show, save)


def _components(ax: Axes, table: pd.DataFrame, colours: dict[str, str]) -> None:
    if not len(table):
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no embedding was measured", ha="center", va="center", color=MUTED, transform=ax.transAxes)
        return
    table = table[table["component"].isin(np.unique(table["component"])[:MAX_COMPONENTS])]
    keys = [key for key in colours if (table["batch_key"].astype(str) == key).any()]
    thickness = 0.8 / len(keys)
    handles = []
    for i, key in enumerate(keys):
        own = table[table["batch_key"].astype(str) == key]
        at = own["component"].to_numpy(float) + (i - (len(keys) - 1) / 2) * thickness
        bars = ax.bar(at, np.nan_to_num(own["explained"].to_numpy(float)), thickness * 0.92, color=colours[key])
        handles.append(bars)
    first = table[table["batch_key"].astype(str) == keys[0]].sort_values("component")
    (line,) = ax.plot(first["component"], first["variance_share"], "o-", color=INK, markersize=3, linewidth=1)
    tidy(ax, grid="y")
    highest = np.nanmax([*table["explained"], *first["variance_share"], 0.2 / 1.3])
    ax.set(ylim=(0, min(1.0, 1.3 * highest)), xlabel="principal component", ylabel="share of variance")
    ax.set_xlim(float(table["component"].min()) - 0.6, float(table["component"].max()) + 0.6)
    ax.locator_params(axis="x", integer=True)
    names = [f"explained by {shown(key)}" for key in keys]
    legend(ax, [*handles, line], [*names, "the component's share of all variance"], loc="upper right", fontsize="small")


def _sizes(ax: Axes, batches: pd.DataFrame, colours: dict[str, str]) -> None:
    order = batches.assign(place=batches["batch_key"].astype(str).map(list(colours).index))
    order = order.sort_values(["place", "n_cells"], ascending=[True, False], kind="stable")
    counts, keys = order["n_cells"].to_numpy(float), order["batch_key"].astype(str)
    ax.barh(np.arange(len(order)), counts, color=[colours[key] for key in keys], height=0.8)
    several = len(set(keys)) > 1
    names = [f"{shown(k)}: {shown(v)}" if several else shown(v) for k, v in zip(keys, order["level"], strict=True)]
    tick_names(ax, "y", range(len(order)), names)
    if len(order) > 25:
        ax.tick_params(axis="y", labelsize=6)
    ax.set(ylim=(len(order) - 0.4, -0.6))
    ax.set_xlabel("cells")
    tidy(ax, grid="x")
