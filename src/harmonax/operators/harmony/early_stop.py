"""Rounds that stop as the engine's do, for inference: `lax.while_loop` has no reverse derivative.

The rules are those of `algorithm/convergence.py`; a test compares the passes and rounds that result.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...algorithm.convergence import WINDOW, passes_converged, rounds_converged
from ...algorithm.objective import diversity, scale
from ...algorithm.penalty import expected_mass
from ...errors import InputError
from .assignment import Problem, levels_of, log_partition_of, logits, one_hot, unit
from .config import BatchCorrectionConfig
from .ridge import ridge
from .rounds import State, correct, next_state, one_pass


@jax.custom_jvp
def forward_only(tree: Any) -> Any:
    """Return the same, with derivatives in forward mode only: the reverse of a `while_loop` does not exist."""
    return tree


@forward_only.defjvp
def _tangent(primals: Any, tangents: Any) -> Any:
    return primals[0], jax.custom_derivatives.linear_call(lambda _, t: t, _refuse, (), tangents[0])


def _refuse(_: Any, cotangent: Any) -> Any:
    raise InputError(
        "early_stop has no gradient, since the number of rounds is not known in advance; to differentiate, leave it "
        "off: early_stop=False runs n_iterations rounds"
    )


class _Passes(NamedTuple):
    done: Any  # passes in this round
    Y: Any
    mass: Any
    logp: Any
    moment: Any
    recent: Any  # (WINDOW + 1,): J of the last passes
    stop: Any


class _Rounds(NamedTuple):
    done: Any
    passes: Any  # in all rounds: the next row of the schedule
    state: State
    previous: Any
    converged: Any


def rounds_until_converged(
    config: BatchCorrectionConfig, problem: Problem, state: State, orders: Any
) -> tuple[State, Any, Any]:
    """Return the end state, the number of rounds, and whether they converged; orders are (rounds, passes, G)."""
    flat = orders.reshape(-1, orders.shape[-1])

    def round_(at: _Rounds) -> _Rounds:
        Zn, mass, moment = correct(config, problem, at.state)

        def pass_(p: _Passes) -> _Passes:
            Y = unit(p.moment) if config.rules.moves_centroids else p.Y
            order = flat[at.passes + p.done]
            mass, logp, moment, log_partition = one_pass(config, problem, Zn, Y, p.mass, order, scored=True)
            recent = jnp.append(p.recent[1:], _objective(config, problem, mass, logp, log_partition))
            stop = passes_converged(config.flavor, recent, p.done + 1, config.tol_clustering)
            return _Passes(p.done + 1, Y, mass, logp, moment, recent, stop)

        begin = _Passes(0, at.state.Y_next, mass, jnp.zeros_like(mass), moment, jnp.zeros(WINDOW + 1, Zn.dtype), False)
        end = jax.lax.while_loop(lambda p: ~p.stop & (p.done < config.n_passes), pass_, begin)
        J = end.recent[-1]
        converged = rounds_converged(config.flavor, at.previous, J, config.tol_harmony)
        found = ridge(config, problem, Zn, end.Y, end.logp, end.mass)
        return _Rounds(at.done + 1, at.passes + end.done, next_state(Zn, end.Y, end.logp, found), J, converged)

    begin = _Rounds(0, 0, state, _first_objective(config, problem, state), False)
    end = jax.lax.while_loop(lambda at: ~at.converged & (at.done < config.n_iterations), round_, begin)
    return end.state, end.done, end.converged


def _objective(config: BatchCorrectionConfig, problem: Problem, mass: Any, logp: Any, log_partition: Any) -> Any:
    """Return J from the log-partition of a pass."""
    hyper, O = problem.hyper, mass.sum(axis=0)
    cluster_mass = O[: config.levels[0]].sum(axis=0)
    batch = slice(config.offsets[-1])
    E = expected_mass(levels_of(config, problem), O, cluster_mass, batch, jnp)
    n_cells = problem.counts[: config.levels[0]].sum()
    diverse = diversity(config.flavor, O[batch], E, hyper.theta, hyper.sigma, jnp)
    return scale(config.flavor, n_cells) * ((mass * logp * hyper.sigma).sum() - log_partition + diverse)


def _first_objective(config: BatchCorrectionConfig, problem: Problem, state: State) -> Any:
    """Return J_0, of the unpenalised assignment to the first centroids."""
    sigma, n_levels = problem.hyper.sigma, len(problem.counts)

    def step(total: Any, xs: Any) -> Any:
        cells, Zn, logp = xs
        X = one_hot(cells.levels, n_levels, Zn.dtype)
        l = logits(Zn, state.Y, sigma, logp, X)
        R = jax.nn.softmax(l, axis=-1) * cells.weight[:, :, None]
        return total + log_partition_of(R, l, sigma), X.T @ R.sum(axis=1)

    log_partition, mass = jax.lax.scan(step, jnp.zeros((), state.Zn.dtype), (problem.tiles, state.Zn, state.logp))
    return _objective(config, problem, mass, state.logp, log_partition)
