"""Corrections and losses as pure functions of arrays: for plain JAX, Equinox, Haiku, or any other framework.

    harmony           Harmony, differentiable in the embedding and every strength
    mixing            minus how mixed batches are; `BatchMixingLoss`
    lisi, lisi_loss   the local inverse Simpson index of each cell, and its mean, scaled; `LISILoss`
    preservation      how much neighbourhoods differ from those of a reference; `NeighborhoodPreservationLoss`
    compactness       tight clusters that lie apart; `ClusteringCompactnessLoss`
    mmd               squared maximum mean discrepancy between batches
    sinkhorn          debiased Sinkhorn divergence between batches; `SinkhornLoss`
    mutual_neighbors  contrastive loss on mutual nearest neighbours of other batches; `MutualNeighborLoss`

No state, no random numbers but those that a seed says, and no modules: ``jax.jit``, ``jax.grad`` and ``jax.vmap`` take
them as they are. Losses are minimised: do not negate them. `harmonax.losses` and `harmonax.operators` are these
functions with their parameters, as modules of Flax NNX. Needs ``pip install 'harmonax[jax]'``.
"""

from __future__ import annotations

from typing import Any

from .system.extras import need

for _module in ("jax", "flax"):
    need(_module, "jax")

import jax  # noqa: E402

from .losses import checks  # noqa: E402
from .losses.clustering import compactness  # noqa: E402
from .losses.contrastive import mutual_neighbors  # noqa: E402
from .losses.lisi import lisi, lisi_loss  # noqa: E402
from .losses.mixing import mixing  # noqa: E402
from .losses.preservation import preservation  # noqa: E402
from .losses.sinkhorn import sinkhorn  # noqa: E402
from .operators.harmony.config import BatchCorrectionConfig  # noqa: E402
from .operators.harmony.function import harmony  # noqa: E402
from .operators.latent import discrepancy  # noqa: E402

__all__ = [
    "BatchCorrectionConfig",
    "compactness",
    "harmony",
    "lisi",
    "lisi_loss",
    "mixing",
    "mmd",
    "mutual_neighbors",
    "preservation",
    "sinkhorn",
]


def mmd(
    embeddings: Any, batch_labels: Any, mask: Any = None, *, n_batches: int = 3, bandwidth: float = 1.0
) -> jax.Array:
    """Return the squared maximum mean discrepancy between batches, mean over all pairs; minimise to mix.

    Parameters
    ----------
    embeddings
        N cells x features, at least 2 cells. They are centred and divided by their root mean square: scaling and
        translating them change nothing.
    batch_labels
        Batch of each cell, integers from 0, (N,).
    mask
        Which cells count, (N,); None: all.
    n_batches
        Labels are 0..n_batches-1; not all need to occur.
    bandwidth
        Middle width of five Gaussian kernels, in units of the median distance of cells; default 1. Higher values
        compare batches more coarsely, as wholes; lower values more locally, and with more noise.

    Returns
    -------
    jax.Array
        A scalar, unbiased: 0 within noise, so perhaps negative, where batches have one distribution; in traced code NaN
        where values or labels cannot be used. Time and memory are linear in N.

    Raises
    ------
    InputError
        If an argument cannot be used.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> batch = jnp.arange(60) % 2
    >>> x = jax.random.normal(jax.random.key(0), (60, 3))
    >>> bool(mmd(x, batch, n_batches=2) < 0.1), bool(mmd(x + 5 * batch[:, None], batch, n_batches=2) > 0.5)
    (True, True)
    """
    mask = checks.cell_mask(mask, checks.rows_of(embeddings))
    x = checks.several_cells("embeddings", embeddings, mask)
    codes = checks.labels("batch_labels", batch_labels, len(x), n_batches, mask)
    weight = (codes >= 0).astype(x.dtype)
    points = discrepancy.standardised(x, weight)
    value = discrepancy.mmd(points, codes.clip(0, n_batches - 1), n_batches, weight, bandwidth=bandwidth)
    return checks.poisoned(value, checks.usable(x), checks.in_range(codes, n_batches, mask))
