"""Parameters of tests of which only a few run in ``make test``."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def others_slow(values: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """Return ``values`` for ``parametrize``; those that are not in ``quick`` are marked slow."""
    values = list(values)
    missing = [value for value in quick if value not in values]
    assert not missing, f"not among the values: {missing}"
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]
