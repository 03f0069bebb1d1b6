"""``harmonax.pp.correct_counts``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from ..adata import storable
from ..counts.assignment import soft_clusters
from ..counts.model import Batches, Fitted, Penalty
from ..counts.stream import Counts, Wanted, corrected, fit_counts, gathered
from ..errors import InputError
from ..inputs.expression import Kind, check_there, label, matrix, no_counts
from ..system.arguments import check_arguments
from ..system.cpus import resolve_threads
from ..system.log import chosen_threads, say
from ..system.progress import bar, line
from ..system.rng import seed_from
from ..system.validate import entry_name, expect_anndata, number

if TYPE_CHECKING:
    from anndata import AnnData

KEY = "harmonax_counts"
WARNING = (
    "corrected counts are for looking, markers and models that need counts; not for testing between the batches that "
    "were corrected"
)


def correct_counts(
    adata: AnnData,
    batch_key: str | Sequence[str] | None = None,
    *,
    counts_layer: str | None = None,
    decimals: bool = False,
    assignment: Any = None,
    rates: bool = False,
    ridge_lambda: float = 1.0,
    alpha: float = 0.2,
    rng: Any = 0,
    n_threads: int | None = None,
    progress: bool | Callable[[str, float], None] | None = None,
    layer_added: str = "counts_corrected",
) -> None:
    """Remove batch effects from counts, gene by gene, on the soft clusters of the last Harmony.

    Corrected counts are for looking at genes, for markers, and for models that need counts. **Do not test them between
    the batches that were corrected**: such differences were removed, and the noise that is left is not that of
    a measurement. For differential expression use the counts as they were measured, with the batch in the model.

    Parameters
    ----------
    adata
        N cells x G genes with counts, corrected by `harmonax.pp.harmony_integrate`. Of a file opened with ``backed=``,
        `X` is read in pieces.
    batch_key
        Batch columns of ``adata.obs`` whose effects are removed; several: of their combinations. None: those of the
        last run.
    counts_layer
        Where the counts are: "X", "raw" or a name in ``adata.layers``. None: ``layers["counts"]`` if that exists,
        else X.
    decimals
        Take counts with decimals (ambient RNA removed, EM counts, TPM), which are refused otherwise. Corrected counts
        are whole numbers all the same.
    assignment
        Soft clusters, (N, K): an array, sparse or not, a name in ``adata.obsm``, or what `harmonax.harmonize` returned.
        None: those of the last run, which is repeated with its parameters and seed.
    rates
        Scale each count by its batch effect instead of drawing whole numbers: no randomness, zeros stay zeros, and
        the result has decimals.
    ridge_lambda
        Ridge penalty of a batch effect, > 0, in counts: where a batch has about as many counts of a gene in a cluster,
        half of its effect is removed. Higher values correct rare genes less, lower values more.
    alpha
        Ridge penalty relative to the counts that a batch is expected to have in a cluster, as in Harmony. Higher
        values correct less, above all where a batch has few cells in a cluster; lower values correct more.
    rng
        Seed, Generator, SeedSequence or None, of the random quantiles.
    n_threads
        Number of threads. None: as for `harmonax.pp.harmony_integrate`. The result does not depend on it.
    progress
        Show a progress line on stderr; None: where that is a terminal. Or a function called with what is done, and the
        share of it.
    layer_added
        Where in ``adata.layers`` the result goes.

    Returns
    -------
    None
        Writes ``adata.layers[layer_added]``, CSR, (N, G), of the counts' own type of number where that is wide enough
        (`rates`: float32 or float64), and ``adata.uns["harmonax_counts"]``, how it was made.

    Raises
    ------
    MissingKeyError
        If a column, a layer or an embedding is not there.
    InputError
        If there are no counts, or no soft clusters: ``adata.uns["harmonax"]`` records no run of Harmony, or the cells,
        batches or embeddings were changed since.

    Notes
    -----
    For each gene counts are Poisson around ``s_i exp(sum_k R_ik (beta_k + gamma_kb))``: s the cell's total relative to
    the mean, R the soft clusters (without parts below a hundredth of a cell's largest), and b the cell's batch. gamma
    is the batch effect, 0 for reference levels, and where fewer than two batches have cells in a cluster. The corrected
    count has the quantile in the Poisson distribution without gamma that the count has in the one with it. Each cell
    keeps its depth. A zero stays a zero unless the rate rises. With a protected condition, effects are estimated within
    its levels. After Crescendo (Genome Biology 26:36, 2025).

    Examples
    --------
    >>> import anndata, harmonax, numpy as np, pandas as pd
    >>> gen = np.random.default_rng(0)
    >>> batch = np.repeat(["a", "b"], 200)
    >>> rate = np.where(batch == "b", 6.0, 2.0)[:, None] * [1, 0] + [0, 50]
    >>> adata = anndata.AnnData(
    ...     gen.poisson(rate).astype(np.float32),
    ...     obs=pd.DataFrame({"batch": batch}, index=[f"cell{i}" for i in range(400)]),
    ...     obsm={"X_pca": gen.normal(size=(400, 3)) + (batch == "b")[:, None]},
    ... )
    >>> harmonax.pp.harmony_integrate(adata, "batch", max_iter_harmony=50, rng=0)
    >>> harmonax.pp.correct_counts(adata)
    >>> means = [float(adata.layers["counts_corrected"][batch == b, 0].mean()) for b in "ab"]
    >>> abs(means[0] - means[1]) < 1.5  # it was 4
    True
    """
    check_arguments(correct_counts, locals())
    expect_anndata(adata)
    if adata.is_view and adata.isbacked:
        raise InputError("adata is a view of a file, which cannot be written to; pass adata.to_memory()")
    layer_added = entry_name(layer_added, "layer_added")
    place, kinds = _place(adata, counts_layer, decimals)
    if place == layer_added:
        raise InputError(f"layer_added='{layer_added}' is where the counts are; choose another name")
    X = matrix(adata, place)
    wanted = counts_wanted(label(place), kinds, rates, ridge_lambda, alpha, rng, n_threads)
    batches, keys = soft_clusters(adata, batch_key, assignment, wanted.n_threads)
    with shown(progress) as report:
        counts = Counts(X, wanted.place)
        done = correction(counts, batches, wanted, report)
        # It holds the soft clusters of all cells, which are not needed any more.
        del batches
        made = gathered(done.pieces, counts.shape, counts.nnz + counts.nnz // 16)
    adata.layers[layer_added] = made
    adata.uns[KEY] = storable(done.record | {"batch_keys": keys, "layer_added": layer_added})
    say(logging.INFO, f"correct_counts: {done.summary()}")


@dataclass(frozen=True, eq=False)
class Correction:
    """Corrected counts on their way, and how they are made."""

    pieces: Iterable[sparse.csr_matrix]
    record: dict[str, Any]

    def summary(self) -> str:
        """Return one line for the log, with what corrected counts are not for."""
        r = self.record
        return f"{r['n_genes']:,} genes in {r['n_cells']:,} cells, {r['n_clusters']} clusters; {WARNING}"


def counts_wanted(
    place: str, kinds: tuple[Kind, ...], rates: bool, ridge_lambda: float, alpha: float, rng: Any, n_threads: int | None
) -> Wanted:
    """Return what is made of counts, checked."""
    penalty = Penalty(
        number(ridge_lambda, "ridge_lambda", minimum=0, maximum=1e30, exclusive=True),
        number(alpha, "alpha", minimum=0, maximum=1e30),
    )
    threads = resolve_threads(n_threads if n_threads is not None else chosen_threads())
    return Wanted(penalty, bool(rates), kinds, place, seed_from(rng), threads)


def correction(
    counts: Counts, batches: Callable[[np.ndarray], Batches], wanted: Wanted, report: Callable[[str, float], None]
) -> Correction:
    """Fit every gene; the corrected counts are made as they are asked for."""
    cells, fitted = fit_counts(counts, batches, wanted, report)
    return Correction(corrected(counts, cells, fitted, wanted, report), _record(counts, cells, fitted, wanted))


def _record(counts: Counts, cells: Batches, fitted: Fitted, wanted: Wanted) -> dict[str, Any]:
    return {
        "counts_layer": wanted.place,
        "rates": wanted.rates,
        "ridge_lambda": wanted.penalty.counts,
        "alpha": wanted.penalty.share,
        "seed": wanted.seed,
        "n_cells": counts.shape[0],
        "n_genes": counts.shape[1],
        "n_clusters": cells.R.shape[1],
        "steps": max(fitted.steps, default=0),
        "use": WARNING,
    }


@contextmanager
def shown(progress: bool | Callable[[str, float], None] | None) -> Iterator[Callable[[str, float], None]]:
    """Give a function that shows what is done, or does nothing."""
    with line(progress, lambda what, share: f"counts {bar(share)} {what}") as show:
        yield show if show is not None else lambda what, share: None


def allowed(place: str, asked: str | None, decimals: bool, uns: Any) -> tuple[Kind, ...]:
    """Return what may be there: with `decimals` these too, but not what was logged."""
    logged = asked is None and place == "X" and "log1p" in uns
    return (Kind.COUNTS, Kind.POSITIVE) if decimals and not logged else (Kind.COUNTS,)


def _place(adata: AnnData, asked: str | None, decimals: bool) -> tuple[str, tuple[Kind, ...]]:
    """Return where the counts are, which are looked at when they are read, and what may be there."""
    place = asked if asked is not None else "counts" if "counts" in adata.layers else "X"
    if place == "X" and adata.X is None:
        raise no_counts(adata)
    check_there(adata, place)
    return place, allowed(place, asked, decimals, adata.uns)
