"""Names from the data, written as they are: never as mathematics, never hidden, never in the way of the drawing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend
    from matplotlib.text import Text

MAX_NAME = 48
MAX_LEGEND_ROWS = 18
MAX_TICKS = 100


def shown(name: object) -> str:
    """Return a name as figures show it: control characters escaped, the middle of a very long one left out.

    Examples
    --------
    >>> shown("plate 1"), shown("a\\nb"), shown("")
    ('plate 1', 'a\\\\nb', '""')
    """
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))
    if len(text) > MAX_NAME:
        text = text[: MAX_NAME // 2] + "…" + text[-(MAX_NAME // 2 - 1) :]
    return text or '""'


def verbatim(text: Text) -> Text:
    """Take a text that holds a name literally: "$" does not begin mathematics."""
    text.set_parse_math(False)
    text.set_usetex(False)
    return text


def tick_names(ax: Axes, which: str, positions: Sequence[float] | np.ndarray, names: Sequence[object]) -> None:
    """Name positions of the "x" or "y" axis; of more than can be read, only every second, third, ..."""
    every = -(-len(names) // MAX_TICKS) or 1
    axis = getattr(ax, f"{which}axis")
    axis.set_ticks(
        list(positions)[::every], [shown(name) for name in list(names)[::every]], parse_math=False, usetex=False
    )
    axis.set_tick_params(length=0)


def legend_columns(n: int) -> int:
    """Return how many columns a legend of n names takes."""
    return max(1, -(-n // MAX_LEGEND_ROWS))


def legend(ax: Axes, handles: Sequence, names: Sequence[str], title: str = "", **options) -> Legend:
    """Add a legend; matplotlib would leave out names that begin with "_", and read "$" as mathematics."""
    made = ax.legend(
        handles=list(handles),
        labels=["-"] * len(names),
        title=title or None,
        frameon=False,
        alignment="left",
        title_fontproperties={"weight": "bold"},
        handletextpad=0.4,
        **options,
    )
    for text, name in zip(made.get_texts(), names, strict=True):
        verbatim(text).set_text(name)
    verbatim(made.get_title())
    return made
