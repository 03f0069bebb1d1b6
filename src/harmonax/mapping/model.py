"""What a run learned, without its cells: enough to map new ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ..algorithm.contracts import Assignment
from ..algorithm.schedule import Block, FixedPartition
from ..algorithm.seeding import seed_centroids
from ..engine.placement import ResourceRequest, make_cells
from ..errors import InputError, warn
from ..inputs.columns import as_table, check_order
from ..inputs.embedding import as_array
from ..result import HarmonyResult, Status
from ..system.arguments import check_arguments
from ..system.validate import number
from . import serialise
from .novelty import by_distance, sample_rows
from .reference import Reference
from .symphony import map_query
from .tables import ModelTables


@dataclass(frozen=True, eq=False)
class HarmonyModel(ModelTables):
    """A fitted Harmony: tables whose size does not depend on the number of cells.

    Attributes
    ----------
    centroids
        Unit-length centroids Y, (K, d).
    sigma
        Width of each soft cluster, (K,).
    cluster_mass
        N_k = sum_i R_ik over the reference, (K,).
    cluster_moment
        C_k = sum_i R_ik Zc_i, the sum of its corrected cells, (K, d).
    ridge
        Coefficients of the last correction, (B, K, d), for the levels of all variables in turn.
    level_mass
        Cells of each level in each soft cluster, (B, K).
    theta
        Strength of the diversity penalty of each level, (B,).
    level_counts
        Cells of each level, (B,).
    n_cells
        Cells of the reference.
    variables, levels
        Names of the batch variables, and of each one's levels.
    params
        What was run.
    record
        How the run ended: status, seed, versions.
    projection
        From genes to the embedding, or None: queries come as embeddings.
    novelty
        What the reference's own cells look like to the novelty score, or None.
    reference
        Embedding and labels of the reference's cells, for label transfer, or None.

    Examples
    --------
    >>> import numpy as np, harmonax
    >>> gen = np.random.default_rng(0)
    >>> batch = np.repeat(["a", "b"], 100)
    >>> Z = gen.normal(size=(200, 5)) + (batch == "b")[:, None]
    >>> model = harmonax.HarmonyModel.from_result(harmonax.harmonize(Z, batch, rng=0))
    >>> model.map(gen.normal(size=(50, 5)) - 1, np.repeat("c", 50)).shape
    (50, 5)
    """

    @classmethod
    def from_result(cls, result: HarmonyResult) -> HarmonyModel:
        """Return the model of a run.

        A run over one batch made no clusters; here it gets those that a run begins with, and no correction.
        """
        check_arguments(HarmonyModel.from_result, locals())
        if names := result.roles.get("covariates"):
            warn(f"the model has no covariates: what {', '.join(names)} do to new cells stays")
        design, resolved = result.design, result.params.resolve(result.design)
        Y, mass, moment, ridge = result.centroids, result.cluster_mass, result.moment, result.ridge
        if result.status is Status.SINGLE_BATCH:
            Y, mass, moment = _clusters(result)
            ridge = np.zeros((design.n_levels, *Y.shape))
        record, held = result.record(), {}
        if kept := result.roles.get("reference"):
            pairs = zip(map(design.variables.index, kept["batch_key"]), kept["level"], strict=True)
            held["reference_levels"] = [int(design.offsets[f]) + design.levels[f].index(name) for f, name in pairs]
        return cls(
            centroids=Y,
            sigma=resolved.sigma,
            cluster_mass=mass[: len(design.levels[0])].sum(axis=0),
            cluster_moment=moment,
            ridge=ridge,
            level_mass=mass,
            theta=resolved.theta,
            level_counts=design.level_counts,
            n_cells=design.n_cells,
            variables=design.variables,
            levels=design.levels,
            params=result.params,
            record={name: record[name] for name in ("status", "seed", "versions", "backend")} | held,
        )

    def map(self, Z: Any, batches: Any = None, **how: Any) -> Any:
        """Map new cells into the corrected space of the reference, which does not move.

        Parameters
        ----------
        Z
            The new cells in the reference's uncorrected embedding, (N, d).
        batches
            Their batch labels, as for `harmonize`; None: one batch that the reference does not have.
        **how
            Further arguments of `harmonax.mapping.map_query`, which says how new cells are mapped.

        Returns
        -------
        numpy.ndarray
            (N, d), or what was given as ``out``.
        """
        return map_query(self, Z, batches, **how).embedding

    def with_reference(self, embedding: Any, labels: Any, batch: Any = None) -> HarmonyModel:
        """Return the model with the reference's corrected cells, from which labels are transferred.

        Parameters
        ----------
        embedding
            Corrected embedding of the reference, (N, d).
        labels
            Labels of its cells, N rows: a table, a dictionary of columns, or one named column. Missing ones have no
            vote.
        batch
            Their batches, (N,): a vote is worth what the votes of other batches' cells were. None: one batch.

        Raises
        ------
        InputError
            If cells and labels do not agree.
        """
        check_order(embedding, labels, ("the embedding", "the labels"))
        check_order(embedding, batch, ("the embedding", "the batches"))
        Z = as_array(embedding, "the reference's embedding")
        table = as_table(labels if not isinstance(labels, pd.Series) else labels.to_frame())
        if Z.shape != (self.n_cells, self.n_features) or len(table) != len(Z):
            raise InputError(
                f"the reference has {self.n_cells} cells x {self.n_features}; got an embedding of shape {Z.shape} and "
                f"{len(table)} labels"
            )
        batch = np.zeros(len(Z)) if batch is None else np.ravel(as_table(batch).to_numpy())
        model = replace(self, reference=Reference.of(Z, table, batch))
        if model.novelty is None or model.novelty.kind != "genes":
            rows = sample_rows(len(Z))
            model = replace(model, novelty=by_distance(model.reference, model.cluster_means(), Z[rows]))
        return model

    def with_parts(self, **parts: Any) -> HarmonyModel:
        """Return the model with another `projection`, `novelty` or `reference`."""
        return replace(self, **parts)

    def with_target_sum(self, target_sum: float, log_base: float = math.e) -> HarmonyModel:
        """Return the model with the total that the reference's cells were normalised to, where it does not know that.

        Parameters
        ----------
        target_sum
            Counts per cell, before the logarithm. A query of another total is rescaled to this one: a value above the
            right one makes known cells look novel, one below it hides cells of absent types.
        log_base
            Base of the logarithm; 0: the reference was not logged.

        Raises
        ------
        InputError
            If the model takes no expression, or has another total already.
        """
        total, p = number(target_sum, "target_sum", minimum=0, exclusive=True), self.projection
        if p is None or p.integers:
            raise InputError("the model's components are not those of normalised expression: it has no total")
        if p.target_sum is not None and abs(p.target_sum - total) > 1e-3 * total:
            raise InputError(f"target_sum={total:g}, but the reference's cells add up to {p.target_sum:g}")
        base = number(log_base, "log_base", minimum=0)
        return self.with_parts(projection=replace(p, target_sum=total, log_base=base))

    def save(self, path: Any, *, overwrite: bool = False) -> None:
        """Write the model to one file, ``.h5`` or ``.zarr``, whole or not at all.

        Raises
        ------
        OutputError
            If it cannot be written, or is there and `overwrite` is not set.
        """
        check_arguments(HarmonyModel.save, locals())
        serialise.save(self, path, overwrite=overwrite)

    @classmethod
    def load(cls, path: Any) -> HarmonyModel:
        """Read a model that `save` wrote.

        Raises
        ------
        FileFormatError
            If the file holds no model, is damaged, or was made by a later version.
        """
        return serialise.load(path, cls)

    def __repr__(self) -> str:
        kept = [name for name in ("projection", "novelty", "reference") if getattr(self, name) is not None]
        batches = ", ".join(f"{name} ({len(own)})" for name, own in zip(self.variables, self.levels, strict=True))
        return f"HarmonyModel of {self.n_cells:,} cells x {self.n_features}: {self.n_clusters} clusters; {batches}" + (
            f"; with {', '.join(kept)}" if kept else ""
        )


def _clusters(result: HarmonyResult) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return centroids, mass (1, K) and moment of the cells of one batch."""
    Z, design = result.embedding, result.design
    resolved = result.params.resolve(design)
    schedule_seed, centroid_seed = np.random.SeedSequence(result.seed).spawn(2)
    schedule = FixedPartition(1, schedule_seed)
    cells = make_cells(Z, design, schedule, resolved, ResourceRequest("auto", result="lazy")).cells
    Y = seed_centroids(cells, resolved.n_clusters, np.random.default_rng(centroid_seed))
    swept = cells.sweep(Block(0), Y, resolved.sigma, None, moment=False, last=True)
    S = cells.moments(Assignment(Y, np.zeros((1, design.n_levels, len(Y))), resolved.sigma)).S
    return Y, swept.mass, S.sum(axis=0)
