"""Which of a test's parameters `make test` and `make thorough` run."""

from __future__ import annotations

from collections.abc import Iterable

import pytest


def first(n: int, values: Iterable, names: int = 1, later: str = "thorough") -> list:
    """Mark all values but the first `n` as thorough, or as slow; `names`: how many arguments one value is for."""
    rest = [value if names > 1 else (value,) for value in list(values)[n:]]
    return [*list(values)[:n], *(pytest.param(*value, marks=getattr(pytest.mark, later)) for value in rest)]
