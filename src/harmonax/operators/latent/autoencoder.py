"""The batch-conditional autoencoder that the MMD and WGAN corrections train: a cell's state, apart from its batch.

    z         = E(s(x))                                 latent, (N, latent_dim)
    D(z, b)   = c + g (V relu(U z + u_b) + v_b)         expression expected of state z in batch b, (N, n_genes)
    corrected = x + D(z, target) - D(z, its batch)

s scales to centre c and spread g; u_b and v_b are the batch's codes. They begin at zero: an untrained model corrects
nothing. The difference of two decodings alone moves a cell, so that what the model cannot explain is kept.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from ...errors import InputError
from ...system.validate import number, whole_number
from ..checks import ROOM, Cells

# Share of the mean variance that is added to the variance of every gene.
_SHRINKAGE = 0.1

Codes = tuple[jax.Array, jax.Array]


@dataclass(frozen=True)
class AutoencoderConfig:
    """What the MMD and WGAN corrections have in common, checked when made.

    Parameters
    ----------
    n_genes
        Number of genes, G; default 2000.
    hidden_dim, latent_dim
        Width of the hidden layers, default 128, and of the latent, default 64. Higher values reconstruct finer
        differences between cells, take more time, and fit noise where cells are few; lower values keep coarse
        differences only.
    n_batches
        Number of batches; labels run from 0 to ``n_batches - 1``. None, the default: room for 64.
    target
        Batch that ``corrected_expression`` is decoded to: ``"average"``, the default, of the batches in the data at
        hand, or the label of one. Cells of a single batch need a named target: their average is themselves.
    batch_in_encoder
        Whether the encoder also receives the batch, as the decoder does; default False.
    gene_dropout
        Share of the genes hidden from the encoder in training, in [0, 1); default 0. Higher values force it to
        recognise a cell's state from any of its genes, and cost detail; at 0 all genes are seen.
    latent_noise
        Standard deviation of the noise added to the latent in training, relative to the latent's; default 0.3. Higher
        values hide more of what is small in the latent, such as a trace of the batch, and blur states that are close;
        lower values keep both.
    evenness
        Weight, in training, of how much the correction differs among the cells of a batch; default 1. Higher values
        move a batch more as a whole; lower values let cells move separately, which overfits where they are few.

    Raises
    ------
    InputError
        If a value is outside its allowed range.
    """

    n_genes: int = 2000
    hidden_dim: int = 128
    latent_dim: int = 64
    _: KW_ONLY
    n_batches: int | None = None
    target: Literal["average"] | int = "average"
    batch_in_encoder: bool = False
    gene_dropout: float = 0.0
    latent_noise: float = 0.3
    evenness: float = 1.0

    def __post_init__(self) -> None:
        for name in ("n_genes", "hidden_dim", "latent_dim"):
            object.__setattr__(self, name, whole_number(getattr(self, name), name, minimum=1))
        if self.n_batches is not None:
            object.__setattr__(self, "n_batches", whole_number(self.n_batches, "n_batches", minimum=1))
        for name in ("gene_dropout", "latent_noise", "evenness"):
            object.__setattr__(self, name, number(getattr(self, name), name, minimum=0))
        if self.gene_dropout >= 1:
            raise InputError(f"gene_dropout={self.gene_dropout!r} must be below 1")
        if not (isinstance(self.target, str) and self.target == "average"):
            label = whole_number(self.target, "target", minimum=0) if not isinstance(self.target, str) else self.n_slots
            if label >= self.n_slots:
                raise InputError(f"target={self.target!r} is not known; allowed are 'average', 0 to {self.n_slots - 1}")

    @property
    def n_slots(self) -> int:
        """Number of batches that have codes."""
        return ROOM if self.n_batches is None else self.n_batches


class BatchAutoencoder(nnx.Module):
    """Encoder of expression, and decoder that receives the batch; one hidden layer each.

    Examples
    --------
    >>> model = BatchAutoencoder(AutoencoderConfig(5, 8, 3), rngs=nnx.Rngs(0))
    >>> model.encode(jnp.ones((4, 5)), jnp.zeros(4, int)).shape
    (4, 3)
    """

    def __init__(self, config: AutoencoderConfig, *, rngs: nnx.Rngs) -> None:
        slots, hidden, genes = config.n_slots, config.hidden_dim, config.n_genes
        self.target = config.target
        self.encoder_in = nnx.Linear(genes, hidden, rngs=rngs)
        self.encoder_out = nnx.Linear(hidden, config.latent_dim, rngs=rngs)
        self.decoder_in = nnx.Linear(config.latent_dim, hidden, rngs=rngs)
        self.decoder_out = nnx.Linear(hidden, genes, rngs=rngs)
        if config.batch_in_encoder:
            self.encoder_code = nnx.Param(jnp.zeros((slots, hidden)))
        self.hidden_code = nnx.Param(jnp.zeros((slots, hidden)))
        self.gene_code = nnx.Param(jnp.zeros((slots, genes)))
        self.centre = nnx.Variable(jnp.zeros(genes))
        self.spread = nnx.Variable(jnp.ones(genes))

    def calibrate(self, cells: Cells) -> None:
        """Set the scaling from cells: the mean of each gene, and its spread, that of barely expressed ones bounded.

        A gene's squared spread is its variance and a tenth of the mean variance of all: scaled to unit variance,
        hundreds of genes that hold noise alone would count like the markers; with one spread for all, the markers of
        rare types would hardly count at all.
        """
        share = cells.weight / jnp.maximum(cells.weight.sum(), 1.0)
        mean = share @ cells.values
        variance = share @ (cells.values - mean) ** 2
        spread = jnp.sqrt(variance + _SHRINKAGE * variance.mean())
        self.centre[...] = mean
        self.spread[...] = jnp.where(spread > 0, spread, 1.0)

    def scaled(self, expression: jax.Array) -> jax.Array:
        """Return expression, centred and scaled."""
        return (expression - self.centre[...]) / self.spread[...]

    def encode(self, expression: jax.Array, labels: jax.Array) -> jax.Array:
        """Return the latent of cells, (N, latent_dim)."""
        hidden = self.encoder_in(self.scaled(expression))
        if hasattr(self, "encoder_code"):
            hidden = hidden + self.encoder_code[...][labels]
        return self.encoder_out(jax.nn.relu(hidden))

    def decode(self, latent: jax.Array, codes: Codes) -> jax.Array:
        """Return the expression expected of latents under codes: one pair, or one for each cell. (N, G)."""
        hidden = jax.nn.relu(self.decoder_in(latent) + codes[0])
        return self.centre[...] + self.spread[...] * (self.decoder_out(hidden) + codes[1])

    def own_codes(self, labels: jax.Array) -> Codes:
        """Return the codes of each cell's batch."""
        return self.hidden_code[...][labels], self.gene_code[...][labels]

    def reconstruction_error(self, cells: Cells, latent: jax.Array) -> jax.Array:
        """Return the mean squared difference of cells and their decoding to their batch, scaled; a scalar."""
        wrong = self.scaled(cells.values) - self.scaled(self.decode(latent, self.own_codes(cells.labels)))
        return (cells.weight @ (wrong**2).mean(axis=1)) / jnp.maximum(cells.weight.sum(), 1.0)

    def corrected(self, cells: Cells, latent: jax.Array) -> jax.Array:
        """Return the expression, (N, G), moved by what the model says the target differs from each cell's batch."""
        share = self._target_share(cells)
        codes = share @ self.hidden_code[...], share @ self.gene_code[...]
        move = self.decode(latent, codes) - self.decode(latent, self.own_codes(cells.labels))
        # Cells of the target stay to the last bit, however the two decodings were compiled.
        stays = (share[cells.labels] == 1) | (cells.weight == 0)
        return cells.values + jnp.where(stays[:, None], 0.0, move)

    def _target_share(self, cells: Cells) -> jax.Array:
        """Return the share of each batch in the target, (n_slots,)."""
        slots = self.hidden_code.shape[0]
        if self.target != "average":
            return jax.nn.one_hot(self.target, slots, dtype=cells.values.dtype)
        there = jax.ops.segment_sum(cells.weight, cells.labels, slots) > 0
        return there / jnp.maximum(there.sum(), 1).astype(cells.values.dtype)
