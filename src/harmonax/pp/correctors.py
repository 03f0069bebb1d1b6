"""The corrections by name: which function makes one, what it needs, and what it leaves.

How to add a corrector:

1. Write a function of ``(adata, key, ..., adjusted_basis=...)`` in a module of its own, as `mmd_integrate` is: it
   writes ``adata.obsm[adjusted_basis]`` and a record, with ``batch_keys`` and ``adjusted_basis``, into ``adata.uns``.
2. Add an entry to `CORRECTORS` below. ``harmonax run --corrector NAME`` and its report then follow.
3. Name it in the help of ``harmonax run`` (``cli/workflow.py``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..system.extras import need
from ..system.validate import one_of
from .harmony import harmony_integrate
from .latent import mmd_integrate, wgan_integrate

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Corrector:
    """A correction of an AnnData."""

    name: str  # what users call it
    integrate: Callable[..., None]  # the function of `harmonax.pp` that does it
    adjusted_basis: str  # where in ``obsm`` its result goes by default
    # What it works on: an ``"embedding"``, whose coordinates it keeps, or ``"expression"``, of which it makes a latent
    # with coordinates of its own.
    needs: Literal["embedding", "expression"]
    record: str  # where in ``uns`` it says how it was made
    describe: Callable[[Mapping[str, Any]], str]  # returns a few words on a run from its record
    # extra, modules: what has to be installed: the extra of harmonax, and the modules it brings.
    extra: str = ""
    modules: tuple[str, ...] = ()

    def check_installed(self) -> None:
        """Refuse, before any work, a correction whose packages are missing.

        Raises
        ------
        MissingExtraError
            With the command that installs them.
        """
        for module in self.modules:
            need(module, self.extra)

    def correct(self, adata: AnnData, key: Sequence[str], **offered: Any) -> Mapping[str, Any]:
        """Correct the data with what it takes of the options that are offered; return the record."""
        known = inspect.signature(self.integrate).parameters
        taken = {name: value for name, value in offered.items() if name in known}
        self.integrate(adata, list(key), adjusted_basis=self.adjusted_basis, **taken)
        record: Mapping[str, Any] = adata.uns[self.record]
        return record


def _of_harmony(record: Mapping[str, Any]) -> str:
    flavor = str(dict(record.get("params", {})).get("flavor", "Harmony"))
    return f"{flavor}, {record.get('n_clusters', '?')} soft clusters"


def _of_autoencoder(name: str) -> Callable[[Mapping[str, Any]], str]:
    def describe(record: Mapping[str, Any]) -> str:
        steps = dict(record.get("parameters", {})).get("steps", "?")
        return f"{name}, {steps} steps on {record.get('n_genes', '?')} genes, {record.get('status', '?')}"

    return describe


_JAX = ("jax", "flax", "optax")
CORRECTORS: dict[str, Corrector] = {
    "harmony": Corrector("harmony", harmony_integrate, "X_pca_harmony", "embedding", "harmonax", _of_harmony),
    "mmd": Corrector(
        "mmd", mmd_integrate, "X_mmd", "expression", "harmonax_mmd", _of_autoencoder("MMD autoencoder"), "jax", _JAX
    ),
    "wgan": Corrector(
        "wgan",
        wgan_integrate,
        "X_wgan",
        "expression",
        "harmonax_wgan",
        _of_autoencoder("WGAN autoencoder"),
        "jax",
        _JAX,
    ),
}


def corrector_of(name: str) -> Corrector:
    """Return the corrector of a name.

    Raises
    ------
    InputError
        If there is none.
    """
    return CORRECTORS[one_of(name, "corrector", CORRECTORS)]
