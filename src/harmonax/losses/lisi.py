"""The local inverse Simpson index, differentiable."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from ..errors import InputError
from ..system.arguments import check_arguments
from ..system.validate import number, whole_number
from . import checks
from .neighbourhoods import nearest, per_cell, squared_distances, standardised

# Halvings of a range of e^24 for the kernel's width: below float32's rounding; a Newton step follows.
_HALVINGS = 40


class LISILoss(nnx.Module):
    """How many labels are effectively present around each cell, to be mixed (batches) or kept apart (cell types).

    The weights of a cell's nearest others are exp(-beta d), with d the distance and beta such that their perplexity is
    the one asked for; the index is 1 / sum over labels of their share squared, from 1 (one label) to the number of
    labels. `harmonax.evaluation.lisi` measures the same. With L the number of labels present, the loss is

        mix=True:   -(mean index - 1) / (L - 1), from -1 (mixed) to 0 (apart)
        mix=False:  +(mean index - 1) / (L - 1), from 0 (apart) to 1 (mixed)

    Scaling or translating the data changes nothing. Neighbours are those of all cells, and sizes of batches are not
    corrected for, as the index is defined: a perfect 90/10 mixture reaches 1.22, not 2. A cell that has neighbours of
    one label only has no gradient: to bring together what is fully separated, take `BatchMixingLoss`. To be mixed,
    cells must have neighbours to be told from: one with `perplexity` others or more at its very place counts as apart,
    so that a collapse to points gains nothing. With ``mix=False`` and cell types for labels, this is the loss that a
    collapse of the embedding increases.

    Parameters
    ----------
    n_labels
        Labels are 0..n_labels-1; not all need to occur.
    perplexity
        Effective number of neighbours, at least 1; three times as many cells, including the cell itself, are searched.
        Higher values measure mixing over wider regions, and take more memory; lower values are more local and noisier.
    mix
        Whether to mix the labels, or to keep them apart.
    rngs
        Not used; every module takes it.

    Raises
    ------
    InputError
        If a parameter, or what the loss is called with, cannot be used; also with fewer than 3 perplexity cells.

    Notes
    -----
    The index: Korsunsky et al. 2019, Nature Methods 16:1289, online methods.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> x, label = jax.random.normal(jax.random.key(0), (200, 3)), jnp.arange(200) % 2
    >>> bool(LISILoss(n_labels=2)(x, label) < -0.8)
    True
    >>> bool(LISILoss(n_labels=2, mix=False)(x, label) > 0.8)
    True
    """

    def __init__(
        self, n_labels: int = 3, perplexity: float = 30.0, *, mix: bool = True, rngs: nnx.Rngs | None = None
    ) -> None:
        check_arguments(LISILoss.__init__, locals())
        self.n_labels = whole_number(n_labels, "n_labels", minimum=1)
        self.perplexity = number(perplexity, "perplexity", minimum=1)
        self.mix = bool(mix)

    def __call__(self, embeddings: Any, labels: Any, mask: Any = None) -> jax.Array:
        """Return the loss, a scalar; the parameters are those of `index`."""
        return lisi_loss(embeddings, labels, mask, n_labels=self.n_labels, perplexity=self.perplexity, mix=self.mix)

    def index(self, embeddings: Any, labels: Any, mask: Any = None) -> jax.Array:
        """Return the index of each cell, (N,), between 1 and the number of labels.

        Parameters
        ----------
        embeddings
            N cells x features.
        labels
            Label of each cell, integers, (N,).
        mask
            Which cells count, (N,); None: all. The index of the others means nothing.
        """
        return lisi(embeddings, labels, mask, n_labels=self.n_labels, perplexity=self.perplexity)


def lisi(embeddings: Any, labels: Any, mask: Any = None, *, n_labels: int = 3, perplexity: float = 30.0) -> jax.Array:
    """Return the local inverse Simpson index of each cell, (N,), from 1 to the number of labels: see `LISILoss`.

    Arguments, errors, and what raising and lowering a parameter does are that class's.

    Examples
    --------
    >>> x, label = jax.random.normal(jax.random.key(0), (200, 3)), jnp.arange(200) % 2
    >>> bool(lisi(x, label, n_labels=2).mean() > 1.8)
    True
    """
    return _checked_index(embeddings, labels, mask, n_labels, perplexity, math.inf)


def _checked_index(
    embeddings: Any, labels: Any, mask: Any, n_labels: int, perplexity: float, max_ties: float
) -> jax.Array:
    """Return the index of each cell; 1 where so many others or more are at its very place."""
    mask = checks.cell_mask(mask, checks.rows_of(embeddings))
    x = checks.cells("embeddings", embeddings, mask)
    codes = checks.labels("labels", labels, len(x), n_labels, mask)
    k = int(3 * perplexity) - 1
    counting = len(x) if mask is None or not checks.known(mask) else int(mask.sum())
    if counting <= k:
        raise InputError(
            f"perplexity={perplexity:g} needs more than {k} cells, but there are {counting}; take a lower one"
        )
    value = _index(x, codes, mask, k, n_labels, perplexity, max_ties)
    return checks.poisoned(value, checks.usable(x), checks.in_range(codes, n_labels, mask))


def lisi_loss(
    embeddings: Any, labels: Any, mask: Any = None, *, n_labels: int = 3, perplexity: float = 30.0, mix: bool = True
) -> jax.Array:
    """Return the mean index, scaled to -1 (mixed) to 0 (apart), or with ``mix=False`` its negative: see `LISILoss`.

    Arguments, errors, and what raising and lowering a parameter does are that class's.

    Examples
    --------
    >>> x, label = jax.random.normal(jax.random.key(0), (200, 3)), jnp.arange(200) % 2
    >>> bool(lisi_loss(x, label, n_labels=2) < -0.8)
    True
    """
    mask = checks.cell_mask(mask, checks.rows_of(embeddings))
    index = _checked_index(embeddings, labels, mask, n_labels, perplexity, perplexity if mix else math.inf)
    codes = checks.as_array("labels", labels, "whole numbers")
    counted = codes[:, None] == jnp.arange(n_labels)
    n_present = (counted if mask is None else counted & mask[:, None]).any(axis=0).sum()
    excess = (checks.mean_over(index, mask) - 1) / jnp.maximum(n_present - 1, 1)
    # A wrong label or value made the index NaN, and with it this.
    return jnp.where(n_present > 1, -excess if mix else excess, 0 * excess)


@partial(jax.jit, static_argnames=("k", "n_labels"))
def _index(
    x: jax.Array, codes: jax.Array, mask: jax.Array | None, k: int, n_labels: int, perplexity: float, max_ties: float
) -> jax.Array:
    x = standardised(x, mask)
    neighbours = nearest(x, k, 1, lambda rows, group: (codes >= 0)[None])[:, 0]
    log_perplexity = jnp.log(jnp.asarray(perplexity, x.dtype))

    def inverse_simpson(rows: jax.Array, neighbours: jax.Array) -> jax.Array:
        d2 = squared_distances(x, rows, neighbours)
        d = jnp.where(d2 > 0, jnp.sqrt(jnp.where(d2 > 0, d2, 1)), 0)
        weights = jax.vmap(_weights, (0, None))(d, log_perplexity)
        share = (weights[..., None] * (codes[neighbours][..., None] == jnp.arange(n_labels))).sum(axis=1)
        simpson = (share**2).sum(axis=1)
        flat = (d2 <= 0).sum(axis=1) >= max_ties
        return 1 / jnp.where((simpson > 0) & ~flat, simpson, 1)

    return per_cell(inverse_simpson, x, k, neighbours)


def _entropy(log_beta: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the entropy of the weights softmax(-beta d), and the weights."""
    logits = -jnp.exp(log_beta) * d
    weights = jax.nn.softmax(logits)
    return jax.nn.logsumexp(logits) - (weights * logits).sum(), weights


def _weights(d: jax.Array, wanted: jax.Array) -> jax.Array:
    """Return softmax(-beta d) with beta such that its entropy is the one wanted, differentiable in d.

    beta is found by halving, outside of the gradient; one Newton step from there changes its value by rounding only and
    gives it the derivative of the implicit function.
    """
    fixed = lax.stop_gradient(d)
    mean = fixed.mean()
    start = -jnp.log(jnp.where(mean > 0, mean, 1))

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2
        # The entropy falls as beta grows.
        above = _entropy(middle, fixed)[0] > wanted
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    low, high = lax.fori_loop(0, _HALVINGS, halve, (start - 10, start + 14))
    log_beta = lax.stop_gradient((low + high) / 2)
    entropy, weights = _entropy(log_beta, d)
    variance = lax.stop_gradient((weights * (d - (weights * d).sum()) ** 2).sum())
    slope = -jnp.exp(2 * log_beta) * variance
    # Equal distances have one entropy whatever beta is: nothing to solve.
    solved = (jnp.abs(lax.stop_gradient(entropy) - wanted) < 1e-2) & (slope < -1e-6)
    step = jnp.where(solved, (entropy - wanted) / jnp.where(solved, slope, 1), 0)
    return _entropy(log_beta - step, d)[1]
