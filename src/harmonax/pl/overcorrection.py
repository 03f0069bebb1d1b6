"""Where a correction separated neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..errors import InputError, MissingKeyError
from ..evaluation.neighbours import OF_BATCH
from ..system.arguments import check_arguments
from .canvas import Canvas, check_save, tidy
from .lettering import shown, verbatim
from .palette import INK, MISSING, MUTED, NUMBERS, SKY
from .stored import part, stored
from .views import View, colour_bar, corrected_view, scatter, shuffled

if TYPE_CHECKING:
    from os import PathLike

    from anndata import AnnData
    from matplotlib.axes import Axes

DIAGNOSE = "harmonax.tl.diagnose(adata)"
KEPT = "harmonax_neighbors_kept"
# A group is named if it kept at least this much less than all cells did, and has at least this many cells.
MIN_LOSS, MIN_CELLS = 0.1, 30
MAX_NAMED = 8


def overcorrection(
    adata: AnnData,
    *,
    basis: str | None = None,
    key: str = "harmonax_diagnosis",
    axes: Any = None,
    show: bool | None = None,
    save: str | PathLike[str] | None = None,
) -> np.ndarray | None:
    """Map the share of same-batch neighbours that each cell kept, beside its distribution over cells.

    Parameters
    ----------
    adata
        N cells, diagnosed with ``harmonax.tl.diagnose``.
    basis
        Embedding in ``adata.obsm`` to draw on. None: ``"X_umap"``, else the corrected embedding.
    key
        Where in ``adata.uns`` the diagnosis is.
    axes
        Two Axes to draw into: the map, and the distribution. None: a new figure.
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
        If there is no diagnosis or no embedding.
    InputError
        If no cell was measured.

    Notes
    -----
    A correction moves the cells of a batch together, so neighbours within it stay neighbours: 1 means no distortion.
    The figure names states of one batch that were merged with others, and groups that kept at least 0.1 less than all
    cells. The line "split at random" is the share that the correction kept in one batch, split at random into two.
    Cells outside the sample that was measured are grey.

    Examples
    --------
    >>> import anndata, harmonax, matplotlib, numpy as np, pandas as pd
    >>> matplotlib.use("agg")
    >>> gen = np.random.default_rng(0)
    >>> obs = pd.DataFrame({"harmonax_neighbors_kept": gen.uniform(0.5, 1, 100)}, index=[f"c{i}" for i in range(100)])
    >>> uns = {"harmonax_diagnosis": {"verdict": "fine", "numbers": {"neighbours_kept": 0.75}}}
    >>> adata = anndata.AnnData(obs=obs, obsm={"X_umap": gen.normal(size=(100, 2))}, uns=uns)
    >>> axes = harmonax.pl.overcorrection(adata, show=False)
    >>> int(sum(bar.get_height() for bar in axes[1].patches))  # cells
    100
    >>> matplotlib.pyplot.close(axes[0].figure)
    """
    check_arguments(overcorrection, locals())
    check_save(save)
    diagnosis = stored(adata, key, DIAGNOSE)
    if KEPT not in adata.obs:
        raise MissingKeyError(f"obs has no column '{KEPT}'; it is made by {DIAGNOSE}")
    kept = adata.obs[KEPT].to_numpy(np.float64, na_value=np.nan)
    measured = np.isfinite(kept)
    if not measured.any():
        raise InputError(f"obs['{KEPT}'] holds no number: there were too few cells per batch to measure")
    view = corrected_view(adata, basis)
    canvas = Canvas(1, 2, (9.6, 4.6), axes, width_ratios=[1.15, 1])
    left, right = canvas.axes[0]
    _map(left, view, kept)
    flagged = _flagged(diagnosis, float(kept[measured].mean()))
    _name_groups(left, view, adata, diagnosis, flagged)
    left.set_title("Same-batch neighbours kept", loc="left", fontsize="medium")
    _histogram(right, kept[measured], diagnosis)
    words = [f"{shown(name)}: {why}" for name, why in flagged[:MAX_NAMED]]
    if len(flagged) > MAX_NAMED:
        words.append(f"and {len(flagged) - MAX_NAMED} more")
    verdict = str(part(diagnosis, "verdict", DIAGNOSE)).replace("_", " ")
    title = "\n".join([f"Verdict: {verdict}", *(words or ["no group stands out"])])
    verbatim(right.set_title(title, loc="left", fontsize="small"))
    return canvas.finish(canvas.axes[0], show, save)


def _map(ax: Axes, view: View, kept: np.ndarray) -> None:
    order = shuffled(len(kept))
    measured = np.isfinite(kept[order])
    if not measured.all():
        scatter(ax, view, order[~measured], color=MISSING)
    rows = order[measured]
    drawn = scatter(ax, view, rows, c=kept[rows], cmap=NUMBERS, vmin=0, vmax=1)
    colour_bar(drawn, "share kept", ax=ax, shrink=0.7, pad=0.02)


def _flagged(diagnosis: Any, overall: float) -> list[tuple[str, str]]:
    """Return the groups that stand out, worst first, and why."""
    found: dict[str, str] = {}
    states, groups = (diagnosis.get(name) for name in ("one_batch_states", "clusters"))
    if isinstance(states, pd.DataFrame) and len(states):
        merged = states[states["verdict"].astype(str) == "merged"].sort_values("merged_share", ascending=False)
        for row in merged.itertuples():
            found[str(row.state)] = f"only in {shown(row.batch)}, merged with others ({row.merged_share:.0%})"
    if isinstance(groups, pd.DataFrame) and len(groups):
        lost = groups[(groups["neighbours_kept"] < overall - MIN_LOSS) & (groups["n_cells"] >= MIN_CELLS)]
        for row in lost.sort_values("neighbours_kept").itertuples():
            found.setdefault(str(row.group), f"{row.neighbours_kept:.0%} kept")
    return list(found.items())


def _name_groups(ax: Axes, view: View, adata: Any, diagnosis: Any, flagged: list[tuple[str, str]]) -> None:
    from matplotlib.patheffects import withStroke

    for name, _ in flagged[:MAX_NAMED]:
        for key in (str(diagnosis.get("label_key", "")), str(diagnosis.get("group_key", ""))):
            own = view.xy[(adata.obs[key].astype(str) == name).to_numpy()] if key in adata.obs else view.xy[:0]
            own = own[np.isfinite(own).all(axis=1)]
            if len(own):
                # The cell nearest to the middle, since the middle itself may lie outside the group.
                x, y = own[np.argmin(((own - np.median(own, axis=0)) ** 2).sum(axis=1))]
                halo = [withStroke(linewidth=2.5, foreground="white")]
                text = ax.text(x, y, shown(name), ha="center", va="center", fontsize="small", fontweight="bold")
                verbatim(text).set(color=INK, path_effects=halo)
                break


def _histogram(ax: Axes, kept: np.ndarray, diagnosis: Any) -> None:
    # The shares are whole numbers of neighbours: a bin for each.
    edges = [(i - 0.5) / OF_BATCH for i in range(OF_BATCH + 2)]
    ax.hist(kept, bins=edges, color=SKY, edgecolor="white", linewidth=0.5)
    ax.axvline(float(kept.mean()), color=INK, linewidth=1.5, label=f"mean {kept.mean():.2f}")
    null = diagnosis.get("null") or {}
    if "neighbours_kept" in null:
        level = float(null["neighbours_kept"])
        ax.axvline(level, color=MUTED, linewidth=1.5, linestyle="--", label=f"split at random {level:.2f}")
    ax.set(xlim=(edges[0], edges[-1]), xlabel="share of same-batch neighbours kept (1: all)", ylabel="cells")
    ax.legend(frameon=False, fontsize="small", loc="upper left")
    tidy(ax)
