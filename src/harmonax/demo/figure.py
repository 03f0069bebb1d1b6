"""The before/after figure: the same cells, coloured by batch and by cell type, in two views."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours for batches, Paul Tol's "muted" for types: both made for colour-blind readers.
_BATCH_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
_TYPE_COLOURS = (
    *("#332288", "#88CCEE", "#44AA99", "#882255", "#999933", "#DDCC77", "#CC6677", "#AA4499", "#117733", "#555555"),
)
# Inches.
_SIDE, _GAP, _LEFT, _RIGHT, _TOP, _BOTTOM = 3.9, 0.18, 0.3, 2.15, 0.75, 0.62
_DPI = 130
_INK, _MUTED = "#222222", "#666666"


class View(NamedTuple):
    """One column of the figure: a layout (N, 2) with its title and the line below it."""

    layout: np.ndarray
    title: str
    caption: str


class Labels(NamedTuple):
    """Codes of the cells (N,), and the names they stand for."""

    codes: np.ndarray
    names: Sequence[str]


def draw(
    path: Path, views: Sequence[View], batch: Labels, cell_type: Labels, footnote: str, rng: np.random.Generator
) -> None:
    """Write the figure as PNG."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = _LEFT + len(views) * _SIDE + (len(views) - 1) * _GAP + _RIGHT
    height = _TOP + 2 * _SIDE + _GAP + _BOTTOM
    order = rng.permutation(len(batch.codes))
    with rc_context({"font.family": "DejaVu Sans", "font.size": 10, "text.color": _INK}):
        # A figure of its own, not pyplot's: no display is needed and nothing of the caller's is touched.
        figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(figure)
        for row, (title, labels, colours) in enumerate(
            (("Batch", batch, _BATCH_COLOURS), ("Cell type", cell_type, _TYPE_COLOURS))
        ):
            for column, view in enumerate(views):
                left = _LEFT + column * (_SIDE + _GAP)
                low = _BOTTOM + (1 - row) * (_SIDE + _GAP)
                ax = figure.add_axes((left / width, low / height, _SIDE / width, _SIDE / height))
                _scatter(ax, view.layout[order], np.asarray(colours)[labels.codes[order] % len(colours)])
                if row == 0:
                    ax.text(0, 1.085, view.title, transform=ax.transAxes, fontsize=14, fontweight="bold")
                    ax.text(0, 1.03, view.caption, transform=ax.transAxes, color=_MUTED)
                else:
                    _name_islands(ax, view.layout, labels)
            _legend(ax, title, labels, colours)
        figure.text(_LEFT / width, 0.15 / height, footnote, fontsize=8.5, color=_MUTED)
        figure.savefig(path, format="png")


def _scatter(ax: Axes, xy: np.ndarray, colours: np.ndarray) -> None:
    size = np.clip(30000 / len(xy), 1.5, 30)
    ax.scatter(xy[:, 0], xy[:, 1], s=size, c=colours, linewidths=0, alpha=0.75)
    centre, half = (xy.max(axis=0) + xy.min(axis=0)) / 2, np.ptp(xy, axis=0).max() / 2 * 1.08
    ax.set_xlim(centre[0] - half, centre[0] + half)
    ax.set_ylim(centre[1] - half, centre[1] + half)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color("#CCCCCC")


def _name_islands(ax: Axes, xy: np.ndarray, labels: Labels) -> None:
    """Write each type's name once, on its largest island, or above it where the name would hide it."""
    from matplotlib.patheffects import withStroke
    from scipy.spatial import cKDTree

    reach = 0.08 * np.ptp(xy, axis=0).max()
    for code, name in enumerate(labels.names):
        own = xy[labels.codes == code]
        if not len(own):
            continue
        tree = cKDTree(own)
        centre = own[int(np.argmax(tree.query_ball_point(own, reach, return_length=True)))]
        for _ in range(10):
            island = own[tree.query_ball_point(centre, reach)]
            centre = island.mean(axis=0)
        small = np.ptp(island, axis=0).max() < 1.5 * reach
        # Near the frame a name grows inwards.
        across = ax.transLimits.transform(centre)[0]
        ax.text(
            centre[0],
            island[:, 1].max() + 0.15 * reach if small else centre[1],
            name,
            ha="center" if 0.13 < across < 0.87 else "left" if across < 0.5 else "right",
            va="bottom" if small else "center",
            fontsize=9,
            fontweight="bold",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )


def _legend(ax: Axes, title: str, labels: Labels, colours: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    count = np.bincount(labels.codes, minlength=len(labels.names))
    handles = [
        Line2D([], [], marker="o", linestyle="", color=colours[i % len(colours)], label=f"{name} ({count[i]:,})")
        for i, name in enumerate(labels.names)
    ]
    ax.legend(
        handles=handles,
        title=title,
        loc="center left",
        bbox_to_anchor=(1.02, 0.5),
        frameon=False,
        alignment="left",
        title_fontproperties={"weight": "bold", "size": 11},
        handletextpad=0.2,
        labelspacing=0.6,
    )
