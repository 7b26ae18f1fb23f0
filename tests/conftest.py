"""Settings of all tests: examples have no deadline, because the machine may be busy; long files start first."""

from pathlib import Path

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
"""Files that start first, the longest first; started last, each would keep one process busy after the others."""


assert all((Path(__file__).parents[1] / name).is_file() for name in LONG), "LONG names a file that was moved"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the long files to the front; xdist keeps this order with ``--no-loadscope-reorder``."""
    rank = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(LONG)))
