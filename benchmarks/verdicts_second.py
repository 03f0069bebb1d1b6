"""Further corrections whose truth is known, made in other ways than those of verdicts.py, which runs them (--second).

Cells of one batch of a real set, or of a generator, are cut into batches of unlike size, and these are shifted, and one
of: stretched along their components, turned a little, their types shifted apart. The first four sets were looked at
when limits were set; the others are untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import anndata as ad
import numpy as np
from sklearn.neighbors import NearestNeighbors

Shape = tuple[np.ndarray, np.ndarray]
FEWEST = 12
# Rise of the purity of types within batches from which an effect made structure that the cells do not have.
MADE = 0.03


def real(file: str, column: str, level: str, most: int = 1400) -> Callable[[Path], Shape]:
    """Return what reads the labelled cells of one level of a column, and their types."""

    def read(folder: Path) -> Shape:
        adata = ad.read_h5ad(folder / f"{file}.h5ad")
        types = adata.obs["cell_type"].astype(str)
        keep = (~types.isin(["unlabelled", "nan"])).to_numpy()
        if level:
            keep &= (adata.obs[column].astype(str) == level).to_numpy()
        rows = np.flatnonzero(keep)
        rows = np.sort(np.random.default_rng(0).choice(rows, min(most, len(rows)), replace=False))
        Z, types = np.asarray(adata.obsm["X_pca"])[rows].astype(np.float64), types.to_numpy()[rows]
        names, counts = np.unique(types, return_counts=True)
        some = np.isin(types, names[counts >= FEWEST])
        return Z[some], types[some]

    return read


def gradient(seed: int, d: int, n: int = 1200) -> Callable[[Path], Shape]:
    """Return what makes a bent path without types; stages of it are called types."""

    def make(folder: Path) -> Shape:
        gen = np.random.default_rng(seed)
        s = gen.random(n)
        Z = np.zeros((n, d))
        Z[:, :3] = np.column_stack([10 * s, 4 * np.sin(4 * s), 3 * np.cos(6 * s)])
        Z += gen.normal(size=Z.shape) * np.linspace(0.7, 0.3, d)
        return Z, np.char.add("stage ", np.minimum(s * 5, 4).astype(int).astype(str))

    return make


def clouds(seed: int, d: int, k: int, apart: float, n: int = 1200) -> Callable[[Path], Shape]:
    """Return what makes types of unlike size and shape."""

    def make(folder: Path) -> Shape:
        gen = np.random.default_rng(seed)
        types = gen.choice(k, n, p=gen.dirichlet(np.full(k, 2.0)))
        means, width = gen.normal(size=(k, d)) * apart / np.sqrt(d) * 1.5, gen.uniform(0.5, 1.5, (k, d))
        return means[types] + gen.normal(size=(n, d)) * width[types], np.char.add("type ", types.astype(str))

    return make


# Name, untouched, cells, number of batches, kind of effect, seed.
SETS = [
    ("kang at rest", False, real("kang_donors", "condition", "ctrl"), 5, "stretched", 2),
    ("onek1k", False, real("onek1k_subset", "batch", ""), 8, "types apart", 3),
    ("surface", False, real("cytof_mmd", "batch", "Person1Day1_baseline", 1200), 2, "turned", 4),
    ("clouds in a plane", False, clouds(6, 2, 5, 9.0), 3, "", 6),
    ("kang stimulated", True, real("kang_donors", "condition", "stim"), 3, "types apart", 11),
    ("half and half", True, real("cell_lines", "batch", "half", 900), 4, "turned", 12),
    ("inDrop", True, real("pancreas_3prot", "batch", "baron_inDrop"), 2, "stretched", 13),
    ("path of stages", True, gradient(21, 20), 4, "types apart", 14),
    ("clouds in 40 dimensions", True, clouds(22, 40, 9, 7.0), 6, "turned", 15),
    ("surface, a month later", True, real("cytof_mmd", "batch", "Person2Day2_3month", 1200), 5, "types apart", 16),
]


def shifted(Z: np.ndarray, types: np.ndarray, n_batches: int, kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut cells into batches of unlike size and give each an effect; return the cells and the batches."""
    gen = np.random.default_rng(seed)
    batch = gen.choice(n_batches, len(Z), p=gen.dirichlet(np.full(n_batches, 4.0)))
    spread, middle, made, moved = Z.std(axis=0), Z.mean(axis=0), Z.copy(), np.zeros_like(Z)
    for b in range(n_batches):
        own = batch == b
        made[own] += gen.normal(size=Z.shape[1]) * spread
        if kind == "stretched":
            made[own] = middle + (made[own] - middle) * np.exp(0.35 * gen.normal(size=Z.shape[1]))
        if kind == "turned":
            i, j = gen.choice(min(Z.shape[1], 6), 2, replace=False)
            angle = 0.5 * gen.normal()
            turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            made[np.ix_(own, [i, j])] = made[np.ix_(own, [i, j])] @ turn
        if kind == "types apart":
            for name in np.unique(types):
                moved[own & (types == name)] = 0.3 * gen.normal(size=Z.shape[1]) * spread
    # Types that overlap would be pushed apart in every batch, and the right correction would seem to lose them.
    while moved.any() and pure_within(made + moved, batch, types) > pure_within(Z, batch, types) + MADE:
        moved /= 2
    return made + moved, np.char.add("b", batch.astype(str))


def pure_within(Z: np.ndarray, batch: np.ndarray, types: np.ndarray) -> float:
    """Return which share of each cell's 15 nearest neighbours in its batch is of its type."""
    shares = []
    for b in np.unique(batch):
        own = batch == b
        near = NearestNeighbors(n_neighbors=min(15, own.sum() - 1)).fit(Z[own]).kneighbors(return_distance=False)
        shares.append((types[own][near] == types[own][:, None]).mean(axis=1))
    return float(np.concatenate(shares).mean())


def laid_on(Z: np.ndarray, of: np.ndarray, target: np.ndarray, width: float, gen: np.random.Generator) -> np.ndarray:
    """Lay cells on others: as a cloud of that width on the one in the middle, or (0) each on one of them."""
    after, there = Z.copy(), Z[target]
    if width:
        middle = there[np.linalg.norm(there - there.mean(axis=0), axis=1).argmin()]
        after[of] = width * (Z[of] - Z[of].mean(axis=0)) + middle
    else:
        jitter = 0.2 * there.std(axis=0) * gen.normal(size=(of.sum(), Z.shape[1]))
        after[of] = there[gen.integers(0, len(there), of.sum())] + jitter
    return after


# A correction: its name, its rows, before, after, batches, labels or None, and "right", "harmful" or "none needed".
Made = tuple[str, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray, np.ndarray | None, str]


def corrections(Z: np.ndarray, types: np.ndarray, n_batches: int, kind: str, seed: int) -> Iterator[Made]:
    """Make every correction of one set."""
    gen, (n, d) = np.random.default_rng(seed + 100), Z.shape
    before, batch = shifted(Z, types, n_batches, kind, seed)
    every, spread = np.arange(n), Z.std(axis=0)
    names, counts = np.unique(types, return_counts=True)
    common = names[np.argsort(-counts)]
    last = batch == np.unique(batch)[-1]
    for labels, also in ((types, ""), (None, ", no labels")):
        yield "right" + also, every, before, Z, batch, labels, "right"
        other = before * np.exp(0.3 * gen.normal(size=d)) @ np.linalg.qr(gen.normal(size=(d, d)))[0]
        yield "nothing, other axes" + also, every, before, other, batch, labels, "harmful"
        for what, after in _spoilt(Z, before, last, gen):
            if what != "one batch left" or n_batches > 2:
                yield what + also, every, before, after, batch, labels, "harmful"
        half = gen.choice(["p", "q"], n)
        mixed = Z.copy()
        mixed[half == "q"] = Z[gen.permutation(np.flatnonzero(half == "q"))]
        yield "none needed, half permuted" + also, every, Z, mixed, half, labels, "harmful"
        moved = Z + np.where(half == "q", 5.0, 0.0)[:, None] * spread
        yield "none needed, half moved away" + also, every, Z, moved, half, labels, "harmful"
        many = np.where(gen.random(n) < np.where(np.isin(types, common[::2]), 0.85, 0.15), "p", "q")
        apart = Z + np.where(many == "p", 1.2, -1.2)[:, None] * spread
        yield "right, unlike proportions" + also, every, apart, Z, many, labels, "right"
        yield "unlike proportions only, harmony" + also, every, Z, None, many, labels, "none needed"
    yield (
        "right, coarse labels",
        every,
        before,
        Z,
        batch,
        np.where(np.isin(types, common[::2]), "one", "other"),
        "right",
    )
    yield "right, 200 wide", every, before, Z @ np.linalg.qr(gen.normal(size=(200, 200)))[0][:d], batch, types, "right"
    yield "right, a thousandth", every, before, Z / 1000, batch, types, "right"
    yield "right, weighted", every, before, Z * np.exp(0.2 * gen.normal(size=d)), batch, types, "right"
    yield "seven tenths left", every, before, Z + 0.7 * (before - Z), batch, types, "harmful"
    if len(names) > 2:
        yield from _rare(Z, before, batch, types, common[min(3, len(common) - 1)], gen)
        yield from _pairs(Z, before, batch, types, common[:5], gen)


def _spoilt(
    Z: np.ndarray, before: np.ndarray, last: np.ndarray, gen: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    """Make wrong corrections, most of one batch."""
    d, own = Z.shape[1], np.flatnonzero(last)
    after, middle = Z.copy(), Z[own].mean(axis=0)
    after[own] = Z[gen.permutation(own)]
    yield "one batch permuted", after.copy()
    after[own] = (Z[own] - middle) @ np.linalg.qr(gen.normal(size=(d, d)))[0] + middle
    yield "one batch turned", after.copy()
    after[own] = Z[own]
    after[np.ix_(last, [0, 1])] = 2 * Z[:, :2].mean(axis=0) - Z[own][:, :2]
    yield "one batch mirrored", after.copy()
    after[own] = middle + 1e-3 * gen.normal(size=(len(own), d))
    yield "one batch on a point", after.copy()
    yield "one batch left", np.where(last[:, None], before, Z)
    yield "noise", Z + 0.8 * gen.normal(size=Z.shape) * Z.std(axis=0)


def _rare(
    Z: np.ndarray, before: np.ndarray, batch: np.ndarray, types: np.ndarray, name: str, gen: np.random.Generator
) -> Iterator[Made]:
    """Scatter a few cells of a type of one batch among all others."""
    first = np.flatnonzero((types == name) & (batch == np.unique(batch)[0]))
    for few in (12, 20, 30):
        if len(first) >= few:
            rows = np.sort(np.r_[np.flatnonzero(types != name), gen.choice(first, few, replace=False)])
            of = types[rows] == name
            after = Z[rows].copy()
            after[of] = after[gen.choice(np.flatnonzero(~of), few)] + 0.05 * gen.normal(size=(few, Z.shape[1]))
            yield f"{few} cells scattered", rows, before[rows], after, batch[rows], types[rows], "harmful"
            yield f"{few} cells kept", rows, before[rows], Z[rows], batch[rows], types[rows], "right"


def _pairs(
    Z: np.ndarray, before: np.ndarray, batch: np.ndarray, types: np.ndarray, some: np.ndarray, gen: np.random.Generator
) -> Iterator[Made]:
    """Leave one type in half of the batches and another in the others only, and lay one on the other."""
    means, half = {t: Z[types == t].mean(axis=0) for t in some}, np.isin(batch, np.unique(batch)[::2])
    pairs = [(x, y) for i, x in enumerate(some) for y in some[i + 1 :]]
    pairs = sorted(pairs, key=lambda pair: np.linalg.norm(means[pair[0]] - means[pair[1]]))
    for number, (x, y) in enumerate([*pairs[:2], pairs[-1]]):
        rows = np.flatnonzero(~((half & (types == y)) | (~half & (types == x))))
        of, target = (types[rows] == t for t in (x, y))
        if min(of.sum(), target.sum()) < FEWEST:
            continue
        part = rows, before[rows]
        where = batch[rows]
        yield f"pair {number} apart", *part, Z[rows], where, types[rows], "right"
        for width in (0.0, 0.5, 1.0):
            after = laid_on(Z[rows], of, target, width, gen)
            yield f"pair {number} laid on one another, {width:g}", *part, after, where, types[rows], "harmful"
