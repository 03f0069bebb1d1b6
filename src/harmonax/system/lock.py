"""The lock of an open file or directory, which the system lets go when the file is closed or its process ends."""

from __future__ import annotations

from typing import IO


def locked(file: IO[str] | int, *, wait: bool = False) -> bool:
    """Lock it; return False where another process has. Where there are no locks, nobody has: True."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        # Windows, and some network file systems.
        pass
    return True
