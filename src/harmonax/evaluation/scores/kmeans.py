"""The clusters that NMI and ARI compare with labels: scib-metrics' k-means (0.5, BSD-3), one start with its seed.

The start is drawn as there, by the same random numbers of JAX. There, 300 rounds follow whatever happens; here
scikit-learn continues until no cell changes its cluster, which takes far fewer and ends in the same clusters.
"""

from __future__ import annotations

import numpy as np

from ...system.extras import need
from ..lisi import quiet


def kmeans(x: np.ndarray, k: int) -> np.ndarray:
    """Return the cluster of each cell, (n,), for an embedding (n, d)."""
    x = np.asarray(x, np.float32)
    x = x - x.mean(axis=0)
    search = need("sklearn.cluster", "workflow").KMeans
    with quiet():
        found: np.ndarray = search(k, init=_start(x, k), n_init=1, max_iter=300, tol=0).fit_predict(x)
    return found


def _start(x: np.ndarray, k: int) -> np.ndarray:
    """Return k cells, drawn by k-means++ with several trials each."""
    jax = need("jax", "workflow")
    n, trials = len(x), 2 + int(np.log(k))
    cells = jax.numpy.asarray(x)
    key = jax.random.split(jax.random.PRNGKey(0), 1)[0]
    key, own = jax.random.split(key)
    chosen = [int(jax.random.choice(own, n, (1,), replace=False)[0])]
    # In double precision, which leaves what is drawn as it is but for ties.
    nearest = _squared(x, chosen)[:, 0]
    for _ in range(k - 1):
        key, own = jax.random.split(key)
        shares = jax.numpy.asarray(nearest / nearest.sum(), cells.dtype)
        drawn = np.asarray(jax.random.choice(own, n, (trials,), replace=False, p=shares))
        within = np.minimum(nearest[:, None], _squared(x, drawn))
        best = int(within.sum(axis=0).argmin())
        chosen.append(int(drawn[best]))
        nearest = within[:, best]
    return x[chosen]


def _squared(x: np.ndarray, chosen: np.ndarray | list[int]) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return np.stack([((x - centre) ** 2).sum(axis=1) for centre in x[chosen]], axis=1)
