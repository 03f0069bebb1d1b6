"""Differentiable losses for learning through a batch correction (JAX).

    checks.py        checks of the inputs: shapes always, values outside of jit and grad
    neighbourhoods.py  nearest cells, block by block, and how near they are in units of a neighbourhood
    mixing.py        BatchMixingLoss: minus the batch entropy of neighbourhoods
    lisi.py          LISILoss: the local inverse Simpson index, for mixing batches or keeping types apart
    preservation.py  NeighborhoodPreservationLoss: cells keep the neighbours that they had
    clustering.py    ClusteringCompactnessLoss
    diversity.py     ShannonDiversityLoss, SimpsonDiversityLoss
    sinkhorn.py      SinkhornLoss: the debiased Sinkhorn divergence between batches
    contrastive.py   MutualNeighborLoss: mutual nearest neighbours of other batches, pulled together
    velocity.py      VelocityConsistencyLoss

Every loss is a Flax NNX module without parameters: built once, then called with arrays, it returns a scalar that works
under ``jax.jit``, ``jax.grad`` and ``jax.vmap``. `mask` marks the cells that count, for minibatches filled up to one
size. Needs ``pip install 'harmonax[jax]'``.

Each class stores parameters and calls a pure function of the same name in `harmonax.functional`.

A mixing loss alone can be won by destroying the biology: combine it with `NeighborhoodPreservationLoss`.
"""

from ..system.extras import need

for _module in ("jax", "flax"):
    need(_module, "jax")

from .clustering import ClusteringCompactnessLoss  # noqa: E402
from .contrastive import MutualNeighborLoss  # noqa: E402
from .diversity import ShannonDiversityLoss, SimpsonDiversityLoss  # noqa: E402
from .lisi import LISILoss  # noqa: E402
from .mixing import BatchMixingLoss  # noqa: E402
from .preservation import NeighborhoodPreservationLoss  # noqa: E402
from .sinkhorn import SinkhornLoss  # noqa: E402
from .velocity import VelocityConsistencyLoss  # noqa: E402

__all__ = [
    "BatchMixingLoss",
    "ClusteringCompactnessLoss",
    "LISILoss",
    "MutualNeighborLoss",
    "NeighborhoodPreservationLoss",
    "ShannonDiversityLoss",
    "SimpsonDiversityLoss",
    "SinkhornLoss",
    "VelocityConsistencyLoss",
]
