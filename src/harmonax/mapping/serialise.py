"""A model in one file: HDF5 or Zarr, no pickle, with a version and a checksum.

The same nested dictionary goes into a file and into ``adata.uns``. Names of batches are in one JSON text, since a
column may be called anything and a key in a file may not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .. import io
from ..errors import FileFormatError, InputError, OutputError
from ..params import HarmonyParams
from .novelty import Novelty
from .projection import Projection
from .reference import Labels, Reference
from .tables import ModelTables

FORMAT = "harmonax-model"
VERSION = 1
# Where in ``adata.uns`` a model is kept.
UNS = "harmonax_model"
_TABLES = ("centroids", "sigma", "cluster_mass", "cluster_moment", "ridge", "level_mass", "theta", "level_counts")
_SUFFIXES = {".h5": io.H5AD, ".zarr": io.ZARR}

Model = TypeVar("Model", bound=ModelTables)


def save(model: ModelTables, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a model to a file, whole or not at all."""
    _, place = check_place(path, overwrite=overwrite)
    plain = to_dict(model)
    with io.whole_or_nothing(place, overwrite=overwrite, needed=_size(plain)) as (part,):
        write(plain, part, path)


def write(plain: Mapping[str, Any], part: Path, path: str | os.PathLike[str]) -> None:
    """Write what `to_dict` made of a model to `part`, in the format that the name of `path` tells."""
    io.write_tree(part, _format(path), plain, _size(plain))


def check_place(
    path: str | os.PathLike[str], *, inputs: Sequence[str] = (), overwrite: bool = False
) -> tuple[io.AnnotatedFormat, Path]:
    """Refuse, before any work, a place where no model can be written; return its format and the place.

    Only a model is replaced.
    """
    kind = _format(path)
    place = io.check_destination(path, inputs=inputs, overwrite=overwrite)
    if place.exists() and not _is_model(place, kind):
        raise OutputError(f"{path} exists already and is no model; choose another name")
    return kind, place


def load(path: str | os.PathLike[str], make: type[Model]) -> Model:
    """Read a model of this class from a file."""
    kind, place = _format(path), Path(path)
    with io.reading(place, kind):
        if str(io.read_tree(place, kind, only=("format",)).get("format", "")) != FORMAT:
            raise FileFormatError(f"{place} holds no harmonax model")
        plain = io.read_tree(place, kind)
    return from_dict(plain, make, str(place))


def _is_model(place: Path, kind: io.AnnotatedFormat) -> bool:
    try:
        with io.reading(place, kind):
            return str(io.read_tree(place, kind, only=("format",)).get("format", "")) == FORMAT
    except InputError:
        return False


def to_dict(model: ModelTables) -> dict[str, Any]:
    """Return the model as arrays and texts, for a file or ``adata.uns``."""
    about = {
        "n_cells": model.n_cells,
        "variables": list(model.variables),
        "levels": [list(own) for own in model.levels],
        "params": model.params.to_dict(),
        "record": model.record,
    }
    plain: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "about": json.dumps(about, sort_keys=True, default=_plain),
        "tables": {name: np.ascontiguousarray(getattr(model, name), np.float64) for name in _TABLES},
    }
    if (p := model.projection) is not None:
        numbers = {name: getattr(p, name) for name in ("loadings", "mean", "std", "offset", "center")}
        known = {name: getattr(p, name) for name in ("max_value", "target_sum") if getattr(p, name) is not None}
        plain["projection"] = {"genes": p.genes.astype(object), "integers": p.integers, **numbers, **known}
    if (n := model.novelty) is not None:
        plain["novelty"] = {name: getattr(n, name) for name in ("kind", "spread", "quantiles", "alone")}
    if (r := model.reference) is not None:
        columns = {
            str(i): {
                "column": name,
                "names": c.names.astype(object),
                "codes": c.codes,
                "votes": c.votes,
                "right": c.right,
            }
            for i, (name, c) in enumerate(r.labels.items())
        }
        plain["reference"] = {"embedding": r.embedding, "labels": columns}
    return {**plain, "sha256": _checksum(plain)}


def from_dict(plain: Mapping[str, Any], make: type[Model], where: str = "the model") -> Model:
    """Return the model that `to_dict` made these of, as one of this class.

    Raises
    ------
    FileFormatError
        If they are no model, were changed, or come from a later version.
    """
    if not isinstance(plain, Mapping) or str(plain.get("format", "")) != FORMAT:
        raise FileFormatError(f"{where} holds no harmonax model")
    try:
        version = int(plain.get("version", 0))
    except (TypeError, ValueError):
        raise FileFormatError(f"{where} is damaged: its version is no number; save the model again") from None
    if version > VERSION:
        raise FileFormatError(
            f"{where} was written in version {version} of the format; this harmonax reads up to {VERSION}: update it"
        )
    try:
        claimed = str(plain["sha256"])
        intact = _checksum({k: v for k, v in plain.items() if k != "sha256"}) == claimed
    except (KeyError, TypeError, ValueError):
        intact = False
    if not intact:
        raise FileFormatError(f"{where} is damaged: its checksum does not fit; save the model again")
    about = json.loads(str(plain["about"]))
    params: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in about["params"].items()}
    return make(
        **{name: np.asarray(plain["tables"][name]) for name in _TABLES},
        n_cells=int(about["n_cells"]),
        variables=tuple(about["variables"]),
        levels=tuple(tuple(own) for own in about["levels"]),
        params=HarmonyParams(**params),
        record=about["record"],
        projection=_projection(plain["projection"]) if "projection" in plain else None,
        novelty=_novelty(plain["novelty"]) if "novelty" in plain else None,
        reference=_reference(plain["reference"]) if "reference" in plain else None,
    )


def _projection(plain: Mapping[str, Any]) -> Projection:
    known = {name: float(plain[name]) if name in plain else None for name in ("max_value", "target_sum")}
    numbers = {name: np.asarray(plain[name]) for name in ("loadings", "mean", "std", "offset", "center")}
    return Projection(genes=_texts(plain["genes"]), integers=bool(plain["integers"]), **numbers, **known)  # type: ignore[arg-type]


def _novelty(plain: Mapping[str, Any]) -> Novelty:
    kind: Any = str(plain["kind"])
    return Novelty(kind, *(np.asarray(plain[name]) for name in ("spread", "quantiles", "alone")))


def _reference(plain: Mapping[str, Any]) -> Reference:
    columns = {}
    for _, own in sorted(plain["labels"].items(), key=lambda item: int(item[0])):
        numbers = (np.asarray(own[name]) for name in ("codes", "votes", "right"))
        columns[str(own["column"])] = Labels(_texts(own["names"]), *numbers)
    return Reference(np.asarray(plain["embedding"]), columns)


def _texts(values: Any) -> np.ndarray:
    return np.array([str(v) for v in values], dtype=object)


def _checksum(value: Any) -> str:
    """Return a SHA-256 of nested arrays and texts, whatever order they come in."""
    digest = hashlib.sha256()

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key in sorted(value):
                add(f"{name}/{key}", value[key])
            return
        array = np.asarray(value)
        if array.dtype.kind in "OUST":
            content = json.dumps([str(v) for v in array.ravel()]).encode()
            digest.update(f"{name} text {array.shape}\n".encode() + content)
            return
        kind = "<f8" if array.ndim == 0 else array.dtype.newbyteorder("<").str
        digest.update(f"{name} {kind} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array, kind).data)

    add("", value)
    return digest.hexdigest()


def _format(path: str | os.PathLike[str]) -> io.AnnotatedFormat:
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(f"{path}: a model is kept in {' or '.join(_SUFFIXES)}")
    if suffix == ".zarr":
        io.check_writable(io.ZARR)
    return _SUFFIXES[suffix]


def _size(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(map(_size, value.values())) + 4096
    return int(np.asarray(value).nbytes) + 1024


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)
