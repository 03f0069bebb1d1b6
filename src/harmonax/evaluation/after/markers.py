"""Do marker genes still separate the cell types they mark?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ...system.extras import need

_NEIGHBOURS = 15
LOST = 0.05


def marker_table(
    near: Sequence[np.ndarray],
    labels: np.ndarray,
    expression: pd.DataFrame,
    markers: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """Return how well each marker's neighbourhood mean tells its cell type from the others, before and after.

    Each gene is averaged over a cell and its 15 nearest cells in the embedding; the score is the area under the ROC
    curve of that mean, 1 where every cell of the type lies above every other and 0.5 by chance. Where a correction
    puts a type among others, their neighbourhood means meet, and the area falls.

    Parameters
    ----------
    near
        At least 15 nearest other cells of each, before and after, (N, 15 or more) each.
    labels
        Name of each cell's type, "" for none (left out of the comparison), (N,).
    expression
        Cells x genes, with all genes of `markers`.
    markers
        Genes of each type; types that no cell has are left out.
    """
    area = need("sklearn.metrics", "workflow").roc_auc_score
    near = [np.column_stack([np.arange(len(found)), found[:, :_NEIGHBOURS]]) for found in near]
    known = labels != ""
    rows: list[tuple[str, str, float, float]] = []
    for name, genes in markers.items():
        truth = labels[known] == name
        if truth.all() or not truth.any():
            continue
        for gene in genes:
            values = expression[gene].to_numpy(np.float64)
            scores = [float(area(truth, values[rows].mean(axis=1)[known])) for rows in near]
            rows.append((name, gene, scores[0], scores[1]))
    names = ["cell_type", "gene", "before", "after"]
    return pd.DataFrame(rows, columns=names, index=[str(i) for i in range(len(rows))])
