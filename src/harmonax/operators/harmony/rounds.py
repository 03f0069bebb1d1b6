"""Harmony's rounds as traced code: the loop of `algorithm/harmony.py` with fixed counts.

Equations come from `algorithm/`, called with jax.numpy; `cells/dense.py` is the plain statement of what is done per
cell, and `tests/operators/test_differentiable_harmony.py` compares the two. R is a function of Zn and of tables, so it
is recomputed in every block and never kept. A round here begins with the correction of the round before it: the first
one corrects by W = 0. That makes all rounds one traced shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ...algorithm.penalty import expected_mass, log_penalty
from ...losses.checks import varying
from .assignment import Problem, assign, levels_of, log_partition_of, logits, one_hot, removed, unit
from .config import BatchCorrectionConfig
from .ridge import Ridge, ridge
from .tiles import Tiles

# More rounds than this are differentiated in groups: states kept are about 2 sqrt(rounds), not one per round.
_MAX_FLAT = 12
# What is kept of a round, beside its beginning: tables. Its cells follow from them without repeating the passes.
_TABLE = "table"
_TABLES_PER_CELLS = 4


class State(NamedTuple):
    """Where a round ended. R is a function of Zn, Y and logp."""

    Zn: Any  # (G, C, c, d): the cells as they were assigned
    Y: Any  # (K, d)
    logp: Any  # (G, B, K): the penalties each block was last assigned with
    W: Any  # (B, K, d): the correction that follows
    Y_next: Any  # (K, d): the next round's centroids, where it starts cold


def first_state(problem: Problem, Y: Any) -> State:
    """Return the state before the first round: nothing corrected, nobody assigned."""
    Z = problem.tiles.Z
    n_levels, (K, d) = len(problem.counts), Y.shape
    n_covariates = 0 if problem.tiles.x is None else problem.tiles.x.shape[-1]
    zeros = lambda *size: jnp.zeros(size, Z.dtype)  # noqa: E731
    return varying(State(unit(Z), Y, zeros(len(Z), n_levels, K), zeros(n_levels + n_covariates, K, d), Y), Z)


def correct(config: BatchCorrectionConfig, problem: Problem, state: State) -> tuple[Any, Any, Any]:
    """Set Zn = unit(Z - R W); return it with each block's mass (G, B, K) and, for centroids that move, R^T Zn.

    R carries over: its mass, and its moment with the new Zn; or the round starts cold, with R = softmax(-D / sigma)
    to the new centroids.
    """
    sigma, n_levels = problem.hyper.sigma, len(problem.counts)

    @jax.checkpoint
    def block(cells: Tiles, Zn: Any, logp: Any, tables: tuple[Any, ...]) -> tuple[Any, Any, Any]:
        Y, W, Y_next, sigma = tables
        X = one_hot(cells.levels, n_levels, Zn.dtype)
        R = assign(Zn, Y, sigma, logp, X, cells.weight)
        Zn = unit(cells.Z - removed(config, cells, X, R, W))
        if config.rules.starts_cold:
            R = assign(Zn, Y_next, sigma, jnp.zeros_like(logp), X, cells.weight)
        return Zn, X.T @ R.sum(axis=1), _moment(config, R, Zn)

    def step(moment: Any, xs: Any) -> Any:
        Zn, mass, own = block(*xs, (state.Y, state.W, state.Y_next, sigma))
        mass, own = checkpoint_name((mass, own), _TABLE)
        return moment + own, (Zn, mass)

    begin = varying(jnp.zeros_like(state.Y), state.Zn)
    moment, (Zn, mass) = jax.lax.scan(step, begin, (problem.tiles, state.Zn, state.logp))
    return Zn, mass, moment


def one_pass(
    config: BatchCorrectionConfig, problem: Problem, Zn: Any, Y: Any, mass: Any, order: Any, scored: bool = False
) -> tuple[Any, ...]:
    """Take each block out, reassign it under the others' penalty, put it back.

    Returns mass (G, B, K), logp (G, B, K), R^T Zn for centroids that move, and with `scored` the log-partition
    that the objective is made of.
    """
    hyper, design, n_levels = problem.hyper, levels_of(config, problem), len(problem.counts)
    batch = slice(design.n_batch_levels)

    @jax.checkpoint
    def block(Zn: Any, levels: Any, weight: Any, logp: Any, Y: Any, sigma: Any) -> tuple[Any, ...]:
        X = one_hot(levels, n_levels, Zn.dtype)
        l = logits(Zn, Y, sigma, logp, X)
        R = jax.nn.softmax(l, axis=-1) * weight[:, :, None]
        log_partition = log_partition_of(R, l, sigma) if scored else jnp.zeros((), Zn.dtype)
        return X.T @ R.sum(axis=1), _moment(config, R, Zn), log_partition

    def step(carry: Any, xs: Any) -> Any:
        O, moment, log_partition = carry
        Zn, levels, weight, old = xs
        O = O - old
        E = expected_mass(design, O, O[: config.levels[0]].sum(axis=0), batch, jnp)
        logp = log_penalty(config.flavor, O[batch], E, hyper.theta, jnp)
        if design.protects:
            logp = jnp.concatenate([logp, jnp.zeros_like(O[batch.stop :])])
        new, own, own_partition = checkpoint_name(block(Zn, levels, weight, logp, Y, hyper.sigma), _TABLE)
        return (O + new, moment + own, log_partition + own_partition), (new, logp)

    tiles = problem.tiles
    xs = (Zn[order], tiles.levels[order], tiles.weight[order], mass[order])
    begin = varying((mass.sum(axis=0), jnp.zeros_like(Y), jnp.zeros((), Zn.dtype)), Zn)
    (_, moment, log_partition), (new, logp) = jax.lax.scan(step, begin, xs)
    back = jnp.argsort(order)
    return new[back], logp[back], moment, log_partition


def _moment(config: BatchCorrectionConfig, R: Any, Zn: Any) -> Any:
    """Return R^T Zn (K, d) where the centroids move by it, else zeros."""
    if config.rules.moves_centroids:
        return jnp.einsum("tck,tcd->kd", R, Zn)
    return jnp.zeros((R.shape[-1], Zn.shape[-1]), Zn.dtype)


def one_round(config: BatchCorrectionConfig, problem: Problem, state: State, orders: Any) -> State:
    """Correct, run the passes in these orders of the blocks (P, G), and find the next correction."""
    Zn, mass, moment = correct(config, problem, state)
    Y = state.Y_next

    def step(carry: Any, order: Any) -> Any:
        Y, mass, moment, _ = carry
        Y = unit(moment) if config.rules.moves_centroids else Y
        mass, logp, moment, _ = one_pass(config, problem, Zn, Y, mass, order)
        return (Y, mass, moment, logp), None

    begin = varying((Y, mass, moment, jnp.zeros_like(mass)), Zn)
    (Y, mass, _, logp), _ = jax.lax.scan(step, begin, orders)
    found = ridge(config, problem, Zn, Y, logp, mass)
    return next_state(Zn, Y, logp, found)


def next_state(Zn: Any, Y: Any, logp: Any, found: Ridge) -> State:
    """Put a round's end together."""
    return State(Zn, Y, logp, found.W, jnp.where(found.skipped[:, None], Y, unit(found.W0)))


def all_rounds(round_: Callable[[State, Any], State], state: State, orders: Any) -> State:
    """Run one round per row of `orders`, rematerialised: the gradient's memory does not grow with their number.

    Differentiating a scan keeps the state at each step. Above a dozen rounds they run in about sqrt(n) groups, and only
    the groups' states are kept: those within a group are computed again when its turn comes.
    """

    keep_tables = jax.checkpoint_policies.save_only_these_names(_TABLE)

    def run(state: State, orders: Any) -> State:
        body = jax.checkpoint(lambda s, o: (round_(s, o), None), prevent_cse=False, policy=keep_tables)
        return jax.lax.scan(body, state, orders)[0]

    n_rounds = len(orders)
    if n_rounds <= _MAX_FLAT:
        return run(state, orders)
    size = math.isqrt(n_rounds)
    whole = n_rounds // size * size
    groups = orders[:whole].reshape(-1, size, *orders.shape[1:])
    # With few levels even the tables of all rounds are small beside the cells, and save one run of the passes.
    small = n_rounds * (orders.shape[1] + 1) * state.logp.size <= _TABLES_PER_CELLS * state.Zn.size
    body = jax.checkpoint(lambda s, o: (run(s, o), None), prevent_cse=False, policy=keep_tables if small else None)
    state = jax.lax.scan(body, state, groups)[0]
    return run(state, orders[whole:]) if whole < n_rounds else state


def emit(config: BatchCorrectionConfig, problem: Problem, state: State) -> tuple[Any, Any]:
    """Return the corrected cells Z - R W (G, C, c, d), and R (G, C, c, K)."""
    n_levels = len(problem.counts)

    @jax.checkpoint
    def block(cells: Tiles, Zn: Any, logp: Any, tables: tuple[Any, ...]) -> tuple[Any, Any]:
        Y, W, sigma = tables
        X = one_hot(cells.levels, n_levels, Zn.dtype)
        R = assign(Zn, Y, sigma, logp, X, cells.weight)
        return cells.Z - removed(config, cells, X, R, W), R

    tables = (state.Y, state.W, problem.hyper.sigma)
    step = lambda _, xs: (None, block(*xs, tables))  # noqa: E731
    return jax.lax.scan(step, None, (problem.tiles, state.Zn, state.logp))[1]
