"""Truth for tests of corrections: the two-type example of the tutorials, and what a correction did to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from harmonax.evaluation.entropy import chance_entropy, neighbourhood_entropy

VARIANTS = ("balanced", "separate", "unbalanced")


def tutorial(folder: Path, variant: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return what an operator reads, and the types."""
    with np.load(folder / "tutorial_b.npz") as file:
        X, batch, kind = (file[f"{variant}_{name}"] for name in ("X", "batch", "type"))
    return {"expression": X, "batch_labels": batch.astype(np.int32)}, kind


def two_batches(n: int = 60, genes: int = 8, shift: float = 2.0, seed: int = 0) -> dict[str, np.ndarray]:
    """Return two batches of the same two types, one shifted in all genes."""
    gen = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int32) % 2
    expression = gen.normal(size=(n, genes)) + 4 * (np.arange(n) // 2 % 2)[:, None] * (np.arange(genes) < genes // 2)
    return {"expression": (expression + shift * labels[:, None]).astype(np.float32), "batch_labels": labels}


def judged(before: np.ndarray, after: np.ndarray, batch: np.ndarray, kind: np.ndarray) -> tuple[float, float, float]:
    """Return mixing relative to chance, ARI of k-means with the types, and the variance kept within types."""
    mixing = neighbourhood_entropy(after, batch) / chance_entropy(after, batch, np.random.default_rng(0), groups=kind)
    clusters = KMeans(len(np.unique(kind)), n_init=10, random_state=0).fit_predict(after)
    return mixing, adjusted_rand_score(kind, clusters), _within(after, batch, kind) / _within(before, batch, kind)


def _within(X: np.ndarray, batch: np.ndarray, kind: np.ndarray) -> float:
    parts = [X[(batch == b) & (kind == k)] for b in np.unique(batch) for k in np.unique(kind)]
    return sum(((part - part.mean(axis=0)) ** 2).sum() for part in parts)
