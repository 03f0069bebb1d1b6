"""How the objective fell, and why the run stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..system.arguments import check_arguments
from .canvas import Canvas, check_save, tidy
from .palette import FAINT, INK, MUTED, TERMS
from .stored import harmony_record

if TYPE_CHECKING:
    from os import PathLike

_TERMS = (("distance", "-"), ("entropy", "--"), ("diversity", "-."))
_ENDED = {"converged": "Converged", "max_iterations": "Not converged: stopped at the maximum number of rounds"}


def convergence(
    source: Any,
    *,
    key: str = "harmonax",
    axes: Any = None,
    show: bool | None = None,
    save: str | PathLike[str] | None = None,
) -> np.ndarray | None:
    """Draw Harmony's objective after every clustering pass, its three terms after every round, and why the run stopped.

    Parameters
    ----------
    source
        An AnnData that was corrected, or the result of ``harmonize`` or ``run_harmony``.
    key
        Where in ``adata.uns`` the run is recorded.
    axes
        Two Axes to draw into: the objective, and its terms. None: a new figure.
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
        If the AnnData was not corrected.

    Notes
    -----
    Pass 0 is the first, unpenalised assignment. Vertical lines are the ends of rounds, where cells are corrected;
    the objective at the ends of rounds decides about convergence. From pass to pass it may rise a little. The three
    terms add up to the objective: one may rise, where another falls by more.

    Examples
    --------
    >>> import harmonax, matplotlib, numpy as np
    >>> matplotlib.use("agg")
    >>> gen = np.random.default_rng(0)
    >>> params = harmonax.HarmonyParams(tol_harmony=1e-2)
    >>> result = harmonax.harmonize(gen.normal(size=(200, 5)), np.repeat(["a", "b"], 100), params, rng=0)
    >>> axes = harmonax.pl.convergence(result, show=False)
    >>> axes[0].get_title(loc="left").splitlines()[0]
    'Converged'
    >>> matplotlib.pyplot.close(axes[0].figure)
    """
    check_arguments(convergence, locals())
    check_save(save)
    record = harmony_record(source, key)
    history = record["history"]
    canvas = Canvas(2, 1, (6.4, 5.4), axes, sharex=True, height_ratios=[3, 2])
    objective, terms = canvas.axes[:, 0]
    total = np.asarray(history["objective_passes"], float)
    if len(total) == 0:
        for ax in (objective, terms):
            ax.set_axis_off()
        objective.set_title("One batch: nothing to correct", loc="left", fontweight="bold")
        return canvas.finish(canvas.axes[:, 0], show, save)
    ends = np.cumsum(np.asarray(history["passes"], int))
    rounds = np.asarray(history["objective"], float)
    passes = np.arange(1, len(total) + 1)
    objective.plot(np.append(0, passes), np.append(rounds[0], total), color=MUTED, linewidth=1)
    objective.plot(np.append(0, ends), rounds, "o", color=INK, markersize=4, label="end of a round")
    for name, style in _TERMS:
        values = np.asarray(history[name], float)
        # Of every pass in older records, and of the diversity.
        values = values if len(values) == len(ends) else values[ends - 1]
        terms.plot(ends, values - values[0], style + ".", color=TERMS[name], label=name, linewidth=1.6)
    for ax in (objective, terms):
        tidy(ax)
        for end in ends:
            ax.axvline(end, color=FAINT, linewidth=0.8, zorder=0)
        ax.legend(frameon=False, fontsize="small", loc="upper right" if ax is objective else "best")
    terms.axhline(0, color=MUTED, linewidth=0.6, zorder=0)
    objective.set_ylabel("objective")
    terms.set(xlabel="clustering pass (lines: ends of rounds)", ylabel="its terms: change\nsince the first round")
    objective.set_title(_title(record, len(ends), len(total)), loc="left", fontsize="medium")
    return canvas.finish(canvas.axes[:, 0], show, save)


def _title(record: dict[str, Any], n_rounds: int, n_passes: int) -> str:
    tolerance = float(record["params"].get("tol_harmony", np.nan))
    change = float(record["last_change"])
    reached = f"last change of the objective {change:.1e}, tolerance {tolerance:.1e}"
    rounds = f"{n_rounds} round{'s' * (n_rounds != 1)}, {n_passes} passes"
    return f"{_ENDED.get(str(record['status']), str(record['status']))}\n{rounds}; {reached}"
