"""Arguments of harmony-pytorch's `harmonize`, and parameters that are named one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..errors import InputError, nearest, warn
from ..params import HarmonyParams

_NAMES = {"random_state": "rng", "n_jobs": "n_threads", "verbose": "progress"}
_DEVICES = ("use_gpu", "device", "n_gpus")


def named_one_by_one(
    params: HarmonyParams, how: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[HarmonyParams, dict[str, Any]]:
    """Return `params` and the arguments in `how`, changed by what is `given`.

    Raises
    ------
    TypeError
        If a name is not known.
    InputError
        If a value cannot be used, or one thing is given under two names.
    """
    fields, changes, settled = {f.name for f in dataclasses.fields(params)}, {}, dict(how)
    for name, value in given.items():
        if name in fields:
            changes[name] = value
        elif name in _NAMES:
            ours = _NAMES[name]
            if settled[ours] is not None:
                raise InputError(f"'{name}' and '{ours}' are two names of one parameter; pass only one of them")
            # -1, and a wish for output, are what None stands for.
            settled[ours] = None if (name == "n_jobs" and value == -1) or (name == "verbose" and value) else value
        elif name in _DEVICES:
            if value not in (None, False, "cpu", "auto"):
                warn(f"{name}={value!r} has no effect: backend='jax' runs on a GPU")
        else:
            raise TypeError(
                f"harmonize() got an unexpected keyword argument '{name}'; {nearest(name, [*fields, *_NAMES, *how])}"
            )
    if "ridge" not in changes:
        # A flavor has its own ridge penalty; a fixed one that is given is meant.
        changes |= {"ridge": "fixed"} if "ridge_lambda" in changes else {"ridge": None} if "flavor" in changes else {}
    return params.replace(**changes) if changes else params, settled
