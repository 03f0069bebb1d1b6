"""`harmonax demo`: a multi-batch data set from nothing, corrected, scored and drawn.

`datasets.simulate` -> `workflow.run` -> `tl.evaluate` -> `pl.embedding` and the report. Nothing imports it but the
command line.
"""

from __future__ import annotations

from .run import Demo, run_demo

__all__ = ["Demo", "run_demo"]
