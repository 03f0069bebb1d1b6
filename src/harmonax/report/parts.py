"""What the page needs of an AnnData or of a file: obs, uns, two dimensions of some embeddings, genes when asked for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import FileFormatError, InputError
from ..inputs.expression import dense
from ..inputs.rows import slabs
from ..io import ANNOTATED, AnnotatedFormat, format_of, reading, stored_cells
from ..io.annotated import quiet

# Rows of X that are held at a time.
_BLOCK = 1 << 14


@dataclass
class Parts:
    """What a report is made of.

    Attributes
    ----------
    name
        What the data are called: the file's name, or nothing.
    obs, uns
        As in the AnnData.
    obsm
        First two dimensions of each embedding that has as many.
    genes
        Names of the variables.
    broken
        Number of cells with NaN or infinite values in each embedding that has some, in any of its dimensions.
    """

    name: str
    obs: pd.DataFrame
    uns: dict[str, Any]
    obsm: dict[str, np.ndarray]
    genes: list[str]
    broken: dict[str, int]
    _open: Callable[[], contextlib.AbstractContextManager[Any]] = field(repr=False)
    # Genes that were read: the maps and the dot plot show the same ones.
    _held: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def part(self, key: str) -> dict[str, Any]:
        """Return what a tool stored in uns, or nothing."""
        value = self.uns.get(key, {})
        return dict(value) if hasattr(value, "keys") else {}

    def expression(self, names: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """Return the values in X of some genes in some cells, (cells, genes): X is read block by block, once."""
        new = [name for name in dict.fromkeys(names) if name not in self._held]
        found = np.zeros((len(self.obs), len(new)), np.float32)
        columns = [self.genes.index(name) for name in new]
        with self._open() as X:
            for start in range(0, len(self.obs), _BLOCK) if new else ():
                block = X[start : start + _BLOCK]
                found[start : start + _BLOCK] = dense(block[:, columns])
        self._held |= {name: found[:, i] for i, name in enumerate(new)}
        return np.stack([self._held[name][rows] for name in names], axis=1) if names else found[rows]

    @property
    def has_expression(self) -> bool:
        """Whether there is an X to read genes from."""
        with self._open() as X:
            return X is not None


def parts_of(source: Any) -> Parts:
    """Return the parts of an AnnData, or of an .h5ad or .zarr file, of which X is not read yet.

    Raises
    ------
    InputError
        If it is neither, or the file is missing or damaged.
    """
    if isinstance(source, (str, os.PathLike)):
        return _of_file(Path(source))
    if not all(hasattr(source, name) for name in ("obs", "obsm", "uns", "var_names")):
        raise InputError(f"a report is made from an AnnData or a path, not from a {type(source).__name__}")
    obsm = {str(key): np.asarray(value) for key, value in source.obsm.items() if hasattr(value, "shape")}
    return Parts(
        name="",
        obs=_named(source.obs),
        uns=dict(source.uns),
        obsm=_two_dimensions(obsm),
        genes=[str(name) for name in source.var_names],
        broken=_broken(obsm),
        _open=lambda: contextlib.nullcontext(source.X),
    )


def _of_file(path: Path) -> Parts:
    from anndata.io import read_elem

    kind = format_of(path, ANNOTATED)
    with reading(path, kind), kind.open(path) as root, quiet():
        if "obs" not in root or "var" not in root:
            raise FileFormatError(f"{path} is not an AnnData file: it has no 'obs' or no 'var'")
        obs = read_elem(root["obs"])
        stored = {key: root["obsm"][key] for key in root["obsm"]} if "obsm" in root else {}
        for key, element in stored.items():
            rows = getattr(element, "shape", ())[:1]
            if rows and rows[0] != len(obs):
                raise FileFormatError(
                    f"{path}: obsm['{key}'] has {rows[0]} rows but obs has {len(obs)}; they must agree"
                )
        broken = _broken(stored)
        obsm = {key: _first_two(element) for key, element in stored.items()}
        return Parts(
            name=path.name,
            obs=_named(obs),
            uns=dict(read_elem(root["uns"])) if "uns" in root else {},
            obsm=_two_dimensions({key: value for key, value in obsm.items() if value is not None}),
            genes=[str(name) for name in read_elem(root["var"]).index],
            broken=broken,
            _open=lambda: _matrix(path, kind),
        )


def _named(obs: pd.DataFrame) -> pd.DataFrame:
    """Return obs with its columns' names as text, without a copy of what they hold."""
    named = obs.copy(deep=False)
    named.columns = [str(name) for name in obs.columns]
    return named


def _first_two(element: Any) -> np.ndarray | None:
    # Tables and sparse embeddings are groups; a map needs neither.
    return np.asarray(element[:, :2]) if len(getattr(element, "shape", ())) == 2 else None


def _broken(obsm: Mapping[str, Any]) -> dict[str, int]:
    """Count the cells with NaN or infinity in each embedding, read in pieces; nothing of those that have none."""
    floats = {key: Z for key, Z in obsm.items() if len(getattr(Z, "shape", ())) == 2 and np.dtype(Z.dtype).kind == "f"}
    found = {key: sum(int((~np.isfinite(rows).all(axis=1)).sum()) for _, rows in slabs(Z)) for key, Z in floats.items()}
    return {key: n for key, n in found.items() if n}


@contextlib.contextmanager
def _matrix(path: Path, kind: AnnotatedFormat) -> Iterator[Any]:
    """Give X to be read by rows, None where there is none."""
    yield stored_cells(path, kind, {}).X


def _two_dimensions(obsm: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    kept = {}
    for key, value in obsm.items():
        if value.ndim == 2 and value.shape[1] >= 2 and value.dtype.kind in "fiub":
            kept[key] = np.asarray(value[:, :2], np.float64)
    return kept
