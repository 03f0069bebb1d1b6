"""Differentiable operators in JAX and Flax NNX: pip install 'harmonax[jax]'.

    harmony.py       DifferentiableHarmony: the method of `harmonax.algorithm`, traced
    mmd.py           DifferentiableMMDBatchCorrection: a batch-conditional autoencoder whose codes forget the batch
    wgan.py          DifferentiableWGANBatchCorrection: the same, against a critic
    clustering.py    SoftKMeansClustering

Each is a Flax NNX module with ``apply(data, state, metadata)``, which returns `data` with the results added.
"""

from ..extras import need

for _module in ("jax", "flax"):
    need(_module, "jax")

from .clustering import SoftClusteringConfig, SoftKMeansClustering  # noqa: E402
from .harmony import BatchCorrectionConfig, DifferentiableHarmony  # noqa: E402
from .mmd import DifferentiableMMDBatchCorrection, MMDBatchCorrectionConfig  # noqa: E402
from .wgan import DifferentiableWGANBatchCorrection, WGANBatchCorrectionConfig  # noqa: E402

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
