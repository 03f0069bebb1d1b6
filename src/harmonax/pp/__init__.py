"""Corrections of an AnnData, with scanpy's conventions.

harmony   `harmony_integrate`: drop-in for ``scanpy.pp.harmony_integrate``
counts    `correct_counts`: counts without the batch effect, gene by gene
latent    `mmd_integrate`, `wgan_integrate`: expression through an autoencoder (``harmonax[jax]``)
correctors  `CORRECTORS`: all of them by name, and how to add one
"""

from __future__ import annotations

from .counts import correct_counts
from .harmony import harmony_integrate
from .latent import mmd_integrate, wgan_integrate

__all__ = ["correct_counts", "harmony_integrate", "mmd_integrate", "wgan_integrate"]
