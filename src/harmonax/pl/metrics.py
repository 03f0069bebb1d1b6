"""Scores of several embeddings, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..errors import InputError
from ..system.arguments import check_arguments
from .canvas import Canvas, check_save, tidy
from .lettering import legend, shown, tick_names
from .palette import AFTER, BEFORE, INK, palette
from .stored import part, stored

if TYPE_CHECKING:
    from os import PathLike

    from matplotlib.axes import Axes

EVALUATE = "harmonax.tl.evaluate(adata, batch_key)"
KINDS = {
    "total": "Total",
    "batch": "Batches mixed",
    "bio": "Biology kept",
    "further": "Beside the means",
    "label-free": "Without labels",
}
# Metrics that are shown under another name than they are stored under.
NAMES = {"own-batch neighbors kept": "same-batch neighbours kept"}


def metrics(
    source: Any,
    *,
    key: str = "harmonax_evaluation",
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | PathLike[str] | None = None,
) -> Axes | None:
    """Draw the scores of every embedding as bars, grouped by metric.

    Parameters
    ----------
    source
        An AnnData that was evaluated, what ``harmonax.tl.evaluate`` returned, or a table with the columns
        embedding, batch_key, metric, kind, value, low and high.
    key
        Where in ``adata.uns`` the evaluation is.
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
        If there is no evaluation.
    InputError
        If it has no score.

    Notes
    -----
    All scores lie between 0 and 1 and higher is better. Lines on the bars are intervals, where cells were sampled.
    Each of several batch variables has a section of its own. A score that is NaN has no bar.

    Examples
    --------
    >>> import harmonax, matplotlib, numpy as np, pandas as pd
    >>> matplotlib.use("agg")
    >>> scores = pd.DataFrame({"embedding": ["X_pca", "X_pca_harmony"], "batch_key": "batch", "metric": "iLISI",
    ...                        "kind": "batch", "value": [0.1, 0.6], "low": np.nan, "high": np.nan})
    >>> ax = harmonax.pl.metrics(scores, show=False)
    >>> [round(float(bar.get_width()), 1) for bar in ax.patches]
    [0.1, 0.6]
    >>> matplotlib.pyplot.close(ax.figure)
    """
    check_arguments(metrics, locals())
    check_save(save)
    scores = _scores(source, key)
    embeddings = list(dict.fromkeys(scores["embedding"]))
    rows, places = _layout(scores)
    thickness = 0.8 / len(embeddings)
    inches = (rows[-1][0] + 1) * max(0.3, 0.17 * len(embeddings)) + 1.0
    canvas = Canvas(1, 1, (7.2, inches), ax)
    ax = canvas.axes[0, 0]
    handles = []
    # The first is the one before correction.
    colours = [BEFORE, AFTER, *palette(len(embeddings))[2:]][: len(embeddings)]
    for i, (name, colour) in enumerate(zip(embeddings, colours, strict=True)):
        own = scores[scores["embedding"] == name]
        at = np.array([places[group] for group in zip(own["section"], own["metric"], strict=True)])
        at = at + (i - (len(embeddings) - 1) / 2) * thickness
        handles.append(_bars(ax, own, at, thickness, colour))
    _labels(ax, rows)
    legend(ax, handles, [shown(name) for name in embeddings], loc="lower left", bbox_to_anchor=(0, 1.0),
           ncols=min(len(embeddings), 3), columnspacing=1.2)  # fmt: skip
    return canvas.finish(ax, show, save)


def _scores(source: Any, key: str) -> pd.DataFrame:
    """Return the table, with the section each row belongs to: a kind, and a batch variable where there are several."""
    if isinstance(source, pd.DataFrame):
        table = source
    else:
        table = part(stored(source, key, EVALUATE) if hasattr(source, "uns") else source, "scores", EVALUATE)
    lacking = {"embedding", "batch_key", "metric", "kind", "value"} - set(table.columns)
    if lacking:
        raise InputError(f"the table of scores has no column {', '.join(sorted(lacking))}; it is made by {EVALUATE}")
    if not len(table):
        raise InputError("the table of scores is empty")
    table = table.assign(**{name: table[name].astype(str) for name in ("embedding", "batch_key", "metric", "kind")})
    several = table.loc[table["batch_key"] != "", "batch_key"].nunique() > 1
    return table.assign(
        section=list(zip(table["kind"], table["batch_key"] if several else [""] * len(table), strict=True))
    )


def _layout(scores: pd.DataFrame) -> tuple[list[tuple[float, str, bool]], dict[tuple[Any, str], float]]:
    """Return what stands along the axis, (position, name, whether a heading), and where each metric's bars are."""
    order = {kind: place for place, kind in enumerate(KINDS)}
    rows: list[tuple[float, str, bool]] = []
    places: dict[tuple[Any, str], float] = {}
    at = 0.0
    for kind, key in sorted(dict.fromkeys(scores["section"]), key=lambda section: order.get(section[0], len(order))):
        name = KINDS.get(kind, kind)
        rows.append((at, f"{name}: {shown(key)}" if key else name, True))
        at += 0.85
        for metric in dict.fromkeys(scores.loc[[section == (kind, key) for section in scores["section"]], "metric"]):
            places[(kind, key), metric] = at
            rows.append((at, NAMES.get(metric, metric), False))
            at += 1.0
    return rows, places


def _bars(ax: Axes, own: pd.DataFrame, at: np.ndarray, thickness: float, colour: str) -> Any:
    value = own["value"].to_numpy(float)
    bars = ax.barh(at, np.nan_to_num(value), height=thickness * 0.9, color=colour)
    if {"low", "high"} <= set(own.columns):
        low, high = own["low"].to_numpy(float), own["high"].to_numpy(float)
        known = np.isfinite(low) & np.isfinite(high) & np.isfinite(value)
        if known.any():
            reach = np.clip([value - low, high - value], 0, None)[:, known]
            ax.errorbar(value[known], at[known], xerr=reach, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    for y, v, top in zip(at, value, np.fmax(value, own.get("high", own["value"]).to_numpy(float)), strict=True):
        note = f"{v:.2f}" if np.isfinite(v) else "not computed"
        ax.text(max(np.nan_to_num(top), 0) + 0.012, y, note, va="center", fontsize=7, color=INK)
    return bars


def _labels(ax: Axes, rows: list[tuple[float, str, bool]]) -> None:
    tick_names(ax, "y", [at for at, *_ in rows], [name for _, name, _ in rows])
    for label, (*_, heading) in zip(ax.get_yticklabels(), rows, strict=False):
        if heading:
            label.set_fontweight("bold")
    tidy(ax, grid="x")
    ax.set(xlim=(0, 1.08), ylim=(rows[-1][0] + 0.6, -0.6), xticks=np.arange(0, 1.01, 0.2))
    ax.set_xlabel("score (0 to 1, higher is better)")
    ax.spines["left"].set_visible(False)
