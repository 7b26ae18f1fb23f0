"""Settings of all tests: a machine that is busy is no fault, so no example has a deadline; long files start first."""

import pytest
from hypothesis import settings

settings.register_profile("no deadlines", deadline=None)
settings.load_profile("no deadlines")

LONG = (
    "tests/slurm/test_disturbances.py",
    "tests/slurm/test_paper.py",
    "tests/experiments/test_demo.py",
    "tests/experiments/test_smoke.py",
    "tests/training/test_kills.py",
    "tests/checkpoint/test_another_layout.py",
    "tests/downstream/test_processes.py",
)
"""Files that would keep one process busy after all others are done, were they begun last; the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files. (xdist keeps this order with ``--no-loadscope-reorder``.)"""
    rank = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(LONG)))
