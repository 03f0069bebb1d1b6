"""A third group of corrections whose truth is known, unlike those of the first two; verdicts.py runs them (--third).

Some are of generators (a closed path, nested types, types with doublets between them, thirty batches), with an effect
that was made, so that the right correction is known. What Harmony or other weights of the components make of them is
right or harmful by measure: types as pure within batches as before, and batches mixed; what lies between is left out.
The others are real batches with Harmony's own correction, which is taken for right, and then spoilt in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import anndata as ad
import numpy as np
from sklearn.decomposition import FastICA
from verdicts_second import pure_within

import harmonax as hx

# Fall of the purity of types within batches, and same-batch neighbours in excess: right below, harmful above.
PURE, MIXED = (0.03, 0.15), (0.15, 0.35)
# Set and name, before, after (None: Harmony's), batches, labels or None, and the truth.
Third = tuple[str, str, np.ndarray, "np.ndarray | None", np.ndarray, "np.ndarray | None", str]


def cycle(gen: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a closed path, as of the cell cycle, and two types beside it."""
    n, d = 1500, 16
    angle, kind = gen.random(n) * 2 * np.pi, gen.choice(3, n, p=[0.6, 0.25, 0.15])
    Z = gen.normal(size=(n, d)) * np.linspace(0.7, 0.25, d)
    Z[:, :2] += 5 * np.column_stack([np.cos(angle), np.sin(angle)]) * (kind == 0)[:, None]
    Z[:, 2] += 6.0 * (kind == 1) - 6.0 * (kind == 2)
    phase = np.char.add("phase ", (angle / (np.pi / 2)).astype(int).astype(str))
    return Z, np.where(kind == 0, phase, np.where(kind == 1, "resting", "dying"))


def nested(gen: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return four families of two or three subtypes each, which lie close to one another."""
    n, d = 1800, 24
    types = gen.choice(10, n, p=gen.dirichlet(np.full(10, 3.0)))
    family, own = gen.normal(size=(4, d)) * 2.5, gen.normal(size=(10, d)) * 0.8
    Z = family[np.arange(10) % 4][types] + own[types] + gen.normal(size=(n, d)) * np.linspace(1.0, 0.4, d)
    return Z, np.char.add("subtype ", types.astype(str))


def doublets(gen: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return six types with Laplace noise, and one cell in twenty half way to another type's."""
    n, d = 1600, 12
    types = gen.choice(6, n, p=[0.35, 0.25, 0.15, 0.12, 0.08, 0.05])
    Z = gen.normal(size=(6, d))[types] * 5 + gen.laplace(size=(n, d)) * 0.5
    pairs = gen.random(n) < 0.05
    Z[pairs] = (Z[pairs] + Z[gen.integers(0, n, pairs.sum())]) / 2
    return Z, np.char.add("type ", types.astype(str))


def many(gen: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return types of unlike width, for thirty batches."""
    n, d = 2100, 18
    types = gen.choice(7, n, p=[0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.05])
    Z = gen.normal(size=(7, d))[types] * 3 + gen.normal(size=(n, d)) * gen.uniform(0.3, 1.1, 7)[types][:, None]
    return Z, np.char.add("type ", types.astype(str))


# Name, cells, number of batches, whether batches have scales of their own.
MADE: list[tuple[str, Callable, int, bool]] = [
    ("cycle", cycle, 2, False),
    ("nested", nested, 5, True),
    ("doublets", doublets, 3, False),
    ("many", many, 30, False),
]


def measured(Z: np.ndarray, after: np.ndarray, batch: np.ndarray, types: np.ndarray) -> str:
    """Return whether a correction of random batches is right, harmful, or neither."""
    fell = pure_within(Z, batch, types) - pure_within(after, batch, types)
    share = (np.bincount(batch) / len(batch))[batch].mean()
    left = (pure_within(after, np.zeros_like(batch), batch) - share) / (1 - share)
    if fell > PURE[1] or left > MIXED[1]:
        return "harmful"
    return "right" if fell < PURE[0] and left < MIXED[0] else ""


def made(name: str, seed: int) -> Iterator[Third]:
    """Make the corrections of a generated set."""
    gen = np.random.default_rng(seed)
    _, make, n_batches, scaled = next(row for row in MADE if row[0] == name)
    Z, types = make(gen)
    (n, d), spread = Z.shape, Z.std(axis=0)
    batch = gen.choice(n_batches, n, p=gen.dirichlet(np.full(n_batches, 6.0)))
    before = Z.copy()
    for b in range(n_batches):
        own = batch == b
        before[own] *= np.exp(0.2 * gen.normal()) if scaled else 1.0
        before[own] += 1.2 * gen.normal(size=d) * spread
    codes = np.char.add("run ", batch.astype(str))
    names, counts = np.unique(types, return_counts=True)
    common = names[np.argsort(-counts)]
    last = batch == np.bincount(batch).argmax()
    own = {t: types == t for t in names}

    def case(what: str, after: np.ndarray | None, truth: str, labels: np.ndarray | None = types) -> Third:
        return name, what, before, after, codes, labels, truth

    def both(what: str, after: np.ndarray | None, truth: str) -> Iterator[Third]:
        yield case(what, after, truth)
        yield case(what + ", no labels", after, truth, None)

    yield from both("right", Z, "right")
    independent = FastICA(d, random_state=0, whiten="unit-variance")
    weighted = {"columns scaled to one": Z / spread, "independent components": independent.fit_transform(Z)}
    weighted["harmony"] = hx.harmonize(before.astype(np.float32), codes, rng=0, progress=False).embedding
    for what, after in weighted.items():
        if truth := measured(Z, after, batch, types):
            yield from both(f"{what} ({truth})", after, truth)
    yield case("right, whole numbers as labels", Z, "right", np.searchsorted(names, types).astype(str))
    yield case("right, six labels in ten missing", Z, "right", np.where(gen.random(n) < 0.6, "unlabelled", types))
    yield case("right, mirrored as a whole", Z * gen.choice([-1, 1], d), "right")
    twice = np.r_[np.arange(n), np.arange(n)]
    yield name, "right, every cell twice", before[twice], Z[twice], codes[twice], types[twice], "right"
    few = np.sort(gen.choice(n, 400, replace=False))
    yield name, "right, 400 cells", before[few], Z[few], codes[few], types[few], "right"
    yield from both("nothing", before, "harmful")
    yield case("nothing, columns scaled to one", (before - before.mean(axis=0)) / before.std(axis=0), "harmful")
    yield case("nothing, independent components", independent.fit_transform(before), "harmful")
    yield from both("as far beyond as before", Z - 0.8 * (before - Z), "harmful")
    exchanged = Z + (before - Z)[gen.permutation(n)]
    yield from both("another cell's shift", exchanged, "harmful")
    yield from both("two components only", Z[:, -2:], "harmful")
    tenth = np.where((gen.random(n) < 0.15)[:, None], Z[gen.permutation(n)], Z)
    yield from both("a cell in seven anywhere", tenth, "harmful")

    a, b = common[1], common[2]
    move = Z[own[b]].mean(axis=0) - Z[own[a]].mean(axis=0)
    after = Z + np.where(own[a][:, None], move, 0)
    yield from both("a type on another in every batch", after, "harmful")
    after = Z + np.where((own[a] & last)[:, None], move, 0)
    yield from both("a type on another in one batch", after, "harmful")
    half = own[a] & last & (gen.random(n) < 0.5)
    yield case("half a type on another in one batch", Z + np.where(half[:, None], move, 0), "harmful")
    after = np.where((own[a] & last)[:, None], before, Z)
    far = np.linalg.norm((before - Z)[last].mean(axis=0)) > 2 * np.linalg.norm(Z[own[a]].std(axis=0))
    if far and (own[a] & last).sum() >= 12:
        yield case("one type of one batch left", after, "harmful")
    after = Z + np.where((own[a] & (gen.random(n) < 0.5))[:, None], 6 * spread * gen.choice([-1, 1], d), 0)
    yield from both("a type in two pieces", after, "harmful")
    point = np.zeros_like(Z)
    for t in names:
        point[own[t]] = Z[own[t]].mean(axis=0) + 0.3 * gen.normal(size=(own[t].sum(), d)) * spread
    yield from both("types without inside", point, "harmful")
    yield case("all on one point", 1e-3 * gen.normal(size=Z.shape), "harmful")

    # A type that half of the batches have, another the others: each batch centred lays part of one on the other.
    first = batch % 2 == 0
    rows = np.flatnonzero(~((first & own[common[0]]) | (~first & own[common[1]])))
    centred = before[rows].copy()
    for code in np.unique(batch[rows]):
        centred[batch[rows] == code] -= centred[batch[rows] == code].mean(axis=0)
    yield name, "centred, unlike types", before[rows], centred, codes[rows], types[rows], "harmful"
    yield name, "centred, unlike types, no labels", before[rows], centred, codes[rows], None, "harmful"
    home = np.searchsorted(names, types) % 2
    pair = np.where(home, "p", "q")
    moved = Z + np.where(home[:, None], 1.0, 0.0) * spread
    yield name, "batch is the type", moved, None, pair, types, "impossible"
    chance = gen.choice(["p", "q", "r"], n)
    yield name, "none needed, nothing done", Z, Z, chance, types, "none needed"
    yield name, "none needed, harmony", Z, None, chance, None, "none needed"
    spoilt = Z + np.where((own[a] & (chance == "p"))[:, None], move, 0)
    yield name, "none needed, a type on another", Z, spoilt, chance, types, "harmful"
    yield name, "none needed, a type on another, no labels", Z, spoilt, chance, None, "harmful"
    spoilt = Z + np.where((own[a] & (gen.random(n) < 0.5))[:, None], 5 * spread, 0)
    yield name, "none needed, a type in two pieces, no labels", Z, spoilt, chance, None, "harmful"
    middle = Z[chance == "p"].mean(axis=0)
    spoilt = np.where((chance == "p")[:, None], middle + (Z - middle) / 3, Z)
    yield name, "none needed, a batch shrunk", Z, spoilt, chance, types, "harmful"
    middle = Z[last].mean(axis=0)
    yield from both("a batch shrunk to a third", np.where(last[:, None], middle + (Z - middle) / 3, Z), "harmful")
    flat = Z - np.outer((Z - Z.mean(axis=0)) @ move, move) / (move @ move)
    if measured(Z, flat, batch, types) == "harmful":
        yield from both("what parts two types taken out", flat, "harmful")
    rare = np.flatnonzero(own[common[-1]])
    for code in np.unique(batch):
        # Some of a rare type in every batch, and ten in none.
        rare = np.setdiff1d(rare, rare[batch[rare] == code][8:])
    if len(rare) >= 12:
        rows = np.sort(np.r_[np.flatnonzero(~own[common[-1]]), rare])
        on = Z.copy()
        on[rare] = Z[gen.choice(np.flatnonzero(own[common[0]]), len(rare))] + 0.05 * spread * gen.normal(
            size=(len(rare), d)
        )
        other = on @ np.linalg.qr(gen.normal(size=(d, d)))[0]
        yield (
            name,
            "a type of a few cells per batch on another",
            *(x[rows] for x in (before, other, codes, types)),
            "harmful",
        )
        other = Z @ np.linalg.qr(gen.normal(size=(d, d)))[0]
        yield name, "a type of a few cells per batch kept", *(x[rows] for x in (before, other, codes, types)), "right"
    share = np.where(np.isin(types, common[:2]), 0.9, 0.3)
    yield name, "proportions only, harmony", Z, None, np.where(gen.random(n) < share, "p", "q"), types, "none needed"


def read(folder: Path, file: str, key: str, most: int, **only: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return embedding, batches and types of some cells of a real set; batches of at least 40 cells."""
    adata = ad.read_h5ad(folder / f"{file}.h5ad")
    keep = np.ones(adata.n_obs, bool)
    for column, value in only.items():
        keep &= (adata.obs[column].astype(str) == value).to_numpy()
    rows = np.flatnonzero(keep)
    rows = np.sort(np.random.default_rng(5).choice(rows, min(most, len(rows)), replace=False))
    batch, types = (adata.obs[c].astype(str).to_numpy()[rows] for c in (key, "cell_type"))
    sizes = dict(zip(*np.unique(batch, return_counts=True), strict=True))
    enough = np.array([sizes[b] >= 40 and b != "nan" for b in batch])
    return np.asarray(adata.obsm["X_pca"], np.float64)[rows][enough], batch[enough], types[enough]


REAL: dict[str, dict] = {
    "donors at rest": {"file": "kang_donors", "key": "donor", "most": 3000, "condition": "ctrl"},
    "stimulated or not": {"file": "pbmc_stim", "key": "batch", "most": 2000},
    "persons and days": {"file": "cytof_mmd", "key": "batch", "most": 3000},
    "forty donors": {"file": "onek1k_subset", "key": "donor", "most": 4000},
    "sorted or not": {"file": "pbmc_sorted", "key": "batch", "most": 2500},
}


def real(folder: Path, name: str) -> Iterator[Third]:
    """Spoil Harmony's correction of real batches."""
    gen = np.random.default_rng(17)
    before, batch, types = read(folder, **REAL[name])
    Z = np.asarray(hx.harmonize(before.astype(np.float32), batch, rng=0, progress=False).embedding, np.float64)
    n, d = Z.shape
    known = types != "unlabelled"
    names, counts = np.unique(types[known], return_counts=True)
    common, spread = names[np.argsort(-counts)], Z.std(axis=0)

    def both(what: str, after: np.ndarray | None, truth: str) -> Iterator[Third]:
        yield name, what, before, after, batch, types, truth
        yield name, what + ", no labels", before, after, batch, None, truth

    tested = {t: np.unique(batch[types == t], return_counts=True) for t in common}
    home = max(zip(*tested[common[1]], strict=True), key=lambda pair: pair[1])[0]
    target = np.flatnonzero(types == common[0])
    yield from both("harmony as given", Z, "right")
    yield from both("nothing", before, "harmful")
    yield from both("nothing, columns scaled to one", (before - before.mean(axis=0)) / before.std(axis=0), "harmful")
    of = np.flatnonzero((types == common[1]) & (batch == home))
    on = Z.copy()
    on[of] = Z[gen.choice(target, len(of))] + 0.02 * spread * gen.normal(size=(len(of), d))
    yield from both("a type of one batch on another", on, "harmful")
    on = Z.copy()
    on[of] += Z[target].mean(axis=0) - Z[of].mean(axis=0)
    yield name, "a type of one batch moved to another", before, on, batch, types, "harmful"
    dozen = of[:12]
    on = Z.copy()
    on[dozen] = Z[gen.choice(target, len(dozen))] + 0.02 * spread * gen.normal(size=(len(dozen), d))
    rows = np.setdiff1d(np.arange(n), of[12:])
    yield name, "twelve cells on another type", before[rows], on[rows], batch[rows], types[rows], "harmful"
    sizes = dict(zip(*np.unique(batch, return_counts=True), strict=True))
    small = batch == min(sizes, key=lambda b: sizes[b])
    yield from both("the smallest batch away", Z + 4 * small[:, None] * spread, "harmful")
    after = Z.copy()
    after[small] = Z[small][gen.permutation(small.sum())]
    yield name, "the smallest batch permuted", before, after, batch, types, "harmful"
    after = Z.copy()
    for t in names:
        after[types == t] = Z[types == t][gen.permutation((types == t).sum())]
    yield name, "permuted within types", before, after, batch, types, "harmful"
    yield from both("noise beside it", Z + gen.normal(size=Z.shape) * spread, "harmful")
    yield from both("two components only", Z[:, :2], "harmful")
    yield name, "turned and scaled", before, 7 * Z @ np.linalg.qr(gen.normal(size=(d, d)))[0], batch, types, "right"
    third = gen.choice(["p", "q", "r"], n)
    one = batch == max(sizes, key=lambda b: sizes[b])
    yield name, "one batch cut in three, harmony", before[one], None, third[one], types[one], "none needed"


def cases(folder: Path, only: list[str] | None) -> Iterator[Third]:
    """Make all of them, or those of some sets."""
    for seed, (name, *_) in enumerate(MADE):
        if not only or name in only:
            yield from made(name, 100 + seed)
    for name in REAL:
        if not only or name in only:
            yield from real(folder, name)
