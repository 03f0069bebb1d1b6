"""How much work it takes to move batches onto each other: the debiased Sinkhorn divergence, of all pairs at once."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from ..system.validate import number, whole_number
from . import checks
from .neighbourhoods import by_blocks, scaled

# Entropy is lowered to the one asked for in steps of this factor, from the square of the data's scale.
_COOLING = 0.8
_HOT = 4.0
# Costs held at a time, in numbers.
_AT_ONCE = 1 << 20


class SinkhornLoss(nnx.Module):
    """Debiased Sinkhorn divergence between the batches: 0 where they have one distribution; minimise to mix.

    With OT the entropic optimal transport cost of squared distances, the loss is the mean over all pairs of batches of

        OT(a, b) - OT(a, a) / 2 - OT(b, b) / 2  >= 0

    (Feydy et al. 2019, AISTATS). Cells of a batch weigh alike, and batches count alike, whatever their sizes. Distances
    are in units of the cells' mean distance from their mean: scaling and translating the data change nothing,
    and all cells at one place count as apart, 4. A point for each type would win: combine it with
    `NeighborhoodPreservationLoss`. The gradient is the exact one at convergence (of the potentials, by the envelope
    theorem), and does not vanish where batches lie far apart. Unlike neighbours, transport compares batches as wholes:
    batches that hold types in other proportions have a divergence that a correct correction does not remove; see
    `harmonax.losses.MutualNeighborLoss` and `BatchMixingLoss`. Time is of order N^2 n_iterations, memory of order
    N n_batches.

    Parameters
    ----------
    n_batches
        Labels are 0..n_batches-1; not all need to occur. With one batch present the loss is 0.
    epsilon
        Entropy of the transport, in squared units of the data's scale; default 0.1. Higher values blur: finer
        differences between batches do not count, and fewer iterations are needed; lower values see finer ones, with
        more noise.
    n_iterations
        Number of updates of the potentials; default 60. More are more exact, and take more time: where types lie far
        apart, the value of 60 was a tenth too low in one example; a low epsilon needs
        more.
    rngs
        Not used; every module takes it.

    Raises
    ------
    InputError
        If a parameter, or what the loss is called with, cannot be used.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> x, batch = jax.random.normal(jax.random.key(0), (100, 3)), jnp.arange(100) % 2
    >>> loss = SinkhornLoss(n_batches=2)
    >>> bool(loss(x, batch) < loss(x + batch[:, None], batch)), bool(loss(x + 5 * batch[:, None], batch) > 1)
    (True, True)
    """

    def __init__(
        self, n_batches: int = 3, epsilon: float = 0.1, n_iterations: int = 60, *, rngs: nnx.Rngs | None = None
    ) -> None:
        self.n_batches = whole_number(n_batches, "n_batches", minimum=1)
        self.epsilon = number(epsilon, "epsilon", minimum=0, exclusive=True)
        self.n_iterations = whole_number(n_iterations, "n_iterations", minimum=1)

    @checks.also_called(features="embeddings", batch_ids="batch_labels")
    def __call__(self, embeddings: Any, batch_labels: Any, mask: Any = None) -> jax.Array:
        """Return the loss.

        Parameters
        ----------
        embeddings
            N cells x features, at least 2 cells.
        batch_labels
            Batch of each cell, integers, (N,).
        mask
            Which cells count, (N,); None: all.

        Returns
        -------
        jax.Array
            A scalar, at least 0 but for rounding; in traced code NaN where values or labels cannot be used.
        """
        how: dict[str, Any] = {"n_batches": self.n_batches, "epsilon": self.epsilon, "n_iterations": self.n_iterations}
        return sinkhorn(embeddings, batch_labels, mask, **how)


def sinkhorn(
    embeddings: Any,
    batch_labels: Any,
    mask: Any = None,
    *,
    n_batches: int = 3,
    epsilon: float = 0.1,
    n_iterations: int = 60,
) -> jax.Array:
    """Return the mean debiased Sinkhorn divergence over all pairs of batches, a scalar: see `SinkhornLoss`.

    Arguments, errors, and what raising and lowering a parameter does are that class's.

    Examples
    --------
    >>> x, batch = jax.random.normal(jax.random.key(0), (60, 3)), jnp.arange(60) % 2
    >>> bool(sinkhorn(x, batch, n_batches=2) < sinkhorn(x + batch[:, None], batch, n_batches=2))
    True
    """
    mask = checks.cell_mask(mask, checks.rows_of(embeddings))
    x = checks.several_cells("embeddings", embeddings, mask)
    codes = checks.labels("batch_labels", batch_labels, len(x), n_batches, mask)
    value = _loss(x, codes, mask, n_batches, epsilon, n_iterations)
    return checks.poisoned(value, checks.usable(x), checks.in_range(codes, n_batches, mask))


@partial(jax.jit, static_argnames=("n_batches", "n_iterations"))
def _loss(
    x: jax.Array, codes: jax.Array, mask: jax.Array | None, n_batches: int, epsilon: float, n_iterations: int
) -> jax.Array:
    x = scaled(x, mask)
    member = (codes[:, None] == jnp.arange(n_batches)).astype(x.dtype)
    size = member.sum(axis=0)
    own = jnp.clip(codes, 0, n_batches - 1)
    fixed, weight = lax.stop_gradient(x), (member / jnp.maximum(size, 1)).sum(axis=1)

    def transported(x: jax.Array, potential: jax.Array, epsilon: Any) -> jax.Array:
        """Return the potentials, (N, B), that fit the other side's: F_ib = softmin over j in b of C_ij - F_ja(i)."""

        def of_block(rows: jax.Array) -> jax.Array:
            cost = ((x[rows] ** 2).sum(axis=1)[:, None] - 2 * x[rows] @ fixed.T) + (fixed**2).sum(axis=1)
            l = (potential.T[own[rows]] - cost) / epsilon
            top = lax.stop_gradient(l.max(axis=1, keepdims=True))
            by_batch = [jnp.where(member[:, b] > 0, l, -jnp.inf) for b in range(n_batches)]
            log_sums = [jax.nn.logsumexp(jnp.where(size[b] > 0, of, top), axis=1) for b, of in enumerate(by_batch)]
            return epsilon * (jnp.log(jnp.maximum(size, 1)) - jnp.stack(log_sums, axis=1))

        return by_blocks(of_block, len(x), max(8, _AT_ONCE // len(x)))

    def update(step: Any, potential: jax.Array) -> jax.Array:
        now = jnp.maximum(epsilon, _HOT * _COOLING**step)
        # Half-way, and all pairs at once: converges without taking sides in turn.
        return (potential + transported(fixed, potential, now)) / 2

    begin = checks.varying(jnp.zeros((len(x), n_batches), x.dtype), x)
    potential = lax.stop_gradient(lax.fori_loop(0, n_iterations, update, begin))
    found = transported(x, potential, epsilon)
    # Of each ordered pair of batches: the mean of a's potentials against b, less that against itself.
    mean = (member * weight[:, None]).T @ found
    there = (size > 0).astype(x.dtype)
    pairs = there[:, None] * there[None, :] * (1 - jnp.eye(n_batches, dtype=x.dtype))
    apart = jnp.where(pairs > 0, mean - jnp.diagonal(mean)[:, None], 0).sum()
    # All cells at one place are one distribution, but not a correction.
    several, extent = pairs.sum() > 0, (fixed != 0).any()
    return jnp.where(several & ~extent, _HOT, 2 * apart / jnp.maximum(pairs.sum(), 1))
