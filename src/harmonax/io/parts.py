"""The parts of an AnnData file that tools look at: obs, some embeddings, some of uns; never X."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FileFormatError, MissingKeyError, nearest
from .annotated import quiet
from .formats import ANNOTATED, format_of, reading

if TYPE_CHECKING:
    from anndata import AnnData


def read_parts(
    source: str | os.PathLike[str],
    *,
    bases: Sequence[str] = (),
    optional: Sequence[str] = (),
    uns: Sequence[str] = (),
) -> AnnData:
    """Read obs, embeddings, the names of var's columns, and what of uns is there.

    Parameters
    ----------
    source
        .h5ad or .zarr.
    bases, optional
        Embeddings in obsm: those that must be there, and those that are read if they are.
    uns
        Keys of uns to read, where they are there.

    Returns
    -------
    AnnData
        With no genes; var has its columns only.

    Raises
    ------
    FileFormatError
        If it is not an AnnData file.
    MissingKeyError
        If an embedding is not there.
    """
    import pandas as pd
    from anndata import AnnData
    from anndata.io import read_elem

    path, kind = Path(source), format_of(source, ANNOTATED)
    with reading(path, kind), kind.open(path) as root, quiet():
        for part in ("obs", "obsm", "var"):
            if part not in root or not hasattr(root[part], "keys"):
                raise FileFormatError(
                    f"{path} is not an AnnData file of anndata 0.7 or later: it has no group '{part}'"
                )
        obsm = root["obsm"]
        for basis in bases:
            if basis not in obsm:
                raise MissingKeyError(f"{path}: obsm has no basis '{basis}'; {nearest(basis, sorted(obsm.keys()))}")
        found = [basis for basis in (*bases, *optional) if basis in obsm]
        stored = root.get("uns", {})
        return AnnData(
            obs=read_elem(root["obs"]),
            var=pd.DataFrame(columns=[str(name) for name in root["var"].attrs["column-order"]]),
            obsm={basis: read_elem(obsm[basis]) for basis in found},
            uns={key: read_elem(stored[key]) for key in uns if key in stored},
        )
