"""Rounds of a run, kept in a directory so that a run which was killed resumes where it was.

A round is a few tables: the cells are made again from the embedding and these. Each is a file of its own, written
beside its place and then renamed, so that whatever is there is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from .. import io
from ..algorithm.contracts import Assignment
from ..algorithm.harmony import Round
from ..algorithm.ridge import Ridge
from ..errors import FileFormatError, InputError, OutputError, warn
from ..params import HarmonyParams
from ..system.lock import locked
from ..system.version import __version__

_FORMAT = 3
_ROUND = io.Bundle("harmonax-round", 2, "round of a checkpoint", "it is made again")
_LOCK = ".harmonax-lock"
# A run may resume with other limits, from which nothing so far depended.
_FREE = ("max_iter_harmony", "tol_harmony")


class Checkpoint:
    """The rounds that a run has left in a directory; as a context, it is this process's alone from `begin` on.

    Parameters
    ----------
    directory
        It must be empty, hold a checkpoint, or not be there yet: `begin` makes it.

    Raises
    ------
    InputError
        If the directory holds something else.
    OutputError
        If it cannot be made.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self._run = self.directory / "checkpoint.json"
        self._known: dict[str, Any] | None = None
        self._lock: IO[str] | None = None
        # What the next round follows: the run itself, then the round before it.
        self._last = ""
        self._number = 0
        if self._run.is_file():
            self._known = self._read_run()
        elif self.directory.is_dir():
            if any(not path.name.startswith(".harmonax-") for path in self.directory.iterdir()):
                raise InputError(f"{directory} is not empty and holds no checkpoint; choose another directory")
        elif self.directory.exists() or not self.directory.parent.is_dir():
            raise OutputError(f"checkpoint directory {directory}: it cannot be made there; choose another")

    def _read_run(self) -> dict[str, Any]:
        try:
            known: dict[str, Any] = json.loads(self._run.read_text(encoding="utf-8"))
            if known["format"] != _FORMAT or not all(isinstance(known[name], dict) for name in ("params", "made_by")):
                raise ValueError
            known["seed"] = int(known["seed"])
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{self._run} is not a checkpoint of this version of harmonax; choose another directory"
            ) from None
        return known

    def __enter__(self) -> Self:
        """Return this checkpoint."""
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def seed(self) -> int | None:
        """The seed of the run that is here."""
        return None if self._known is None else int(self._known["seed"])

    def begin(
        self, params: HarmonyParams, seed: int, digest: str, n_blocks: int, sigma: np.ndarray, cells: dict[str, Any]
    ) -> list[Round]:
        """Return the rounds that this run has left here, none if it is new.

        Raises
        ------
        InputError
            If those that are here are of another run: other data, parameters or seed.
        OutputError
            If another run is using the directory, or it cannot be made.
        """
        asked = {k: v for k, v in params.to_dict().items() if k not in _FREE}
        own = {"format": _FORMAT, "seed": seed, "data_sha256": digest, "n_blocks": n_blocks, "params": asked}
        # What the last bits depend on, beside the seed.
        made_by = {"harmonax": __version__, "cells": str(cells.get("instruction_set") or cells.get("cells", ""))}
        own = json.loads(json.dumps(own))
        self._hold()
        # What a run was writing when it was killed.
        for left in self.directory.glob(".harmonax-*.part"):
            left.unlink(missing_ok=True)
        # Another run may have begun and ended here since.
        self._known = self._read_run() if self._run.is_file() else None
        if self._known is None:
            with io.whole_or_nothing(self._run, overwrite=True, needed=1 << 12) as (part,):
                io.write_json(part, own | {"made_by": made_by})
            self._known = own | {"made_by": made_by}
        self._refuse_other(own)
        then = self._known["made_by"]
        if then != made_by:
            before, now = (" with ".join(f"{k} {v}" for k, v in who.items()) for who in (then, made_by))
            warn(f"{self.directory} was made by {before}; this is {now}: the last bits may differ from an unbroken run")
        self._last = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
        rounds = self._load(sigma)
        self._number = len(rounds)
        return rounds

    def _hold(self) -> None:
        """Make the directory and keep other runs from using it until the context ends."""
        try:
            self.directory.mkdir(exist_ok=True)
            self._lock = open(self.directory / _LOCK, "w")  # noqa: SIM115 - held until the context ends
        except OSError as error:
            raise OutputError(f"checkpoint directory {self.directory}: {error.strerror}") from None
        if not locked(self._lock):
            raise OutputError(f"another run is using the checkpoint {self.directory}; wait until it is done")

    def keep(self, ended: Round) -> None:
        """Write the next round, whole or not at all."""
        self._number += 1
        tables = {
            "Y": ended.assigned.Y,
            "logp": ended.assigned.logp,
            **ended.correction._asdict(),
            "mass": ended.mass,
            "objective": ended.objective,
            "terms": ended.terms,
            "initial": np.float64(ended.initial),
        }
        sealed = io.seal(_ROUND, {"after": self._last}, {"tables": tables})
        self._last = sealed["sha256"]
        io.save_bundle(self._place(self._number), io.H5AD, sealed)

    def clear(self) -> None:
        """Remove the rounds, and the directory if nothing else is there."""
        for path in [*self.directory.glob("round-*.h5"), self._run, self.directory / _LOCK]:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.directory.rmdir()

    def _refuse_other(self, own: dict[str, Any]) -> None:
        known = {k: v for k, v in (self._known or {}).items() if k != "params"} | (self._known or {}).get("params", {})
        asked = {k: v for k, v in own.items() if k != "params"} | own["params"]
        different = [name for name in asked if name not in known or known[name] != asked[name]]
        if not different:
            return
        name = different[0]
        what = (
            "other data"
            if name == "data_sha256"
            else f"another run ({name} is {known.get(name)!r} there and {asked[name]!r} here)"
        )
        raise InputError(f"{self.directory} holds a checkpoint of {what}; choose another directory, or delete it")

    def _load(self, sigma: np.ndarray) -> list[Round]:
        rounds: list[Round] = []
        while (path := self._place(len(rounds) + 1)).exists():
            try:
                plain = io.read_bundle(path, io.H5AD, _ROUND)
                about = io.unseal(plain, _ROUND, str(path))
                if about.get("after") != self._last:
                    raise FileFormatError("it does not follow the round before it in this run")
                rounds.append(_round_of(plain["tables"], sigma, rounds))
            except (FileFormatError, KeyError, TypeError, ValueError) as error:
                warn(f"{path} cannot be used ({error}): the run resumes from the round before it")
                break
            self._last = plain["sha256"]
        return rounds

    def _place(self, number: int) -> Path:
        return self.directory / f"round-{number:04d}.h5"


def _round_of(tables: Mapping[str, Any], sigma: np.ndarray, before: list[Round]) -> Round:
    """Return a round as it was kept, or refuse numbers that no round can have."""
    found = {name: np.asarray(table) for name, table in tables.items()}
    if not all(np.isfinite(table).all() for table in found.values()):
        raise FileFormatError("it has values that are not finite")
    ridge = Ridge(*(found[name] for name in Ridge._fields))
    assigned = Assignment(found["Y"], found["logp"], sigma)
    made = Round(assigned, ridge, found["mass"], found["objective"], found["terms"], float(found["initial"]))
    if len(assigned.Y) != len(sigma) or (before and _shapes(made) != _shapes(before[0])):
        raise FileFormatError("its tables have other shapes")
    return made


def _shapes(kept: Round) -> list[tuple[int, ...]]:
    tables = (kept.assigned.Y, kept.assigned.logp, *kept.correction, kept.mass)
    return [np.shape(table) for table in tables]
