"""The scanpy interface of the MMD and WGAN corrections: AnnData in, AnnData out. Needs ``harmonax[jax]``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..adata import storable
from ..errors import InputError, MissingKeyError, nearest, warn
from ..inputs.columns import Missing, design_from_table
from ..inputs.expression import Kind, dense, kind_of, layer_of
from ..system.arguments import check_arguments
from ..system.extras import need
from ..system.log import say
from ..system.rng import seed_from
from ..system.validate import entry_name, expect_anndata, listed
from ..system.version import __version__
from .judge import judged

if TYPE_CHECKING:
    from anndata import AnnData

Progress = bool | Callable[[int, int, float], None] | None
# Share of the genes that is hidden from the encoder at a time: single cells miss about as many.
_GENE_DROPOUT = 0.3
# Less than the operator's 1: with a thousand genes the critics also tell cells apart by noise, and at a weight of 1
# cell types were merged.
_ADVERSARIAL_WEIGHT = 0.2


def mmd_integrate(
    adata: AnnData,
    key: str | Sequence[str],
    *,
    layer: str | None = None,
    mask_var: str | None = None,
    adjusted_basis: str = "X_mmd",
    corrected: str | None = None,
    target: str = "average",
    hidden_dim: int = 128,
    latent_dim: int = 64,
    kernel_bandwidth: float = 1.0,
    mmd_weight: float = 1.0,
    gene_dropout: float = _GENE_DROPOUT,
    latent_noise: float = 0.3,
    steps: int = 1000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    rng: Any = None,
    missing: Missing = "error",
    allow_many_levels: bool = False,
    progress: Progress = None,
    model_path: str | Path | None = None,
) -> None:
    """Remove batch effects from expression with an autoencoder and the maximum mean discrepancy.

    Trains `harmonax.operators.DifferentiableMMDBatchCorrection` on all cells; see there for the method.

    Parameters
    ----------
    adata
        N cells with log-normalised expression. Best with about 1000 to 3000 variable genes.
    key
        Column of ``adata.obs`` that says which batch a cell is from; several are joined into one, with a batch per
        combination.
    layer
        Layer with the expression; None: `X`.
    mask_var
        Boolean column of ``adata.var``: the genes to use. None: ``"highly_variable"`` where there is one, else all.
    adjusted_basis
        Where in ``adata.obsm`` the latent goes, (N, latent_dim): what to find neighbours and clusters in.
    corrected
        Where in ``adata.obsm`` the corrected expression of the genes used goes, a DataFrame (N, genes). None: nowhere.
    target
        Batch that expression is corrected to: one of the column, or ``"average"``.
    hidden_dim, latent_dim
        Width of the networks' hidden layers, and of the latent. Higher values reconstruct finer differences between
        cells, take more time, and fit noise where cells are few.
    kernel_bandwidth
        Middle width of the kernels, in units of the median distance of cells. Higher values compare batches more
        coarsely, lower values more locally.
    mmd_weight
        Weight of the discrepancy against the reconstruction. Higher values mix batches more strongly, at the risk of
        merging types; lower values keep more of every difference.
    gene_dropout, latent_noise
        Share of the genes hidden from the encoder at each step, and noise on the latent in training. Higher values hide
        traces of the batch better, and blur states that are close; lower values keep both.
    steps, batch_size, learning_rate
        Number of updates, cells in each, and the learning rate at the start. More steps fit better, larger updates are
        steadier, and both take more time; a higher learning rate learns faster, and may diverge.
    rng
        Seed, Generator, SeedSequence or None.
    missing
        ``"error"`` refuses missing and infinite labels, and text that stands for them ("nan", "NA", ""); ``"level"``
        makes them a batch of their own; ``"literal"`` takes such text as a batch's name.
    allow_many_levels
        Accept a column that looks like a measurement or like cell barcodes.
    progress
        Show a progress line on stderr; None: where that is a terminal. Or a function of (step, steps, loss).
    model_path
        File for the trained model, which `harmonax.operators.DifferentiableMMDBatchCorrection.load` reads; its
        ``encode`` and ``apply`` take new cells' expression of the same genes, log-normalised alike. None: nowhere.

    Returns
    -------
    None
        Writes ``adata.obsm[adjusted_basis]``, where asked for ``adata.obsm[corrected]``, and
        ``adata.uns["harmonax_mmd"]``: parameters, seed, losses of each step, versions, and from 100 cells on the
        ``verdict`` of `harmonax.tl.diagnose` against principal components of the expression.

    Raises
    ------
    MissingExtraError
        If JAX, Flax or Optax is not installed.
    MissingKeyError
        If a column, layer or target is not there.
    InputError
        If a parameter, the expression or the labels cannot be used: raw counts are refused.

    Warns
    -----
    HarmonaxWarning
        If there is one batch only, a loss was not finite (the model is then that of the last good step), or the
        verdict is that too little or too much was corrected.

    Examples
    --------
    >>> import anndata
    >>> gen = np.random.default_rng(0)
    >>> obs = pd.DataFrame({"batch": np.repeat(["a", "b"], 30)}, index=[f"cell{i}" for i in range(60)])
    >>> adata = anndata.AnnData(np.log1p(gen.gamma(2.0, size=(60, 8))).astype(np.float32), obs=obs)
    >>> mmd_integrate(adata, "batch", latent_dim=4, steps=20, rng=0)
    >>> adata.obsm["X_mmd"].shape
    (60, 4)
    """
    check_arguments(mmd_integrate, locals())
    asked = locals()
    operators = need("harmonax.operators.latent.mmd", "jax")
    model = ("hidden_dim", "latent_dim", "kernel_bandwidth", "mmd_weight", "gene_dropout", "latent_noise")
    kinds = operators.DifferentiableMMDBatchCorrection, operators.MMDBatchCorrectionConfig
    _integrate("mmd", kinds, asked, {name: asked[name] for name in model})


def wgan_integrate(
    adata: AnnData,
    key: str | Sequence[str],
    *,
    layer: str | None = None,
    mask_var: str | None = None,
    adjusted_basis: str = "X_wgan",
    corrected: str | None = None,
    target: str = "average",
    hidden_dim: int = 128,
    latent_dim: int = 16,
    discriminator_hidden_dim: int = 64,
    adversarial_weight: float = _ADVERSARIAL_WEIGHT,
    gene_dropout: float = _GENE_DROPOUT,
    latent_noise: float = 0.3,
    steps: int = 1000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    rng: Any = None,
    missing: Missing = "error",
    allow_many_levels: bool = False,
    progress: Progress = None,
    model_path: str | Path | None = None,
) -> None:
    """Remove batch effects from expression with an autoencoder and critics that try to tell batches apart.

    Trains `harmonax.operators.DifferentiableWGANBatchCorrection` on all cells; see there for the method. Parameters,
    results, errors and warnings are those of `harmonax.pp.mmd_integrate`, but for the following.

    Parameters
    ----------
    adata, key, layer, mask_var, adjusted_basis, corrected, target, hidden_dim, latent_dim
        As for `harmonax.pp.mmd_integrate`.
    discriminator_hidden_dim
        Width of the critics' hidden layers. Higher values find subtler differences between batches, and take more time.
    adversarial_weight
        Weight of the critics' distance against the reconstruction. Higher values mix batches more strongly, at the risk
        of merging types; lower values keep more of every difference.
        Default 0.2, chosen on pancreas_3prot, kang_fullgenes and onek1k_subset. In 500 steps on 1000 cells of
        sets that it was not chosen on, 0.07 kept more and mixed less: in cell_lines, where two batches hold one type
        each, 88% of a cell's 15 nearest ones were of its type, 79% with 0.2, and mixing within types was 0.91 and 0.96
        of chance (two seeds); with either, k-means no longer found the types. In cytof_mmd mixing was 0.81 and 0.85;
        there and in pbmc_stim the share of neighbours of the same type differed by at most 0.02 (one seed).
    gene_dropout, latent_noise, steps, batch_size, learning_rate, rng, missing, allow_many_levels, progress, model_path
        As for `harmonax.pp.mmd_integrate`.

    Returns
    -------
    None
        Writes ``adata.obsm[adjusted_basis]``, where asked for ``adata.obsm[corrected]``, and
        ``adata.uns["harmonax_wgan"]``.

    Examples
    --------
    >>> import anndata
    >>> gen = np.random.default_rng(0)
    >>> obs = pd.DataFrame({"batch": np.repeat(["a", "b"], 30)}, index=[f"cell{i}" for i in range(60)])
    >>> adata = anndata.AnnData(np.log1p(gen.gamma(2.0, size=(60, 8))).astype(np.float32), obs=obs)
    >>> wgan_integrate(adata, "batch", latent_dim=4, steps=20, rng=0)
    >>> adata.obsm["X_wgan"].shape
    (60, 4)
    """
    check_arguments(wgan_integrate, locals())
    asked = locals()
    operators = need("harmonax.operators.latent.wgan", "jax")
    model = ("hidden_dim", "latent_dim", "discriminator_hidden_dim", "adversarial_weight", "gene_dropout")
    kinds = operators.DifferentiableWGANBatchCorrection, operators.WGANBatchCorrectionConfig
    _integrate("wgan", kinds, asked, {name: asked[name] for name in (*model, "latent_noise")})


def _integrate(name: str, kinds: tuple[Any, Any], asked: Mapping[str, Any], model: dict[str, Any]) -> None:
    """Check, train and write, for both corrections. `kinds` are the classes of the operator and its configuration."""
    adata, nnx = asked["adata"], need("flax.nnx", "jax")
    _check_places(adata, {place: asked[place] for place in ("adjusted_basis", "corrected")})
    how = {"missing": asked["missing"], "allow_many_levels": asked["allow_many_levels"]}
    design = design_from_table(adata.obs, asked["key"], combine_keys=True, **how)
    genes = _genes(adata, asked["mask_var"])
    data = {"expression": _expression(adata, asked["layer"], genes), "batch_labels": design.joint.astype(np.int32)}
    levels = [str(level) for level in design.levels[0]]
    if len(np.unique(data["batch_labels"])) == 1:
        warn(f"there is one batch only ('{levels[int(data['batch_labels'][0])]}'): there is nothing to correct")
    seed, training = seed_from(asked["rng"]), ("steps", "batch_size", "learning_rate")
    config = kinds[1](n_genes=len(genes), n_batches=len(levels), target=_target(asked["target"], levels), **model)
    operator = kinds[0](config, rngs=nnx.Rngs(seed))
    options = {item: asked[item] for item in training}
    fitted = operator.fit(data, **options, rng=seed, progress=asked["progress"])
    # Compiled, so that the losses of all cells, which are not used, are not computed.
    names = ("latent", "corrected_expression")
    result = nnx.jit(lambda op, data: {item: op.apply(data, {}, None)[0][item] for item in names})(operator, data)
    if asked["model_path"] is not None:
        operator.save(asked["model_path"])
    adata.obsm[asked["adjusted_basis"]] = np.asarray(result["latent"])
    if asked["corrected"] is not None:
        values = np.asarray(result["corrected_expression"])
        adata.obsm[asked["corrected"]] = pd.DataFrame(values, adata.obs_names, adata.var_names[genes])
    adata.uns[f"harmonax_{name}"] = storable(
        {"parameters": model | options | {"target": asked["target"]}, "seed": seed, "status": fitted.status.value}
        | {"adjusted_basis": asked["adjusted_basis"], "batch_keys": [str(name) for name in listed(asked["key"])]}
        | {"keys": list(design.variables), "levels": levels, "n_genes": len(genes), "history": dict(fitted.history)}
        | {"versions": {"harmonax": __version__} | {m: need(m, "jax").__version__ for m in ("jax", "flax", "optax")}}
    )
    after = adata.obsm[asked["adjusted_basis"]]
    adata.uns[f"harmonax_{name}"] |= judged(name, design, data["expression"], np.asarray(after), seed)
    losses = ", ".join(f"{item} {values[-1]:.3g}" for item, values in fitted.history.items())
    say(logging.INFO, f"{name}: {fitted.message}; {losses}")


def _check_places(adata: Any, names: Mapping[str, str | None]) -> None:
    expect_anndata(adata, parts=("obs", "var", "obsm", "uns"), instead="for arrays there are harmonax.operators")
    for argument, name in names.items():
        if name is not None:
            entry_name(name, argument)


def _target(target: str, levels: list[str]) -> Any:
    if target in levels:
        return levels.index(target)
    if target != "average":
        raise MissingKeyError(f"there is no batch '{target}' to correct to; {nearest(target, [*levels, 'average'])}")
    return target


def _genes(adata: AnnData, mask_var: str | None) -> np.ndarray:
    """Return the columns of the genes to use."""
    if mask_var is None:
        if "highly_variable" not in adata.var:
            return np.arange(adata.n_vars)
        mask_var = "highly_variable"
    if mask_var not in adata.var:
        raise MissingKeyError(f"var has no column '{mask_var}'; {nearest(mask_var, adata.var.columns)}")
    column = adata.var[mask_var]
    if not pd.api.types.is_bool_dtype(column.dtype) or not column.any():
        raise InputError(f"var['{mask_var}'] must be True or False, and True for some genes; it holds {column.dtype}")
    return np.flatnonzero(np.asarray(column))


def _expression(adata: AnnData, layer: str | None, genes: np.ndarray) -> np.ndarray:
    """Return the expression of the genes, dense float32."""
    matrix, label = layer_of(adata, layer)
    if matrix is None:
        raise InputError("there is no X; name a layer with log-normalised expression (layer=)")
    matrix = matrix[:, genes]
    kind = kind_of(matrix)
    if kind is Kind.COUNTS:
        raise InputError(
            f"{label} holds raw counts; log-normalise them: scanpy.pp.normalize_total, then scanpy.pp.log1p"
        )
    if kind in (Kind.BROKEN, Kind.NOTHING):
        raise InputError(f"{label} has {kind}; log-normalised expression is needed")
    return np.ascontiguousarray(dense(matrix), dtype=np.float32)
