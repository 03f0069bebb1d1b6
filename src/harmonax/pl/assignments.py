"""Which batches each soft cluster is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, MissingKeyError, nearest
from ..system.arguments import check_arguments
from .canvas import Canvas, check_save
from .lettering import shown, tick_names, verbatim
from .palette import DIVERGING
from .stored import CORRECT, harmony_record
from .views import colour_bar

if TYPE_CHECKING:
    from os import PathLike

    from matplotlib.axes import Axes

# log2: an eighth, and eight times as many as expected.
_LIMIT = 3.0


def assignments(
    source: Any,
    batch_key: str | None = None,
    *,
    key: str = "harmonax",
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | PathLike[str] | None = None,
) -> Axes | None:
    """Draw how many cells of each batch the soft clusters hold, compared with what chance would give.

    Parameters
    ----------
    source
        An AnnData that was corrected, or the result of ``harmonize`` or ``run_harmony``.
    batch_key
        Batch variable. None: the first of the run.
    key
        Where in ``adata.uns`` the run is recorded.
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
        If the AnnData was not corrected, or the run has no such variable.
    InputError
        If the run had only one batch, and therefore no clusters.

    Notes
    -----
    Shown is log2(O / E): O, the sum of the soft assignments of a batch's cells to a cluster; E, the cluster's sum times
    the batch's share of all cells. Orange: fewer cells than expected; blue: more. The colours end at 8 times as many or
    as few. Clusters are ordered by their dominant batch. A cluster that one batch dominates is a state that
    only this batch has, or one that was not mixed.

    Examples
    --------
    >>> import harmonax, matplotlib, numpy as np
    >>> matplotlib.use("agg")
    >>> gen = np.random.default_rng(0)
    >>> result = harmonax.harmonize(gen.normal(size=(200, 5)), np.repeat(["a", "b"], 100), rng=0)
    >>> ax = harmonax.pl.assignments(result, show=False)
    >>> ax.images[0].get_array().shape  # batches x clusters
    (2, 7)
    >>> matplotlib.pyplot.close(ax.figure)
    """
    check_arguments(assignments, locals())
    from matplotlib.colors import LinearSegmentedColormap

    check_save(save)
    record = harmony_record(source, key)
    batch_key, names, n_cells, mass = _masses(record, batch_key)
    ratio = observed_over_expected(mass, n_cells)
    ratio = ratio[:, _order(ratio)]
    height = 1.1 + 0.24 * min(len(names), 60)
    canvas = Canvas(1, 1, (2.6 + min(max(0.07 * mass.shape[1], 4.0), 9), max(height, 2.2)), ax)
    ax = canvas.axes[0, 0]
    image = ax.imshow(
        ratio,
        cmap=LinearSegmentedColormap.from_list("observed / expected", DIVERGING),
        vmin=-_LIMIT,
        vmax=_LIMIT,
        aspect="auto",
        interpolation="nearest",
    )
    rows = [f"{shown(name)} ({n:,})" for name, n in zip(names, n_cells, strict=True)]
    tick_names(ax, "y", range(len(names)), rows)
    ax.set_xticks([])
    ax.set_xlabel(f"{mass.shape[1]} soft clusters, ordered by their dominant batch")
    verbatim(ax.set_title(f"Cells of each {shown(batch_key)} in the soft clusters", loc="left", fontweight="bold"))
    for spine in ax.spines.values():
        spine.set_visible(False)
    ticks = [-3, -2, -1, 0, 1, 2, 3]
    bar = colour_bar(image, "observed / expected", ax=ax, extend="both", ticks=ticks, pad=0.02)
    bar.ax.set_yticklabels(["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    return canvas.finish(ax, show, save)


def observed_over_expected(mass: np.ndarray, n_cells: np.ndarray) -> np.ndarray:
    """Return log2(O / E) of levels x clusters; -inf where a level has nothing, nan where the cluster is empty.

    Examples
    --------
    >>> observed_over_expected(np.array([[6.0, 1.0], [2.0, 2.0]]), np.array([6, 6])).round(2)
    array([[ 0.58, -0.58],
           [-1.  ,  0.42]])
    """
    expected = mass.sum(axis=0) * (n_cells / n_cells.sum())[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log2(mass / expected)


def _order(ratio: np.ndarray) -> np.ndarray:
    finite = np.nan_to_num(ratio, nan=-99.0, neginf=-99.0)
    return np.lexsort((-finite.max(axis=0), finite.argmax(axis=0)))


def _masses(record: dict[str, Any], batch_key: str | None) -> tuple[str, list[str], np.ndarray, np.ndarray]:
    """Return the variable, its levels, their cells, and the cells of each in each cluster."""
    mass = np.asarray(record.get("cluster_mass", np.empty((0, 0))), float)
    if "cluster_mass" not in record:
        raise MissingKeyError(f"the record of the run has no 'cluster_mass'; run {CORRECT} again to make it")
    if mass.size == 0:
        raise InputError("the run had only one batch, so there are no soft clusters to draw")
    keys = [str(k) for k in record["batch_keys"]]
    batch_key = keys[0] if batch_key is None else batch_key
    if batch_key not in keys:
        raise MissingKeyError(f"the run has no batch variable '{batch_key}'; {nearest(batch_key, keys)}")
    levels = record["levels"]
    own = np.asarray(levels["batch_key"]).astype(str) == batch_key
    names = [str(v) for v in np.asarray(levels["level"])[own]]
    return batch_key, names, np.asarray(levels["n_cells"])[own], mass[own]
