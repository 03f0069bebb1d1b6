"""What an interrupted run leaves for the next: the result of each step, in a folder of its own.

X and layers are not kept there. They come from the input again, since reading it and normalising cost less than
writing a second copy; the cells and genes that quality control left are told by their names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..errors import InputError, OutputError
from ..inputs.expression import is_sparse
from ..inputs.lazy import is_lazy
from ..io.annotated import nullable_strings
from ..system.lock import locked
from ..system.version import __version__
from .inputs import silent
from .state import Done, State

if TYPE_CHECKING:
    from anndata import AnnData

FOLDER = ".harmonax-work"
_TABLES, _MAPPINGS = ("obs", "var", "uns"), ("obsm", "varm", "obsp")
PACKAGES = (
    "scanpy",
    "anndata",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "umap-learn",
    "igraph",
    "scib-metrics",
    "jax",
    "plotly",
)

Parts = dict[tuple[str, str], Any]


def versions() -> dict[str, str]:
    """Return the versions of harmonax and of what the steps call."""
    found = {"harmonax": __version__}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def fingerprint(*parts: Any) -> str:
    """Return a short text that is the same for the same parts only."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def digest(value: Any) -> str:
    """Return a hash of an array, a sparse matrix, a table or texts: the same in memory, in pieces and from a file."""
    if isinstance(value, (pd.DataFrame, pd.Series, pd.Index)):
        value = value.astype(str).to_numpy()
    if not (is_sparse(value) or is_lazy(value)) and np.asarray(value).dtype.kind not in "fiub":
        return fingerprint(np.asarray(value).tolist())
    hashes = [hashlib.sha256() for _ in range(3)]
    pieces = (block.compute() for block in value.rechunk({1: -1}).blocks.ravel()) if is_lazy(value) else (value,)
    for piece in pieces:
        streams = [piece]
        if is_sparse(piece):
            rows = piece.tocsr()
            streams = [np.diff(rows.indptr).astype(np.int32), rows.indices.astype(np.int32, copy=False), rows.data]
        for known, stream in zip(hashes, streams, strict=False):
            known.update(np.ascontiguousarray(stream).data)
    return fingerprint(*(known.hexdigest() for known in hashes))


def parts_of(adata: AnnData) -> Parts:
    """Return the arrays of a data set that steps add, by their place: to be told apart from later ones."""
    return {(kind, key): value for kind in _MAPPINGS for key, value in getattr(adata, kind).items()}


class Work:
    """The folder of a run that is not finished, held by one process at a time."""

    def __init__(self, out: Path) -> None:
        self.folder = out / FOLDER
        self._lock: IO[str] | None = None
        self.finished: list[dict[str, Any]] = []
        self.publishing = ""

    def open(self) -> None:
        """Make or find the folder, and what it knows.

        Raises
        ------
        OutputError
            If another process is at work there, or the folder cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / "lock", "w")  # noqa: SIM115 - held for the whole run
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be made: {error.strerror}") from None
        if not locked(self._lock):
            self._lock.close()
            self._lock = None
            raise OutputError(f"another run is at work in {self.folder.parent}; wait until it is done")
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
            self.finished, self.publishing = list(known["steps"]), str(known["publishing"])

    def restore(self, index: int, mark: str, state: State) -> Done | None:
        """Bring back the result of the step with this number and fingerprint, if it is there."""
        entry = next((e for e in self.finished if e["mark"] == mark), None)
        if entry is None:
            return None
        try:
            with silent():
                state.adata = _restored(self._file(index, entry["done"]["step"]), state.adata)
        # Whatever is wrong with it, the step can be done again.
        except Exception:
            return None
        return Done(**{**entry["done"], "resumed": True})

    def save(self, index: int, mark: str, done: Done, state: State, before: Parts) -> None:
        """Keep what a step has made: all tables, and the arrays that were not there before."""
        place = self._file(index, done.step)
        part = place.with_suffix(".part")
        try:
            with silent(), nullable_strings():
                _write(part, state.adata, before)
        except (OSError, RuntimeError) as error:
            said = " ".join(str(error).split())
            raise OutputError(f"{place}: could not be written (is the disk full?): {said}") from error
        # anndata has an error of its own for each kind of thing it cannot write.
        except Exception as error:
            said = " ".join(str(error).split())
            raise InputError(f"the data hold something that no .h5ad file can: {said}") from error
        os.replace(part, place)
        self.finished = [e for e in self.finished if e["done"]["step"] != done.step]
        self.finished.append({"mark": mark, "done": asdict(done)})
        self._note()

    def begin_publishing(self, mark: str) -> None:
        """Remember that results of this very run may lie in the output folder from now on."""
        self.publishing = mark
        self._note()

    def close(self, *, remove: bool) -> None:
        """Let go of the folder; remove it if it is of no more use, or never was."""
        if self._lock is not None:
            if remove or not self.finished:
                shutil.rmtree(self.folder, ignore_errors=True)
            self._lock.close()

    def _file(self, index: int, step: str) -> Path:
        return self.folder / f"{index:02d}-{step}.h5"

    def _note(self) -> None:
        part = self.folder / "state.part"
        part.write_text(json.dumps({"steps": self.finished, "publishing": self.publishing}), encoding="utf-8")
        os.replace(part, self.folder / "state.json")


@contextlib.contextmanager
def working(out: Path | None) -> Iterator[Work | None]:
    """Hold the work folder in `out`; it is removed when the body ends well, and `out` where nothing came of it."""
    if out is None:
        yield None
        return
    missing = [folder for folder in (out, *out.parents) if not folder.is_dir()]
    work = Work(out)
    ended_well = False
    try:
        work.open()
        yield work
        ended_well = True
    finally:
        work.close(remove=ended_well)
        # Only where they are empty.
        with contextlib.suppress(OSError):
            for folder in missing:
                folder.rmdir()


def _write(place: Path, adata: AnnData, before: Parts) -> None:
    import h5py
    from anndata.io import write_elem

    now = parts_of(adata)
    with h5py.File(place, "w") as file:
        for table in _TABLES:
            value = getattr(adata, table)
            write_elem(file, table, dict(value) if table == "uns" else value)
        file.attrs["parts"] = json.dumps(list(now))
        changed = [name for name, value in now.items() if before.get(name) is not value]
        file.attrs["changed"] = json.dumps(changed)
        for number, name in enumerate(changed):
            write_elem(file, f"part{number}", now[name])


def _restored(place: Path, adata: AnnData) -> AnnData:
    import h5py
    from anndata.io import read_elem

    with h5py.File(place, "r") as file:
        tables = {table: read_elem(file[table]) for table in _TABLES}
        parts = [tuple(name) for name in json.loads(file.attrs["parts"])]
        changed = {tuple(name): read_elem(file[f"part{i}"]) for i, name in enumerate(json.loads(file.attrs["changed"]))}
    if adata.shape != (len(tables["obs"]), len(tables["var"])):
        adata = adata[tables["obs"].index, tables["var"].index].copy()
    adata.obs, adata.var, adata.uns = tables["obs"], tables["var"], tables["uns"]
    for kind, key in parts_of(adata):
        if (kind, key) not in parts:
            del getattr(adata, kind)[key]
    for (kind, key), value in changed.items():
        getattr(adata, kind)[key] = value
    return adata
