"""Trained models in files: what they were made from, and the arrays that they learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .. import io
from ..errors import FileFormatError
from ..system.arguments import check_arguments

_TRAINED = io.Bundle("harmonax-trained", 1, "trained model", "train it anew")


def save_module(path: str | Path, kind: str, config: Any, module: Any, extra: Mapping[str, Any] | None = None) -> None:
    """Write a module of a configuration (a dataclass of plain values), and arrays besides, whole or not at all.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    check_arguments(save_module, {"path": path})
    arrays = {f"state {i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(nnx.state(module)))}
    about = {"kind": kind, "config": dataclasses.asdict(config), "n_leaves": len(arrays)}
    place = io.check_destination(Path(path), inputs=[], overwrite=True)
    io.save_bundle(place, io.H5AD, io.seal(_TRAINED, about, arrays | dict(extra or {})))


def load_module(
    path: str | Path, kind: str, make: Callable[[dict[str, Any], Mapping[str, np.ndarray]], Any]
) -> tuple[Any, dict[str, np.ndarray]]:
    """Return what `make` makes of the configuration and the arrays, with what was learned, and all arrays.

    Raises
    ------
    FileFormatError
        If it is not such a model, damaged, or of a later version.
    """
    check_arguments(load_module, {"path": path})
    plain = io.read_bundle(Path(path), io.H5AD, _TRAINED)
    about = io.unseal(plain, _TRAINED, str(path))
    if about["kind"] != kind:
        raise FileFormatError(f"{path} holds a trained {about['kind']}, not a {kind}")
    # JSON has lists only.
    config = {name: tuple(v) if isinstance(v, list) else v for name, v in about["config"].items()}
    module = make(config, plain)
    leaves, tree = jax.tree.flatten(nnx.state(module))
    found = [plain[f"state {i}"] for i in range(about["n_leaves"])]
    if [np.shape(leaf) for leaf in leaves] != [np.shape(array) for array in found]:
        raise FileFormatError(f"{path} holds a {kind} of other sizes than its configuration says; train it anew")
    pairs = zip(found, leaves, strict=True)
    nnx.update(module, jax.tree.unflatten(tree, [jnp.asarray(a, leaf.dtype) for a, leaf in pairs]))
    return module, plain
