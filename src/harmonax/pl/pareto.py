"""The trade-off between two goals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..errors import InputError, MissingKeyError, nearest
from ..system.arguments import check_arguments
from .canvas import Canvas, check_save, tidy
from .lettering import shown, verbatim
from .palette import CHOSEN, FRONT, INK, MUTED

if TYPE_CHECKING:
    from os import PathLike

    from matplotlib.axes import Axes

_NAMED = 8


def pareto(
    table: pd.DataFrame,
    x: str,
    y: str,
    label: str | None = None,
    *,
    chosen: Any = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | PathLike[str] | None = None,
) -> Axes | None:
    """Draw two scores of several runs against each other, with the front of those that no other run beats in both.

    Parameters
    ----------
    table
        One row per run or method.
    x, y
        Columns of numbers, higher is better; say mixing of batches and preservation of biology.
    label
        Column with the names written at the points; of more than eight, at those of the front and the chosen one only.
        None: the index.
    chosen
        Name of the point to single out.
    ax
        Axes to draw into. None: a new figure.
    show
        Show the figure. None: shown unless `ax` or `save` are given, or the backend has no screen.
    save
        File to write; its suffix sets the format.

    Returns
    -------
    matplotlib.axes.Axes or None
        The Axes; None where the figure was shown.

    Raises
    ------
    MissingKeyError
        If a column or the chosen point is not there.
    InputError
        If no row has both numbers.

    Examples
    --------
    >>> import harmonax, matplotlib, pandas as pd
    >>> matplotlib.use("agg")
    >>> names = ["theta 0", "theta 2", "theta 9"]
    >>> runs = pd.DataFrame({"mixing": [0.2, 0.6, 0.5], "kept": [0.9, 0.7, 0.6]}, index=names)
    >>> ax = harmonax.pl.pareto(runs, "mixing", "kept", chosen="theta 2", show=False)
    >>> sorted(text.get_text() for text in ax.texts)
    ['theta 0', 'theta 2', 'theta 9']
    >>> matplotlib.pyplot.close(ax.figure)
    """
    check_arguments(pareto, locals())
    check_save(save)
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"table is a {type(table).__name__}; allowed is a DataFrame, such as Sweep.table")
    for name in (x, y, *([] if label is None else [label])):
        if name not in table.columns:
            raise MissingKeyError(f"the table has no column '{name}'; {nearest(name, table.columns)}")
    names = [str(v) for v in (table.index if label is None else table[label])]
    if chosen is not None and str(chosen) not in names:
        raise MissingKeyError(f"no point is called '{chosen}'; {nearest(chosen, names)}")
    xy = table[[x, y]].to_numpy(np.float64, na_value=np.nan)
    if not np.isfinite(xy).all(axis=1).any():
        raise InputError(f"no row of the table has both '{x}' and '{y}'")
    canvas = Canvas(1, 1, (5.6, 4.6), ax)
    ax = canvas.axes[0, 0]
    best = front(xy)
    line = xy[best][np.argsort(xy[best, 0])]
    ax.plot(line[:, 0], line[:, 1], color=FRONT, linewidth=1.2, zorder=1, label="front: no other is better in both")
    ax.scatter(xy[~best, 0], xy[~best, 1], s=38, facecolors="white", edgecolors=MUTED, zorder=2)
    ax.scatter(xy[best, 0], xy[best, 1], s=38, color=FRONT, zorder=3)
    if chosen is not None:
        at = np.array([name == str(chosen) for name in names])
        ax.scatter(xy[at, 0], xy[at, 1], s=190, marker="*", color=CHOSEN, edgecolors="white", zorder=4, label="chosen")
    ax.margins(x=0.22, y=0.12)
    # Of many points, the names of those that nobody would choose hide the others.
    told = np.isfinite(xy).all(axis=1) if len(xy) <= _NAMED else best | np.isin(names, [str(chosen)])
    _name_points(ax, xy, names, told)
    verbatim(ax.xaxis.label).set_text(f"{shown(x)} (more is better)")
    verbatim(ax.yaxis.label).set_text(f"{shown(y)} (more is better)")
    ax.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    tidy(ax)
    return canvas.finish(ax, show, save)


def front(xy: np.ndarray) -> np.ndarray:
    """Return which points no other beats: as good in both, and better in one; nan is never among them.

    Examples
    --------
    >>> front(np.array([[0.2, 0.9], [0.6, 0.7], [0.5, 0.6]]))
    array([ True,  True, False])
    """
    known = np.isfinite(xy).all(axis=1)
    as_good = (xy[None, :, :] >= xy[:, None, :]).all(axis=2)
    better = (xy[None, :, :] > xy[:, None, :]).any(axis=2)
    return known & ~(as_good & better & known).any(axis=1)


def _name_points(ax: Axes, xy: np.ndarray, names: list[str], told: np.ndarray) -> None:
    """Write the names beside the points, each on the side away from its nearest neighbour."""
    known = np.flatnonzero(np.isfinite(xy).all(axis=1))
    span = np.ptp(xy[known], axis=0)
    scaled = xy / np.where(span > 0, span, 1.0)
    for i in known[told[known]]:
        others = known[known != i]
        above, right = True, True
        if len(others):
            nearest_one = others[np.argmin(((scaled[others] - scaled[i]) ** 2).sum(axis=1))]
            above, right = scaled[i, 1] >= scaled[nearest_one, 1], scaled[i, 0] >= scaled[nearest_one, 0]
        # At the left edge, a name would cross the axis.
        right = right or xy[i, 0] <= xy[known, 0].min() + 0.1 * span[0]
        text = ax.annotate(
            shown(names[i]),
            xy[i],
            xytext=(6 if right else -6, 5 if above else -5),
            textcoords="offset points",
            ha="left" if right else "right",
            va="bottom" if above else "top",
            fontsize="small",
            color=INK,
            annotation_clip=False,
        )
        verbatim(text)
