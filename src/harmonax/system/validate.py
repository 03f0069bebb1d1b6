"""Single values that users pass, checked: a message says what arrived, what is allowed, and what to do.

What is returned is the value to work with. It stands below parameters and threads, whose values it checks as well.
"""

from __future__ import annotations

import math
import os
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import InputError


def whole_number(value: Any, name: str, *, minimum: int, maximum: float = math.inf, alternative: str = "") -> int:
    """Return a whole number within bounds; a float such as 10.0 is one; a truth value and text are not.

    Parameters
    ----------
    value, name
        What was passed, and what messages call it.
    minimum, maximum
        The least and the greatest that are allowed.
    alternative
        What else is allowed, such as ``"None for all cells"``.

    Examples
    --------
    >>> whole_number(10.0, "n_clusters", minimum=1)
    10
    """
    number = value if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else _as_float(value)
    if not minimum <= number <= maximum or math.isinf(number) or number != int(number):
        kind = f"a whole number {_bounds(minimum, maximum)}"
        raise InputError(f"{name}={value!r} must be {kind}" + (f", or {alternative}" if alternative else ""))
    return int(number)


def number(
    value: Any, name: str, *, minimum: float = -math.inf, maximum: float = math.inf, exclusive: bool = False
) -> float:
    """Return a finite number within bounds; with `exclusive`, `minimum` itself is not allowed.

    Examples
    --------
    >>> number(1, "sigma", minimum=0, exclusive=True)
    1.0
    """
    found = _as_float(value)
    within = minimum <= found <= maximum and not (exclusive and found == minimum)
    if not within or not math.isfinite(found):
        finite = "finite " if math.isinf(maximum) else ""
        raise InputError(f"{name}={value!r} must be a {finite}number {_bounds(minimum, maximum, exclusive)}".rstrip())
    return found


def one_of(value: Any, name: str, allowed: Iterable[str]) -> Any:
    """Return a word that is among those allowed."""
    known = tuple(allowed)
    if not isinstance(value, str) or value not in known:
        verb = "is" if len(known) == 1 else "are"
        raise InputError(f"{name}={value!r} is not known; allowed {verb} {', '.join(map(repr, known))}")
    return value


def listed(names: Any) -> list[Any]:
    """Return one name, several or none as a list; refuse what no column or entry can be called."""
    # A file would be read, line by line.
    one = isinstance(names, (str, bytes)) or not isinstance(names, Iterable) or hasattr(names, "read")
    found = [] if names is None else [names] if one else list(names)
    for name in found:
        if not isinstance(name, Hashable) or isinstance(name, (bytes, bool)):
            raise InputError(
                f"{name!r} is a {type(name).__name__}; allowed are names: text, or what a column is called"
            )
    return found


def entry_name(value: Any, name: str) -> str:
    """Return a name that an entry of ``obsm`` or ``uns`` may have in a file."""
    if not isinstance(value, str) or not value or "/" in value:
        raise InputError(f"{name}={value!r} must be a name without a slash")
    return value


def expect_anndata(
    value: Any, name: str = "adata", *, parts: Iterable[str] = ("obs", "obsm", "uns"), instead: str = ""
) -> None:
    """Refuse what lacks the parts of an AnnData that are needed; `instead` names the function for other things.

    Tables of one that was read lazily (`anndata.experimental.read_lazy`) are loaded; expression and embeddings stay.
    """
    for part, called in (("mod", "MuData"), ("tables", "SpatialData")):
        tables = getattr(value, part, None)
        if isinstance(tables, Mapping):
            there = ", ".join(f"{name}.{part}[{key!r}]" for key in tables) or "it has none"
            raise InputError(f"{name} is a {called}, which holds several tables; pass one of them: {there}")
    if not all(hasattr(value, part) for part in parts):
        more = f"; {instead}" if instead else ""
        raise InputError(f"{name} is a {type(value).__name__}, not an AnnData{more}")
    for part in ("obs", "var"):
        table: Any = getattr(value, part, None)
        if type(table).__name__ == "Dataset2D":
            setattr(value, part, table.to_memory())


def _as_float(value: Any) -> float:
    """Return a number as a float, and NaN for anything else, such as a truth value or text."""
    if isinstance(value, (bool, np.bool_, str, bytes)):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _bounds(minimum: float, maximum: float, exclusive: bool = False) -> str:
    if exclusive:
        return f"greater than {minimum:g}" + ("" if math.isinf(maximum) else f" and at most {maximum:g}")
    if math.isinf(maximum):
        return "" if math.isinf(minimum) else f"of at least {minimum:g}"
    return f"from {minimum:g} to {maximum:g}"


def check_file(path: str | os.PathLike[str]) -> None:
    """Refuse what is neither a file nor a folder: reading from a pipe could wait for ever."""
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file")
    if not (os.path.isfile(path) or os.path.isdir(path)):
        raise InputError(f"{path} is a pipe, a socket or a device, not a file; write its content to a file first")
