"""What several files that are joined have apart: results of their own, and other identifiers for the same names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..errors import warn

if TYPE_CHECKING:
    from anndata import AnnData


def drop_own_results(joined: AnnData) -> None:
    """Drop what each file computed by itself: two files' principal components are not the same axes."""
    dropped = [name for name in joined.obsm if re.match(r"X_(pca|umap|tsne)", name)]
    for name in dropped:
        del joined.obsm[name]
    if "highly_variable" in joined.var:
        del joined.var["highly_variable"]
    if dropped:
        warn(f"the files' own {', '.join(sorted(dropped))} are not kept: each file's axes are its own")


def tell_other_ids(parts: list[AnnData], names: list[str], shared: Any) -> None:
    """Warn of genes that are called the same in two files but have different identifiers."""
    for name, part in zip(names[1:], parts[1:], strict=True):
        if "gene_ids" in part.var and "gene_ids" in parts[0].var:
            first, other = (p.var.loc[shared, "gene_ids"].astype(str).to_numpy() for p in (parts[0], part))
            clashing = first != other
            if clashing.any():
                warn(
                    f"{int(clashing.sum())} genes have one name but different gene_ids in {names[0]} and {name} "
                    f"(first: '{shared[clashing][0]}'); they are taken as the same"
                )
