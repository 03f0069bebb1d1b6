"""``harmonax.tl.verdict``: one answer from the check and the diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..evaluation.after.diagnose import Diagnosis
from ..evaluation.variables import check_names
from ..evaluation.verdict import Overall, overall
from ..system.arguments import check_arguments
from ..system.validate import expect_anndata, listed
from .check import check
from .diagnose import diagnose

if TYPE_CHECKING:
    from anndata import AnnData


def verdict(
    adata: AnnData,
    key: str | Sequence[str] | None = None,
    *,
    label_key: str | None = None,
    condition_key: str | Sequence[str] | None = None,
    basis: str | None = None,
    adjusted_basis: str | None = None,
    rng: Any = 0,
) -> Overall:
    """Say whether a correction can be trusted: `harmonax.tl.check` and `harmonax.tl.diagnose`, and one answer of both.

    Both are run anew, so that the answer is that of the embeddings as they are now.

    Parameters
    ----------
    adata
        N cells with an embedding before and after the correction, of any method and width.
    key
        Batch columns of ``adata.obs``; None: those of the last `harmonax.pp.harmony_integrate`.
    label_key
        Column of cell types, if they are known. With it every type is looked at in every batch; without it, types that
        were merged cannot be seen, which the headline then says.
    condition_key
        Columns of what will be compared, which a correction must not remove.
    basis, adjusted_basis
        Embeddings in ``adata.obsm`` before and after; None: those of the last run, else ``"X_pca"`` and
        ``"X_pca_harmony"``.
    rng
        Seed, Generator, SeedSequence or None.

    Returns
    -------
    Overall
        ``code`` ("trust", "caution", "do_not_trust", "not_needed", "impossible" or "unknown"), ``headline``,
        ``summary`` and ``findings``, most serious first. ``adata.uns`` gets what the check and the diagnosis store.

    Raises
    ------
    MissingKeyError
        If a column or an embedding is not there.
    InputError
        If no batch column is known.

    Examples
    --------
    >>> import anndata, harmonax, numpy as np, pandas as pd
    >>> gen = np.random.default_rng(0)
    >>> batch = np.repeat(["a", "b"], 200)
    >>> obs = pd.DataFrame({"batch": batch}, index=[f"cell{i}" for i in range(400)])
    >>> Z = gen.normal(size=(400, 5))
    >>> adata = anndata.AnnData(obs=obs, obsm={"X_pca": Z + 9 * (batch == "b")[:, None], "X_pca_harmony": Z})
    >>> harmonax.tl.verdict(adata, "batch").headline
    'This correction can be trusted, as far as can be told without cell types.'
    """
    check_arguments(verdict, locals())
    expect_anndata(adata)
    condition_key = listed(condition_key)
    # Before the diagnosis writes anything.
    check_names(adata.obs, condition_key)
    found = diagnose(adata, key, label_key=label_key, basis=basis, adjusted_basis=adjusted_basis, rng=rng)
    return of_diagnosis(adata, found, label_key=label_key, condition_key=condition_key, rng=rng)


def of_diagnosis(
    adata: AnnData,
    found: Diagnosis,
    *,
    label_key: str | None = None,
    condition_key: str | Sequence[str] | None = None,
    rng: Any = 0,
) -> Overall:
    """Return the answer where the diagnosis has just been made: the check of the same columns is run here."""
    keys = [str(name) for name in found.about["batch_keys"]]
    check(adata, keys, label_key=label_key, condition_key=condition_key, basis=str(found.about["basis"]), rng=rng)
    return overall(adata.uns)
