"""Weights of the losses by situation, and the losses that they weigh."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax

from ..losses import BatchMixingLoss, ClusteringCompactnessLoss, NeighborhoodPreservationLoss

WEIGHTS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "strong_batch": MappingProxyType({"mixing": 1.0, "clustering": 0.1}),
        "clear_types": MappingProxyType({"mixing": 0.3, "clustering": 1.0}),
        "balanced": MappingProxyType({"mixing": 0.5, "clustering": 0.5}),
    }
)
"""What ``fit(..., weights=name)`` means: strong batch effects, clear cell types, or neither."""


def correction_losses(
    n_batches: int, *, n_neighbors: int = 15, preservation: bool = False, relative: bool = True
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
        Add "preservation", which holds each batch's neighbourhoods as they were; the presets give it weight 1.
    relative
        Whether compactness is relative to the spread of the data: shrinking them then gains nothing.

    Returns
    -------
    dict
        "mixing" and "clustering", and "preservation" on request: functions of an operator's result.

    Examples
    --------
    >>> sorted(correction_losses(2, preservation=True))
    ['clustering', 'mixing', 'preservation']
    """
    mix, compact = BatchMixingLoss(n_neighbors, n_batches), ClusteringCompactnessLoss(relative=relative)
    keep = NeighborhoodPreservationLoss(n_neighbors)

    def mixing(result: Mapping[str, Any]) -> jax.Array:
        return mix(result["corrected_embeddings"], result["batch_labels"], result.get("mask"))

    def clustering(result: Mapping[str, Any]) -> jax.Array:
        return compact(result["corrected_embeddings"], result["cluster_assignments"], result.get("mask"))

    def kept(result: Mapping[str, Any]) -> jax.Array:
        after, before = result["corrected_embeddings"], result["embeddings"]
        return keep(after, before, result["batch_labels"], result.get("mask"))

    return {"mixing": mixing, "clustering": clustering} | ({"preservation": kept} if preservation else {})
