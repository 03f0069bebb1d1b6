"""From principal components to clusters: the correction, neighbours, UMAP, Leiden, markers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import tl
from ..inputs import expression as counts
from ..inputs.roles import named_levels
from ..pp.correctors import corrector_of
from ..system.cpus import resolve_threads
from .inputs import silent
from .nearest import ExactNeighbours
from .options import leiden_key
from .prepare import scanpy
from .state import BASIS, UMAP, UMAP_UNCORRECTED, Skip, State

if TYPE_CHECKING:
    from anndata import AnnData

_RUN = "harmonax"
# Of fewer cells, scanpy has scikit-learn find the neighbours, exactly too. Of more, all pairs take longer than
# pynndescent, whose code takes 40 s to compile and whose answer depends on the number of threads.
_FEW, EXACT_UP_TO = 4096, 300_000
# Of more cells UMAP makes half the rounds, from the first two dimensions and not from a spectral layout.
SMALL_MAP, _ROUNDS, _WIDTH = 10_000, 100, 10.0


def harmony(state: State) -> str:
    """Correct the batches, with the corrector that was asked for."""
    adata, options = state.adata, state.options
    corrector = corrector_of(options.corrector)
    if options.corrector != "harmony":
        # Of another correction; whoever reads on would take it for that of this one.
        adata.uns.pop(_RUN, None)
    chosen, sweep = _tuned(state) if options.tune else ({}, None)
    record = corrector.correct(
        adata,
        options.batch_key,
        basis=BASIS,
        dtype=np.float32,
        rng=options.seed,
        combine_keys=options.combine_keys,
        missing=options.missing,
        allow_many_levels=options.allow_many_levels,
        backend=options.backend,
        n_threads=options.n_threads,
        save_model=options.save_model,
        reference=named_levels(options.reference, options.batch_key),
        protect=options.protect or None,
        covariates=options.covariates or None,
        progress=state.progress,
        **options.harmony.replace(**chosen).to_dict(),
    )
    if sweep is not None:
        adata.uns[_RUN]["sweep"] = sweep
    if options.corrector != "harmony":
        return corrector.describe(record)
    rounds = len(record["history"]["passes"])
    if record["status"] == "single_batch":
        return "one batch only: the principal components are copied unchanged"
    said = f"{options.harmony.flavor} {record['status']} after {rounds} rounds, {record['n_clusters']} soft clusters"
    return said + (f"; theta {chosen['theta']:g}, sigma {chosen['sigma']:g} chosen" if chosen else "")


def _tuned(state: State) -> tuple[dict[str, float], pd.DataFrame | None]:
    """Return the parameters that a sweep chooses and its table; nothing where there is one batch only."""
    options = state.options
    if len(state.adata.obs[list(options.batch_key)].drop_duplicates()) < 2:
        return {}, None
    found = tl.sweep(
        state.adata,
        options.batch_key,
        n_clusters=options.harmony.n_clusters,
        basis=BASIS,
        adjusted_basis=state.adjusted,
        max_iter_harmony=options.harmony.max_iter_harmony,
        flavor=options.harmony.flavor,
        combine_keys=options.combine_keys,
        missing=options.missing,
        allow_many_levels=options.allow_many_levels,
        n_threads=options.n_threads,
        reference=named_levels(options.reference, options.batch_key),
        protect=options.protect or None,
        covariates=options.covariates or None,
        rng=options.seed,
        progress=False if callable(state.progress) else state.progress,
    )
    return {name: float(getattr(found.params, name)) for name in ("theta", "sigma")}, found.to_uns()


def neighbors(state: State) -> str:
    """Find the neighbours of each cell in the corrected space."""
    _neighbors(state.adata, state.adjusted, state)
    return f"{_k(state)} neighbours in {state.adjusted}"


def _k(state: State) -> int:
    return min(state.options.n_neighbors, state.adata.n_obs - 1)


def _neighbors(adata: AnnData, basis: str, state: State) -> None:
    k, seed, transformer = _k(state), state.options.seed, None
    if _FEW <= adata.n_obs <= EXACT_UP_TO and k < _FEW // 32:
        transformer = ExactNeighbours(k, resolve_threads(state.options.n_threads))
    with silent():
        scanpy().pp.neighbors(adata, n_neighbors=k, use_rep=basis, random_state=seed, transformer=transformer)


def umap(state: State) -> str:
    """Lay the corrected cells out."""
    _umap(state.adata, state.adjusted, state)
    return f"obsm['{UMAP}']"


def _umap(adata: AnnData, basis: str, state: State) -> None:
    # umap-learn sets weak links of the graph it is given to zero; Leiden comes later and is to see all of them.
    graph = adata.obsp["connectivities"]
    adata.obsp["connectivities"] = graph.copy()
    how: dict[str, Any] = {"min_dist": state.options.min_dist, "random_state": state.options.seed}
    if adata.n_obs > SMALL_MAP:
        plane = adata.obsm[basis][:, :2]
        if plane.shape[1] == 2:
            how["init_pos"] = plane * (_WIDTH / np.abs(plane).max())
        how["maxiter"] = _ROUNDS
    # A seed has it use one thread, so that the result is the same every time.
    with silent():
        scanpy().tl.umap(adata, **how)
    adata.obsp["connectivities"] = graph


def umap_uncorrected(state: State) -> str:
    """Lay the uncorrected cells out, from a graph of their own that is not kept."""
    import anndata

    adata = state.adata
    apart = anndata.AnnData(obs=pd.DataFrame(index=adata.obs_names), obsm={BASIS: adata.obsm[BASIS]})
    _neighbors(apart, BASIS, state)
    _umap(apart, BASIS, state)
    adata.obsm[UMAP_UNCORRECTED] = apart.obsm[UMAP]
    return f"obsm['{UMAP_UNCORRECTED}']"


def leiden(state: State) -> str:
    """Cluster the corrected cells at several resolutions."""
    adata, options = state.adata, state.options
    found = []
    for resolution in options.resolutions:
        key = leiden_key(resolution)
        with silent():
            scanpy().tl.leiden(
                adata,
                resolution=resolution,
                key_added=key,
                flavor="igraph",
                n_iterations=2,
                directed=False,
                random_state=options.seed,
            )
        found.append(f"{resolution:g}: {adata.obs[key].nunique()}")
    middle = leiden_key(options.main_resolution)
    adata.obs["leiden"] = adata.obs[middle].copy()
    return f"clusters at resolution {', '.join(found)}; obs['leiden'] is {middle}"


def markers(state: State) -> str:
    """Rank the genes of each cluster against the rest (Wilcoxon)."""
    adata = state.adata
    if "leiden" in state.options.skip:
        raise Skip("there are no clusters without the step leiden")
    if state.beyond and adata.X is None:
        raise Skip("the expression is beyond memory")
    kind = counts.kind_of(adata.X)
    if kind not in (counts.Kind.POSITIVE, counts.Kind.COUNTS):
        raise Skip(f"X has {kind}: no expression to compare")
    if state.counts is None and kind is counts.Kind.COUNTS:
        raise Skip("X is not normalised")
    sizes = adata.obs["leiden"].value_counts()
    groups = [str(name) for name in adata.obs["leiden"].cat.categories if sizes[name] >= 2]
    if len(sizes) < 2 or not groups:
        raise Skip(f"{len(sizes)} cluster of two cells or more: nothing to compare")
    # It takes numbers from uns["log1p"] only, and a file may lack it.
    adata.uns.setdefault("log1p", {})
    with silent():
        scanpy().tl.rank_genes_groups(
            adata,
            "leiden",
            groups=groups,
            method="wilcoxon",
            n_genes=min(state.options.n_marker_genes, adata.n_vars),
            use_raw=False,
        )
    alone = len(sizes) - len(groups)
    return f"{len(groups)} clusters (Wilcoxon)" + (f"; {alone} of one cell left out" if alone else "")
