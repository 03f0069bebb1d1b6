"""A run's state in one file, written whole or not at all, and refused where it is damaged or of another run.

A bundle (see `harmonax.io.bundle`): the bytes of all arrays, one after the other, and JSON that says what the run is.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import io
from ..errors import FileFormatError, InputError

_FIT = io.Bundle("harmonax-fit", 1, "checkpoint of a fit", "delete it to start anew")


def identity(state: Any, settings: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Return what a run is: a checkpoint continues only the same."""
    digest = hashlib.sha256()
    for name in sorted(data):
        array = np.ascontiguousarray(np.asarray(data[name]))
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return {"operator and optimizer": _outline(state), **settings, "data": digest.hexdigest()}


def save(path: Path, state: Any, history: dict[str, list[float]], run: dict[str, Any]) -> None:
    """Write a checkpoint in place of the former one.

    Raises
    ------
    OutputError
        If it cannot be written; the former one stays.
    """
    arrays = [_plain(leaf) for leaf in jax.tree.leaves(state)]
    arrays += [np.asarray(values, np.float64) for values in history.values()]
    raw = b"".join(array.tobytes() for array in arrays)
    about = {"run": run, "history": list(history), "step": len(next(iter(history.values()), []))}
    place = io.check_destination(path, inputs=[], overwrite=True)
    io.save_bundle(place, io.H5AD, io.seal(_FIT, about, {"arrays": np.frombuffer(raw, np.uint8)}))


def load(path: Path, state: Any, run: dict[str, Any]) -> tuple[Any, dict[str, list[float]]]:
    """Return the state and the history of a checkpoint.

    Parameters
    ----------
    path
        The file.
    state
        The run's state at its start: what the arrays of the file are put into.
    run
        What the run is, see `identity`.

    Raises
    ------
    FileFormatError
        If it is not a checkpoint, damaged, or of a later version.
    InputError
        If it is of another run; the message says what differs.
    """
    try:
        plain = io.read_bundle(path, io.H5AD, _FIT)
    except FileFormatError as error:
        raise FileFormatError(
            f"{path} is not a checkpoint of a fit, or damaged ({error}); delete it to start anew"
        ) from None
    header, raw = io.unseal(plain, _FIT, str(path)), plain["arrays"].tobytes()
    for name, now in run.items():
        then = header["run"].get(name)
        if then != now:
            shown = f": {then!r} there, {now!r} here" if name not in ("data", "operator and optimizer") else ""
            raise InputError(
                f"{path} is the checkpoint of another run: its {name} differ{shown}; "
                "pass what that run had, or another checkpoint"
            )
    leaves, tree = jax.tree.flatten(state)
    found, at = [], 0
    for leaf in leaves:
        like = _plain(leaf)
        array = np.frombuffer(raw, like.dtype, like.size, at).reshape(like.shape)
        found.append(_as_it_was(array, leaf))
        at += like.nbytes
    history = {}
    for name in header["history"]:
        history[name] = np.frombuffer(raw, np.float64, header["step"], at).tolist()
        at += 8 * header["step"]
    return jax.tree.unflatten(tree, found), history


def _outline(state: Any) -> str:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    lines = [f"{jax.tree_util.keystr(path)} {_plain(leaf).dtype} {_plain(leaf).shape}" for path, leaf in leaves]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> np.ndarray:
    """Return a leaf as an array of NumPy; keys of random streams by their numbers."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _as_it_was(array: np.ndarray, leaf: Any) -> jax.Array:
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
    return jnp.asarray(array)
