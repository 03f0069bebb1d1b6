"""The one container of our own: nested arrays and texts with a kind, a version, JSON and a SHA-256.

The same dictionary goes into a file, HDF5 or Zarr, and into ``adata.uns``. There is no pickle in it, so that reading
one runs nothing. Models are kept in it, the rounds of a run, and the state of a fit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import FileFormatError
from .annotated import quiet
from .formats import AnnotatedFormat, reading
from .staging import whole_or_nothing

# An array of zeros becomes about a thousand times smaller.
_MAX_RATIO = 1000


class Bundle(NamedTuple):
    """A kind of bundle: its name in the file, its version, what messages call it, and what to do with a damaged one."""

    name: str
    version: int
    what: str
    advice: str


def seal(kind: Bundle, about: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return arrays and texts, nested or not, with what they are: `about` becomes JSON."""
    text = json.dumps(about, sort_keys=True, default=_plain)
    plain = {"format": kind.name, "version": kind.version, "about": text, **arrays}
    return {**plain, "sha256": _checksum(plain)}


def unseal(plain: Any, kind: Bundle, where: str) -> dict[str, Any]:
    """Return what `seal` was told about these arrays.

    Raises
    ------
    FileFormatError
        If they are something else, were changed, or come from a later version.
    """
    if not isinstance(plain, Mapping) or str(plain.get("format", "")) != kind.name:
        raise FileFormatError(f"{where} holds no {kind.what}")
    try:
        version = int(plain.get("version", 0))
    except (TypeError, ValueError):
        raise FileFormatError(f"{where} is damaged: its version is not a number; {kind.advice}") from None
    if version > kind.version:
        raise FileFormatError(
            f"{where} was written in version {version} of the format; "
            f"this harmonax reads up to {kind.version}: update it"
        )
    try:
        intact = _checksum({k: v for k, v in plain.items() if k != "sha256"}) == str(plain["sha256"])
    except (KeyError, TypeError, ValueError):
        intact = False
    if not intact:
        raise FileFormatError(f"{where} is damaged: its checksum does not fit; {kind.advice}")
    about: dict[str, Any] = json.loads(str(plain["about"]))
    return about


def save_bundle(place: Path, file: AnnotatedFormat, plain: Mapping[str, Any], *, overwrite: bool = True) -> None:
    """Write what `seal` made to its place, whole or not at all."""
    with whole_or_nothing(place, overwrite=overwrite, needed=_size(plain)) as (part,):
        write_bundle(part, file, plain)


def write_bundle(part: Path, file: AnnotatedFormat, plain: Mapping[str, Any]) -> None:
    """Write what `seal` made, as anndata writes dictionaries in ``uns``."""
    from anndata.io import write_elem

    with quiet(), file.create(part, _size(plain)) as root:
        for name, value in plain.items():
            write_elem(root, name, value)


def read_bundle(place: Path, file: AnnotatedFormat, kind: Bundle) -> dict[str, Any]:
    """Read what `write_bundle` wrote, for `unseal`; FileFormatError if it is something else, or cannot be read."""
    from anndata.io import read_elem

    with reading(place, file), quiet(), file.open(place) as root:
        if "format" not in root or str(read_elem(root["format"])) != kind.name:
            raise FileFormatError(f"{place} holds no {kind.what}")
        # Room is made for what a file claims. Ours are not compressed in HDF5, and Zarr does not compress as much.
        claimed: list[int] = []
        files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
        held = sum(path.stat().st_size for path in files) * (1 if place.is_file() else _MAX_RATIO)
        _each_array(root, claimed.append)
        if sum(claimed) > held:
            raise FileFormatError(f"{place} is damaged: it claims more than it holds; {kind.advice}")
        return {str(name): read_elem(root[name]) for name in root}


def _each_array(group: Any, tell: Callable[[int], None]) -> None:
    for name in group:
        item = group[name]
        if hasattr(item, "keys"):
            _each_array(item, tell)
        else:
            tell(int(np.prod(item.shape or 1)) * np.dtype(item.dtype).itemsize)


def _size(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(map(_size, value.values())) + 4096
    return int(np.asarray(value).nbytes) + 1024


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


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else str(value)
