"""Where figures are drawn, and what becomes of them: shown, saved or returned, as scanpy's users expect."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, OutputError
from .palette import FAINT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CANNOT_SHOW = {"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"}
_DPI = 150


class Canvas:
    """The Axes of one figure: those that were given, or a new figure of this size, in inches, and grid.

    Global settings are left alone, and no backend is chosen.
    """

    def __init__(self, rows: int, columns: int, size: tuple[float, float], given: Any = None, **grid: Any) -> None:
        from matplotlib import pyplot as plt

        self.own = given is None
        if given is None:
            made = {"layout": "constrained", **grid}
            _, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **made)
        else:
            axes = _as_axes(given, rows, columns)
        self.axes: np.ndarray = axes
        self.figure: Figure = axes[0, 0].figure

    def finish(self, result: Any, show: bool | None, save: str | PathLike[str] | None) -> Any:
        """Save and show the figure as asked; return `result`, or None where it was shown."""
        from matplotlib import get_backend
        from matplotlib import pyplot as plt

        if save is not None:
            self._save(save)
        if show is None:
            show = self.own and save is None and get_backend().lower() not in _CANNOT_SHOW
            if self.own and save is not None:
                # Else each figure of a long script would stay in memory.
                plt.close(self.figure)
        if show:
            plt.show()
            return None
        return result

    def _save(self, save: str | PathLike[str]) -> None:
        path = Path(save)
        known = self.figure.canvas.get_supported_filetypes()
        if path.suffix and path.suffix[1:].lower() not in known:
            raise InputError(f"save={fspath(path)!r} ends in {path.suffix!r}; allowed are {', '.join(sorted(known))}")
        try:
            self.figure.savefig(path, dpi=_DPI, bbox_inches="tight")
        except OSError as error:
            raise OutputError(f"the figure cannot be written to {fspath(path)!r}: {error.strerror or error}") from None


def check_save(save: Any) -> None:
    """Refuse what is not a path, before anything is drawn."""
    if save is not None and (isinstance(save, bool) or not isinstance(save, (str, PathLike)) or not fspath(save)):
        raise InputError(f"save={save!r} must be the path of the file to write, such as 'figure.png'")


def _as_axes(given: Any, rows: int, columns: int) -> np.ndarray:
    from matplotlib.axes import Axes

    axes = np.array(given, dtype=object, ndmin=1).ravel()
    if len(axes) != rows * columns or not all(isinstance(ax, Axes) for ax in axes):
        shape = str(rows * columns) if 1 in (rows, columns) else f"{rows} x {columns}"
        raise InputError(f"axes must be {shape} matplotlib Axes, as matplotlib.pyplot.subplots gives them")
    return axes.reshape(rows, columns)


def tidy(ax: Axes, *, grid: str | None = None) -> None:
    """Take away the frame's upper and right side; draw a grid along "x" or "y", behind everything."""
    ax.spines[["top", "right"]].set_visible(False)
    if grid:
        ax.grid(axis=grid, color=FAINT, linewidth=0.8)  # type: ignore[arg-type]
        ax.set_axisbelow(True)
