"""Weights of the losses by situation, and the losses that they weigh."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax

from ..losses import BatchMixingLoss, ClusteringCompactnessLoss, NeighborhoodPreservationLoss
from ..system.arguments import check_arguments

WEIGHTS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "strong_batch": MappingProxyType({"mixing": 1.0, "clustering": 0.1, "preservation": 1.0}),
        "clear_types": MappingProxyType({"mixing": 0.3, "clustering": 1.0, "preservation": 1.0}),
        "balanced": MappingProxyType({"mixing": 0.5, "clustering": 0.5, "preservation": 1.0}),
    }
)
"""What ``fit(..., weights=name)`` means: strong batch effects, clear cell types, or neither.

In all of them preservation forbids what mixing and clustering alone would reward: cells that collapse to points."""


def correction_losses(
    n_batches: int,
    *,
    n_neighbors: int = 15,
    preservation: bool = True,
    relative: bool = True,
    temperature: float = 20.0,
) -> dict[str, Callable[[Mapping[str, Any]], jax.Array]]:
    """Return the losses of a batch correction by the names that `WEIGHTS` knows.

    They read ``corrected_embeddings``, ``cluster_assignments``, ``batch_labels``, ``embeddings`` and, where there is
    one, ``mask`` from an operator's result.

    Parameters
    ----------
    n_batches
        Labels are 0..n_batches-1.
    n_neighbors
        Size of neighbourhoods. Higher values mix batches over wider regions, and take more memory; lower values mix
        them locally.
    preservation
        Whether to return "preservation" too, which holds each batch's neighbourhoods as they were in ``embeddings``.
        Leave it out only where something else forbids a collapse, such as a reconstruction.
    relative
        Whether compactness is relative to the spread of the data: shrinking them then gains nothing.

    temperature
        Of `BatchMixingLoss`; default 20, at which batches attract from far away. It is too soft to judge by: how mixed
        the batches are in the end, ``BatchMixingLoss(n_batches=n_batches)`` says, at its default of 1.

    Returns
    -------
    dict
        "mixing", "clustering" and "preservation": functions of an operator's result.

    Examples
    --------
    >>> sorted(correction_losses(2))
    ['clustering', 'mixing', 'preservation']
    """
    check_arguments(correction_losses, locals())
    mix, compact = BatchMixingLoss(n_neighbors, n_batches, temperature), ClusteringCompactnessLoss(relative=relative)
    keep = NeighborhoodPreservationLoss(n_neighbors)

    def mixing(result: Mapping[str, Any]) -> jax.Array:
        return mix(result["corrected_embeddings"], result["batch_labels"], result.get("mask"))

    def clustering(result: Mapping[str, Any]) -> jax.Array:
        return compact(result["corrected_embeddings"], result["cluster_assignments"], result.get("mask"))

    def kept(result: Mapping[str, Any]) -> jax.Array:
        after, before = result["corrected_embeddings"], result["embeddings"]
        return keep(after, before, result["batch_labels"], result.get("mask"))

    return {"mixing": mixing, "clustering": clustering} | ({"preservation": kept} if preservation else {})
