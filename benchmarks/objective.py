"""Harmony2's objective in plain NumPy, float64, written out as published: judges every program's result alike.

J = 2000/N [ sum R D + sum sigma R ln R + sum_kb sigma theta_b O_kb ln((O + E + 1) / (2 E + 1)) ],  D = 2 (1 - Zn . Y)

It is the J of a run's last clustering pass, so it needs what that pass worked on: Zn and Y as the round BEFORE the last
one left them, and R as the last pass left it. No program hands out that Zn, but each is deterministic: run it for
one round less, with the same seed, and its Z_corr is the embedding that the last round clusters. Y is handed out as the
last pass used it by harmonax, and as updated by the correction by harmonypy, whose Y of the shorter run is therefore
the one. That all this is right shows in the table of quality.py: J recomputed equals what each program says itself.
"""

from __future__ import annotations

import numpy as np


def unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)


def objective(embedding, R, Y, codes, theta=2.0, sigma=0.1) -> float:
    """Return J for cells `embedding` (N, d), assignments R (N, K), unit centroids Y (K, d), batches codes (N, F)."""
    R = np.asarray(R, np.float64)
    R = R / R.sum(axis=1, keepdims=True)
    distance = (R * 2 * (1 - unit(embedding) @ unit(Y).T)).sum()
    entropy = sigma * (R * np.log(np.where(R > 0, R, 1))).sum()
    diversity = 0.0
    for variable in np.asarray(codes).T:
        one_hot = variable[:, None] == np.unique(variable)
        O = one_hot.T.astype(float) @ R
        E = one_hot.mean(axis=0)[:, None] * R.sum(axis=0)
        diversity += sigma * theta * (O * np.log((O + E + 1) / (2 * E + 1))).sum()
    return 2000 / len(R) * (distance + entropy + diversity)
