"""Names for several inputs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError

# Folders of Cell Ranger and STARsolo that are called the same for every sample.
_USUAL = re.compile(
    r"(?i)outs|per_sample_outs|count|gene|solo\.out|filtered|raw|(sample_)?(filtered|raw)_(feature|gene)_bc_matri(x|ces).*"
)


def short_names(paths: Sequence[str]) -> list[str]:
    """Return a name for each file: its own without the ending, with as many folders before it as tell them apart.

    Examples
    --------
    >>> short_names(["a/ctrl.h5ad", "b/stim.h5ad"])
    ['ctrl', 'stim']
    >>> short_names(["s1/outs/filtered_feature_bc_matrix", "s2/outs/filtered_feature_bc_matrix.h5"])
    ['s1', 's2']
    """
    trails = []
    for path in paths:
        parts = list(Path(os.path.abspath(path)).parts[1:])
        parts[-1] = re.sub(r"(?i)\.(h5ad|zarr\.zip|zarr|h5mu|h5|hdf5)$", "", parts[-1])
        # Version 2 of Cell Ranger has a folder for the genome in that of the matrices.
        if len(parts) > 1 and re.fullmatch(r"(?i)(filtered|raw)_gene_bc_matrices.*", parts[-2]):
            parts.pop()
        while len(parts) > 1 and _USUAL.fullmatch(parts[-1]):
            parts.pop()
        trails.append(parts)
    names = [parts[-1] for parts in trails]
    for depth in range(2, 6):
        if len(set(names)) == len(names):
            break
        names = ["_".join(parts[-depth:]) for parts in trails]
    if len(set(names)) < len(names):
        raise InputError(f"these inputs have no names that tell them apart: {', '.join(names)}; rename them")
    return names
