"""The jitted questions of `cells/jax/cells.py`: one block of tiles and a few tables in, tables out.

Each is written for one device and mapped over the first axis of its arrays, along which they are spread over devices.
R is a function of Zn and tables (docs/algorithm.md, "The streaming form"), made anew wherever it is needed.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .tiles import Tiles


def x64(on: bool) -> Any:
    """Return a context with 64-bit numbers on or off, under either of the names it had."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(on)
    from jax.experimental import enable_x64  # type: ignore[attr-defined]

    return enable_x64(on)


@partial(jax.jit, static_argnums=(0, 1, 2))
def zeros(shapes: tuple[tuple[int, ...], ...], dtype: str, sharding: Any) -> Any:
    """Return tables of zeros, made where they are to lie."""
    return tuple(jax.lax.with_sharding_constraint(jnp.zeros(shape, dtype), sharding) for shape in shapes)


@partial(jax.jit, static_argnames="n_features")
def unit(x: Any, *, n_features: int | None = None) -> Any:
    """Scale rows to unit length, without the covariates behind the features; a zero row stays zero.

    XLA rounds `algorithm.seeding.unit` otherwise.
    """
    x = x[..., :n_features]
    norm = jnp.sqrt((x * x).sum(axis=-1, keepdims=True))
    return jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1), 0)


@partial(jax.jit, static_argnames="moment")
def sweep(Zn: Any, tiles: Tiles, tables: Any, levels: Any, *, moment: bool) -> tuple[Any, Any, Any]:
    """Assign a block; return mass (D, B, K), both sums of each chunk (D, Q, 2), and R^T Zn (D, K, d) or no rows."""
    _, sigma, logp = tables

    def chunk(mass: Any, xs: Any) -> Any:
        Zn, tiles = xs
        R, log_R, log_Z = _assign(Zn, tiles, tables)
        weighted = R * sigma
        sums = [(weighted.sum(axis=-1) * log_Z).sum(axis=-1).sum(), (weighted * log_R).sum(axis=(1, 2)).sum()]
        mass = _add_to_runs(mass, R.sum(axis=1), tiles)
        return mass, (jnp.stack(sums), _moment(R, Zn, moment))

    def device(Zn: Any, tiles: Tiles) -> Any:
        n_joint = logp.shape[0] if levels is None else levels[0].shape[0] // tiles.levels.shape[-1]
        mass = jnp.zeros((n_joint, logp.shape[1]), Zn.dtype)
        mass, (sums, moments) = jax.lax.scan(chunk, mass, (Zn, tiles))
        if levels is not None:
            mass = _add_up(mass[levels[0]], levels[1])
        return mass, sums, moments.sum(axis=0)

    return jax.vmap(device)(Zn, tiles)


@partial(jax.jit, donate_argnames=("sums", "errors"))
def moments(Z: Any, Zn: Any, tiles: Tiles, tables: Any, sums: Any, errors: Any) -> tuple[Any, Any]:
    """Add R^T Z and the mass of each joint level, (D, J, K, d) and (D, J, K), to `sums`.

    With covariates the products of [1, x] and [Z, x] are in the place of Z.
    The rounding errors of these additions are gathered in `errors`: all cells come together here.
    """

    def chunk(tables_so_far: Any, xs: Any) -> Any:
        Z, Zn, tiles = xs
        R = _assign(Zn, tiles, tables)[0]
        by_tile = _product("tck,tcd->tkd", R, _products(Z, Zn.shape[-1])), R.sum(axis=1)
        added = [_add_exactly(s, e, rows, tiles) for s, e, rows in zip(*tables_so_far, by_tile, strict=True)]
        return tuple(zip(*added, strict=True)), None

    def device(*own: Any) -> Any:
        *cells, sums, errors = own
        return jax.lax.scan(chunk, (sums, errors), tuple(cells))[0]

    return jax.vmap(device)(Z, Zn, tiles, sums, errors)


@partial(jax.jit, static_argnames="moment", donate_argnames="Zn")
def correct(Z: Any, Zn: Any, tiles: Tiles, tables: Any, W: Any, *, moment: bool) -> tuple[Any, Any]:
    """Return unit(Z - R W) in the place of Zn, and R^T of it (D, K, d) or no rows."""

    def chunk(Zn: Any, xs: Any) -> Any:
        q, Z, tiles = xs
        R = _assign(Zn[q], tiles, tables)[0]
        new = unit(_corrected(Z, R, tiles, W))
        return Zn.at[q].set(new), _moment(R, new, moment)

    def device(Z: Any, Zn: Any, tiles: Tiles) -> Any:
        Zn, moments = jax.lax.scan(chunk, Zn, (jnp.arange(len(Z), dtype=jnp.int32), Z, tiles))
        return Zn, moments.sum(axis=0)

    return jax.vmap(device)(Z, Zn, tiles)


@jax.jit
def corrected(Z: Any, Zn: Any, tiles: Tiles, tables: Any, W: Any) -> Any:
    """Return Z - R W, (D, Q, T, c, d)."""
    chunk = lambda xs: _corrected(xs[0], _assign(xs[1], xs[2], tables)[0], xs[2], W)  # noqa: E731
    return jax.vmap(lambda *own: jax.lax.map(chunk, own))(Z, Zn, tiles)


@jax.jit
def corrected_moment(Z: Any, Zn: Any, tiles: Tiles, tables: Any, W: Any) -> Any:
    """Return R^T (Z - R W), (D, K, d)."""

    def chunk(so_far: None, xs: Any) -> Any:
        Z, Zn, tiles = xs
        R = _assign(Zn, tiles, tables)[0]
        return so_far, _moment(R, _corrected(Z, R, tiles, W), True)

    return jax.vmap(lambda *own: jax.lax.scan(chunk, None, own)[1].sum(axis=0))(Z, Zn, tiles)


@jax.jit
def assignments(Z: Any, Zn: Any, tiles: Tiles, tables: Any, W: Any) -> Any:
    """Return R, (D, Q, T, c, K)."""
    chunk = lambda xs: _assign(xs[0], xs[1], tables)[0]  # noqa: E731
    return jax.vmap(lambda *own: jax.lax.map(chunk, own))(Zn, tiles)


def _assign(Zn: Any, tiles: Tiles, tables: Any) -> tuple[Any, Any, Any]:
    """Return R (T, c, K), 0 for padding, ln R, and ln Z_i (T, c)."""
    Y, sigma, logp = tables
    logits = (2 * _product("tcd,kd->tck", Zn, Y) - 2) / sigma + logp[tiles.levels].sum(axis=1)[:, None, :]
    top = logits.max(axis=-1, keepdims=True)
    logits = logits - top
    weight = jnp.exp(logits)
    total = weight.sum(axis=-1, keepdims=True)
    log_total = jnp.log(total)
    is_cell = jnp.arange(Zn.shape[1], dtype=jnp.int32) < tiles.count[:, None]
    R = jnp.where(is_cell[:, :, None], weight / total, 0)
    return R, logits - log_total, (top + log_total)[:, :, 0]


def _corrected(Z: Any, R: Any, tiles: Tiles, W: Any) -> Any:
    own = sum(W[tiles.levels[:, f]] for f in range(tiles.levels.shape[1]))
    d, n_covariates = W.shape[-1], Z.shape[-1] - W.shape[-1]
    Zc = Z[..., :d] - _product("tck,tkd->tcd", R, own)
    for c in range(n_covariates):
        Zc = Zc - Z[..., d + c, None] * _product("tck,kd->tcd", R, W[c - n_covariates])
    return Zc


def _products(Z: Any, n_features: int) -> Any:
    return jnp.concatenate([Z, *(Z[..., c, None] * Z for c in range(n_features, Z.shape[-1]))], axis=-1)


def _moment(R: Any, Zn: Any, wanted: bool) -> Any:
    return _product("tck,tcd->kd", R, Zn) if wanted else jnp.zeros((0, Zn.shape[-1]), Zn.dtype)


def _add_to_runs(table: Any, by_tile: Any, tiles: Tiles) -> Any:
    """Add rows of tiles (T, ...) to a table of joint levels (J, ...), each of which is named once."""
    rows = _add_up(by_tile, tiles.steps)[: tiles.runs.shape[0]]
    return table.at[tiles.runs].add(rows, mode="drop", unique_indices=True)


def _add_up(rows: Any, steps: Any) -> Any:
    for step in steps:
        rows = rows.at[step].get(mode="fill", fill_value=0).sum(axis=1)
    return rows


def _add_exactly(sums: Any, errors: Any, by_tile: Any, tiles: Tiles) -> tuple[Any, Any]:
    """Do the same to `sums`, and add what rounding takes away to `errors` (Knuth)."""
    rows = _add_up(by_tile, tiles.steps)[: tiles.runs.shape[0]]
    before = sums.at[tiles.runs].get(mode="fill", fill_value=0)
    after = before + rows
    of_rows = after - before
    error = (before - (after - of_rows)) + (rows - of_rows)
    change = {"mode": "drop", "unique_indices": True}
    return sums.at[tiles.runs].set(after, **change), errors.at[tiles.runs].add(error, **change)


def _product(subscripts: str, a: Any, b: Any) -> Any:
    # On a GPU the default would be TF32, on a TPU bfloat16.
    return jnp.einsum(subscripts, a, b, precision=jax.lax.Precision.HIGHEST)
