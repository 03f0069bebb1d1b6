"""Whether a correction that was just trained can be trusted, as far as can be told without cell types."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import warn
from ..evaluation.after.case import Case
from ..evaluation.after.diagnose import diagnose

# Cells from which a correction is judged, and components that it is compared with.
_JUDGED_FROM = 100
_COMPONENTS = 50


def judged(name: str, design: Any, expression: np.ndarray, after: np.ndarray, seed: int) -> dict[str, Any]:
    """Return the verdict of a latent against principal components of the expression, and warn where it is bad.

    Returns
    -------
    dict
        ``verdict``, with its ``code`` and ``summary``; nothing for one batch or few cells.
    """
    if len(np.unique(design.joint)) < 2 or len(expression) < _JUDGED_FROM:
        return {}
    before = principal_components(expression, min(_COMPONENTS, *expression.shape), np.random.default_rng(seed))
    names = [str(level) for level in design.levels[0]]
    case = Case(before, after, design.joint, names, {design.variables[0]: design.joint}, known_method=False)
    found = diagnose(case, seed=seed)
    if found.verdict in ("over_corrected", "under_corrected"):
        warn(
            f"{name}: {found.summary} Look at harmonax.tl.verdict with a label_key before using it; "
            "harmonax.pp.harmony_integrate is the safer start"
        )
    return {"verdict": {"code": found.verdict, "summary": found.summary}}


def principal_components(X: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the first n principal components of cells, (N, n), from a sketch: enough to compare neighbours in.

    Examples
    --------
    >>> principal_components(np.eye(4), 2, np.random.default_rng(0)).shape
    (4, 2)
    """
    centred = X - X.mean(axis=0)
    sketch = centred @ rng.normal(size=(X.shape[1], n + 10)).astype(X.dtype)
    for _ in range(4):
        sketch = centred @ (centred.T @ np.linalg.qr(sketch)[0])
    basis = np.linalg.qr(sketch)[0]
    u, s, _ = np.linalg.svd(basis.T @ centred, full_matrices=False)
    components: np.ndarray = (basis @ u[:, :n]) * s[:n]
    return components
