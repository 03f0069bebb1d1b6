"""Everything that harmonax raises on purpose.

    HarmonaxError
    ├── InputError (also a ValueError)      what was passed cannot be used; the message says what to do
    │   ├── MissingKeyError (also a KeyError)   a column, basis or level that is not there
    │   └── FileFormatError                     a file that is truncated, corrupt or of the wrong kind
    ├── OutputError (also an OSError)       the result cannot be written where it was asked for
    ├── MissingExtraError (also an ImportError)  an optional dependency; the message has the install command
    └── NotConvergedError                   only under ``--strict``

    HarmonaxWarning (a UserWarning)         the run goes on, but the user should know
"""

from __future__ import annotations


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
    """The run goes on, but the user should know."""


def nearest(name: str, known: list[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, or the list of what there is."""
    import difflib

    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    shown = ", ".join(f"'{k}'" for k in known[:10]) or "nothing"
    more = f" and {len(known) - 10} more" if len(known) > 10 else ""
    return f"there is {shown}{more}"
