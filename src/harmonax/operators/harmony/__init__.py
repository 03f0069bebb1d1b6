"""Differentiable Harmony: the method of `harmonax.algorithm`, traced.

operator     DifferentiableHarmony
function     harmony, a pure function, which DifferentiableHarmony calls
config       BatchCorrectionConfig
checks       checks of the input
correction   one correction, compiled
seeding      centroids from the data
assignment   R of one block, and the strengths as tables
tiles        cells in tiles, so that R is never stored
rounds       passes and rounds
ridge        the correction
early_stop   rounds until convergence
implicit     gradients by the implicit function theorem
"""

from .config import BatchCorrectionConfig
from .operator import DifferentiableHarmony

__all__ = ["BatchCorrectionConfig", "DifferentiableHarmony"]
