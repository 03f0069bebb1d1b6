"""Counts as a multi-batch experiment gives them, from a model that is written down.

For cell i of type t in batch b, and gene g:

    log m_ig = a_g + sum of u_ng over the nodes n of t's path   baseline, and what makes the type
             + e_bg + f_btg                                     batch effect per gene, and per gene and type
             + h_i v_g                                          a state that varies within every type
    mu_ig    = L_i m_ig / sum_g m_ig                            L_i: library size, log-normal around its batch's median
    x_ig     ~ Poisson(Gamma(mean mu_ig, shape 1 / phi_g))      that is, negative binomial with dispersion phi_g

Types are leaves of a tree and inherit their parents' genes, so that relatives are alike. Abundances are unequal and
differ between batches (Dirichlet), and one type is absent from one batch, where a correction may invent it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from ..system.arguments import check_arguments
from ..system.rng import seed_from
from ..system.validate import whole_number


class Node(NamedTuple):
    """A branch of the tree of cell types; a leaf where it has an abundance."""

    name: str
    parent: str | None
    share_of_genes: float
    abundance: float = 0.0


class Batch(NamedTuple):
    """A batch: its share of the cells and the median of its library sizes."""

    name: str
    share: float
    median_library: float


TREE = (
    Node("lymphoid", None, 0.04),
    Node("T", "lymphoid", 0.03),
    Node("B", "lymphoid", 0.06),
    Node("myeloid", None, 0.08),
    Node("monocyte", "myeloid", 0.03),
    Node("CD4 naive", "T", 0.015, 0.24),
    Node("CD4 memory", "T", 0.015, 0.17),
    Node("CD8 T", "T", 0.025, 0.13),
    Node("NK", "lymphoid", 0.05, 0.11),
    Node("B naive", "B", 0.02, 0.09),
    Node("B memory", "B", 0.02, 0.05),
    Node("CD14 mono", "monocyte", 0.02, 0.13),
    Node("CD16 mono", "monocyte", 0.03, 0.04),
    Node("cDC", "myeloid", 0.05, 0.025),
    Node("pDC", None, 0.09, 0.015),
)
BATCHES = (Batch("10x v2", 0.40, 2500.0), Batch("10x v3", 0.38, 4500.0), Batch("inDrop", 0.22, 1800.0))
# The type that one batch lacks, and that batch.
ABSENT = ("NK", "inDrop")

_N_GENES = 2000
_SPREAD_OF_MEANS = 1.4
_TYPE_EFFECT = 0.9
_BATCH_EFFECT = 0.2
_BATCH_TYPE_EFFECT = 0.06
_STATE_EFFECT = 0.3
_LIBRARY_SPREAD = 0.35
_DISPERSION = 0.15
# Larger is closer to equal compositions.
_CONCENTRATION = 60.0
_ROWS = 2000


def simulate(n_cells: int, rng: Any = 0) -> ad.AnnData:
    """Draw cells; return counts in ``X`` (CSR), and ``batch`` and ``cell_type`` in ``obs``.

    Parameters
    ----------
    n_cells
        Number of cells, at least 1.
    rng
        Seed, Generator, SeedSequence or None.

    Raises
    ------
    InputError
        If `n_cells` is not a whole number of at least 1, or `rng` cannot be a seed.

    Examples
    --------
    >>> simulate(100, rng=0).shape
    (100, 2000)
    """
    check_arguments(simulate, locals())
    n_cells = whole_number(n_cells, "n_cells", minimum=1, maximum=1e9)
    rng = rng if isinstance(rng, np.random.Generator) else np.random.default_rng(seed_from(rng))
    types = [node for node in TREE if node.abundance > 0]
    batch, cell_type = _labels(n_cells, types, rng)
    baseline = rng.normal(0.0, _SPREAD_OF_MEANS, _N_GENES)
    of_type = _type_profiles(types, rng)
    of_batch = rng.normal(0.0, _BATCH_EFFECT, (len(BATCHES), _N_GENES))
    of_both = rng.normal(0.0, _BATCH_TYPE_EFFECT, (len(BATCHES), len(types), _N_GENES))
    state_genes = np.where(rng.random(_N_GENES) < 0.03, rng.normal(0.0, _STATE_EFFECT, _N_GENES), 0.0)
    dispersion = _DISPERSION * np.exp(rng.normal(0.0, 0.4, _N_GENES))
    medians = np.array([b.median_library for b in BATCHES])
    library = medians[batch] * np.exp(rng.normal(0.0, _LIBRARY_SPREAD, n_cells))
    state = rng.normal(size=n_cells)

    slabs = []
    for start in range(0, n_cells, _ROWS):
        rows = slice(start, start + _ROWS)
        b, t = batch[rows], cell_type[rows]
        m = np.exp(baseline + of_type[t] + of_batch[b] + of_both[b, t] + state[rows, None] * state_genes)
        mu = library[rows, None] * m / m.sum(axis=1, keepdims=True)
        counts = rng.poisson(rng.gamma(1.0 / dispersion, dispersion * mu))
        slabs.append(sparse.csr_matrix(counts.astype(np.float32)))

    obs = pd.DataFrame(
        {
            "batch": pd.Categorical.from_codes(batch, [b.name for b in BATCHES]),
            "cell_type": pd.Categorical.from_codes(cell_type, [n.name for n in types]),
        },
        index=[f"cell_{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"gene_{g}" for g in range(_N_GENES)])
    return ad.AnnData(sparse.vstack(slabs, format="csr"), obs=obs, var=var)


def _labels(n_cells: int, types: list[Node], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw each cell's batch and type."""
    shares = np.array([b.share for b in BATCHES])
    batch = rng.choice(len(BATCHES), n_cells, p=shares / shares.sum())
    abundance = np.array([n.abundance for n in types])
    composition = rng.dirichlet(_CONCENTRATION * abundance / abundance.sum(), len(BATCHES))
    names = [n.name for n in types]
    composition[[b.name for b in BATCHES].index(ABSENT[1]), names.index(ABSENT[0])] = 0.0
    composition /= composition.sum(axis=1, keepdims=True)
    draw = rng.random(n_cells)
    cell_type = (draw[:, None] > np.cumsum(composition, axis=1)[batch, :-1]).sum(axis=1)
    return batch, cell_type


def _type_profiles(types: list[Node], rng: np.random.Generator) -> np.ndarray:
    """Return the log effects of each type on each gene: those of the type and of the branches it comes from."""
    effects = {}
    for node in TREE:
        marked = rng.random(_N_GENES) < node.share_of_genes
        # Markers are mostly genes switched on.
        effect = rng.normal(0.6 * _TYPE_EFFECT, _TYPE_EFFECT, _N_GENES)
        effects[node.name] = np.where(marked, effect, 0.0)
    return np.stack([sum(effects[name] for name in _path(node.name)) for node in types])


def _path(name: str) -> list[str]:
    """Return a node's name and those of its ancestors."""
    parent = next(node.parent for node in TREE if node.name == name)
    return [name] if parent is None else [name, *_path(parent)]
