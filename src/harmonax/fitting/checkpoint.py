"""A run's state in one file, written whole or not at all, and refused where it is damaged or of another run.

Or with Orbax, where its manager is passed. The file is a bundle (see `harmonax.io.bundle`): the bytes of all arrays,
one after the other, and JSON that says what the run is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import io
from ..errors import FileFormatError, InputError
from ..system.extras import need

_FIT = io.Bundle("harmonax-fit", 1, "checkpoint of a fit", "delete it to start anew")


def identity(state: Any, settings: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Return what a run is: a checkpoint continues only the same."""
    digest = hashlib.sha256()
    for name in sorted(data):
        array = np.ascontiguousarray(np.asarray(data[name]))
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return {"operator and optimizer": _outline(state), **settings, "data": digest.hexdigest()}


def at(place: Any, run: dict[str, Any]) -> File | Orbax:
    """Return where a run's state is kept: a file, or what an ``orbax.checkpoint.CheckpointManager`` manages."""
    return Orbax(place, run) if hasattr(place, "latest_step") else File(Path(place), run)


@dataclass(frozen=True)
class File:
    """One file, of the run that `identity` says."""

    path: Path
    run: dict[str, Any]

    def exists(self) -> bool:
        """Return whether there is something to resume from."""
        return self.path.exists()

    def save(self, state: Any, history: dict[str, list[float]]) -> None:
        """Write a checkpoint in place of the former one.

        Raises
        ------
        OutputError
            If it cannot be written; the former one stays.
        """
        arrays = [_plain(leaf) for leaf in jax.tree.leaves(state)]
        arrays += [np.asarray(values, np.float64) for values in history.values()]
        raw = b"".join(array.tobytes() for array in arrays)
        about = {"run": self.run, "history": list(history), "step": len(next(iter(history.values()), []))}
        place = io.check_destination(self.path, inputs=[], overwrite=True)
        io.save_bundle(place, io.H5AD, io.seal(_FIT, about, {"arrays": np.frombuffer(raw, np.uint8)}))

    def load(self, state: Any) -> tuple[Any, dict[str, list[float]]]:
        """Return the state and the history; `state` is the run's at its start: what the arrays are put into.

        Raises
        ------
        FileFormatError
            If it is not a checkpoint, damaged, or of a later version.
        InputError
            If it is of another run; the message says what differs.
        """
        try:
            plain = io.read_bundle(self.path, io.H5AD, _FIT)
        except FileFormatError as error:
            raise FileFormatError(
                f"{self.path} is not a checkpoint of a fit, or damaged ({error}); delete it to start anew"
            ) from None
        header, raw = io.unseal(plain, _FIT, str(self.path)), plain["arrays"].tobytes()
        _check_same(self.path, header["run"], self.run)
        found, at = [], 0
        for leaf in jax.tree.leaves(state):
            like = _plain(leaf)
            found.append(np.frombuffer(raw, like.dtype, like.size, at).reshape(like.shape))
            at += like.nbytes
        history = {}
        for name in header["history"]:
            history[name] = np.frombuffer(raw, np.float64, header["step"], at).tolist()
            at += 8 * header["step"]
        return _filled(state, found), history


@dataclass(frozen=True)
class Orbax:
    """What a manager of Orbax keeps: its latest step counts, and how many it keeps is its matter."""

    manager: Any
    run: dict[str, Any]

    def exists(self) -> bool:
        """Return whether there is something to resume from."""
        return self.manager.latest_step() is not None

    def save(self, state: Any, history: dict[str, list[float]]) -> None:
        """Write a step's checkpoint, and wait until it is written."""
        args = need("orbax.checkpoint", "jax").args
        arrays = {str(i): _plain(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
        about = args.JsonSave({"run": self.run, "history": history})
        step = len(next(iter(history.values())))
        self.manager.save(step, args=args.Composite(state=args.StandardSave(arrays), about=about), force=True)
        self.manager.wait_until_finished()

    def load(self, state: Any) -> tuple[Any, dict[str, list[float]]]:
        """Return the state and the history; raises as `File.load` does."""
        args, step, where = need("orbax.checkpoint", "jax").args, self.manager.latest_step(), self.manager.directory
        about = self.manager.restore(step, args=args.Composite(about=args.JsonRestore()))["about"]
        _check_same(where, about["run"], self.run)
        like = {str(i): _plain(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
        found = self.manager.restore(step, args=args.Composite(state=args.StandardRestore(like)))["state"]
        return _filled(state, [np.asarray(found[name]) for name in like]), about["history"]


def _check_same(where: Any, there: dict[str, Any], here: dict[str, Any]) -> None:
    for name, now in here.items():
        then = there.get(name)
        if then != now:
            shown = f": {then!r} there, {now!r} here" if name not in ("data", "operator and optimizer") else ""
            raise InputError(
                f"{where} is the checkpoint of another run: its {name} differ{shown}; "
                "pass what that run had, or another checkpoint"
            )


def _filled(state: Any, arrays: list[np.ndarray]) -> Any:
    leaves, tree = jax.tree.flatten(state)
    return jax.tree.unflatten(tree, [_as_it_was(array, leaf) for array, leaf in zip(arrays, leaves, strict=True)])


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
