"""A model in one file: HDF5 or Zarr, no pickle, with a version and a checksum.

The same nested dictionary goes into a file and into ``adata.uns``. Names of batches are in one JSON text, since a
column may be called anything and a key in a file may not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .. import io
from ..errors import InputError, OutputError
from ..params import HarmonyParams
from .normalisation import NATURAL
from .novelty import Novelty
from .projection import Projection
from .reference import Labels, Reference
from .tables import ModelTables

MODEL = io.Bundle("harmonax-model", 1, "harmonax model", "save the model again")
# Where in ``adata.uns`` a model is kept.
UNS = "harmonax_model"
_TABLES = ("centroids", "sigma", "cluster_mass", "cluster_moment", "ridge", "level_mass", "theta", "level_counts")
# What a projection may lack.
_MAYBE = ("max_value", "target_sum", "share")
_SUFFIXES = {".h5": io.H5AD, ".zarr": io.ZARR}

Model = TypeVar("Model", bound=ModelTables)


def save(model: ModelTables, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a model to a file, whole or not at all."""
    kind, place = check_place(path, overwrite=overwrite)
    io.save_bundle(place, kind, to_dict(model), overwrite=overwrite)


def write(plain: Mapping[str, Any], part: Path, path: str | os.PathLike[str]) -> None:
    """Write what `to_dict` made of a model to `part`, in the format that the name of `path` tells."""
    io.write_bundle(part, _format(path), plain)


def check_place(
    path: str | os.PathLike[str], *, inputs: Sequence[str | os.PathLike[str]] = (), overwrite: bool = False
) -> tuple[io.AnnotatedFormat, Path]:
    """Refuse, before any work, a place where no model can be written; return its format and the place.

    Only a model is replaced.
    """
    kind = _format(path)
    place = io.check_destination(path, inputs=inputs, overwrite=overwrite)
    if place.exists():
        try:
            io.read_bundle(place, kind, MODEL)
        except InputError:
            raise OutputError(f"{path} exists already and is not a model; choose another name") from None
    return kind, place


def load(path: str | os.PathLike[str], make: type[Model]) -> Model:
    """Read a model of this class from a file."""
    kind = _format(path)
    return from_dict(io.read_bundle(Path(path), kind, MODEL), make, str(Path(path)))


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
        "tables": {name: np.ascontiguousarray(getattr(model, name), np.float64) for name in _TABLES}
    }
    if (p := model.projection) is not None:
        numbers = {name: getattr(p, name) for name in ("loadings", "mean", "std", "offset", "center")}
        known = {name: getattr(p, name) for name in _MAYBE if getattr(p, name) is not None}
        own = {"genes": p.genes.astype(object), "integers": p.integers, "log_base": p.log_base}
        plain["projection"] = {**own, **numbers, **known}
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
    return io.seal(MODEL, about, plain)


def from_dict(plain: Mapping[str, Any], make: type[Model], where: str = "the model") -> Model:
    """Return the model that `to_dict` made these of, as one of this class.

    Raises
    ------
    FileFormatError
        If they are not a model, were changed, or come from a later version.
    """
    about = io.unseal(plain, MODEL, where)
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
    known = {name: float(plain[name]) if name in plain else None for name in _MAYBE}
    # Models of earlier versions say nothing of it.
    log_base = float(plain.get("log_base", NATURAL))
    numbers = {name: np.asarray(plain[name]) for name in ("loadings", "mean", "std", "offset", "center")}
    genes, integers = _texts(plain["genes"]), bool(plain["integers"])
    return Projection(genes=genes, integers=integers, log_base=log_base, **numbers, **known)  # type: ignore[arg-type]


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


def _format(path: str | os.PathLike[str]) -> io.AnnotatedFormat:
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"{path!r} is a {type(path).__name__}; a model is kept in a file, {' or '.join(_SUFFIXES)}")
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(f"{path}: a model is kept in {' or '.join(_SUFFIXES)}")
    if suffix == ".zarr":
        io.check_writable(io.ZARR)
    return _SUFFIXES[suffix]
