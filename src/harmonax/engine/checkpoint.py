"""Rounds of a run, kept in a directory so that a run which was killed resumes where it was.

A round is a few tables: the cells are made again from the embedding and these. Each is a file of its own, written
beside its place and then renamed, so that whatever is there is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from .. import io
from ..algorithm.contracts import Assignment
from ..algorithm.harmony import Round
from ..algorithm.ridge import Ridge
from ..errors import FileFormatError, InputError, OutputError, warn
from ..params import HarmonyParams

_FORMAT = 2
_ROUND = io.Bundle("harmonax-round", 1, "round of a checkpoint", "it is made again")
# A run may resume with other limits, from which nothing so far depended.
_FREE = ("max_iter_harmony", "tol_harmony")


class Checkpoint:
    """The rounds that a run has left in a directory.

    Parameters
    ----------
    directory
        Made where it is not there. It must be empty, or hold a checkpoint.

    Raises
    ------
    InputError
        If the directory holds something else.
    OutputError
        If it cannot be written.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self._run = self.directory / "checkpoint.json"
        try:
            self.directory.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"checkpoint directory {directory}: {error.strerror}") from None
        self._known: dict[str, Any] | None = None
        if self._run.exists():
            try:
                self._known = json.loads(self._run.read_text(encoding="utf-8"))
                if self._known["format"] != _FORMAT:
                    raise ValueError
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{self._run} is no checkpoint of this version of harmonax; choose another directory"
                ) from None
        elif any(not path.name.startswith(".harmonax-") for path in self.directory.iterdir()):
            raise InputError(f"{directory} is not empty and holds no checkpoint; choose another directory")

    @property
    def seed(self) -> int | None:
        """The seed of the run that is here."""
        return None if self._known is None else int(self._known["seed"])

    def begin(self, params: HarmonyParams, seed: int, digest: str, n_blocks: int, sigma: np.ndarray) -> list[Round]:
        """Return the rounds that this run has left here, none if it is new.

        Raises
        ------
        InputError
            If those that are here are of another run: other data, parameters or seed.
        """
        asked = {k: v for k, v in params.to_dict().items() if k not in _FREE}
        own = {"format": _FORMAT, "seed": seed, "data_sha256": digest, "n_blocks": n_blocks, "params": asked}
        own = json.loads(json.dumps(own))
        self._number = 0
        # What a run was writing when it was killed.
        for left in self.directory.glob(".harmonax-*.part"):
            left.unlink(missing_ok=True)
        if self._known is None:
            with io.whole_or_nothing(self._run, overwrite=True, needed=1 << 12) as (part,):
                io.write_json(part, own)
            self._known = own
            return []
        self._refuse_other(own)
        rounds = self._load(sigma)
        self._number = len(rounds)
        return rounds

    def keep(self, ended: Round) -> None:
        """Write the next round, whole or not at all."""
        self._number += 1
        tables = {
            "Y": ended.assigned.Y,
            "logp": ended.assigned.logp,
            **ended.correction._asdict(),
            "mass": ended.mass,
            "objective": ended.objective,
            "initial": np.float64(ended.initial),
        }
        io.save_bundle(self._place(self._number), io.H5AD, io.seal(_ROUND, {}, {"tables": tables}))

    def clear(self) -> None:
        """Remove the rounds, and the directory if nothing else is there."""
        for path in [*self.directory.glob("round-*.h5"), self._run]:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.directory.rmdir()

    def _refuse_other(self, own: dict[str, Any]) -> None:
        known = {k: v for k, v in (self._known or {}).items() if k != "params"} | (self._known or {}).get("params", {})
        asked = {k: v for k, v in own.items() if k != "params"} | own["params"]
        different = [name for name in asked if known.get(name) != asked[name]]
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
                io.unseal(plain, _ROUND, str(path))
                tables = {name: np.asarray(table) for name, table in plain["tables"].items()}
                ridge = Ridge(*(tables[name] for name in Ridge._fields))
                assigned = Assignment(tables["Y"], tables["logp"], sigma)
                initial = float(tables["initial"])
                rounds.append(Round(assigned, ridge, tables["mass"], tables["objective"], initial))
            except (FileFormatError, KeyError) as error:
                warn(f"{path} cannot be read ({error}): the run goes on from the round before it")
                break
        return rounds

    def _place(self, number: int) -> Path:
        return self.directory / f"round-{number:04d}.h5"
