"""fit: one update after the other, until it ends, stops early or stops being finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from ..errors import InputError, MissingKeyError, nearest, warn
from ..system.arguments import check_arguments
from ..system.progress import Report, bar, line
from ..system.rng import seed_from
from ..system.validate import number, whole_number
from .direction import Direction
from .held_out import evaluation, warn_of_padding
from .minibatches import read_cells
from .outcome import EarlyStopping, FitResult, FitStatus
from .run import Callback, Run
from .streams import Stream, read_stream
from .terms import Group, Loss, Terms, Weight, groups_of, read_terms
from .updates import NO_NORM, start, step_function


def fit(
    operator: Any,
    data: Any,
    losses: Mapping[str, Loss] | None = None,
    weights: Mapping[str, Weight] | str | None = None,
    optimizer: optax.GradientTransformation | Mapping[str, optax.GradientTransformation] | None = None,
    steps: int = 200,
    batch_size: int | None = None,
    rng: Any = 0,
    *,
    trainable: Any = nnx.Param,
    held_out: float | Mapping[str, Any] | None = None,
    held_out_every: int = 10,
    one_batch: float = 0.0,
    balance: bool = False,
    steps_at_once: int = 1,
    checkpoint: Any = None,
    checkpoint_every: int = 100,
    early_stopping: EarlyStopping | None = None,
    progress: bool | Report | None = None,
    callbacks: Sequence[Callback] = (),
) -> FitResult:
    """Train an operator: minimise a weighted sum of losses by gradient descent.

    Parameters
    ----------
    operator
        A module of Flax NNX with ``apply(data, state, metadata)``; it is changed in place. Losses of the model, from a
        method ``training_losses(data, rngs)`` that returns a dict, are minimised too. A method ``training_groups()``
        has groups of parameters learn in turn (see `harmonax.fitting.terms.groups_of`).
    data
        What the operator reads, such as ``embeddings`` and ``batch_labels``: arrays. Or minibatches, dicts of arrays of
        one shape: an iterator of them, or a function of the step's number, such as `batches_of` returns for arrays on
        disk; `batch_size` is then theirs.
    losses
        By name: functions of the operator's result (a dict that has the data as well), or of (operator, data). One of
        your own that changes with what padding holds is warned of, and one of the result that is lower where batches
        lie apart, such as a negated loss of mixing, where the fit made their neighbourhoods less mixed.
    weights
        By name, 1 where none is given; or the name of a preset in `WEIGHTS`. A higher weight lowers that loss more, at
        the others' expense; 0 leaves it out of the sum. A schedule, a function of the step such as Optax has, changes
        it: ``{"mixing": optax.linear_schedule(0.0, 1.0, 200)}`` warms up.
    optimizer
        An optimiser of Optax; None: Adam with a learning rate of 0.01. With groups, also a dict of them.
    steps
        Number of updates, including those of a run that is resumed. More updates fit better, and take more time.
    batch_size
        Cells in an update, shuffled anew each epoch; the last of an epoch is filled up with padding that
        ``data["mask"]`` marks. None: all cells. Larger updates are steadier, and take more time and memory.
    rng
        Seed of everything that is random: None, an integer, or a Generator or SeedSequence of NumPy.
    trainable
        Which parameters are trained: a filter of Flax NNX.
    held_out
        Cells that are not learned from: their share of `data`, drawn at random, or data of their own, read at once.
        Their losses are in the history as "held_out NAME", NaN where they were not looked at;
        ``EarlyStopping(monitor="held_out total")`` stops where they no longer fall.
    held_out_every
        Steps between two looks at them, the last step included. Lower values see more, and take more time.
    one_batch
        Share of the updates, from 0 to 1, whose cells are all of one batch, drawn at random; needs `batch_size`. Higher
        values have differences between cells, not between batches, learned more often; losses that compare batches are
        0 in these.
    balance
        Divide each loss's gradient by a running mean of its norm, so that weights say how much each loss moves the
        parameters, whatever its unit. Takes one backward pass for each loss.
    steps_at_once
        Steps that are made before losses are looked at, in one compiled loop. Higher values spare waiting between
        device and host; callbacks, stops and checkpoints then come after so many steps.
    checkpoint
        File to resume from, where there is one, and to write; or an ``orbax.checkpoint.CheckpointManager``, whose
        latest step is resumed from. A resumed run gives the same bits as one that was never interrupted.
    checkpoint_every
        Steps between two writes; one more comes at the end. Lower values lose less of a killed run, and write more.
    early_stopping
        When to stop before all steps are made.
    progress
        None: a line on stderr where that is a terminal. True, False, or a function of (step, steps, total).
    callbacks
        Functions of (step, losses), called after each step, from 0; one that returns True ends the run.

    Returns
    -------
    FitResult
        The operator, the history of every loss, and why the run stopped. If a loss or gradient was not finite, a
        warning says at which step, the status is ``FitStatus.NOT_FINITE``, and the operator is as it was when all
        losses were last finite.

    Raises
    ------
    InputError
        If the data or an argument cannot be used, or the checkpoint is of another run.
    FileFormatError
        If the file is damaged, or not a checkpoint.
    OutputError
        If the checkpoint cannot be written.

    Examples
    --------
    >>> from flax import nnx
    >>> class Shift(nnx.Module):
    ...     def __init__(self):
    ...         self.by = nnx.Param(np.zeros(2, np.float32))
    ...     def apply(self, data, state, metadata):
    ...         return data | {"shifted": data["x"] + self.by[...]}, state, metadata
    >>> data = {"x": np.ones((10, 2), np.float32)}
    >>> result = fit(Shift(), data, {"square": lambda result: (result["shifted"] ** 2).mean()}, steps=300)
    >>> result.status.value, bool(result.history["square"][-1] < 0.01)
    ('completed', True)
    """
    check_arguments(fit, locals())
    steps = whole_number(steps, "steps", minimum=1)
    checkpoint_every = whole_number(checkpoint_every, "checkpoint_every", minimum=1)
    seed = seed_from(rng)
    terms, groups = read_terms(operator, losses, weights), groups_of(operator, trainable)
    cells: Any = read_cells(data, batch_size, seed) if isinstance(data, Mapping) else read_stream(data)
    if one_batch := number(one_batch, "one_batch", minimum=0, maximum=1):
        if isinstance(cells, Stream) or batch_size is None or np.ndim(cells.per_cell.get("batch_labels", 0)) != 1:
            raise InputError("one_batch needs arrays with batch_labels (N,), and a batch_size")
        cells = replace(cells, one_batch=one_batch)
    cells, held = _held_out(cells, held_out)
    rules = _rules(optimizer, groups)
    graph, state = start(operator, groups, rules)
    step, key = step_function(graph, groups, rules, terms, balanced=bool(balance)), jax.random.key(seed)
    if balance:
        names = jax.eval_shape(step, state, cells, cells.rows(0), key, np.uint32(0))[0].norms
        state = state._replace(norms=dict.fromkeys(names, NO_NORM))
    evaluate = evaluation(graph, groups, terms)
    own = [name for name, loss in (losses or {}).items() if not (loss.__module__ or "").startswith("harmonax.")]
    warn_of_padding(evaluate, state, cells.take(cells.rows(cells.epoch - 1)), own)
    direction = Direction(graph, state, terms, cells.take(cells.rows(0)), own)
    run = Run(state, cells, step, key, whole_number(steps_at_once, "steps_at_once", minimum=1))
    if held is not None:
        run.look_at(
            lambda state, number: evaluate(state, held, number),
            whole_number(held_out_every, "held_out_every", minimum=1),
        )
    if checkpoint is not None:
        named = sorted({*(losses or {}), *terms.weights})
        settings: dict[str, Any] = {"losses": [[name, _shown(terms, name)] for name in named]}
        settings |= {"batch_size": cells.size, "seed": seed} | _seeds(operator)
        settings |= {name: value for name, value in (("balance", bool(balance)), ("one_batch", one_batch)) if value}
        run.keep(checkpoint, checkpoint_every, settings)
    with line(progress, _progress) as report:
        try:
            status = run.until(steps, early_stopping, report, callbacks)
        finally:
            # However the run ends, an interrupt included, the operator has what was learned.
            nnx.update(operator, *run.state.params, run.state.rest)
    message = f"step {len(run)}: {status.advice}"
    if status is FitStatus.NOT_FINITE:
        message = f"step {len(run) - 1} ({', '.join(run.wrong)}): {status.advice}"
        warn(message)
    direction.warn_of(run.state)
    history = {name: np.asarray(values) for name, values in run.history.items()}
    return FitResult(operator, history, status, run.n_updates, message)


def _held_out(cells: Any, held_out: Any) -> tuple[Any, Any]:
    """Return the cells to learn from, and the data of those held out, or None."""
    if held_out is None:
        return cells, None
    if isinstance(held_out, Mapping):
        held = read_cells(held_out, None, 0)
        return cells, {**held.per_cell, **held.whole}
    if isinstance(cells, Stream):
        raise InputError("held_out is a share, but data come in minibatches; pass the data of the cells held out")
    return cells.split(number(held_out, "held_out", minimum=0, maximum=1, exclusive=True))


def _seeds(operator: Any) -> dict[str, Any]:
    """Return what modules draw from a seed of their own by: a state of another seed is another run."""
    seeds = [node.seed for _, node in nnx.iter_graph(operator) if isinstance(getattr(node, "seed", None), int)]
    return {"seeds of the operator": seeds} if seeds else {}


def _shown(terms: Terms, name: str) -> Any:
    """Return what a checkpoint knows a weight by: a schedule by some of its values."""
    weight = terms.weights.get(name, 1.0)
    return [float(weight(step)) for step in (0, 1, 10, 100, 1000, 10000)] if callable(weight) else weight


def _rules(optimizer: Any, groups: Sequence[Group]) -> list[optax.GradientTransformation]:
    if not isinstance(optimizer, Mapping):
        return [optax.adam(1e-2) if optimizer is None else optimizer for _ in groups]
    for group in groups:
        if group.name not in optimizer:
            raise MissingKeyError(
                f"optimizer has no entry for the group '{group.name}'; {nearest(group.name, optimizer)}"
            )
    return [optimizer[group.name] for group in groups]


def _progress(step: int, steps: int, total: float) -> str:
    return f"fit {bar(step / steps)} step {step} of {steps}, loss {total:.6g}"
