"""Figures of cells: measures batch by batch, markers in clusters, and the runs of a sweep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..pl.palette import AFTER, BEFORE, CHOSEN, FRONT, MISSING, VIRIDIS
from ..pl.pareto import front
from .figures import MAX_BATCHES, axis, layout
from .text import label, number


def boxes(rows: pd.DataFrame, title: str, limits: Sequence[float]) -> dict[str, Any]:
    """Return a box for each batch, before and after, from stored quantiles, and a line for each threshold."""
    levels = list(dict.fromkeys(rows["level"].astype(str)))[:MAX_BATCHES]
    place = {level: i for i, level in enumerate(levels)}
    traces = []
    for when, colour in (("before", BEFORE), ("after", AFTER)):
        held = rows[(rows["when"] == when) & rows["level"].astype(str).isin(levels)]
        quantiles = {"lowerfence": "q05", "q1": "q25", "median": "q50", "q3": "q75", "upperfence": "q95"}
        trace: dict[str, Any] = {"type": "box", "orientation": "h", "name": when, "marker": {"color": colour}}
        trace |= {to: held[name].astype(float).tolist() for to, name in quantiles.items()}
        # No kernel, no points: what is stored is all there is.
        traces.append(
            trace | {"y": [place[str(level)] for level in held["level"]], "hoverinfo": "x", "line": {"width": 1.5}}
        )
    line = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "line": {"color": CHOSEN, "width": 1.5, "dash": "dot"}}
    side = axis("", tickvals=list(place.values()), ticktext=[label(name, 18) for name in levels], autorange="reversed")
    own = {"xaxis": axis(title, rangemode="tozero"), "yaxis": side | {"showgrid": False}, "boxmode": "group"}
    shapes = [line | {"x0": float(limit), "x1": float(limit)} for limit in limits]
    height = 110 + max(40 * len(levels), 90)
    made = layout(height=height, margin={"l": 40, "r": 12, "t": 8, "b": 48}, shapes=shapes, **own)
    return {"data": traces, "layout": made}


def dot_plot(mean: pd.DataFrame, share: pd.DataFrame, by: str) -> dict[str, Any]:
    """Return a dot for each gene in each group: its size the share of cells, its colour the mean."""
    top = mean.max(axis=1).to_numpy()[:, None]
    relative = np.divide(mean.to_numpy(), top, out=np.zeros(mean.shape), where=top > 0)
    n_genes, n_groups = mean.shape
    x, y = np.meshgrid(np.arange(n_genes), np.arange(n_groups))
    hover = [
        f"{label(mean.index[i], 60)} in {label(mean.columns[j], 60)}<br>in {share.iat[i, j]:.0%} of the cells"
        f"<br>mean {number(mean.iat[i, j])}"
        for j in range(n_groups)
        for i in range(n_genes)
    ]
    scale = [[k / (len(VIRIDIS) - 1), colour] for k, colour in enumerate(reversed(VIRIDIS))]
    bar = {"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "lenmode": "pixels", "len": 220}
    bar |= {"thickness": 10, "outlinewidth": 0, "tickvals": [0, 1], "ticktext": ["none", "highest"]}
    marker = {
        "size": (3 + 13 * np.sqrt(share.to_numpy().T.ravel())).round(1).tolist(),
        "color": relative.T.ravel().round(3).tolist(),
    }
    marker |= {"colorscale": scale, "cmin": 0, "cmax": 1, "colorbar": bar, "line": {"width": 0.5, "color": MISSING}}
    trace: dict[str, Any] = {"type": "scatter", "mode": "markers", "x": x.ravel().tolist(), "y": y.ravel().tolist()}
    trace |= {"marker": marker, "hovertext": hover, "hoverinfo": "text"}
    genes = axis("", tickvals=list(range(n_genes)), ticktext=[label(g, 16) for g in mean.index], tickangle=-90)
    groups = axis(
        by, tickvals=list(range(n_groups)), ticktext=[label(g, 18) for g in mean.columns], autorange="reversed"
    )
    genes |= {"range": [-0.8, n_genes - 0.2], "showgrid": False}
    height = 190 + 22 * n_groups
    own = {"xaxis": genes, "yaxis": groups | {"showgrid": False}, "margin": {"l": 60, "r": 16, "t": 52, "b": 90}}
    return {"data": [trace], "layout": layout(height=height, **own)}


def trade_off(table: pd.DataFrame, x: str, y: str, names: Sequence[str], chosen: int | None) -> dict[str, Any]:
    """Return runs as points: mixing against structure (or another column), the front and the chosen one marked."""
    xy = table[[x, y]].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    best = front(xy)
    line = xy[best][np.argsort(xy[best, 0], kind="stable")]
    parts: list[tuple[str, Any, dict[str, Any]]] = [
        ("other runs", np.flatnonzero(~best), {"color": MISSING, "size": 9}),
        ("no other run is better in both", np.flatnonzero(best), {"color": FRONT, "size": 9}),
    ]
    if chosen is not None:
        parts.append(("chosen", np.array([chosen]), {"color": CHOSEN, "size": 16, "symbol": "star"}))
    traces: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "x": line[:, 0].tolist(), "y": line[:, 1].tolist()}
        | {"line": {"color": FRONT, "width": 1.2}, "hoverinfo": "skip", "showlegend": False}
    ]
    for name, rows, marker in parts:
        rows = [int(i) for i in rows if not (math.isnan(xy[i, 0]) or math.isnan(xy[i, 1]))]
        trace = {"type": "scatter", "mode": "markers", "name": name, "marker": marker, "hoverinfo": "text"}
        traces.append(
            trace | {"x": xy[rows, 0].tolist(), "y": xy[rows, 1].tolist(), "hovertext": [names[i] for i in rows]}
        )
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
    own = {"xaxis": axis(f"{x} (more is better)"), "yaxis": axis(f"{y} (more is better)"), "legend": legend}
    made = layout(height=380, margin={"l": 70, "r": 16, "t": 40, "b": 52}, **own)
    return {"data": traces, "layout": made | {"showlegend": True}}
