"""Which of a test's parameters `make test` runs."""

from __future__ import annotations

from collections.abc import Iterable

import pytest


def first(n: int, values: Iterable, names: int = 1) -> list:
    """Leave all values but the first `n` to `make thorough`; `names`: how many arguments one value is for."""
    rest = [value if names > 1 else (value,) for value in list(values)[n:]]
    return [*list(values)[:n], *(pytest.param(*value, marks=pytest.mark.thorough) for value in rest)]
