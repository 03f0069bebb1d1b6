"""The steps in their order, and which of them a run does: those whose results are not there as it would make them."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from ..errors import InputError, MissingKeyError
from ..inputs import expression as counts
from . import assess as judge
from . import embed, prepare
from .options import STEPS, leiden_key
from .resume import digest, fingerprint
from .state import UMAP, UMAP_UNCORRECTED, Skip, State, Step

_BATCHES = ("batch_key", "combine_keys", "missing", "allow_many_levels")
_JUDGED = (*_BATCHES, "label_key", "seed")
_CORRECTED = (*_BATCHES, "corrector", "harmony", "tune", "reference", "protect", "covariates", "seed", "save_model")
_QC = (
    "min_genes",
    "max_genes",
    "min_cells",
    "max_pct_mt",
    "mt_prefix",
    "counts_layer",
    "decimals",
    "feature_type",
    "batch_key",
)
_UMAP = ("n_neighbors", "min_dist", "seed")

PLAN = (
    Step("qc", prepare.qc, ("obs_names", "var_names", "layers/counts"), (), _QC),
    Step("normalise", prepare.normalise, ("X",), ("qc",), ("target_sum", "feature_type")),
    Step(
        "hvg",
        prepare.hvg,
        ("var/highly_variable",),
        ("normalise",),
        ("n_top_genes", "hvg_flavor", "batch_key", "feature_type"),
    ),
    Step("pca", prepare.pca, ("obsm/X_pca",), ("hvg",), ("n_comps", "seed", "feature_type")),
    Step("check", judge.check, ("uns/harmonax_check/summary",), ("pca",), (*_JUDGED, "condition_key")),
    Step("harmony", embed.harmony, ("obsm/{adjusted}",), ("pca",), _CORRECTED),
    Step(
        "neighbors", embed.neighbors, ("obsp/distances", "obsp/connectivities"), ("harmony",), ("n_neighbors", "seed")
    ),
    Step("umap", embed.umap, (f"obsm/{UMAP}",), ("neighbors",), ("min_dist", "seed")),
    Step("umap_uncorrected", embed.umap_uncorrected, (f"obsm/{UMAP_UNCORRECTED}",), ("pca",), _UMAP),
    Step("leiden", embed.leiden, ("obs/leiden", "obs/{clusters}"), ("neighbors",), ("resolutions", "seed")),
    Step("markers", embed.markers, ("uns/rank_genes_groups/names",), ("normalise", "leiden"), ("n_marker_genes",)),
    Step("evaluate", judge.evaluate, ("uns/harmonax_evaluation/scores",), ("pca", "harmony"), (*_JUDGED, "compare")),
    Step("diagnose", judge.diagnose, ("uns/harmonax_diagnosis/summary",), ("harmony", "leiden"), (*_JUDGED, "markers")),
)
_BY_NAME = {step.name: step for step in PLAN}


class Intent(NamedTuple):
    """What is to become of a step: "done", "kept" or "skipped", and why."""

    status: str
    note: str = ""


def intents(state: State) -> dict[str, Intent]:
    """Decide what becomes of every step.

    A result is kept where its fingerprint is that of a run of ours with the same settings (see `fingerprints`). What
    others made is used where the run is told to start from it, or where there are no counts to start from.

    Raises
    ------
    InputError
        If counts are needed and there are none, or if it cannot start where it is told.
    """
    options = state.options
    anew = set(STEPS) if "all" in options.recompute or options.start_from == "counts" else set(options.recompute)
    start, why = _start(state, anew)
    given = up_to(start) if start else set()
    recorded = state.adata.uns.get("harmonax_workflow", {}).get("fingerprints", {})
    found = fingerprints(state) if recorded else {}
    decided: dict[str, Intent] = {}
    for step in PLAN:
        name, there = step.name, _there(step, state)
        own = ", ".join(_label(place) for place in _places(step, state))
        stale = any(decided[before].status == "done" for before in step.after)
        if name in options.skip:
            decided[name] = Intent("skipped", "as asked")
        elif name in given and name == "qc":
            decided[name] = Intent("skipped", f"the input's cells and genes stay: it starts from {start} ({why})")
        elif name in given and (there or name == "hvg"):
            note = f"the input's {own} ({why})" if there else "not needed: the input's PCA is kept"
            decided[name] = Intent("kept" if there else "skipped", note)
        elif name not in anew and not stale and recorded.get(name, "") == found.get(name):
            decided[name] = Intent("kept", f"from an earlier run with these data and settings: {own}")
        else:
            told = f"; start_from='{name}' (--start-from) uses it" if name in ("pca", "harmony", "leiden") else ""
            decided[name] = Intent("done", f"in place of the input's{told}" if there and step.after else "")
    if state.counts is None and decided["hvg"].status == "done" and options.hvg_flavor.startswith("seurat_v3"):
        raise counts.no_counts(state.adata)
    return decided


def _start(state: State, anew: set[str]) -> tuple[str, str]:
    """Return the step whose result in the input is used whoever made it, if there is one, and why."""
    told = state.options.start_from
    if told is not None and told != "counts":
        if both := sorted(anew & up_to(told)):
            raise InputError(
                f"start_from='{told}' uses what recompute='{both[0]}' would make anew; leave one of them out"
            )
        for name in sorted(up_to(told) - {"qc", "normalise", "hvg"} | {told}):
            if not _there(_BY_NAME[name], state):
                needed = "normalised X" if name == "normalise" else _label(_places(_BY_NAME[name], state)[0])
                raise MissingKeyError(f"start_from='{told}' needs {needed}, and the input has none")
        return told, f"start_from='{told}'"
    if state.counts is not None:
        return "", ""
    for name in ("pca", "hvg"):
        if _there(_BY_NAME[name], state) and not anew & up_to(name):
            return name, "there are no raw counts"
    raise counts.no_counts(state.adata)


def up_to(name: str) -> set[str]:
    """Return a step and all those that its result comes from."""
    return {name}.union(*map(up_to, _BY_NAME[name].after))


def fingerprints(state: State) -> dict[str, str]:
    """Return what tells the result of each step in the data from any other.

    Made of the step's settings, of the columns that these name, of the results it starts from and of its own: where a
    run has recorded the same, that run made it, and this one would make it again.
    """
    options, plain = state.options, state.options.to_dict()

    @functools.cache
    def found(place: str) -> str:
        return digest(_value(state, place))

    made = {}
    for step in PLAN:
        columns = [plain["label_key"]] if "label_key" in step.reads and plain["label_key"] else []
        columns += options.condition_keys if "condition_key" in step.reads else ()
        columns += options.batch_key if "batch_key" in step.reads else ()
        places = [*_places(step, state), *(f"obs/{name}" for name in columns)]
        places += [place for before in step.after for place in _places(_BY_NAME[before], state)]
        places += [f"obsm/{name}" for name in (options.compare if "compare" in step.reads else ())]
        settings = {name: plain[name] for name in step.reads}
        made[step.name] = fingerprint(step.name, settings, {place: found(place) for place in places})
    return made


def _places(step: Step, state: State) -> list[str]:
    """Return where the data have the result of a step."""
    clusters = [leiden_key(resolution) for resolution in state.options.resolutions]
    return [
        place.format(adjusted=state.adjusted, clusters=key)
        for place in step.makes
        for key in (clusters if "{clusters}" in place else [""])
    ]


def _value(state: State, place: str) -> Any:
    """Return what the data have at a place, None where they have nothing."""
    # A column of obs may have any name.
    part, *keys = place.split("/", 2 if place.startswith("uns/") else 1)
    value = getattr(state.adata, part)
    for key in keys:
        value = None if value is None else value.get(key)
    return value


def _label(place: str) -> str:
    part, *keys = place.split("/")
    return f"{part}['{keys[0]}']" if keys else part


def _there(step: Step, state: State) -> bool:
    """Return whether the input has something that can be taken for the result of a step."""
    if step.name == "normalise":
        return prepare.is_normalised(state)
    values = [_value(state, place) for place in _places(step, state)]
    return all(value is not None for value in values) and (step.name != "hvg" or values[0].dtype == bool)


def forget(state: State, name: str) -> None:
    """Drop the result of a step that is left out, where it does not belong to what was made anew."""
    for place in _places(_BY_NAME[name], state):
        part, *keys = place.split("/")
        if part in ("obsm", "uns"):
            getattr(state.adata, part).pop(keys[0], None)


def work(step: Step, state: State) -> tuple[str, str]:
    """Do a step; return how it went and what there is to say."""
    try:
        return "done", step.work(state)
    except Skip as why:
        forget(state, step.name)
        return "skipped", str(why)
