"""Joint training: an encoder of counts that is learned through Harmony."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from flax import nnx

from ..errors import InputError, MissingKeyError, nearest
from ..fitting.loop import fit
from ..fitting.outcome import FitResult
from ..fitting.presets import WEIGHTS, correction_losses
from ..fitting.saved import load_module, save_module
from ..inputs.columns import design_from_table
from ..inputs.expression import layer_of
from ..operators.harmony.operator import BatchCorrectionConfig, DifferentiableHarmony
from ..params import HarmonyParams
from ..system.arguments import check_arguments
from ..system.rng import seed_from
from ..system.validate import whole_number
from .scaling import checked_counts, learned_scaling, scaled


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of the encoder and of the correction that it is trained through.

    Parameters
    ----------
    n_genes
        Number of genes to use, those with the largest variance of log counts; default 1000. More genes hold finer
        differences and more noise, and take more time.
    hidden_dim, latent_dim
        Width of the hidden layer, default 128, and of the latent, default 20. Higher values keep finer differences, and
        fit noise where cells are few; lower values keep coarse ones only.
    n_clusters, n_iterations, sigma, theta
        Of `DifferentiableHarmony`, on each minibatch; defaults 15, 3, 0.2 and 2. More clusters correct finer groups,
        more iterations correct more completely, and both take more time; a higher sigma makes clusters softer, a higher
        theta mixes more strongly. theta and sigma are where training begins, as alpha is trained too.
    reconstruction
        Weight of the reconstruction; default 60, since most of a gene's variance is noise that nothing explains, so the
        error that an encoder can still gain is small beside the batch losses. Higher values keep more of the
        expression; lower values mix batches more strongly.
    harmony
        Train through Harmony with the batch losses; default True. False: reconstruction alone, the control.

    Raises
    ------
    InputError
        If a size is not positive.
    """

    n_genes: int = 1000
    hidden_dim: int = 128
    latent_dim: int = 20
    n_clusters: int = 15
    n_iterations: int = 3
    sigma: float = 0.2
    theta: float = 2.0
    reconstruction: float = 60.0
    harmony: bool = True

    def __post_init__(self) -> None:
        check_arguments(EncoderConfig, vars(self))
        for name in ("n_genes", "hidden_dim", "latent_dim", "n_clusters", "n_iterations"):
            object.__setattr__(self, name, whole_number(getattr(self, name), name, minimum=1))


class HarmonyEncoder(nnx.Module):
    """Encoder, Harmony on the latent, and a decoder that receives the batch.

        z = V relu(U x),   z* = Harmony(z, b),   x^ = V' relu(U' [z*, onehot(b)])

    The decoder receives the batch, so that the latent need not carry it.
    """

    def __init__(self, config: EncoderConfig, n_genes: int, n_batches: int, *, rngs: nnx.Rngs) -> None:
        self.config, self.n_batches = config, n_batches
        self.hidden = nnx.Linear(n_genes, config.hidden_dim, rngs=rngs)
        self.latent = nnx.Linear(config.hidden_dim, config.latent_dim, rngs=rngs)
        self.decoder_hidden = nnx.Linear(config.latent_dim + n_batches, config.hidden_dim, rngs=rngs)
        self.decoder = nnx.Linear(config.hidden_dim, n_genes, rngs=rngs)
        correction = BatchCorrectionConfig(
            n_clusters=config.n_clusters,
            n_features=config.latent_dim,
            n_batches=n_batches,
            n_iterations=config.n_iterations,
            sigma=config.sigma,
            theta=config.theta,
            alpha=HarmonyParams().alpha,
        )
        self.harmony = DifferentiableHarmony(correction, rngs=rngs) if config.harmony else None

    def encode(self, expression: Any) -> jax.Array:
        """Return the latent (N, latent_dim) of scaled expression (N, genes)."""
        return self.latent(nnx.relu(self.hidden(expression)))

    def apply(self, data: dict[str, Any], state: Any = None, metadata: Any = None) -> tuple[dict[str, Any], Any, Any]:
        """Return the data with ``embeddings``, ``corrected_embeddings`` and ``reconstruction``.

        Reads ``expression`` (N, genes), ``batch_labels`` (N,) and, where there is one, ``mask``.
        """
        z = self.encode(data["expression"])
        result = {**data, "embeddings": z, "corrected_embeddings": z}
        if self.harmony is not None:
            result = self.harmony.apply(result, {}, None)[0]
        batches = jax.nn.one_hot(data["batch_labels"], self.n_batches)
        hidden = nnx.relu(self.decoder_hidden(jnp.concatenate([result["corrected_embeddings"], batches], axis=1)))
        return result | {"reconstruction": self.decoder(hidden)}, state, metadata


@dataclass(frozen=True, eq=False)
class TrainedEncoder:
    """What `train_encoder` returns.

    Attributes
    ----------
    model
        The encoder with its correction and decoder.
    latent
        z of all cells, (N, latent_dim), float32.
    embedding
        The same after Harmony, all cells at once; without Harmony, the latent.
    fitted
        History of the losses and how the training ended; None where it was loaded from a file.
    genes
        Columns of the counts that were used.
    scaling
        How log counts of these genes were scaled: the total that counts are divided to, mean and spread, (1 + 2 G,).
    """

    model: HarmonyEncoder
    latent: np.ndarray
    embedding: np.ndarray
    fitted: FitResult | None
    genes: np.ndarray
    scaling: np.ndarray

    def encode(self, counts: Any) -> np.ndarray:
        """Return the latent z of other cells, (N, latent_dim), scaled as those trained on: new batches, too.

        `counts` have the same columns. Correct z as any embedding, with `harmonax.harmonize` or ``tl.map_query``.

        Raises
        ------
        InputError
            If the counts are negative or not finite, or have other columns.
        """
        values = checked_counts(counts)
        if self.genes.max() >= values.shape[1]:
            raise InputError(f"the counts have {values.shape[1]} columns; the encoder reads column {self.genes.max()}")
        return np.asarray(self.model.encode(jnp.asarray(scaled(values, self.genes, self.scaling))))

    def save(self, path: str | Path) -> None:
        """Write the model, its genes and its scaling to a file, whole or not at all; `load` reads it.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        extra = {"genes": self.genes, "scaling": self.scaling, "latent": self.latent, "embedding": self.embedding}
        save_module(path, "HarmonyEncoder", self.model.config, self.model, extra | {"n_batches": self.model.n_batches})

    @classmethod
    def load(cls, path: str | Path) -> TrainedEncoder:
        """Return what a file that `save` wrote holds; without `fitted`.

        Raises
        ------
        FileFormatError
            If it is something else, damaged, or of a later version.
        """

        def make(config: dict[str, Any], plain: Any) -> HarmonyEncoder:
            sizes = len(plain["genes"]), int(plain["n_batches"])
            return HarmonyEncoder(EncoderConfig(**config), *sizes, rngs=nnx.Rngs(0))

        model, plain = load_module(path, "HarmonyEncoder", make)
        latent, embedding, genes, scaling = (plain[name] for name in ("latent", "embedding", "genes", "scaling"))
        return cls(model, latent, embedding, None, genes, scaling)


def train_encoder(
    counts: Any,
    batch: Any,
    *,
    preset: str = "balanced",
    config: EncoderConfig | None = None,
    layer: str | None = None,
    steps: int = 400,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
    one_batch: float = 0.0,
    rng: Any = 0,
    progress: bool | Callable[[int, int, float], None] | None = None,
    key_added: str = "X_encoder",
) -> TrainedEncoder:
    """Train an encoder of log counts through Harmony.

    Minimises the mean squared error of the reconstruction, plus mixing and compactness of the corrected latent with the
    weights of `preset`. The gradient goes through Harmony into the encoder, which so learns a latent that Harmony can
    correct.

    Parameters
    ----------
    counts
        AnnData, or counts (N, genes), dense or sparse.
    batch
        Column of ``adata.obs``, or the batch of each cell (N,).
    preset
        ``"strong_batch"``, ``"clear_types"`` or ``"balanced"``; see `harmonax.training.WEIGHTS`.
    config
        None: the defaults of `EncoderConfig`.
    layer
        Of the AnnData; None: ``adata.X``.
    steps, batch_size, learning_rate
        Number of updates, cells in each, and the learning rate of Adam. More steps fit better, larger updates are
        steadier, and both take more time; a higher learning rate learns faster, and may diverge.
    one_batch
        Share of the updates whose cells are all of one batch; default 0. See `fit`.
    rng
        Seed, Generator, SeedSequence or None.
    progress
        As of `fit`.
    key_added
        Where in ``adata.obsm`` the embedding goes.

    Returns
    -------
    TrainedEncoder
        For an AnnData, the embedding is in ``adata.obsm[key_added]`` too.

    Raises
    ------
    MissingKeyError
        If the column or layer is not there, or the preset is unknown.
    InputError
        If the counts are negative or not finite, or do not fit the batches.

    Examples
    --------
    >>> import numpy as np
    >>> counts = np.random.default_rng(0).poisson(2.0, (60, 30))
    >>> small = EncoderConfig(hidden_dim=8, latent_dim=4, n_clusters=2, n_iterations=1)
    >>> train_encoder(counts, np.arange(60) % 2, config=small, steps=2, batch_size=30).embedding.shape
    (60, 4)
    """
    check_arguments(train_encoder, locals())
    config = config if config is not None else EncoderConfig()
    if preset not in WEIGHTS:
        raise MissingKeyError(f"there are no weights named '{preset}'; {nearest(preset, WEIGHTS)}")
    values, codes = _read(counts, batch, layer)
    x, genes, scaling = learned_scaling(values, config.n_genes)
    seed = seed_from(rng)
    data = {"expression": x, "batch_labels": codes}
    n_batches = int(codes.max()) + 1
    model = HarmonyEncoder(config, x.shape[1], n_batches, rngs=nnx.Rngs(seed))
    losses: dict[str, Callable[..., Any]] = {"reconstruction": _reconstruction}
    if config.harmony:
        # The reconstruction forbids a collapse here; what the latent was before means nothing.
        losses |= correction_losses(n_batches, preservation=False)
    rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate))
    weights = {
        "reconstruction": config.reconstruction,
        **{name: WEIGHTS[preset][name] for name in losses if name in WEIGHTS[preset]},
    }
    more: dict[str, Any] = {"progress": progress, "one_batch": one_batch}
    fitted = fit(model, data, losses, weights, rule, steps, min(batch_size, len(x)), seed, **more)
    result = model.apply({"expression": jnp.asarray(x), "batch_labels": jnp.asarray(codes)})[0]
    latent, embedding = (np.asarray(result[name]) for name in ("embeddings", "corrected_embeddings"))
    if hasattr(counts, "obsm"):
        counts.obsm[key_added] = embedding
    return TrainedEncoder(model, latent, embedding, fitted, genes, scaling)


def _read(counts: Any, batch: Any, layer: str | None) -> tuple[Any, np.ndarray]:
    """Return the counts and the code of each cell's batch."""
    table, key = {"batch": np.asarray(batch)}, "batch"
    values = counts
    if hasattr(counts, "obs"):
        table, key, values = counts.obs, batch, layer_of(counts, layer)[0]
    design = design_from_table(pd.DataFrame(table), key)
    if design.n_cells != values.shape[0]:
        raise InputError(f"there are {values.shape[0]} cells but {design.n_cells} batch labels; they must agree")
    return values, design.joint.astype(np.int32)


def _reconstruction(result: dict[str, Any]) -> jax.Array:
    error = ((result["reconstruction"] - result["expression"]) ** 2).mean(axis=1)
    mask = result.get("mask")
    return error.mean() if mask is None else jnp.where(mask, error, 0).sum() / jnp.maximum(mask.sum(), 1)
