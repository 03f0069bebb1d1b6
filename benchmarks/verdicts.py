"""Corrections whose truth is known, made on cells whose batches were made, too: what does the verdict say?

usage: verdicts.py [--second | --third] [--sets NAME ...] [--only WORD ...] [--data FOLDER]

Every set is cut into batches, and each batch is shifted, with a smaller shift of its own for each cell type; so the
embedding without a batch effect is known, and with it the right correction. Each scenario makes one correction, right
or wrong, and names the verdicts that are right. The limits of the verdict were set on real cells; sets marked
"untouched" are of other kinds, and no limit was set or changed on them.

A false trust is a harmful correction that is said to be trusted or not to be needed; a false alarm is a harmless one
that is said not to be used. ``--second`` and ``--third`` take the sets and scenarios of verdicts_second.py and
verdicts_third.py in place of these.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

warnings.filterwarnings("ignore")

import verdicts_second  # noqa: E402
import verdicts_third  # noqa: E402

import harmonax as hx  # noqa: E402
from harmonax import datasets  # noqa: E402

FINE = {"trust", "caution"}
HARMFUL = {"caution", "do_not_trust"}


@dataclass
class Cells:
    """N cells without a batch effect, and with the one that was made."""

    name: str
    untouched: bool
    true: np.ndarray
    shifted: np.ndarray
    batch: np.ndarray
    types: np.ndarray

    def take(self, rows: np.ndarray) -> Cells:
        """Return some of the cells."""
        parts = (values[rows] for values in (self.true, self.shifted, self.batch, self.types))
        return Cells(self.name, self.untouched, *parts)


@dataclass
class Case:
    """A correction, and the verdicts that are right."""

    name: str
    cells: Cells
    after: np.ndarray | None
    right: set[str]
    labels: bool = True
    harmful: bool = False
    before: np.ndarray | None = None


# Cells


def with_batches(name: str, untouched: bool, Z: np.ndarray, types: np.ndarray, n_batches: int, seed: int) -> Cells:
    """Cut cells into batches at random, and shift each batch, and each type in it."""
    gen = np.random.default_rng(seed)
    Z = np.asarray(Z, np.float64)
    batch = gen.choice(n_batches, len(Z), p=gen.dirichlet(np.full(n_batches, 8.0)))
    spread = np.sqrt(((Z - Z.mean(axis=0)) ** 2).sum(axis=1).mean())
    axes = Z.std(axis=0) / np.linalg.norm(Z.std(axis=0))
    shifted = Z.copy()
    for b in range(n_batches):
        shifted[batch == b] += 0.8 * spread * gen.normal(size=Z.shape[1]) * axes
        for t in np.unique(types):
            shifted[(batch == b) & (types == t)] += 0.15 * spread * gen.normal(size=Z.shape[1]) * axes
    return Cells(name, untouched, Z, shifted, np.array([f"b{b}" for b in batch]), types.astype(str))


def sorted_cells(folder: Path) -> Cells:
    """Blood cells sorted by their surface, one laboratory."""
    adata = ad.read_h5ad(folder / "pbmc_sorted.h5ad")
    adata = adata[adata.obs["batch"].astype(str) == "sorted"]
    return with_batches("sorted", False, adata.obsm["X_pca"], adata.obs["cell_type"].astype(str).to_numpy(), 4, 1)


def resting_cells(folder: Path) -> Cells:
    """Blood cells of the untreated half of a stimulation experiment."""
    adata = ad.read_h5ad(folder / "kang_fullgenes.h5ad")
    types = adata.obs["cell_type"].astype(str)
    adata = adata[((adata.obs["batch"].astype(str) == "ctrl") & (types != "unlabelled")).to_numpy()]
    return with_batches("resting", False, adata.obsm["X_pca"], adata.obs["cell_type"].astype(str).to_numpy(), 3, 2)


def digits(folder: Path) -> Cells:
    """Written digits, 1,797 images in 10 classes: real, with classes of unequal shape, and not cells at all."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    X, digit = load_digits(return_X_y=True)
    Z = PCA(20, random_state=0).fit_transform(X)
    return with_batches("digits", False, Z, np.array([f"digit {d}" for d in digit]), 3, 3)


def blood(folder: Path) -> Cells:
    """700 blood cells in 10 overlapping types, as scanpy ships them."""
    import scanpy as sc

    adata = sc.datasets.pbmc68k_reduced()
    types = adata.obs["bulk_labels"].astype(str).to_numpy()
    return with_batches("blood", False, adata.obsm["X_pca"][:, :20], types, 2, 4)


def tree(folder: Path) -> Cells:
    """Negative binomial counts of types on a tree (`harmonax.datasets.simulate`), one batch of them."""
    import scanpy as sc

    adata = datasets.simulate(6000, rng=5)
    adata = adata[adata.obs["batch"] == adata.obs["batch"].value_counts().index[0]].copy()
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=25)
    return with_batches("tree", True, adata.obsm["X_pca"], adata.obs["cell_type"].astype(str).to_numpy(), 4, 6)


def path(folder: Path) -> Cells:
    """A branching path of states without gaps: differentiation."""
    gen = np.random.default_rng(7)
    branch, t = gen.integers(0, 3, 3000), gen.random(3000)
    angle = np.array([0.0, 2.1, 4.2])[branch]
    Z = np.zeros((3000, 15))
    Z[:, 0], Z[:, 1] = 8 * t * np.cos(angle), 8 * t * np.sin(angle)
    Z[:, 2] = 3 * np.sin(3 * t + branch)
    Z += gen.normal(size=Z.shape) * np.linspace(0.8, 0.3, 15)
    stage = np.array(["early", "middle", "late"])[np.minimum((t * 3).astype(int), 2)]
    names = np.where(stage == "early", "early", np.char.add(np.char.add(stage, " of branch "), branch.astype(str)))
    return with_batches("path", True, Z, names, 3, 8)


def heavy(folder: Path) -> Cells:
    """Twelve types with heavy tails, each half as frequent as the one before it at first, in six batches."""
    gen = np.random.default_rng(9)
    share = np.maximum(0.5 ** np.arange(12), 0.03)
    types = gen.choice(12, 4000, p=share / share.sum())
    means = gen.normal(size=(12, 18)) * 4
    Z = means[types] + gen.standard_t(4, size=(4000, 18)) * gen.uniform(0.4, 1.2, size=12)[types][:, None]
    return with_batches("heavy", True, Z, np.char.add("type ", types.astype(str)), 6, 10)


def factors(folder: Path) -> Cells:
    """Poisson counts of 600 genes from six programmes that types use in different amounts; principal components."""
    import scanpy as sc

    gen = np.random.default_rng(11)
    types = gen.integers(0, 7, 2500)
    use = gen.gamma(0.4, 1.0, size=(7, 6))[types] * gen.gamma(8.0, 1 / 8, size=(2500, 6)) + 0.05
    genes = gen.gamma(0.3, 1.0, size=(6, 600))
    rate = use @ genes
    depth = np.exp(gen.normal(np.log(3000), 0.4, 2500))
    adata = ad.AnnData(gen.poisson(rate / rate.sum(axis=1, keepdims=True) * depth[:, None]).astype(np.float32))
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=20)
    return with_batches("factors", True, adata.obsm["X_pca"], np.char.add("type ", types.astype(str)), 3, 12)


SETS: list[Callable[[Path], Cells]] = [sorted_cells, resting_cells, digits, blood, tree, path, heavy, factors]


# Corrections


def alone(cells: Cells) -> tuple[Cells, str, str, np.ndarray, np.ndarray]:
    """Keep one type in half of the batches only, another in the others only; return where they lie, too."""
    names, counts = np.unique(cells.types, return_counts=True)
    common = names[np.argsort(-counts)]
    first, second = common[1], common[2]
    half = np.isin(cells.batch, np.unique(cells.batch)[::2])
    kept = ~((half & (cells.types == second)) | (~half & (cells.types == first)))
    cells = cells.take(np.flatnonzero(kept))
    return cells, first, second, cells.types == first, cells.types == second


def laid_on(cells: Cells, of: np.ndarray, target: np.ndarray, gen: np.random.Generator) -> np.ndarray:
    """The right correction, but for the cells `of`, which lie among those of `target`."""
    after = cells.true.copy()
    after[of] += after[target].mean(axis=0) - after[of].mean(axis=0)
    return after


def shuffled_within(cells: Cells, gen: np.random.Generator) -> np.ndarray:
    """The right correction, but for which cell of a type is where in it."""
    after = cells.true.copy()
    for name in np.unique(cells.types):
        rows = np.flatnonzero(cells.types == name)
        after[rows] = after[gen.permutation(rows)]
    return after


def within_spread(cells: Cells) -> np.ndarray:
    """Standard deviations within types, (N, d)."""
    spread = np.zeros_like(cells.true)
    for name in np.unique(cells.types):
        spread[cells.types == name] = cells.true[cells.types == name].std(axis=0)
    return spread


def as_one(cells: Cells, of: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The right correction, but for the cells `of`, drawn together to a third on the cell in the middle of `target`."""
    after = cells.true.copy()
    middle = np.linalg.norm(after[target] - after[target].mean(axis=0), axis=1).argmin()
    after[of] = 0.3 * (after[of] - after[of].mean(axis=0)) + after[target][middle]
    return after


def scenarios(cells: Cells) -> Iterator[Case]:
    """Make every correction of one set."""
    gen = np.random.default_rng(0)
    names, counts = np.unique(cells.types, return_counts=True)
    common = names[np.argsort(-counts)]
    batches = np.unique(cells.batch)
    one = cells.batch == batches[-1]

    yield Case("right", cells, cells.true, FINE)
    yield Case("right, no labels", cells, cells.true, FINE, labels=False)
    yield Case("harmony", cells, None, FINE)
    yield Case("harmony, no labels", cells, None, FINE, labels=False)
    wide = cells.true @ np.linalg.qr(gen.normal(size=(64, 64)))[0][: cells.true.shape[1]]
    yield Case("right, 64 wide", cells, wide, FINE)
    # The types are right, but under noise of their own spread; or nothing within them is.
    noisy = cells.true + gen.normal(size=cells.true.shape) * within_spread(cells)
    yield Case("noise within types", cells, noisy, HARMFUL, harmful=True)
    yield Case("nothing left within types", cells, shuffled_within(cells, gen), HARMFUL, harmful=True)
    yield Case(
        "nothing corrected, turned",
        cells,
        cells.shifted @ np.linalg.qr(gen.normal(size=(cells.true.shape[1],) * 2))[0],
        HARMFUL,
        harmful=True,
    )
    yield Case("two thirds left", cells, cells.true + 0.66 * (cells.shifted - cells.true), HARMFUL, harmful=True)
    if len(batches) > 2:
        after = np.where(one[:, None], cells.shifted, cells.true)
        yield Case("one batch left", cells, after, HARMFUL, harmful=True)
        yield Case("one batch left, no labels", cells, after, HARMFUL, labels=False, harmful=True)
    noise = cells.true.std(axis=0)
    yield Case("noise only", cells, gen.normal(size=cells.true.shape) * noise, HARMFUL, harmful=True)
    yield Case(
        "noise only, no labels", cells, gen.normal(size=cells.true.shape) * noise, HARMFUL, labels=False, harmful=True
    )

    swapped, (a, b) = cells.true.copy(), common[:2]
    move = cells.true[cells.types == b].mean(axis=0) - cells.true[cells.types == a].mean(axis=0)
    swapped[one & (cells.types == a)] += move
    swapped[one & (cells.types == b)] -= move
    yield Case("two types swapped in a batch", cells, swapped, HARMFUL, harmful=True)

    # A type of 15 cells in one batch, laid on the commonest.
    rare = np.flatnonzero(one & (cells.types == common[3]))
    few = cells.take(np.setdiff1d(np.arange(len(cells.types)), rare[15:]))
    if len(rare) >= 15:
        of = (few.types == common[3]) & (few.batch == batches[-1])
        yield Case(
            "15 cells on another type", few, laid_on(few, of, few.types == common[0], gen), HARMFUL, harmful=True
        )

        # The same as one: these cells are each other's neighbours.
        yield Case(
            "15 cells on another type, as one", few, as_one(few, of, few.types == common[0]), HARMFUL, harmful=True
        )
        of = (cells.types == common[3]) & one
        yield Case(
            "a type on another, as one", cells, as_one(cells, of, cells.types == common[0]), HARMFUL, harmful=True
        )

    lone, _, _, of, target = alone(cells)
    yield Case("types of other batches merged", lone, laid_on(lone, of, target, gen), HARMFUL, harmful=True)
    yield Case(
        "types of other batches merged, no labels",
        lone,
        laid_on(lone, of, target, gen),
        HARMFUL,
        labels=False,
        harmful=True,
    )
    yield Case("types of other batches apart", lone, lone.true, FINE)
    yield Case("types of other batches apart, no labels", lone, lone.true, FINE, labels=False)

    # Batches that differ in their proportions only.
    p = np.where(np.isin(cells.types, common[::2]), 0.85, 0.2)
    shares = cells.take(np.arange(len(cells.types)))
    shares.batch = np.where(gen.random(len(p)) < p, "b0", "b1")
    yield Case("proportions only", shares, None, {"not_needed", "caution", "trust"}, before=shares.true)
    yield Case(
        "proportions only, no labels",
        shares,
        None,
        {"not_needed", "caution", "trust"},
        labels=False,
        before=shares.true,
    )
    halves = cells.take(np.arange(len(cells.types)))
    halves.batch = gen.choice(["b0", "b1"], len(p))
    yield Case("random halves", halves, None, {"not_needed"}, before=halves.true)

    # Each batch has types that no other has.
    home = np.arange(len(names)) % 2
    own = cells.take(np.arange(len(cells.types)))
    own.batch = np.array(["b0", "b1"])[home[np.searchsorted(names, cells.types)]]
    yield Case("batch is the type", own, None, {"impossible"}, harmful=True, before=own.true)


RIGHTS = {"right": FINE, "harmful": HARMFUL, "none needed": FINE | {"not_needed"}, "impossible": {"impossible"}}


def second(folder: Path, names: list[str] | None) -> Iterator[Case]:
    """Make the cases of verdicts_second.py."""
    for name, untouched, make, n_batches, kind, seed in verdicts_second.SETS:
        if names and name not in names:
            continue
        Z, types = make(folder)
        for what, rows, before, after, batch, labels, truth in verdicts_second.corrections(
            Z, types, n_batches, kind, seed
        ):
            given = np.full(len(rows), "") if labels is None else labels
            cells = Cells(name, untouched, Z[rows], before, batch, given)
            yield Case(what, cells, after, RIGHTS[truth], labels is not None, truth == "harmful")


def third(folder: Path, names: list[str] | None) -> Iterator[Case]:
    """Make the cases of verdicts_third.py."""
    for name, what, before, after, batch, labels, truth in verdicts_third.cases(folder, names):
        given = np.full(len(batch), "") if labels is None else labels
        # What these showed moved a limit or made a rule.
        untouched = name not in ("cycle", "many", "forty donors")
        cells = Cells(name, untouched, before, before, batch, given)
        yield Case(what, cells, after, RIGHTS[truth], labels is not None, truth in ("harmful", "impossible"))


# Verdicts


def said(case: Case) -> tuple[str, str]:
    """Return the verdict, and what the diagnosis calls it and warns of."""
    cells = case.cells
    obs = pd.DataFrame(
        {"batch": pd.Categorical(cells.batch), "cell_type": pd.Categorical(cells.types)},
        index=[f"c{i}" for i in range(len(cells.batch))],
    )
    before = cells.shifted if case.before is None else case.before
    adata = ad.AnnData(obs=obs, obsm={"X_pca": before.astype(np.float32)})
    if case.after is None:
        hx.pp.harmony_integrate(adata, "batch", rng=0, max_iter_harmony=50, verbose=False)
    else:
        adata.obsm["X_pca_harmony"] = case.after.astype(np.float32)
    found = hx.tl.verdict(adata, "batch", label_key="cell_type" if case.labels else None)
    warned = [finding.code for finding in found.findings if finding.level in ("warning", "problem")]
    return found.code, ": ".join([str(adata.uns["harmonax_diagnosis"]["verdict"]), ", ".join(warned)]).rstrip(": ")


def main() -> int:
    """Print a line per case and the counts; return the number of wrong ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[""], help="cases whose line has one of these words")
    parser.add_argument("--sets", nargs="*", help="names of sets; all by default")
    parser.add_argument("--second", action="store_true", help="those of verdicts_second.py")
    parser.add_argument("--third", action="store_true", help="those of verdicts_third.py")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("HARMONAX_TEST_DATA", "../shared/data")))
    options = parser.parse_args()
    rows = []
    made = (make(options.data) for make in SETS if not options.sets or make.__name__ in options.sets)
    further = second if options.second else third if options.third else None
    cases = further(options.data, options.sets) if further else (case for of in made for case in scenarios(of))
    for case in cases:
        name = f"{case.cells.name}: {case.name}"
        if not any(word in name for word in options.only):
            continue
        code, diagnosis = said(case)
        trusted = case.harmful and code in ("trust", "not_needed")
        alarm = not case.harmful and code == "do_not_trust"
        rows.append((case.cells.untouched, code in case.right, trusted, alarm))
        mark = "ok   " if rows[-1][1] else "WRONG"
        print(f"{mark} {name}: {code} ({diagnosis}), right: {', '.join(sorted(case.right))}", flush=True)
    table = pd.DataFrame(rows, columns=["untouched", "right", "false trust", "false alarm"])
    for untouched, part in table.groupby("untouched"):
        print(
            f"{'untouched sets' if untouched else 'sets that limits were set on'}: {len(part)} cases, "
            f"{int(part['right'].sum())} right, false trust {int(part['false trust'].sum())}, "
            f"false alarm {int(part['false alarm'].sum())}"
        )
    return int((~table["right"]).sum())


if __name__ == "__main__":
    sys.exit(bool(main()))
