"""Expression beyond memory: X and layers as Dask arrays of pieces, each some cells, for scanpy's own functions.

The steps are the ordinary ones. scanpy takes such arrays from normalisation to PCA; here is what makes them of a file,
and the few things that scanpy does not do with them. After the PCA the expression is let go: no later step could take
it in pieces.
"""

from __future__ import annotations

import copy
import math
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from ..errors import InputError
from ..inputs.lazy import is_lazy, per_piece
from ..inputs.sparse import intact
from ..io import H5AD, ZARR, AnnotatedFormat, format_of
from ..io.annotated import quiet
from ..system.cpus import available_cpus
from ..system.extras import need

if TYPE_CHECKING:
    from anndata import AnnData

# Held for a file that was opened on disk without a word on memory.
_ROOM = 2**30
# What is made of a piece on its way takes several times its own room.
_WORKING = 6
# Of fewer cells, what a piece costs by itself outweighs the cells; of more, nothing is gained.
_FEWEST_ROWS, _MOST_ROWS = 1000, 50_000
_MATRICES = ("X", "layers", "raw")


def note(X: Any) -> str:
    """Return what there is to say of a matrix: nothing of one in memory."""
    if not is_lazy(X):
        return ""
    said = ", ".join(f"{name} {version(name)}" for name in ("scanpy", "dask"))
    pieces, rows = X.numblocks[0], max(X.chunks[0])
    return f"; the expression stays beyond memory: {pieces:,} pieces of up to {rows:,} cells, by {said}"


def let_go(adata: AnnData) -> None:
    """Drop the expression that is beyond memory."""
    for name in [name for name in adata.layers if name is not None and is_lazy(adata.layers[name])]:
        del adata.layers[name]
    if adata.raw is not None and is_lazy(adata.raw.X):
        del adata.raw
    if is_lazy(adata.X):
        adata.X = None


# ---- what scanpy does not do with Dask arrays as it does in memory ------------------------------------------------


def measured(counts: Any, mitochondrial: np.ndarray, obs_names: pd.Index, var_names: pd.Index) -> Any:
    """Return what quality control reads, in an AnnData of nothing else.

    It is scanpy's, piece by piece: with the whole array scanpy reads the file anew for each of its numbers.
    """
    import anndata

    parts = per_piece(counts, _measured, mitochondrial)
    n_cells = counts.shape[0]
    obs = pd.concat([part[0] for part in parts]).set_axis(obs_names)
    seen, total = (np.sum([part[i] for part in parts], axis=0, dtype=np.float64) for i in (1, 2))
    var = {
        "n_cells_by_counts": seen.astype(np.int64),
        "mean_counts": total / n_cells,
        "pct_dropout_by_counts": (1 - seen / n_cells) * 100,
    }
    return anndata.AnnData(obs=obs, var=pd.DataFrame(var, index=var_names))


def _measured(counts: Any, mitochondrial: np.ndarray) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Return what scanpy finds of the cells in a piece, and in how many of them, and how often, each gene is."""
    import anndata
    import scanpy

    var = pd.DataFrame({"mt": mitochondrial}, index=[str(i) for i in range(counts.shape[1])])
    obs = pd.DataFrame(index=[str(i) for i in range(counts.shape[0])])
    with quiet():
        cells, genes = scanpy.pp.calculate_qc_metrics(
            anndata.AnnData(counts, obs=obs, var=var),
            qc_vars=["mt"] if mitochondrial.any() else [],
            percent_top=None,
            log1p=False,
        )
    return cells, genes["n_cells_by_counts"].to_numpy(), genes["total_counts"].to_numpy()


def cells_with(counts: Any, kept_cells: np.ndarray) -> np.ndarray:
    """Return in how many of the kept cells each gene is seen."""
    import scanpy

    with quiet():
        _, seen = scanpy.pp.filter_genes(counts[kept_cells], min_cells=1, inplace=False)
    return np.asarray(seen.compute() if is_lazy(seen) else seen)


# ---- files ---------------------------------------------------------------------------------------------------------


def size(path: str) -> int:
    """Return about how many bytes of memory the ordinary run takes for the matrices of an .h5ad or .zarr file."""
    with opened(path) as root:
        held = sum(_bytes(element) for element in matrices(root).values())
        # Beside what the file has there are the counts and their logarithms.
        largest = max((stored(element) for element in matrices(root).values()), default=0)
    return held + 2 * largest * 8


def read(path: str, room: int | None = None) -> AnnData:
    """Read an .h5ad or .zarr file whose matrices are to stay on the disk, in pieces for about so many bytes.

    Raises
    ------
    InputError
        If a matrix is stored by genes.
    """
    import anndata
    from anndata.io import read_elem

    need("dask.array", "dask")
    with opened(path) as root, quiet():
        lazy = {name: _lazy(element, name, path, room) for name, element in matrices(root).items()}
        tables = {name: read_elem(root[name]) for name in root if name not in _MATRICES}
        raw = {"X": lazy.pop("raw"), "var": read_elem(root["raw/var"])} if "raw" in lazy else None
        X = lazy.pop("X", None)
        layers = {name.removeprefix("layers/"): matrix for name, matrix in lazy.items()}
        return anndata.AnnData(X, layers=layers, raw=raw, **tables)


def own(adata: AnnData) -> AnnData:
    """Return a copy of a backed AnnData, whose X and raw stay on the disk and whose layers stay the caller's."""
    import anndata

    file = read(str(adata.filename))
    cells, genes = (
        (_places(adata.obs_names, file.obs_names, "cell"), _places(adata.var_names, file.var_names, "gene"))
        if adata.is_view
        else (np.arange(file.n_obs), np.arange(file.n_vars))
    )
    X = None if file.X is None else file.X[cells][:, genes]
    rows = max(file.X.chunks[0]) if file.X is not None else _FEWEST_ROWS
    raw = {"X": file.raw.X[cells], "var": file.raw.var} if file.raw is not None else None
    return anndata.AnnData(
        X,
        obs=adata.obs.copy(),
        var=adata.var.copy(),
        uns=copy.deepcopy(dict(adata.uns)),
        layers={name: _pieces_of(value, rows) for name, value in adata.layers.items() if name is not None},
        raw=raw,
        **{part: {k: v.copy() for k, v in getattr(adata, part).items()} for part in ("obsm", "varm", "obsp", "varp")},
    )


def opened(path: str) -> AbstractContextManager[Any]:
    """Open an .h5ad or .zarr file to look at what it has."""
    kind: AnnotatedFormat = ZARR if Path(path).is_dir() else format_of(path, (H5AD,))
    return kind.open(Path(path))


def matrices(root: Any) -> dict[str, Any]:
    """Return what a file has of expression, by its place."""
    found = {"X": root["X"]} if "X" in root else {}
    layers = root.get("layers", {})
    found |= {f"layers/{name}": layers[name] for name in layers}
    if "raw" in root and "X" in root["raw"]:
        found["raw"] = root["raw/X"]
    return {name: element for name, element in found.items() if element.attrs.get("encoding-type") != "null"}


def stored(element: Any) -> int:
    """Return how many values a matrix in a file has stored."""
    return int(element["data"].shape[0]) if _is_sparse(element) else math.prod(element.shape)


def _is_sparse(element: Any) -> bool:
    # Of a dense array in a file, `in` would read and compare the values.
    return hasattr(element, "keys")


def _bytes(element: Any) -> int:
    if not _is_sparse(element):
        return math.prod(element.shape) * element.dtype.itemsize
    return sum(math.prod(element[part].shape) * element[part].dtype.itemsize for part in ("data", "indices", "indptr"))


def _lazy(element: Any, name: str, path: str, room: int | None) -> Any:
    import anndata.experimental as experimental

    if element.attrs.get("encoding-type") == "csc_matrix":
        raise InputError(
            f"{path}: {name} is stored by genes (CSC), so that no piece of its cells can be read alone; store it as "
            "CSR, or raise max_memory (--max-memory) for it to be read whole"
        )
    # anndata 0.11 has an older name for it.
    reader = getattr(experimental, "read_elem_lazy", None) or experimental.read_elem_as_dask
    n_rows, n_columns = element.attrs["shape"] if _is_sparse(element) else element.shape
    bytes_per_row = _bytes(element) / max(1, n_rows)
    lazy = reader(element, chunks=(max(1, min(int(n_rows), _rows(bytes_per_row, room))), int(n_columns)))
    return lazy.map_blocks(intact, f"{name} of {path}", dtype=lazy.dtype, meta=lazy._meta)


def _rows(bytes_per_row: float, room: int | None) -> int:
    """Return how many cells a piece has, so that one for each thread fits."""
    share = (room or _ROOM) / (_WORKING * available_cpus())
    return int(min(max(share / max(1.0, bytes_per_row), _FEWEST_ROWS), _MOST_ROWS))


def _pieces_of(matrix: Any, rows: int) -> Any:
    """Return a matrix in memory as a Dask array, so that no second one is made of it."""
    if is_lazy(matrix):
        return matrix
    kept = matrix.tocsr() if sparse.issparse(matrix) else np.asarray(matrix)
    array = need("dask.array", "dask")
    return array.from_array(kept, chunks=(rows, -1), asarray=False, name=False)


def _places(names: pd.Index, among: pd.Index, kind: str) -> np.ndarray:
    """Return where in the file the cells or genes of a view are."""
    places = among.get_indexer(names) if among.is_unique else np.array([-1])
    if (places < 0).any():
        raise InputError(f"the {kind} names in the file of this backed view are not unique; load it with to_memory()")
    return places
