"""Kinds of arguments, checked against a function's own annotations before it does any work.

Values are checked where they are known; this tells only that text is not a number, an array not a word.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import numbers
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np

from ..errors import InputError


def check_arguments(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Refuse arguments of the wrong kind: what arrived, and what is allowed.

    Parameters
    ----------
    function
        Whose annotations say what is allowed (or a class). Those that only a type checker knows, and ``Any``, allow
        everything.
    given
        Arguments by name; others than the function's are not looked at.

    Examples
    --------
    >>> def scale(x: float, by: int | None = None): ...
    >>> check_arguments(scale, {"x": 1, "by": "2"})
    Traceback (most recent call last):
    ...
    harmonax.errors.InputError: by='2' is text; allowed are a whole number and None
    """
    for name, hint in _hints(function).items():
        if name not in given:
            continue
        value, kinds = given[name], list(_kinds(hint))
        # Columns of a table may be called anything that can be looked up; files are named by text.
        is_file = any(_is_path(kind) for kind in kinds)
        text = (str,) if is_file else (str, np.generic, numbers.Number, tuple)
        if any(_fits(value, kind, text) for kind in kinds):
            continue
        allowed = list(dict.fromkeys(_word(kind) for kind in kinds))
        verb = "is" if len(allowed) == 1 else "are"
        listed = ", ".join(allowed[:-1]) + (" and " if len(allowed) > 1 else "") + allowed[-1]
        raise InputError(f"{name}={_shown(value)} is {_called(value)}; allowed {verb} {listed}")


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations that can be had at run time; ``Any`` for the others."""
    space, found = vars(builtins) | vars(sys.modules[function.__module__]), {}
    for name, parameter in inspect.signature(function).parameters.items():
        if (
            parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            or parameter.annotation is parameter.empty
        ):
            continue
        try:
            hint = parameter.annotation
            found[name] = eval(hint, space) if isinstance(hint, str) else hint
        except (NameError, TypeError, AttributeError):
            found[name] = Any
    return found


def _kinds(hint: Any) -> Iterator[Any]:
    """Give the members of a union one by one."""
    if get_origin(hint) in (Union, types.UnionType):
        for member in get_args(hint):
            yield from _kinds(member)
    else:
        yield hint


# Whose classes stand for anything that can be gone through.
_LISTS = ("builtins", "collections", "numpy", "pandas")


def _fits(value: Any, kind: Any, text: tuple[type, ...]) -> bool:
    origin = get_origin(kind) or kind
    if origin is Any or origin is typing.Any or kind is object:
        return True
    if kind is None or kind is type(None):
        return value is None
    if origin is Literal:
        return isinstance(value, str)
    if origin is bool:
        return isinstance(value, (bool, np.bool_)) or _is_number(value)
    if origin in (int, float):
        return _is_number(value)
    if origin is str:
        return isinstance(value, text) and not isinstance(value, (bool, np.bool_))
    if origin is os.PathLike:
        return hasattr(value, "__fspath__")
    if origin is Callable:
        return callable(value)
    if (
        isinstance(origin, type)
        and issubclass(origin, Iterable)
        and origin is not Mapping
        and not issubclass(origin, Mapping)
        and origin.__module__.partition(".")[0] in _LISTS
    ):
        # A file would be read, line by line.
        if not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping)) or hasattr(value, "read"):
            return False
        members = list(_kinds(get_args(kind)[0])) if get_args(kind) else []
        files = any(map(_is_path, members))
        return not files or all(any(_fits(each, member, (str,)) for member in members) for each in value)
    return not isinstance(origin, type) or isinstance(value, origin)


def _is_path(kind: Any) -> bool:
    origin = get_origin(kind) or kind
    return isinstance(origin, type) and issubclass(origin, os.PathLike)


def _is_number(value: Any) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return False
    return isinstance(value, numbers.Real) or (
        isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iuf"
    )


_WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text", Callable: "a function"}


def _word(kind: Any) -> str:
    if kind is None or kind is type(None):
        return "None"
    origin = get_origin(kind) or kind
    if origin is Literal:
        return " or ".join(repr(word) for word in get_args(kind))
    if origin in _WORDS:
        return _WORDS[origin]
    if origin is os.PathLike:
        return "a path"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a dictionary"
    if (
        isinstance(origin, type)
        and issubclass(origin, Iterable)
        and origin.__module__ in ("collections.abc", "builtins")
    ):
        return "a list"
    return f"a {getattr(origin, '__name__', origin)}"


def _called(value: Any) -> str:
    """Return what a value is, in words."""
    if isinstance(value, (bool, np.bool_)):
        return "True or False"
    if isinstance(value, str):
        return "text"
    if value is None:
        return "None"
    name = type(value).__name__
    return f"a{'n' * (name[0] in 'aeiouAEIO' or name == 'ndarray')} {name}"


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
