"""Score the embeddings of an AnnData, or of a file, side by side."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from .. import io
from ..errors import InputError, MissingKeyError, nearest
from ..evaluation.labels import UNLABELLED
from ..evaluation.neighbours import MAX_CELLS
from ..evaluation.scores.evaluate import Evaluation, Progress
from ..evaluation.scores.evaluate import evaluate as evaluate_arrays
from ..inputs.embedding import either_spelling
from ..inputs.levels import native
from ..system.arguments import check_arguments
from ..system.progress import line
from ..system.validate import entry_name, expect_anndata, listed

if TYPE_CHECKING:
    from anndata import AnnData

# What other methods' tutorials call their results.
WELL_KNOWN = (
    "X_pca_harmony",
    "X_harmony",
    "X_scVI",
    "X_scANVI",
    "X_scanorama",
    "X_mnn",
    "X_fastmnn",
    "X_bbknn",
    "X_combat",
    "X_pca_combat",
    "X_liger",
    "X_cca",
    "X_rpca",
    "X_integrated",
)


def evaluate(
    adata: AnnData,
    batch_key: str | Sequence[str],
    *,
    label_key: str | None = None,
    embeddings: str | Sequence[str] | None = None,
    baseline: str = "X_pca",
    max_cells: int = MAX_CELLS,
    rng: Any = 0,
    unlabelled: Iterable[str] = UNLABELLED,
    allow_many_levels: bool = False,
    controls: bool = False,
    key_added: str = "harmonax_evaluation",
    progress: bool | Progress | None = None,
    missing: Literal["leave_out", "literal"] = "leave_out",
) -> Evaluation:
    """Score how well batches mix and what was kept, before against after and methods side by side.

    With labels, scib-metrics' scores: iLISI, BRAS, graph connectivity and kBET per label for the batches, cLISI, NMI,
    ARI and ASW for the cell types, total = 0.4 batch + 0.6 bio; further ones that enter no mean: CiLISI, kSIM, isolated
    labels (ASW and F1), scGraph. Always, label-free ones: iLISI, kBET, the share of
    variance that batches do not explain, and the share of each cell's same-batch neighbours that were kept. All
    lie between 0 and 1, and higher is better. Labels that were made after a correction flatter that correction.

    Parameters
    ----------
    adata
        N cells with their embeddings; `X` is not touched.
    batch_key
        Column of ``adata.obs`` that says which batch a cell is from, or several, scored one by one. Cells without a
        batch are left out, with a warning.
    label_key
        Column of ``adata.obs`` with cell types. None: label-free scores only.
    embeddings
        Entries of ``adata.obsm``. None: those of `baseline`, of Harmony and of other methods under their usual names
        that are there.
    baseline
        The uncorrected embedding, which comes first and which others are compared with.
    max_cells
        Above so many cells, so many random ones are scored, with 95 % intervals, in three disjoint samples that share
        them. Label-free scores, LISI and kSIM still find their neighbours among all cells, and estimate what all would
        score; the others are those of the samples. Raising it narrows the intervals and takes longer. docs/metrics.md
        says what each score measures, and what it misses.
    rng
        Seed of the samples: None, integer or numpy Generator.
    unlabelled
        Labels that mean none, in upper or lower case. Missing ones do too.
    allow_many_levels
        Accept batch columns that look like measurements or cell barcodes.
    controls
        Also score the baseline with its cells shuffled: perfect mixing that keeps nothing.
    key_added
        Where in ``adata.uns`` the result goes.
    progress
        None: a line on stderr where that is a terminal. A function is called before each embedding with how many are
        done, how many there are, and its name; and, where cells are sampled, before its second and third sample, which
        the name then tells. True and False: always, never.
    missing
        Cells without a batch are left out, and so are those whose batch is text that stands for none ("nan", "None",
        "NA", ""); ``"literal"`` takes such text as a batch's name.

    Returns
    -------
    Evaluation
        The scores; also in ``adata.uns[key_added]``.

    Raises
    ------
    MissingKeyError
        If a column or an embedding is not there.
    InputError
        If they cannot be scored.
    MissingExtraError
        If scikit-learn is not installed, or scib-metrics, which the scores with labels need. Without labels and
        scib-metrics iLISI is left out, and the notes of the result say so.

    Examples
    --------
    >>> import harmonax, scanpy
    >>> adata = scanpy.read_h5ad("corrected.h5ad")  # doctest: +SKIP
    >>> print(harmonax.tl.evaluate(adata, "batch", label_key="cell_type"))  # doctest: +SKIP
    """
    check_arguments(evaluate, locals())
    expect_anndata(adata)
    entry_name(key_added, "key_added")
    keys = listed(batch_key)
    _check_label(label_key, keys)
    for key in [*keys, *([] if label_key is None else [label_key])]:
        if key not in adata.obs:
            raise MissingKeyError(f"obs has no column '{key}'; {nearest(key, adata.obs.columns)}")
    names = embeddings_of(adata.obsm.keys(), embeddings, baseline)
    with line(progress, _text) as show:
        result = evaluate_arrays(
            {name: adata.obsm[name] for name in names},
            pd.concat([native(adata.obs[key]) for key in keys], axis=1) if keys else adata.obs[[]],
            None if label_key is None else adata.obs[label_key],
            label_key=label_key or "",
            max_cells=max_cells,
            rng=rng,
            unlabelled=unlabelled,
            allow_many_levels=allow_many_levels,
            controls=controls,
            progress=show,
            missing=missing,
        )
    adata.uns[key_added] = result.to_uns()
    return result


def evaluate_file(
    path: str | os.PathLike[str],
    batch_key: Sequence[str],
    *,
    label_key: str | None = None,
    embeddings: str | Sequence[str] | None = None,
    baseline: str = "X_pca",
    progress: bool | Progress | None = None,
    **how: Any,
) -> Evaluation:
    """Score the embeddings of an .h5ad or .zarr file, of which only they and the columns are read.

    Parameters
    ----------
    path
        The file; it is not changed.
    batch_key, label_key, embeddings, baseline, progress
        As in `evaluate`.
    **how
        Its other parameters, without `key_added`.
    """
    check_arguments(evaluate_file, locals())
    path = os.fspath(path)
    _check_label(label_key, batch_key)
    known = _embedding_names(path)
    keys = [*batch_key, *([] if label_key is None else [label_key])]
    sources = {name: io.read_source(path, keys, basis=name) for name in embeddings_of(known, embeddings, baseline)}
    table = sources[baseline].table
    with line(progress, _text) as show:
        return evaluate_arrays(
            {name: source.Z for name, source in sources.items()},
            table[list(batch_key)],
            None if label_key is None else table[label_key],
            label_key=label_key or "",
            progress=show,
            **how,
        )


def _text(done: int, of: int, name: str) -> str:
    return f"scoring {name} ({done + 1} of {of})"


def embeddings_of(known: Iterable[str], asked: str | Sequence[str] | None, baseline: str) -> list[str]:
    """Return the embeddings to score, the baseline first.

    Examples
    --------
    >>> embeddings_of(["X_umap", "X_scVI", "X_pca"], None, "X_pca")
    ['X_pca', 'X_scVI']
    """
    present = [str(name) for name in known]
    if asked is None:
        others = [name for name in WELL_KNOWN if name in present]
    else:
        others = [str(name) for name in listed(asked)]
    baseline, *others = (either_spelling(present, name) for name in (baseline, *others))
    for name in (baseline, *others):
        if name not in present:
            raise MissingKeyError(f"obsm has no embedding '{name}'; {nearest(name, present)}")
        if others.count(name) > 1:
            raise InputError(f"embedding '{name}' is named more than once; name each once")
    return [baseline, *(name for name in others if name != baseline)]


def _embedding_names(path: str) -> list[str]:
    kind = io.format_of(path, io.ANNOTATED)
    with io.reading(Path(path), kind), kind.open(Path(path)) as root:
        return sorted(root["obsm"].keys()) if "obsm" in root and hasattr(root["obsm"], "keys") else []


def _check_label(label_key: str | None, batch_key: Sequence[str]) -> None:
    if label_key is not None and label_key in batch_key:
        raise InputError(f"'{label_key}' is named as batch and as label; they must be two columns")
