"""Batch correction by an autoencoder whose latent has no discrepancy between batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax
from flax import nnx

from ...system.validate import number
from ..checks import Cells
from .autoencoder import AutoencoderConfig
from .base import LatentCorrection
from .discrepancy import mmd, standardised


@dataclass(frozen=True)
class MMDBatchCorrectionConfig(AutoencoderConfig):
    """Parameters of `DifferentiableMMDBatchCorrection`, checked when made.

    Parameters
    ----------
    n_genes, hidden_dim, latent_dim, n_batches, target, batch_in_encoder, gene_dropout, latent_noise, evenness
        As in `harmonax.operators.latent.autoencoder.AutoencoderConfig`.
    kernel_bandwidth
        Middle width of the Gaussian kernels, in units of the median distance of cells; default 1. The others are 1/4,
        1/2, 2 and 4 times as wide. Higher values compare batches more coarsely, as wholes; lower values more locally,
        and with more noise.
    mmd_weight
        Weight of the discrepancy against the reconstruction in training; default 1. Higher values mix batches more
        strongly, at the risk of merging types; lower values keep more of every difference; 0 mixes nothing.

    Raises
    ------
    InputError
        If a value is outside its allowed range.

    Examples
    --------
    >>> MMDBatchCorrectionConfig(n_genes=30, n_batches=2).latent_dim
    64
    """

    kernel_bandwidth: float = 1.0
    _: KW_ONLY
    mmd_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        width = number(self.kernel_bandwidth, "kernel_bandwidth", minimum=0, exclusive=True)
        object.__setattr__(self, "kernel_bandwidth", width)
        object.__setattr__(self, "mmd_weight", number(self.mmd_weight, "mmd_weight", minimum=0))


class DifferentiableMMDBatchCorrection(LatentCorrection):
    """Batch-conditional autoencoder, trained until the maximum mean discrepancy of batches is gone.

    It minimises the reconstruction error, plus the squared MMD between batches (Gretton et al. 2012, JMLR 13:723) of
    the latent and of the corrected expression, plus the unevenness of the correction. Every pair of batches counts,
    unbiased for unequal sizes, in time and memory linear in the number of cells; in training, cells are weighted so
    that batches may differ in composition. Untrained it corrects nothing: call `fit`, or `calibrate` and a loop of your
    own. `apply` adds two scalars: ``mmd_loss``, the squared MMD of the latent (0 within noise, so perhaps negative,
    where batches are the same), and ``reconstruction_loss``, the mean squared error in units of the genes' spreads.

    Parameters
    ----------
    config
        Sizes, kernel and target.
    rngs
        Initial weights.

    Examples
    --------
    >>> from jax import numpy as jnp
    >>> expression = jax.random.normal(jax.random.key(0), (60, 5)).at[30:].add(3.0)
    >>> data = {"expression": expression, "batch_labels": jnp.repeat(jnp.arange(2), 30)}
    >>> config = MMDBatchCorrectionConfig(n_genes=5, hidden_dim=16, latent_dim=4, n_batches=2)
    >>> op = DifferentiableMMDBatchCorrection(config, rngs=nnx.Rngs(0))
    >>> history = op.fit(data, steps=300, learning_rate=0.003).history
    >>> corrected = op.apply(data, {}, None)[0]["corrected_expression"]
    >>> bool(abs(corrected[:30].mean() - corrected[30:].mean()) < 1)
    True
    """

    config: MMDBatchCorrectionConfig

    def _measures(self, cells: Cells, latent: jax.Array) -> dict[str, jax.Array]:
        points = standardised(latent, cells.weight)
        return {
            "mmd_loss": self._discrepancy(points, cells.labels, cells.weight, jax.random.key(0)),
            "reconstruction_loss": self.autoencoder.reconstruction_error(cells, latent),
        }

    def training_losses(self, data: Mapping[str, Any], rngs: nnx.Rngs | None = None) -> dict[str, jax.Array]:
        """Return what training minimises the sum of, each with its weight: scalars by name.

        `rngs` gives noise and kernel frequencies; None: no noise, the same frequencies each time.
        """
        cells = self._cells(data)
        latent = self._latent(cells, rngs)
        points, corrected, weight = self._views(cells, latent)
        key = jax.random.key(0) if rngs is None else rngs()
        return {
            "reconstruction": self._reconstruction(cells, latent, rngs),
            "latent_mmd": self.config.mmd_weight * self._discrepancy(points, cells.labels, weight, key),
            "expression_mmd": self.config.mmd_weight * self._discrepancy(corrected, cells.labels, weight, key),
            "unevenness": self._unevenness(cells, corrected),
        }

    def _discrepancy(self, points: jax.Array, labels: jax.Array, weight: jax.Array, key: jax.Array) -> jax.Array:
        return mmd(points, labels, self.config.n_slots, weight, bandwidth=self.config.kernel_bandwidth, key=key)
