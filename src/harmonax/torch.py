"""Functions of JAX for PyTorch: tensors in and out without a copy where memory allows it, with gradients.

Needs ``pip install 'harmonax[torch]'``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .system.extras import need


def from_jax(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of PyTorch tensors that computes what a function of JAX arrays does, and backpropagates.

    Parameters
    ----------
    function
        Pure function of arrays that returns an array or a tree of them, such as a dict: those of
        `harmonax.functional`, with their parameters bound. It is compiled for each set of shapes, as by ``jax.jit``:
        labels out of range and NaN make results NaN rather than raise.

    Returns
    -------
    callable
        Takes tensors on one device and returns tensors there, in the same tree. Gradients flow to every floating-point
        tensor that requires one; once, so not for second derivatives. Tensors are shared with JAX through DLPack:
        one that is changed in place between the call and ``backward()`` is refused by PyTorch. Without x64 in JAX,
        float64 and int64 are computed in 32 bits, and gradients are returned in the tensor's own type.

    Raises
    ------
    MissingExtraError
        If PyTorch or JAX is not installed.

    Notes
    -----
    For example, for tensors ``Z`` (N, 20) and ``batch`` (N,)::

        config = BatchCorrectionConfig(n_features=20, n_batches=3)
        correct = from_jax(lambda Z, batch: functional.harmony(Z, batch, config)["corrected_embeddings"])
        mixing = from_jax(lambda Z, batch: functional.mixing(Z, batch, n_batches=3))
        mixing(correct(Z, batch), batch).backward()
    """
    torch, jax = need("torch", "torch"), need("jax", "jax")
    forward, backward = _compiled(jax, function)

    class Bridge(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(ctx: Any, trees: list[Any], *tensors: Any) -> Any:
            floats = tuple(tensor.is_floating_point() for tensor in tensors)
            arrays = [_to_jax(torch, jax, tensor) for tensor in tensors]
            found, ctx.pull = forward(floats, _where(floats, arrays), _where([not f for f in floats], arrays))
            leaves, tree = jax.tree.flatten(found)
            trees.append(tree)
            # Kept so that PyTorch notices what is changed in place: the arrays share its memory.
            ctx.save_for_backward(*tensors)
            # Copies: JAX takes its arrays to be constant, and tensors may be changed.
            out = tuple(torch.from_dlpack(leaf).clone() for leaf in leaves)
            ctx.floats = floats, [tensor.is_floating_point() for tensor in out]
            ctx.mark_non_differentiable(*_where([not f for f in ctx.floats[1]], out))
            return out

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, *slopes: Any) -> Any:
            given, made = ctx.floats
            pulled = iter(backward(ctx.pull, [_to_jax(torch, jax, slope) for slope in _where(made, slopes)]))
            pairs = zip(ctx.saved_tensors, given, strict=True)
            return None, *(torch.from_dlpack(next(pulled)).to(t.dtype, copy=True) if f else None for t, f in pairs)

    def call(*tensors: Any) -> Any:
        trees: list[Any] = []
        found = Bridge.apply(trees, *tensors)
        return trees[0].unflatten(found)

    return call


def _where(chosen: Sequence[bool], values: Sequence[Any]) -> list[Any]:
    return [value for value, is_chosen in zip(values, chosen, strict=True) if is_chosen]


def _to_jax(torch: Any, jax: Any, tensor: Any) -> Any:
    narrow = {torch.bool: torch.uint8}
    if not jax.config.jax_enable_x64:
        narrow |= {torch.float64: torch.float32, torch.int64: torch.int32}
    return jax.dlpack.from_dlpack(tensor.detach().to(narrow.get(tensor.dtype, tensor.dtype)).contiguous())


def _compiled(jax: Any, function: Callable[..., Any]) -> tuple[Any, Any]:
    """Return the function, which also gives its pull-back, and the pull-back's application, both compiled."""

    def forward(is_float: tuple[bool, ...], floats: list[Any], others: list[Any]) -> Any:
        def call(floats: list[Any]) -> Any:
            left, right = iter(floats), iter(others)
            found = function(*(next(left if f else right) for f in is_float))
            # What is not floating-point has no derivative, and goes around it.
            return [leaf for leaf in jax.tree.leaves(found) if np.issubdtype(leaf.dtype, np.floating)], found

        _, pull, found = jax.vjp(call, floats, has_aux=True)
        return found, pull

    return jax.jit(forward, static_argnums=0), jax.jit(lambda pull, slopes: pull(slopes)[0])
