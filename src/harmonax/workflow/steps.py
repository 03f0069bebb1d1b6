"""The steps in their order, and which of them a data set needs."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import NamedTuple

from ..errors import warn
from ..inputs import expression as counts
from . import assess as judge
from . import embed, prepare
from .options import WorkflowOptions
from .state import Skip, State, Step

_BATCHES = ("batch_key", "combine_keys", "missing", "allow_many_levels")
_JUDGED = (*_BATCHES, "label_key", "seed")


def _nothing(state: State) -> str:
    return ""


PLAN = (
    Step("qc", prepare.qc, _nothing, (), ("min_genes", "max_genes", "min_cells", "max_pct_mt", "mt_prefix")),
    Step("normalise", prepare.normalise, prepare.has_normalised, ("qc",), ("target_sum",)),
    Step("hvg", prepare.hvg, prepare.has_hvg, ("normalise",), ("n_top_genes", "hvg_flavor")),
    Step("pca", prepare.pca, prepare.has_pca, ("hvg",), ("n_comps", "seed")),
    Step("check", judge.check, judge.has("harmonax_check"), ("pca",), (*_JUDGED, "condition_key")),
    Step("harmony", embed.harmony, embed.has_harmony, ("pca",), (*_BATCHES, "corrector", "harmony", "seed")),
    Step("neighbors", embed.neighbors, embed.has_neighbors, ("harmony",), ("n_neighbors", "seed")),
    Step("umap", embed.umap, embed.has_umap, ("neighbors",), ("min_dist", "seed")),
    Step(
        "umap_uncorrected",
        embed.umap_uncorrected,
        embed.has_umap_uncorrected,
        ("pca",),
        ("n_neighbors", "min_dist", "seed"),
    ),
    Step("leiden", embed.leiden, embed.has_leiden, ("neighbors",), ("resolutions", "seed")),
    Step("markers", embed.markers, embed.has_markers, ("normalise", "leiden"), ("n_marker_genes",)),
    Step("evaluate", judge.evaluate, judge.has("harmonax_evaluation"), ("pca", "harmony"), (*_JUDGED, "compare")),
    Step("diagnose", judge.diagnose, judge.has("harmonax_diagnosis"), ("harmony", "leiden"), (*_JUDGED, "markers")),
)
_FROM_COUNTS = {"qc", "normalise", "hvg", "pca"}
# What becomes untrue where a step is left out though what it is made from is new.
_STALE = {
    "umap": ("obsm", embed.UMAP),
    "umap_uncorrected": ("obsm", embed.UMAP_UNCORRECTED),
    "markers": ("uns", "rank_genes_groups"),
    "check": ("uns", "harmonax_check"),
    "evaluate": ("uns", "harmonax_evaluation"),
    "diagnose": ("uns", "harmonax_diagnosis"),
}


class Intent(NamedTuple):
    """What is to become of a step: "done", "kept" or "skipped", and why."""

    status: str
    note: str = ""


def intents(state: State) -> dict[str, Intent]:
    """Decide what becomes of every step, from what the data have already.

    A result that is there is kept, unless it is to be made anew or was made from one that is. A PCA that is kept needs
    no genes to be chosen, and its cells are taken as chosen: quality control is left out.

    Raises
    ------
    InputError
        If counts are needed and there are none.
    """
    options = state.options
    wanted = asked(state)
    without = wanted & _FROM_COUNTS if state.counts is None else set()
    wanted -= without
    anew = closure(options, wanted)
    there = {step.name: "" if step.name in anew else step.there(state) for step in PLAN}
    decided: dict[str, Intent] = {}
    for step in PLAN:
        decided[step.name] = _intent(step, there, decided, options, anew)
    if options.hvg_flavor.startswith("seurat_v3") and decided["hvg"].status == "done" and state.counts is None:
        raise counts.no_counts(state.adata)
    if state.counts is None and not there["pca"] and not there["hvg"]:
        raise counts.no_counts(state.adata)
    if state.counts is None and anew & {"qc", "normalise"}:
        raise counts.no_counts(state.adata)
    if without:
        warn(f"options of {', '.join(sorted(without))} have no effect: there are no counts")
    return decided


def asked(state: State) -> set[str]:
    """Return the steps of which an option was given that the results in the data were not made with.

    Without a record of how they were made, any option that is not as usual counts. The seed does not: results that are
    kept have their own.
    """
    recorded = json.loads(str(state.adata.uns.get("harmonax_workflow", {}).get("options", "{}")))
    own, usual = (json.loads(json.dumps(o.to_dict())) for o in (state.options, WorkflowOptions()))
    compared = {"seed", "label_key", "condition_key", "compare", *_BATCHES}
    return {
        step.name
        for step in PLAN
        for name in set(step.reads) - compared
        if own[name] not in (usual[name], recorded.get(name, usual[name]))
    }


def closure(options: WorkflowOptions, wanted: Collection[str] = ()) -> set[str]:
    """Return the steps to be done anew: those named or wanted, and all that follow from them."""
    anew = {step.name for step in PLAN} if "all" in options.recompute else {*options.recompute, *wanted}
    for step in PLAN:
        if anew.intersection(step.after):
            anew.add(step.name)
    return anew


def _intent(
    step: Step, there: dict[str, str], decided: dict[str, Intent], options: WorkflowOptions, anew: Collection[str]
) -> Intent:
    name, result = step.name, there[step.name]
    if name in options.skip:
        return Intent("skipped", "as asked")
    if name == "qc" and name not in anew:
        kept = there["pca"] or there["hvg"]
        return (
            Intent("skipped", f"the input's {kept} is kept, and so are its cells and genes") if kept else Intent("done")
        )
    if name == "hvg" and there["pca"]:
        return Intent("kept", result) if result else Intent("skipped", "not needed: the input's PCA is kept")
    # Normalising the counts that the input's genes were chosen from changes nothing about that choice.
    made_from = ("qc",) if name == "hvg" else step.after
    stale = [before for before in made_from if decided[before].status == "done"]
    if result and not stale:
        return Intent("kept", result)
    return Intent("done", f"in place of the input's: {', '.join(stale)} is new" if result else "")


def forget(state: State, name: str) -> None:
    """Drop the result of a step that is left out, where it does not belong to what was made anew."""
    part, key = _STALE.get(name, ("", ""))
    if part:
        getattr(state.adata, part).pop(key, None)


def work(step: Step, state: State) -> tuple[str, str]:
    """Do a step; return how it went and what there is to say."""
    try:
        return "done", step.work(state)
    except Skip as why:
        forget(state, step.name)
        return "skipped", str(why)
