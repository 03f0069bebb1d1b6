"""Calls written for scanpy or for harmonypy, translated: other names of parameters, and None for a default."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import InputError, nearest, warn
from ..params import HarmonyParams

# harmonypy's names of our parameters.
HARMONYPY = {
    "lamb": "ridge_lambda",
    "nclust": "n_clusters",
    "block_size": "block_proportion",
    "max_iter_kmeans": "max_iter_clustering",
    "epsilon_cluster": "tol_clustering",
    "epsilon_harmony": "tol_harmony",
    "batch_prop_cutoff": "batch_prune_threshold",
    "reference_values": "reference",
    "random_state": "rng",
    "ncores": "n_threads",
    "verbose": "progress",
}

# Arguments of earlier harmonypy and R scripts that are not parameters here: values that change nothing, and what to use
# today.
OLDER: dict[str, tuple[tuple[Any, ...], str]] = {
    "plot_convergence": ((False,), "harmonax.pl.convergence(adata) draws it after the run"),
    "return_object": ((False, True), "the result is an object; its array is Z_corr (embedding)"),
    "cluster_prior": ((), "centroids are found by k-means++ on the cells; rng= (random_state=) makes them the same"),
    "cluster_fn": (("kmeans",), "centroids are always started by k-means"),
    "do_pca": ((False,), "compute components first, such as with scanpy.pp.pca, and pass those"),
    "npcs": ((), "compute components first, such as with scanpy.pp.pca, and pass those"),
    "weights": ((), "every cell counts once"),
    "device": (("cpu", "auto"), "backend='jax' runs on a GPU"),
    "use_gemm": ((False, True), ""),
    "colsum_algo": (("columns", "atomics", "gemm", "cp_sum", "benchmark"), ""),
    "use_gpu": ((False,), "backend='jax' runs on a GPU"),
}
_ONLY_A_NOTE = ("plot_convergence", "device", "use_gpu")

# What None stands for in scanpy: the values of each flavor's own reference program.
_REFERENCE: dict[str, dict[str, Any]] = {
    "harmony1": {"max_iter_clustering": 200, "tol_harmony": 1e-4, "tol_clustering": 1e-5},
    "harmony2": {"max_iter_clustering": 4, "tol_harmony": 1e-2, "tol_clustering": 1e-3},
}


def answer_older(older: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments left when those that scripts carry from earlier programs are taken or answered.

    Raises
    ------
    InputError
        If a value asks for what is done otherwise here; the message says how.
    """
    left = dict(older)
    for name, (harmless, today) in OLDER.items():
        if name not in left:
            continue
        value = left.pop(name)
        if value is None or (isinstance(value, (str, bool)) and value in harmless):
            continue
        if name in _ONLY_A_NOTE:
            warn(f"{name}={value!r} has no effect: {today}")
        else:
            shown = repr(value) if np.ndim(value) < 2 else f"<array of shape {np.shape(value)}>"
            raise InputError(f"{name}={shown} is not taken any more: {today}; leave {name} out")
    return left


def merge(asked: Mapping[str, Any], other: Mapping[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    """Return the arguments `asked` of `function`, with those under harmonypy's names moved to our names.

    Whether one of ours was given is judged by its value: equal to the default counts as not given.

    Raises
    ------
    TypeError
        If a name is neither ours nor harmonypy's.
    InputError
        If one parameter is given under both names.
    """
    defaults = {name: p.default for name, p in inspect.signature(function).parameters.items()}
    merged = dict(asked)
    other = answer_older(other)
    for name, value in other.items():
        if name not in HARMONYPY:
            known = [*asked, *HARMONYPY]
            raise TypeError(
                f"{function.__name__}() got an unexpected keyword argument '{name}'; {nearest(name, known)}"
            )
        ours = HARMONYPY[name]
        if ours in asked and not same(asked[ours], defaults[ours]):
            raise InputError(f"'{name}' and '{ours}' are two names of one parameter; pass only one of them")
        merged |= _translated(name, value)
    if not is_dynamic(other.get("lamb")) and merged.get("ridge") is None:
        merged["ridge"] = "fixed"
    return merged


def _translated(name: str, value: Any) -> dict[str, Any]:
    """Return harmonypy's argument under our name; nothing where its value stands for our default."""
    if name == "verbose":
        value = None if value else False
    elif name == "ncores":
        value = None if value is None or value <= 0 else value
    elif name == "lamb" and is_dynamic(value):
        return {}
    return {HARMONYPY[name]: value}


def is_dynamic(lamb: Any) -> bool:
    """Return whether harmonypy's `lamb` asks for the dynamic ridge: None, or its older code -1."""
    return lamb is None or (np.ndim(lamb) == 0 and bool(lamb == -1))


def params_of(options: Mapping[str, Any]) -> HarmonyParams:
    """Return the parameters among `options`, scanpy's and harmonypy's None resolved."""
    named = {f.name: options[f.name] for f in dataclasses.fields(HarmonyParams) if f.name in options}
    flavor = named.get("flavor", HarmonyParams.flavor)
    for name, value in _REFERENCE.get(flavor, {}).items():
        if name in named and named[name] is None:
            named[name] = value
    if named.get("theta", 0.0) is None:
        named["theta"] = HarmonyParams.theta
    given = not same(named.get("ridge_lambda", HarmonyParams.ridge_lambda), HarmonyParams.ridge_lambda)
    if given and named.get("ridge") is None:
        named["ridge"] = "fixed"
    return HarmonyParams(**named)


def same(value: Any, default: Any) -> bool:
    """Return whether an argument is its default."""
    return value is default or (np.ndim(value) == 0 and bool(value == default))
