"""Differentiable operators in JAX and Flax NNX: pip install 'harmonax[jax]'.

    harmony/         DifferentiableHarmony: the method of `harmonax.algorithm`, traced
    latent/          DifferentiableMMDBatchCorrection: an autoencoder whose latent does not know the batch;
                     DifferentiableWGANBatchCorrection: the same, trained against a critic
    soft_kmeans.py   SoftKMeansClustering
    checks.py        checks of the cells that they are given

Each is a Flax NNX module with ``apply(data, state, metadata)``, which returns `data` with the results added.
"""

from ..system.extras import need

for _module in ("jax", "flax"):
    need(_module, "jax")

from .harmony.operator import BatchCorrectionConfig, DifferentiableHarmony  # noqa: E402
from .latent.mmd import DifferentiableMMDBatchCorrection, MMDBatchCorrectionConfig  # noqa: E402
from .latent.wgan import DifferentiableWGANBatchCorrection, WGANBatchCorrectionConfig  # noqa: E402
from .soft_kmeans import SoftClusteringConfig, SoftKMeansClustering  # noqa: E402

__all__ = [
    "BatchCorrectionConfig",
    "DifferentiableHarmony",
    "DifferentiableMMDBatchCorrection",
    "DifferentiableWGANBatchCorrection",
    "MMDBatchCorrectionConfig",
    "SoftClusteringConfig",
    "SoftKMeansClustering",
    "WGANBatchCorrectionConfig",
]
