"""What quality control saw of each batch: how its measures are spread over the cells, before and after."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

MEASURES = ("n_genes_by_counts", "total_counts", "pct_counts_mt")
QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}


def spread(obs: pd.DataFrame, kept: np.ndarray, batch_keys: Sequence[str]) -> pd.DataFrame:
    """Return a row for each batch and measure, before and after: number of cells, and quantiles.

    Examples
    --------
    >>> obs = pd.DataFrame({"batch": ["a", "a", "b"], "total_counts": [1.0, 3.0, 5.0]})
    >>> spread(obs, np.array([True, False, True]), ["batch"])[["level", "when", "n_cells", "q50"]].values.tolist()
    [['a', 'before', 2, 2.0], ['b', 'before', 1, 5.0], ['a', 'after', 1, 1.0], ['b', 'after', 1, 5.0]]
    """
    rows = []
    for key in batch_keys:
        for measure in (name for name in MEASURES if name in obs):
            for when, part in (("before", obs), ("after", obs[kept])):
                for level, values in part[measure].groupby(part[key].astype(str), sort=True):
                    rows.append(
                        (key, level, measure, when, len(values), *np.quantile(values, list(QUANTILES.values())))
                    )
    names = ["batch_key", "level", "measure", "when", "n_cells", *QUANTILES]
    return pd.DataFrame(rows, columns=names, index=[str(i) for i in range(len(rows))])
