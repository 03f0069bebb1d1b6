"""What the MMD and WGAN corrections share: the autoencoder, its view of cells in training, and the training itself."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, get_type_hints

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ...errors import InputError
from ...fitting.saved import load_module, save_module
from ...system.arguments import check_arguments
from ...system.validate import number, whole_number
from ..checks import Cells, read_cells, read_values
from .autoencoder import AutoencoderConfig, BatchAutoencoder
from .discrepancy import composition_weights, standardised


class LatentCorrection(nnx.Module):
    """An autoencoder whose latent and corrected expression are trained to be the same in all batches.

    Subclasses define how that is measured: `_measures` for `apply`, `training_losses` for `harmonax.training.fit`.
    """

    training_losses: Callable[..., dict[str, jax.Array]]

    def __init__(self, config: AutoencoderConfig, *, rngs: nnx.Rngs) -> None:
        check_arguments(LatentCorrection.__init__, locals())
        self.config = config
        self.autoencoder = BatchAutoencoder(config, rngs=rngs)

    def apply(self, data: Mapping[str, Any], state: Any, metadata: Any, *_: Any) -> tuple[dict[str, Any], Any, Any]:
        """Correct cells.

        Parameters
        ----------
        data
            ``expression`` (N, G), log-normalised, and ``batch_labels`` (N,) int; ``mask`` (N,), false for padding, is
            optional. Never changed.
        state, metadata
            Passed through.

        Returns
        -------
        tuple
            The data with ``corrected_expression`` (N, G), ``latent`` (N, latent_dim), and what the class says that it
            adds. The corrected expression is ``x + D(z, target) - D(z, its batch)``: what the model cannot explain is
            kept, a cell of the target batch does not move, and small values may turn negative. Then state and metadata.

        Raises
        ------
        MissingKeyError
            If an entry is missing.
        InputError
            If a shape is wrong or, outside jit, a value is not finite or a label out of range.
        """
        found = _applied(*nnx.split(self), self._cells(data))
        return {**data, **found}, state, metadata

    def _measures(self, cells: Cells, latent: jax.Array) -> dict[str, jax.Array]:
        """Return what `apply` adds on how well the batches are mixed."""
        raise NotImplementedError

    def loss(self, data: Mapping[str, Any], *group: str) -> jax.Array:
        """Return the sum of `training_losses` without noise: a scalar for `nnx.grad`."""
        return total(self.training_losses(data, None, *group))

    def calibrate(self, data: Mapping[str, Any]) -> None:
        """Scale to the data: subtract each gene's mean, divide by its spread. `fit` does it; a custom loop should."""
        self.autoencoder.calibrate(self._cells(data))

    def fit(
        self,
        data: Mapping[str, Any],
        steps: int = 2000,
        batch_size: int | None = 256,
        learning_rate: float = 1e-3,
        rng: Any = 0,
        **options: Any,
    ) -> Any:
        """Calibrate, then train with `harmonax.training.fit`; the operator changes in place.

        Parameters
        ----------
        data
            As for `apply`.
        steps
            Number of updates, over which the learning rate falls to 0 along half a cosine. More updates fit better, and
            take more time.
        batch_size
            Cells in an update; None: all. Larger updates are steadier, and take more time and memory.
        learning_rate
            At the start. Higher values learn faster, and may diverge; lower values need more steps.
        rng
            Seed of everything that is random.
        **options
            Further arguments of `harmonax.training.fit`: ``losses``, ``weights``, ``progress``, ``checkpoint``, ...

        Returns
        -------
        harmonax.training.FitResult
            History and status. If a loss was not finite, a warning names the step, and the operator is as it was
            before.

        Raises
        ------
        InputError
            If the data cannot be used.
        """
        # Here, since the training knows nothing of operators and this module should load without it.
        from ...fitting.loop import fit

        self.calibrate(data)
        options = {"optimizer": self.optimizer(steps, learning_rate), **options}
        return fit(self, data, steps=steps, batch_size=batch_size, rng=rng, **options)

    def encode(self, data: Mapping[str, Any]) -> jax.Array:
        """Return the latent of cells, (N, latent_dim), also of new ones and of batches that were not trained on.

        Parameters
        ----------
        data
            As for `apply`; ``batch_labels`` are needed with ``batch_in_encoder`` only.

        Raises
        ------
        MissingKeyError
            If an entry is missing.
        InputError
            If a shape is wrong or, outside jit, a value is not finite.
        """
        labelled = not isinstance(data, Mapping) or not {"batch_labels", "batch_ids"}.isdisjoint(data)
        if self.config.batch_in_encoder or labelled:
            return self._latent(self._cells(data))
        values = read_values(data, "expression", self.config.n_genes)
        return self.autoencoder.encode(values, jnp.zeros(len(values), int))

    def save(self, path: str | Path) -> None:
        """Write the model to a file, whole or not at all; `load` reads it.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        save_module(path, type(self).__name__, self.config, self)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the model of a file that `save` wrote.

        Raises
        ------
        FileFormatError
            If it is something else, damaged, or of a later version.
        """

        def make(config: dict[str, Any], _: Any) -> Any:
            # The class's own annotation says which configuration it takes.
            return cls(get_type_hints(cls)["config"](**config), rngs=nnx.Rngs(0))

        found: Self = load_module(path, cls.__name__, make)[0]
        return found

    def optimizer(self, steps: int, learning_rate: float = 1e-3) -> Any:
        """Return the optimiser of Optax that `fit` uses, for a custom loop."""
        rate = number(learning_rate, "learning_rate", minimum=0, exclusive=True)
        schedule = optax.cosine_decay_schedule(rate, whole_number(steps, "steps", minimum=1))
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-4))

    def _cells(self, data: Mapping[str, Any]) -> Cells:
        return read_cells(data, "expression", self.config.n_genes, self.config.n_batches)

    def _latent(self, cells: Cells, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return the latent, (N, latent_dim); with `rngs`, as in training: of cells with part of their genes hidden."""
        shown, hide = cells.values, self.config.gene_dropout
        if rngs is not None and len(shown) < 2:
            raise InputError("expression has 1 cell, and training compares cells: raise batch_size to at least 2")
        if rngs is not None and hide:
            centre = self.autoencoder.centre[...]
            seen = jax.random.bernoulli(rngs(), 1 - hide, shown.shape)
            shown = centre + jnp.where(seen, (shown - centre) / (1 - hide), 0.0)
        return self.autoencoder.encode(shown, cells.labels)

    def _reconstruction(self, cells: Cells, latent: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return the reconstruction error; with `rngs`, as in training: from a latent with noise."""
        if rngs is not None and self.config.latent_noise:
            share = cells.weight / jnp.maximum(cells.weight.sum(), 1.0)
            variance = (share @ (latent - share @ latent) ** 2).mean()
            noise = jax.random.normal(rngs(), latent.shape, latent.dtype)
            # The variance of one cell is 0, where a root has no gradient.
            latent = latent + self.config.latent_noise * jnp.sqrt(variance + 1e-12) * noise
        return self.autoencoder.reconstruction_error(cells, latent)

    def _unevenness(self, cells: Cells, corrected: jax.Array) -> jax.Array:
        """Return, with its weight, the variance within batches of what cells are moved by; a mean over genes."""
        moved = corrected - self.autoencoder.scaled(cells.values)
        member = jax.nn.one_hot(cells.labels, self.config.n_slots, dtype=moved.dtype) * cells.weight[:, None]
        mean = member.T @ moved / jnp.maximum(member.sum(axis=0), 1.0)[:, None]
        apart = ((moved - mean[cells.labels]) ** 2).mean(axis=1)
        return self.config.evenness * (cells.weight @ apart) / jnp.maximum(cells.weight.sum(), 1.0)

    def _views(self, cells: Cells, latent: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the latent and the expression that should be the same in all batches, and each cell's weight in that.

        The latent alone would not do: where a trace of the batch is left in it, the decoder uses that rather than the
        batch's codes, and the difference of two decodings is too small.
        """
        points = standardised(latent, cells.weight)
        weight = composition_weights(points, cells.labels, self.config.n_slots, cells.weight)
        return points, self.autoencoder.scaled(self.autoencoder.corrected(cells, latent)), weight


def total(terms: Mapping[str, jax.Array]) -> jax.Array:
    """Return the sum of losses."""
    return jnp.stack(list(terms.values())).sum()


# Outside jit every operation would be compiled by itself.
@functools.partial(jax.jit, static_argnums=0)
def _applied(graph: Any, state: Any, cells: Cells) -> dict[str, jax.Array]:
    operator: LatentCorrection = nnx.merge(graph, state)
    latent = operator._latent(cells)
    found = {"corrected_expression": operator.autoencoder.corrected(cells, latent), "latent": latent}
    return {**found, **operator._measures(cells, latent)}
