"""Figures as plain dictionaries, as Plotly takes them; every name in them went through `label`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..pl.palette import BLUE, DIVERGING, FAINT, INK, MISSING
from .text import TIMES, label, number

_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
# Beyond four times, or a quarter of, what is expected, colours no longer change.
MAX_LOG2 = 2.0
MAX_BATCHES, MAX_CLUSTERS = 60, 120
MAX_WRITTEN = 150


class Chart(NamedTuple):
    """The place of a figure in the page: its number, its sizes, and what it says for those who do not see it."""

    place: int
    height: int
    says: str
    least_width: int = 0


class Figures(list[dict[str, Any]]):
    """The figures of a page, in the order in which they were added."""

    def add(self, figure: dict[str, Any], says: str, least_width: int = 0) -> Chart:
        """Add a figure, which is scrolled where there is less room than its least width; return its place."""
        self.append(figure)
        return Chart(len(self) - 1, int(figure["layout"].get("height", 300)), says, least_width)


def layout(**own: Any) -> dict[str, Any]:
    """Return what all figures have in common, and what one has of its own."""
    base = {
        "font": {"family": _FONT, "size": 13, "color": INK},
        "margin": {"l": 60, "r": 20, "t": 12, "b": 50},
        "paper_bgcolor": "#fff",
        "plot_bgcolor": "#fff",
        "hoverlabel": {"align": "left"},
        "showlegend": False,
        "height": 300,
    }
    return base | own


def axis(title: str, **own: Any) -> dict[str, Any]:
    """Return an axis with a title, which may hold names."""
    base = {
        "title": {"text": label(title, 60), "standoff": 8},
        "gridcolor": FAINT,
        "zeroline": False,
        "automargin": True,
    }
    return base | own


def observed_to_expected(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what each cell of a table would be if rows and columns were independent, and the ratio to it.

    Examples
    --------
    >>> counts = pd.DataFrame([[30.0, 10.0], [10.0, 30.0]])
    >>> observed_to_expected(counts)[1].to_numpy()
    array([[1.5, 0.5],
           [0.5, 1.5]])
    """
    values = table.to_numpy(np.float64)
    total = values.sum()
    expected = np.outer(values.sum(axis=1), values.sum(axis=0)) / (total or 1.0)
    ratio = np.divide(values, expected, out=np.full_like(values, np.nan), where=expected > 0)
    like = {"index": table.index, "columns": table.columns}
    return pd.DataFrame(expected, **like), pd.DataFrame(ratio, **like)


def heatmap(table: pd.DataFrame, rows: str, columns: str) -> tuple[dict[str, Any], str]:
    """Return a heatmap of observed to expected of a table of cells, and a note on what was left out of it."""
    expected, ratio = observed_to_expected(table)
    note = []
    keep = table.sum(axis=1).sort_values(ascending=False, kind="stable").index[:MAX_BATCHES]
    if len(table) > MAX_BATCHES:
        note.append(f"Only the largest {MAX_BATCHES} of {len(table):,} batches are shown.")
    if table.shape[1] > MAX_CLUSTERS:
        note.append(f"Only the first {MAX_CLUSTERS} of {table.shape[1]:,} clusters are shown.")
    order = [name for name in table.index if name in set(keep)]
    table, expected, ratio = (t.loc[order].iloc[:, :MAX_CLUSTERS] for t in (table, expected, ratio))
    with np.errstate(divide="ignore"):
        z = np.clip(np.log2(ratio.to_numpy()), -MAX_LOG2, MAX_LOG2)
    hover = [
        [_about_cell(table, expected, i, j, rows, columns) for j in range(table.shape[1])] for i in range(len(table))
    ]
    trace: dict[str, Any] = {
        "type": "heatmap",
        "z": [[None if math.isnan(v) else round(float(v), 3) for v in line] for line in z],
        "zmin": -MAX_LOG2,
        "zmax": MAX_LOG2,
        "colorscale": [[i / (len(DIVERGING) - 1), colour] for i, colour in enumerate(DIVERGING)],
        "hovertext": hover,
        "hoverinfo": "text",
        "xgap": 1,
        "ygap": 1,
        "colorbar": {
            "orientation": "h",
            "x": 1,
            "xanchor": "right",
            "y": 1,
            "yanchor": "bottom",
            "ypad": 5,
            "lenmode": "pixels",
            "len": 300,
            "tickvals": [-2, -1, 0, 1, 2],
            "ticktext": ["≤ ¼", "½", "as expected", f"2{TIMES}", f"≥ 4{TIMES}"],
            "thickness": 10,
            "outlinewidth": 0,
        },
    }
    if table.size <= MAX_WRITTEN and table.shape[1] <= 16:
        trace |= {"text": [[f"{v:.2f}" for v in line] for line in ratio.to_numpy()], "texttemplate": "%{text}"}
    names = [label(name) for name in table.index]
    side = axis(rows, tickvals=list(range(len(names))), ticktext=names, autorange="reversed", showgrid=False)
    below = axis(columns, showgrid=False)
    if table.shape[1] <= 40:
        below |= {"tickvals": list(range(table.shape[1])), "ticktext": [label(c, 18) for c in table.columns]}
    height = 130 + max(22 * len(names), 76)
    margin = {"l": 60, "r": 12, "t": 48, "b": 50}
    return {"data": [trace], "layout": layout(xaxis=below, yaxis=side, height=height, margin=margin)}, " ".join(note)


def _about_cell(table: pd.DataFrame, expected: pd.DataFrame, i: int, j: int, rows: str, columns: str) -> str:
    seen, chance = float(table.iat[i, j]), float(expected.iat[i, j])
    names = f"{label(rows)} {label(table.index[i], 60)}<br>{label(columns, 60)} {label(table.columns[j], 60)}"
    ratio = number(seen / chance) if chance else number(float("nan"))
    return f"{names}<br>observed {number(round(seen, 1))}<br>expected {number(round(chance, 1))}<br>ratio {ratio}"


def line_over_passes(values: Sequence[float], ends: Sequence[int], title: str, colour: str) -> dict[str, Any]:
    """Return a line over the clustering passes, with a dotted line where each round ends.

    The values are those of every pass, or of the last pass of every round.
    """
    shapes = [
        {"type": "line", "x0": end + 0.5, "x1": end + 0.5, "yref": "paper", "y0": 0, "y1": 1}
        | {"line": {"color": MISSING, "width": 1, "dash": "dot"}, "layer": "below"}
        for end in list(ends)[:-1][:200]
    ]
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": list(ends) if len(values) == len(ends) else list(range(1, len(values) + 1)),
        "y": [float(v) for v in values],
        "line": {"color": colour, "width": 2},
        "marker": {"size": 5, "color": colour},
        "hovertemplate": "pass %{x}: %{y:.5g}<extra></extra>",
    }
    own = {"xaxis": axis("clustering pass", showgrid=False), "yaxis": axis(title, tickformat="~g"), "shapes": shapes}
    return {"data": [trace], "layout": layout(height=260, margin={"l": 70, "r": 12, "t": 12, "b": 48}, **own)}


def variance_bars(components: pd.DataFrame, key: str) -> dict[str, Any]:
    """Return each component's share of the variance, and how much of it a batch variable explains."""
    share = 100 * components["variance_share"].to_numpy(np.float64)
    explained = np.clip(components["explained"].to_numpy(np.float64), 0, 1)
    x = [int(c) for c in components["component"]]
    name = label(key)
    # A template would take braces in a name for its own.
    hover = [
        f"component {c}: {a:.2f}% of the variance<br>{name} explains {b:.1%} of that"
        for c, a, b in zip(x, share, explained, strict=True)
    ]
    common: dict[str, Any] = {"type": "bar", "x": x, "hovertext": hover, "hoverinfo": "text"}
    whole: dict[str, Any] = {"name": "all", "y": share.round(4).tolist(), "marker": {"color": FAINT}}
    part: dict[str, Any] = {"name": f"explained by {name}", "marker": {"color": BLUE}}
    part |= {"y": (share * explained).round(4).tolist()}
    legend = {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"}
    own: dict[str, Any] = {"xaxis": axis("principal component", showgrid=False, tickformat="d")}
    own |= {"yaxis": axis("% of the variance"), "barmode": "overlay", "bargap": 0.25, "legend": legend}
    margin = {"l": 60, "r": 12, "t": 40, "b": 48}
    return {
        "data": [common | whole, common | part],
        "layout": layout(height=280, margin=margin, **own) | {"showlegend": True},
    }
