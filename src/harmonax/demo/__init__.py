"""`harmonax demo`: a multi-batch data set from nothing, corrected, scored and drawn.

`datasets.simulate` -> `datasets.prepare` (counts to principal components) -> `pp.harmony_integrate`
-> scores and figure. A front: imports `harmonax.pp`; nothing imports it but the command line.
"""

from __future__ import annotations

from .run import Demo, run_demo

__all__ = ["Demo", "run_demo"]
