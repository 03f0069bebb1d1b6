"""Everything that harmonax raises on purpose.

HarmonaxError
├── InputError (also a ValueError)      what was passed cannot be used; the message says what to do
│   ├── MissingKeyError (also a KeyError)   a column, basis or level that is not there
│   └── FileFormatError                     a file that is truncated, corrupt or of the wrong kind
├── OutputError (also an OSError)       the result cannot be written where it was asked for
├── MissingExtraError (also an ImportError)  an optional dependency; the message has the install command
└── NotConvergedError                   only under ``--strict``

HarmonaxWarning (a UserWarning)         the run continues, but the user should know
"""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable


class HarmonaxError(Exception):
    """Base of every error that harmonax raises on purpose."""


class InputError(HarmonaxError, ValueError):
    """What was passed cannot be used."""


class MissingKeyError(InputError, KeyError):
    """A column, basis or level that is not there."""

    def __str__(self) -> str:
        # KeyError would show the message in quotes.
        return str(self.args[0]) if self.args else ""


class FileFormatError(InputError):
    """A file that is truncated, corrupt or of the wrong kind."""


class OutputError(HarmonaxError, OSError):
    """The result cannot be written where it was asked for."""


class MissingExtraError(HarmonaxError, ImportError):
    """An optional dependency is not installed."""


class NotConvergedError(HarmonaxError):
    """The run stopped at its iteration limit and the caller asked for convergence."""


class HarmonaxWarning(UserWarning):
    """The run continues, but the user should know."""


def nearest(name: object, known: Iterable[object]) -> str:
    """Return ``"did you mean 'x'?"`` for the closest known name, or a list of what there is.

    Examples
    --------
    >>> nearest("Bacth", ["batch", "donor"])
    "did you mean 'batch'?"
    >>> nearest("plate", ["batch", "donor"])
    "there is 'batch', 'donor'"
    """
    names = [str(k) for k in known]
    by_folded = {k.casefold(): k for k in names}
    close = difflib.get_close_matches(str(name).casefold(), by_folded, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{by_folded[close[0]]}'?"
    shown = ", ".join(f"'{k}'" for k in names[:10]) or "nothing"
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"there is {shown}{more}"


def warn(message: str) -> None:
    """Warn at the caller's line: the first frame outside this package."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, HarmonaxWarning, stacklevel=level)
