"""What the data and the correction are worth: `harmonax.tl` on the way."""

from __future__ import annotations

from typing import Any

from ..errors import InputError, MissingKeyError, nearest, warn
from ..pp.correctors import corrector_of
from ..system.progress import line
from .state import BASIS, Skip, State


def check(state: State) -> str:
    """Look at the batches and the embedding before they are corrected."""
    from ..tl.check import check

    options = state.options
    return _judged(
        lambda: check(
            state.adata,
            list(options.batch_key),
            label_key=options.label_key,
            condition_key=options.condition_keys,
            basis=BASIS,
            rng=options.seed,
            missing="literal" if options.missing == "literal" else "leave_out",
        ),
        state,
        "harmonax_check",
    )


def evaluate(state: State) -> str:
    """Score the embeddings, uncorrected and corrected, and those to compare with."""
    from ..tl.evaluate import evaluate

    options = state.options
    for name in options.compare:
        if name not in state.adata.obsm:
            raise MissingKeyError(f"obsm has no '{name}' to compare; {nearest(name, state.adata.obsm.keys())}")
    embeddings = list(dict.fromkeys([BASIS, state.adjusted, *options.compare]))
    with line(state.progress, lambda done, of, name: f"scoring {name} ({done + 1} of {of})") as show:
        _judged(
            lambda: evaluate(
                state.adata,
                list(options.batch_key),
                label_key=options.label_key,
                embeddings=embeddings,
                rng=options.seed,
                progress=show,
                missing="literal" if options.missing == "literal" else "leave_out",
            ),
            state,
            "harmonax_evaluation",
        )
    labels = f"with the labels of '{options.label_key}'" if options.label_key else "label-free"
    return f"{', '.join(embeddings)}, {labels}"


def diagnose(state: State) -> str:
    """Measure whether the correction took too much or too little, and which genes it changed."""
    from ..tl.diagnose import diagnose
    from ..tl.gene_effects import gene_effects

    options = state.options
    state.adata.uns.pop("harmonax_genes", None)
    if corrector_of(options.corrector).needs == "embedding" and "PCs" in state.adata.varm:
        gene_effects(state.adata, list(options.batch_key), basis=BASIS, adjusted_basis=state.adjusted)
    return _judged(
        lambda: diagnose(
            state.adata,
            list(options.batch_key),
            label_key=options.label_key,
            markers=_markers(state) or None,
            basis=BASIS,
            adjusted_basis=state.adjusted,
            rng=options.seed,
        ),
        state,
        "harmonax_diagnosis",
    )


def _markers(state: State) -> dict[str, list[str]]:
    """Return the given markers that the data have, and tell of the others: quality control may have removed them."""
    if state.beyond and state.adata.X is None:
        return {}
    types = set(state.adata.obs[state.options.label_key].astype(str)) if state.options.label_key else set()
    there = set(state.adata.var_names)
    known = {kind: [gene for gene in genes if gene in there] for kind, genes in state.options.markers.items()}
    gone = [gene for genes in state.options.markers.values() for gene in genes if gene not in there]
    absent = [kind for kind in known if kind not in types]
    if gone:
        warn(f"{len(gone)} marker genes are not in the data (first: '{gone[0]}') and are left out")
    if absent:
        warn(f"{len(absent)} cell types with markers are not in the data (first: '{absent[0]}') and are left out")
    return {kind: genes for kind, genes in known.items() if genes and kind in types}


def _judged(work: Any, state: State, key: str) -> str:
    """Run a judgement; one that these data do not allow does not end the run."""
    state.adata.uns.pop(key, None)
    try:
        work()
    except InputError as error:
        raise Skip(f"not possible: {error}") from error
    stored = state.adata.uns.get(key, {})
    return f"{stored.get('verdict', '')}: {stored.get('summary', '')}".strip(": ")
