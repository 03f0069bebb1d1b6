"""Kinds of features in one file: which of them a run is about, and what is done with those that are not genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from ..errors import InputError, nearest, warn
from ..inputs.features import GENES, kinds_of, listed_kinds

if TYPE_CHECKING:
    from anndata import AnnData

    from .options import WorkflowOptions

# Our words for what 10x calls its kinds of features.
KINDS = {"genes": GENES, "antibodies": "Antibody Capture", "peaks": "Peaks"}
# What is in a file beside genes, in lower case; whatever else a file calls its only kind is taken for genes.
_OTHERS = {"antibody capture", "antigen capture", "crispr guide capture", "custom", "multiplexing capture", "peaks"}


def name_of(asked: str | None) -> str:
    """Return what files call the kind of features that was asked for.

    Examples
    --------
    >>> name_of(None), name_of("antibodies"), name_of("CRISPR Guide Capture")
    ('Gene Expression', 'Antibody Capture', 'CRISPR Guide Capture')
    """
    return GENES if asked is None else KINDS.get(asked.casefold(), asked)


def are_genes(options: WorkflowOptions) -> bool:
    """Return whether a run is about genes."""
    return name_of(options.feature_type).casefold() == GENES.casefold()


def choose(adata: AnnData, asked: str | None) -> AnnData:
    """Return the data with one kind of features, by ``var["feature_types"]``, and tell what is left aside.

    Raises
    ------
    InputError
        If there are none of that kind.
    """
    found = kinds_of(adata.var)
    if found is None:
        return adata
    column, types = found
    folded, wanted = types.str.casefold(), name_of(asked)
    keep = (folded == wanted.casefold()).to_numpy()
    if asked is None and not keep.any():
        keep = ~folded.isin(_OTHERS).to_numpy()
    sizes, listed = types[~keep].value_counts(), listed_kinds(types[~keep])
    if not keep.any():
        words = [next((word for word, name in KINDS.items() if name == found), found) for found in sizes.index]
        raise InputError(
            f"var['{column}'] has no '{wanted}', but {listed}: {nearest(wanted, sizes.index)}; pass "
            f"feature_type={words[0]!r} (--feature-type) to run those"
        )
    if keep.all():
        return adata
    warn(
        f"{int((~keep).sum()):,} of {adata.n_vars:,} features are left aside: {listed} in var['{column}']; "
        "feature_type= (--feature-type) runs them instead"
    )
    return adata[:, keep].copy()


def min_features(options: WorkflowOptions) -> int:
    """Return the fewest features in a cell; the default is one for genes, of which there are more than antibodies."""
    return 1 if not are_genes(options) and options.min_genes == type(options).min_genes else options.min_genes


def transformed(counts: Any, options: WorkflowOptions) -> tuple[Any, str]:
    """Return counts of antibodies or peaks on a scale on which cells can be compared, and what that is called."""
    if name_of(options.feature_type) == KINDS["peaks"]:
        return tf_idf(counts), "TF-IDF"
    return centred_log_ratio(counts), "centred log-ratio of each cell"


def centred_log_ratio(counts: Any) -> np.ndarray:
    """Return log1p of counts over each cell's geometric mean of 1 + counts, (N, features), dense.

    Examples
    --------
    >>> centred_log_ratio(np.array([[0.0, 3.0]])).round(3)
    array([[0.   , 0.916]], dtype=float32)
    """
    X = np.asarray(counts.toarray() if sparse.issparse(counts) else counts, np.float32)
    centre = np.exp(np.log1p(X).mean(axis=1, keepdims=True))
    return np.log1p(X / centre)


def tf_idf(counts: Any) -> sparse.csr_matrix:
    """Return log1p of 1e4 times each peak's share of its cell, times the log of its rarity."""
    X = sparse.csr_matrix(counts, dtype=np.float32)
    fragments = np.maximum(np.asarray(X.sum(axis=1)).ravel(), 1)
    rarity = np.log1p(X.shape[0] / np.maximum(np.asarray(X.sum(axis=0)).ravel(), 1))
    scaled = sparse.diags(1e4 / fragments) @ X @ sparse.diags(rarity)
    return sparse.csr_matrix(scaled, dtype=np.float32).log1p()


def semantic_indexing(adata: AnnData, n_comps: int, seed: int) -> str:
    """Write ``obsm["X_pca"]`` from X by a truncated SVD without its first component, which follows the depth."""
    from scipy.sparse.linalg import svds

    n = min(n_comps, min(adata.shape) - 2)
    if n < 1:
        raise InputError(f"{adata.n_obs} cells and {adata.n_vars} peaks have no second component")
    start = np.random.default_rng(seed).normal(size=min(adata.shape))
    U, s, Vt = svds(sparse.csr_matrix(adata.X, dtype=np.float64), k=n + 1, v0=start)
    order = np.argsort(s)[::-1][1:]
    # The sign of a component is nobody's; this one does not depend on the machine.
    signs = np.sign(Vt[order][np.arange(n), np.abs(Vt[order]).argmax(axis=1)])
    adata.obsm["X_pca"] = (U[:, order] * s[order] * signs).astype(np.float32)
    total = float(sparse.csr_matrix(adata.X).power(2).sum())
    adata.uns["pca"] = {"variance": s[order] ** 2 / adata.n_obs, "variance_ratio": s[order] ** 2 / total}
    adata.varm.pop("PCs", None)
    return f"{n} components of the latent semantic indexing, without the first, which follows the depth"
