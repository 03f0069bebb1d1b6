"""``harmonax.tl.check``: is a correction needed, and is it possible?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..errors import MissingKeyError, nearest
from ..evaluation.before.check import Check
from ..evaluation.before.check import check as check_table
from ..inputs.embedding import either_spelling, read_obsm
from ..system.arguments import check_arguments
from ..system.validate import entry_name, expect_anndata, listed

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

_DEFAULT_BASIS = "X_pca"


def check(
    adata: AnnData,
    batch_key: str | Sequence[str],
    *,
    label_key: str | None = None,
    condition_key: str | Sequence[str] | None = None,
    basis: str = _DEFAULT_BASIS,
    rng: Any = 0,
    max_cells: int = 20_000,
    missing: Literal["leave_out", "literal"] = "leave_out",
    key_added: str = "harmonax_check",
) -> Check:
    """Find out, before correcting, whether batches differ and whether that can be distinguished from biology.

    Parameters
    ----------
    adata
        N cells; ``X`` is not touched. Without an embedding only the columns are checked.
    batch_key
        Column of ``adata.obs`` that says which batch a cell is from, or several, each checked separately.
    label_key
        Column of cell types, where there is one. Cells without a known type ("unlabelled", "unknown", missing, ...) are
        left out. The need is then measured among cells of one type: batches that merely have other shares of the types
        do not count as different.
    condition_key
        Column of what will be compared (treatment, disease), or several: what a correction must not remove.
    basis
        Embedding in ``adata.obsm``, not corrected, (N, d).
    rng
        Seed, Generator, SeedSequence or None; only for shuffled labels and for sampling.
    max_cells
        Above so many, the embedding is measured on a random sample of that size; a finding says so. Of more than
        10,000, about so many (some of every batch) are asked for their neighbours among all. Raising it seeks
        neighbours among more cells: slower, and small batches are seen better.
    missing
        Cells without a batch are reported, and so are those whose batch is text that stands for none ("nan", "None",
        "NA", ""); ``"literal"`` takes such text as a batch's name.
    key_added
        Where in ``adata.uns`` the result goes.

    Returns
    -------
    Check
        The verdict, a summary, findings with advice, and tables; ``print`` it to read it. ``adata.uns[key_added]`` has
        the same, and ``Check.from_uns`` reads it.

    Raises
    ------
    MissingKeyError
        If a column is not there, or an embedding other than the default.
    InputError
        If there are no cells, a column is named twice, or the embedding has NaN. What is wrong with the labels is
        reported, not raised.

    Notes
    -----
    The need: with o the share of same-batch cells among a cell's 30 nearest and e = (n_b - 1) / (N - 1), the excess is
    sum(o - e) / sum(1 - e): 0 where batches are mixed, 1 where they are apart. Correction is needed where it is above
    0.02 and above what shuffled labels reach, or where a single batch is above 0.1 and its chance.

    The possibility: batches are linked where they share cell types (conditions). Where no two are, their difference is
    that of the types, and no method can tell them apart.

    Examples
    --------
    >>> import anndata, harmonax, numpy as np, pandas as pd
    >>> gen = np.random.default_rng(0)
    >>> batch = np.repeat(["a", "b"], 100)
    >>> obs = pd.DataFrame({"batch": batch}, index=[f"cell{i}" for i in range(200)])
    >>> adata = anndata.AnnData(obs=obs, obsm={"X_pca": gen.normal(size=(200, 5)) + 3 * (batch == "b")[:, None]})
    >>> check(adata, "batch").verdict
    'needed'
    """
    check_arguments(check, locals())
    expect_anndata(adata, parts=("obs", "obsm", "uns", "var"))
    entry_name(key_added, "key_added")
    made = check_table(
        adata.obs,
        listed(batch_key),
        _embedding(adata, basis),
        label_key=label_key,
        condition_keys=listed(condition_key),
        basis=basis,
        var_columns=[str(name) for name in adata.var.columns],
        rng=rng,
        max_cells=max_cells,
        missing=missing,
    )
    adata.uns[key_added] = made.to_uns()
    return made


def _embedding(adata: AnnData, basis: str) -> np.ndarray | None:
    """Return the embedding, or None: PCA may still be to come, but a name that was chosen must be there."""
    if either_spelling(adata.obsm.keys(), basis) in adata.obsm:
        return read_obsm(adata, basis).array()
    if basis != _DEFAULT_BASIS:
        raise MissingKeyError(f"obsm has no '{basis}'; {nearest(basis, adata.obsm.keys())}")
    return None
