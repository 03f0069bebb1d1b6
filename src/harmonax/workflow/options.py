"""Everything that a workflow run can be told, validated once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ..errors import InputError, nearest
from ..inputs.columns import Missing
from ..params import HarmonyParams
from ..pp.correctors import corrector_of
from ..system.memory import parse_size
from ..system.validate import number, one_of, whole_number

STEPS = (
    "qc",
    "normalise",
    "hvg",
    "pca",
    "check",
    "harmony",
    "neighbors",
    "umap",
    "umap_uncorrected",
    "leiden",
    "markers",
    "evaluate",
    "diagnose",
)
# What nothing else is made from, QC, which leaves the data as they are, and the clusters, which only the markers need.
OPTIONAL = ("qc", "check", "umap", "umap_uncorrected", "leiden", "markers", "evaluate", "diagnose")
STARTS = ("counts", "normalise", "hvg", "pca", "harmony", "neighbors", "leiden")

# Smallest and largest value of each number; whole where the smallest is.
_RANGES: dict[str, tuple[float, float]] = {
    "min_genes": (0, math.inf),
    "max_genes": (1, math.inf),
    "min_cells": (0, math.inf),
    "max_pct_mt": (0.0, 100.0),
    "target_sum": (1.0, 1e9),
    "n_top_genes": (1, math.inf),
    "n_comps": (1, math.inf),
    "n_neighbors": (2, math.inf),
    "min_dist": (0.0, 10.0),
    "n_marker_genes": (1, math.inf),
    "n_threads": (1, math.inf),
    "seed": (0, 2**32 - 1),
}
_HVG_FLAVORS = ("seurat", "cell_ranger", "seurat_v3", "seurat_v3_paper")


@dataclass(frozen=True)
class WorkflowOptions:
    """What a workflow run does.

    Parameters
    ----------
    batch_key
        Column of ``obs`` that says which batch a cell is from, or several: separate batch variables.
    label_key, condition_key
        Columns of ``obs`` with cell types, used by the evaluation and the diagnosis only, and with what the experiment
        compares (one or several), used by the check only.
    min_genes, max_genes, min_cells
        Fewest and most genes that a cell must show (None: no upper bound); fewest cells that a gene must be seen in.
    max_pct_mt
        Largest percentage of a cell's counts from mitochondrial genes.
    mt_prefix
        How names of mitochondrial genes begin. None: ``"MT-"``, or ``"mt-"`` where there is none of those.
    counts_layer
        Where the raw counts are: a name in ``layers``, ``"X"`` or ``"raw"``. None: ``layers["counts"]`` if it is there,
        else X.
    decimals
        Take counts with decimals (ambient RNA removed, EM counts, TPM), which are refused otherwise.
    feature_type
        Which features the run is about, by ``var["feature_types"]``: ``"genes"`` (None), ``"antibodies"`` (centred
        log-ratio; no choice of features), ``"peaks"`` (TF-IDF and SVD without its first component, in
        ``obsm["X_pca"]``), or the name there. All others are left aside, with a warning.
    target_sum
        Counts per cell after normalisation.
    n_top_genes, hvg_flavor
        Highly variable genes, and scanpy's way of choosing them.
    n_comps
        Principal components.
    corrector
        What removes the batches: ``"harmony"``, from the principal components, or ``"mmd"`` or ``"wgan"``, from the
        expression (`harmonax.pp.mmd_integrate`; they need the extra ``jax``). The steps after it work on its result.
    harmony
        Parameters of Harmony.
    tune
        Choose Harmony's theta and sigma by `harmonax.tl.sweep`, in place of those in `harmony`.
    reference, protect, covariates
        Batch levels whose cells stay (or ``"column=level"``), columns with biology that stays, numeric ones to remove.
    combine_keys, missing, allow_many_levels
        How batch columns are read: see `harmonax.pp.harmony_integrate`.
    backend, n_threads
        Where Harmony's cells live, and the threads of the PCA, of Harmony and of the neighbours: likewise. The result
        does not depend on them.
    max_memory
        Room for the expression of files, such as ``"4G"``. Where reading and normalising it takes more, it stays on the
        disk and is taken in pieces (`.h5ad`, `.zarr`; needs the extra ``dask``); the result has no X then. None: no
        limit.
    save_model
        Keep what the correction learned in ``uns["harmonax_model"]``, for `harmonax.tl.map_query`.
    n_neighbors, min_dist
        Of the neighbour graph, and of UMAP.
    resolutions
        Of Leiden; ``obs["leiden"]`` is the middle one, whose clusters the markers are for.
    n_marker_genes
        Marker genes kept per cluster.
    compare
        Further embeddings in ``obsm`` to evaluate beside ours.
    color_by, genes
        Columns of ``obs`` and genes that the maps of the report can be coloured by; by default all columns that have
        something to show, and the clusters' top markers.
    markers
        Marker genes by cell type, for the diagnosis.
    start_from
        What of the input is used, whoever made it: ``"counts"`` and nothing else, or the result of a step of `STARTS`,
        such as ``"pca"`` for its ``obsm["X_pca"]``, with the cells and genes that it has. None: results that a run with
        the same settings made of the same data are kept, and all else is made anew from the counts; from the
        ``obsm["X_pca"]``, or the ``var["highly_variable"]``, of an input without counts.
    recompute
        Steps whose results in the input are not kept, with those that follow from them, or ``"all"``.
    skip
        Steps to leave out, of `OPTIONAL`. Without ``"leiden"`` there are no markers, and igraph (GPL) is not needed.
    seed
        The same seed gives the same result.

    Raises
    ------
    InputError
        If a value is outside what it allows.

    Examples
    --------
    >>> from harmonax.workflow import WorkflowOptions
    >>> WorkflowOptions(batch_key="donor", resolutions=1).resolutions
    (1.0,)
    """

    batch_key: tuple[str, ...] = ()
    label_key: str | None = None
    condition_key: str | tuple[str, ...] | None = None
    min_genes: int = 200
    max_genes: int | None = None
    min_cells: int = 3
    max_pct_mt: float = 20.0
    mt_prefix: str | None = None
    counts_layer: str | None = None
    decimals: bool = False
    feature_type: str | None = None
    target_sum: float = 1e4
    n_top_genes: int = 2000
    hvg_flavor: str = "seurat"
    n_comps: int = 50
    corrector: str = "harmony"
    harmony: HarmonyParams = field(default_factory=HarmonyParams)
    tune: bool = False
    reference: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    combine_keys: bool = False
    missing: Missing = "error"
    allow_many_levels: bool = False
    backend: Literal["auto", "memory", "dense"] = "auto"
    n_threads: int | None = None
    max_memory: int | str | None = None
    save_model: bool = False
    n_neighbors: int = 15
    min_dist: float = 0.5
    resolutions: tuple[float, ...] = (0.3, 0.5, 0.8)
    n_marker_genes: int = 50
    compare: tuple[str, ...] = ()
    color_by: tuple[str, ...] = ()
    genes: tuple[str, ...] = ()
    markers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    start_from: str | None = None
    recompute: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        for name in (f.name for f in dataclasses.fields(self) if f.type == "tuple[str, ...]"):
            put(name, _names(name, getattr(self, name)))
        conditions = () if self.condition_key is None else _names("condition_key", self.condition_key)
        put("condition_key", conditions if len(conditions) > 1 else conditions[0] if conditions else None)
        for name, (low, high) in _RANGES.items():
            if getattr(self, name) is not None:
                put(name, _number(name, getattr(self, name), low, high))
        put("max_memory", parse_size(self.max_memory))
        if self.feature_type is not None and not (isinstance(self.feature_type, str) and self.feature_type):
            raise InputError(f"feature_type={self.feature_type!r} must be 'genes', 'antibodies', 'peaks' or a name")
        if self.max_genes is not None and self.max_genes < self.min_genes:
            raise InputError(f"max_genes={self.max_genes} is below min_genes={self.min_genes}: no cell could stay")
        values = self.resolutions if isinstance(self.resolutions, (tuple, list)) else (self.resolutions,)
        put("resolutions", tuple(sorted({float(_number("resolutions", v, 1e-6, 1e6)) for v in values})))
        if not self.resolutions:
            raise InputError("resolutions is empty; pass at least one number, such as 0.5")
        one_of(self.hvg_flavor, "hvg_flavor", _HVG_FLAVORS)
        one_of(self.missing, "missing", get_args(Missing))
        one_of(self.backend, "backend", ("auto", "memory", "dense"))
        if self.start_from is not None:
            one_of(self.start_from, "start_from", STARTS)
        for name, allowed in (("recompute", ("all", *STEPS)), ("skip", OPTIONAL)):
            for step in getattr(self, name):
                one_of(step, name, allowed)
        if self.start_from in self.skip:
            raise InputError(f"start_from='{self.start_from}' uses what skip='{self.start_from}' leaves out")
        if not isinstance(self.harmony, HarmonyParams):
            raise InputError(f"harmony is a {type(self.harmony).__name__}; it must be HarmonyParams")
        if corrector_of(self.corrector).name != "harmony":
            self._check_without_harmony()
        if not isinstance(self.markers, Mapping):
            said = type(self.markers).__name__
            raise InputError(f"markers is a {said}; allowed is a dictionary of lists of genes by cell type")
        put("markers", {str(kind): _names("markers", genes) for kind, genes in dict(self.markers).items()})

    def _check_without_harmony(self) -> None:
        if self.harmony != HarmonyParams():
            raise InputError(f"corrector='{self.corrector}' takes no parameters of Harmony; leave them out")
        if self.tune:
            raise InputError(f"tune chooses parameters of Harmony; corrector='{self.corrector}' has none of them")
        if self.save_model:
            raise InputError(f"save_model keeps what Harmony learned; corrector='{self.corrector}' has no such model")
        for given, said in ((self.reference or self.protect, "reference and protect"), (self.covariates, "covariates")):
            if given:
                raise InputError(f"{said} are for Harmony, not for corrector='{self.corrector}'")

    @property
    def condition_keys(self) -> tuple[str, ...]:
        """The columns with what the experiment compares, if any."""
        return () if self.condition_key is None else _names("condition_key", self.condition_key)

    @property
    def main_resolution(self) -> float:
        """The resolution of ``obs["leiden"]``."""
        return self.resolutions[(len(self.resolutions) - 1) // 2]

    def replace(self, **changes: Any) -> WorkflowOptions:
        """Return a copy with some values changed, those of Harmony by their own names too.

        Raises
        ------
        TypeError
            If there is no such option.
        """
        own = {f.name for f in dataclasses.fields(self)}
        method = {f.name for f in dataclasses.fields(HarmonyParams)}
        for name in changes:
            if name not in own | method:
                raise TypeError(f"there is no option '{name}'; {nearest(name, sorted(own | method))}")
        inner = {name: value for name, value in changes.items() if name in method}
        outer = {name: value for name, value in changes.items() if name in own}
        if inner:
            # A fixed penalty that is given is meant.
            if "ridge_lambda" in inner and inner.get("ridge") is None:
                inner["ridge"] = "fixed"
            if "flavor" in inner and "ridge" not in inner:
                inner["ridge"] = None
            outer["harmony"] = outer.get("harmony", self.harmony).replace(**inner)
        return dataclasses.replace(self, **outer)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, for JSON."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
        plain["markers"] = {kind: list(genes) for kind, genes in self.markers.items()}
        return plain | {"harmony": self.harmony.to_dict()}


def leiden_key(resolution: float) -> str:
    """Return the name of the clusters at a resolution.

    Examples
    --------
    >>> leiden_key(0.5)
    'leiden_0.5'
    """
    return f"leiden_{resolution:g}"


def _names(name: str, value: Any) -> tuple[str, ...]:
    try:
        names = tuple((value,) if isinstance(value, str) else value)
    except (TypeError, ValueError):
        raise InputError(f"{name}={value!r} must be a name or several") from None
    if not all(isinstance(n, str) and n for n in names):
        raise InputError(f"{name}={value!r} must be a name or several")
    return names


def _number(name: str, value: Any, low: float, high: float) -> float | int:
    """Return a number; where `low` is whole, so must it be."""
    if isinstance(low, int):
        return whole_number(value, name, minimum=low, maximum=high)
    return number(value, name, minimum=low, maximum=high)
