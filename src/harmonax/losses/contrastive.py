"""Pairs of cells of different batches that are each other's nearest, pulled together: rare types count as others do."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from ..errors import InputError
from ..system.validate import number, whole_number
from . import checks
from .neighbourhoods import by_blocks, nearest, scaled, standardised

# Products of all cells held at a time, in numbers.
_AT_ONCE = 1 << 20


class MutualNeighborLoss(nnx.Module):
    """Contrastive loss on mutual nearest neighbours between batches: minimise to bring partners together.

    Two cells of different batches are partners where each is among the `n_neighbors` nearest of the other's batch
    (Haghverdi et al. 2018, Nature Biotechnology 36:421), found in `reference` or, without one, in the embedding itself.
    With s_ij = cos(x_i, x_j) / temperature, of cells about their mean, the loss is the mean over cells with partners of

        -ln( sum over partners j of i of exp(s_ij)  /  sum over all cells j but i of exp(s_ij) )

    less ln of how many there are, so that it is about 0 where partners are not nearer than others are. A type that a
    batch lacks has few partners there and is not pulled onto another, and a few cells of a rare type have theirs as
    many cells of a common one do; with `groups`, such as clusters, all groups then have the same say, whatever their
    sizes. Scaling and translating the data change nothing. A collapse gains nothing: at one place, all cells are as
    near as partners. Time is of order N^2, memory of order N n_batches n_neighbors^2.

    Parameters
    ----------
    n_neighbors
        Nearest cells searched in each batch; default 10. Higher values find more partners, and more false ones; lower
        values only the surest.
    n_batches
        Labels are 0..n_batches-1; not all need to occur.
    temperature
        Default 0.1. Lower values count the nearest cells that are not partners most; higher values all cells alike.
    n_groups
        With `groups`: their labels are 0..n_groups-1.
    rngs
        Not used; every module takes it.

    Raises
    ------
    InputError
        If a parameter, or what the loss is called with, cannot be used.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> key, batch, kind = jax.random.key(0), jnp.arange(120) % 2, jnp.arange(120) // 2 % 3
    >>> x = jax.random.normal(key, (120, 4)) + 8 * jnp.eye(4)[kind]
    >>> loss = MutualNeighborLoss(n_neighbors=5, n_batches=2)
    >>> bool(loss(x, batch) < loss(x + 9 * batch[:, None] * jnp.eye(4)[3], batch, reference=x))
    True
    """

    def __init__(
        self,
        n_neighbors: int = 10,
        n_batches: int = 3,
        temperature: float = 0.1,
        n_groups: int | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        self.n_neighbors = whole_number(n_neighbors, "n_neighbors", minimum=1)
        self.n_batches = whole_number(n_batches, "n_batches", minimum=1)
        self.temperature = number(temperature, "temperature", minimum=0, exclusive=True)
        self.n_groups = None if n_groups is None else whole_number(n_groups, "n_groups", minimum=1)

    @checks.also_called(features="embeddings", batch_ids="batch_labels")
    def __call__(
        self, embeddings: Any, batch_labels: Any, mask: Any = None, *, reference: Any = None, groups: Any = None
    ) -> jax.Array:
        """Return the loss.

        Parameters
        ----------
        embeddings
            N cells x features, at least 2 cells.
        batch_labels
            Batch of each cell, integers, (N,).
        mask
            Which cells count, (N,); None: all.
        reference
            N cells x any number of features in which partners are found, such as the embedding after
            `harmonax.harmonize`; it has no gradient. None: the embedding itself.
        groups
            Group of each cell, integers, (N,), each of which has the same say; None: each cell has. Needs `n_groups`.

        Returns
        -------
        jax.Array
            A scalar, in nats; 0 where no cell has a partner. In traced code NaN where values or labels cannot be used.
        """
        how: dict[str, Any] = {"n_neighbors": self.n_neighbors, "n_batches": self.n_batches}
        how |= {"temperature": self.temperature, "n_groups": self.n_groups}
        return mutual_neighbors(embeddings, batch_labels, mask, reference=reference, groups=groups, **how)


def mutual_neighbors(
    embeddings: Any,
    batch_labels: Any,
    mask: Any = None,
    *,
    reference: Any = None,
    groups: Any = None,
    n_neighbors: int = 10,
    n_batches: int = 3,
    temperature: float = 0.1,
    n_groups: int | None = None,
) -> jax.Array:
    """Return how much nearer than others mutual neighbours of other batches are, in nats: see `MutualNeighborLoss`.

    Arguments, errors, and what raising and lowering a parameter does are that class's.

    Examples
    --------
    >>> x, batch = jax.random.normal(jax.random.key(0), (60, 3)), jnp.arange(60) % 2
    >>> bool(mutual_neighbors(x, batch, n_batches=2) < 0)
    True
    """
    mask = checks.cell_mask(mask, checks.rows_of(embeddings))
    x = checks.several_cells("embeddings", embeddings, mask)
    if reference is not None and checks.rows_of(reference) != len(x):
        raise InputError(f"reference has {checks.rows_of(reference)} rows, embeddings {len(x)}: all must agree")
    before = x if reference is None else checks.cells("reference", reference, mask)
    codes = checks.labels("batch_labels", batch_labels, len(x), n_batches, mask)
    if groups is not None and n_groups is None:
        raise InputError("groups need n_groups: their labels are 0 to n_groups - 1")
    size = n_groups or 1
    kinds = checks.labels("groups", jnp.zeros(len(x), int) if groups is None else groups, len(x), size, mask)
    k = min(n_neighbors, len(x) - 1)
    value = _loss(x, before, codes, kinds, mask, k, n_batches, size, temperature)
    right = checks.in_range(codes, n_batches, mask), checks.in_range(kinds, size, mask)
    return checks.poisoned(value, checks.usable(x), checks.usable(before), *right)


@partial(jax.jit, static_argnames=("k", "n_batches", "n_groups"))
def _loss(
    x: jax.Array,
    before: jax.Array,
    codes: jax.Array,
    kinds: jax.Array,
    mask: jax.Array | None,
    k: int,
    n_batches: int,
    n_groups: int,
    temperature: float,
) -> jax.Array:
    x, partner = scaled(x, mask), _partners(standardised(before, mask), codes, k, n_batches)
    square = (x**2).sum(axis=1, keepdims=True)
    unit = x / jnp.sqrt(jnp.where(square > 0, square, 1))
    counts, everybody = codes >= 0, jnp.arange(len(x))

    def of_block(rows: jax.Array) -> jax.Array:
        s = unit[rows] @ unit.T / temperature
        others = counts[None] & (everybody[None] != rows[:, None])
        near = partner[rows]
        hits = jnp.zeros(s.shape, bool).at[jnp.arange(len(rows))[:, None], jnp.maximum(near, 0)].max(near >= 0)
        lonely = ~hits.any(axis=1, keepdims=True)

        def mean(there: jax.Array) -> jax.Array:
            return jax.nn.logsumexp(s, axis=1, b=there) - jnp.log(jnp.maximum(there.sum(axis=1), 1))

        # A row without a partner would have the logarithm of 0, and a gradient that is not a number.
        return jnp.where(lonely[:, 0], 0, mean(others | lonely) - mean(hits | lonely))

    found = by_blocks(of_block, len(x), max(8, _AT_ONCE // len(x)))
    has = ((partner >= 0).any(axis=1) & counts).astype(x.dtype)
    group = (kinds[:, None] == jnp.arange(n_groups)) * has[:, None]
    size = group.sum(axis=0)
    return (found @ group / jnp.maximum(size, 1)).sum() / jnp.maximum((size > 0).sum(), 1)


def _partners(x: jax.Array, codes: jax.Array, k: int, n_batches: int) -> jax.Array:
    """Return the rows of each cell's mutual neighbours in other batches, -1 where there is none: (N, n_batches k)."""
    near = lax.stop_gradient(nearest(x, k, n_batches, lambda rows, batch: (codes == batch)[None]))
    n = len(x)
    size = (codes[:, None] == jnp.arange(n_batches)).sum(axis=0)
    there = jnp.arange(k) < size[:, None]
    near = jnp.where(there[None] & (jnp.arange(n_batches)[None, :, None] != codes[:, None, None]), near, -1)
    flat = near.reshape(n, -1)
    # Of each candidate, the cells that it has near it in this cell's batch.
    back = near[jnp.maximum(flat, 0), jnp.clip(codes, 0, n_batches - 1)[:, None]]
    mutual = (back == jnp.arange(n)[:, None, None]).any(axis=-1)
    return jnp.where((flat >= 0) & mutual & (codes >= 0)[:, None], flat, -1)
